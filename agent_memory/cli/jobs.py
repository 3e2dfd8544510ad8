"""``agent-memory jobs``: periodic work on a store, and what was done."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from agent_memory.errors import InvalidInputError
from agent_memory.memory import Memory

app = typer.Typer(
    no_args_is_help=True,
    help="Periodic jobs: run the worker, list, schedule, pause, resume, cancel, history.",
)

_Path = Annotated[Path, typer.Option("--path", "-p", envvar="AGENT_MEMORY_PATH", help="Folder of the store.")]
_DEFAULT = Path("~/.agent-memory")
_Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


@app.command(epilog="Example: agent-memory jobs run -p ./my-agent   or, from cron: agent-memory jobs run purge backup")
def run(
    kinds: Annotated[list[str] | None, typer.Argument(help="Do these once and end; the schedules if left out.")] = None,
    path: _Path = _DEFAULT,
) -> None:
    """Do the scheduled jobs until SIGTERM or Ctrl-C, as the store's only worker; a second one waits."""
    with Memory(path) as memory:
        if kinds:
            planned = memory.schedules()
            options = {schedule.kind: schedule.options for schedule in planned if schedule.made_here}
            for kind in kinds:
                if foreign := [one.name for one in planned if one.kind == kind and not one.made_here]:
                    typer.echo(f"left out, not scheduled here: {', '.join(foreign)}", err=True)
                job = memory.run_job(kind, options=options.get(kind))
                typer.echo(f"{kind}: {json.dumps(dict(job.progress), ensure_ascii=False)}")
            return
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        typer.echo(f"working on {path}")
        memory.work(stop)
    typer.echo("stopped")


@app.command("list", epilog="Example: agent-memory jobs list")
def list_(path: _Path = _DEFAULT, as_json: _Json = False) -> None:
    """Show the schedules, and the jobs that are under way."""
    with Memory(path) as memory:
        planned = memory.schedules()
        running = [job for job in memory.jobs() if job.finished_at is None]
    if as_json:
        facts: dict[str, Any] = {
            "schedules": [
                {"name": one.name, "kind": one.kind, "trigger": one.trigger, "paused": one.paused} for one in planned
            ],
            "running": [{"id": job.id, "kind": job.kind, "state": job.state} for job in running],
        }
        typer.echo(json.dumps(facts, indent=2))
        return
    for one in planned:
        where = "" if one.made_here else "  left out: not scheduled here"
        last = f"last {one.last_run_at:%Y-%m-%d %H:%M}" if one.last_run_at else "never yet"
        typer.echo(f"{one.name}  {one.kind}  {one.trigger}  {last}{'  paused' if one.paused else ''}{where}")
    for job in running:
        typer.echo(f"job {job.id}  {job.kind}  {job.state}  {json.dumps(dict(job.progress))}")
    if not planned and not running:
        typer.echo("nothing is scheduled or under way")


@app.command(epilog="Example: agent-memory jobs schedule backup '0 3 * * *' --folder ./backups --keep 14")
def schedule(
    kind: Annotated[str, typer.Argument(help="maintain, purge, compact, retrain, verify, snapshot or backup.")],
    trigger: Annotated[str, typer.Argument(help="Cron expression in UTC, or 'every 30m'.")],
    path: _Path = _DEFAULT,
    name: Annotated[str | None, typer.Option(help="A name of your own; the kind if left out.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where backups go.")] = None,
    keep: Annotated[int | None, typer.Option(help="How many backups to keep.")] = None,
) -> None:
    """Have the worker do a job again and again; an existing schedule of the name is replaced."""
    given = {"folder": None if folder is None else str(folder.absolute()), "keep": keep}
    with Memory(path) as memory:
        options = {key: value for key, value in given.items() if value is not None}
        made = memory.schedule(kind, trigger, name=name, options=options)
    typer.echo(f"{made.name}: {made.kind}, {made.trigger}")


@app.command(epilog="Example: agent-memory jobs unschedule backup")
def unschedule(name: Annotated[str, typer.Argument(help="Name of the schedule.")], path: _Path = _DEFAULT) -> None:
    """Delete a schedule."""
    with Memory(path) as memory:
        memory.unschedule(name)


_Which = Annotated[str, typer.Argument(help="Name of a schedule, or number of a job under way.")]


@app.command(epilog="Example: agent-memory jobs pause backup   or: agent-memory jobs pause 17")
def pause(which: _Which, path: _Path = _DEFAULT) -> None:
    """Leave a schedule out, or let a running re-index wait."""
    with Memory(path) as memory:
        if which.isdecimal():
            memory.pause_job(int(which))
        else:
            memory.pause_schedule(which)


@app.command(epilog="Example: agent-memory jobs resume backup")
def resume(which: _Which, path: _Path = _DEFAULT) -> None:
    """Take up a paused schedule or re-index again."""
    with Memory(path) as memory:
        if which.isdecimal():
            memory.resume_job(int(which))
        else:
            memory.pause_schedule(which, paused=False)


@app.command(epilog="Example: agent-memory jobs cancel 17")
def cancel(which: Annotated[str, typer.Argument(help="Number of a job under way.")], path: _Path = _DEFAULT) -> None:
    """End a re-index; what it has built is deleted, and the store stays as it is."""
    if not which.isdecimal():
        raise InvalidInputError(f"cancel takes the number of a job, got {which!r}; schedules are paused or unscheduled")
    with Memory(path) as memory:
        memory.cancel_job(int(which))


@app.command(epilog="Example: agent-memory jobs history --limit 20")
def history(
    path: _Path = _DEFAULT,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 20,
    as_json: _Json = False,
) -> None:
    """Show what was done, the newest first."""
    with Memory(path) as memory:
        found = memory.jobs(limit=limit)
    if as_json:
        rows = [
            {"id": job.id, "kind": job.kind, "state": job.state, "error": job.error, "progress": dict(job.progress)}
            for job in found
        ]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for job in found:
        ended = f"{job.finished_at:%Y-%m-%d %H:%M:%S}" if job.finished_at else "under way"
        typer.echo(f"{job.id}  {job.kind}  {job.state}  {ended}  {job.error or json.dumps(dict(job.progress))}")
