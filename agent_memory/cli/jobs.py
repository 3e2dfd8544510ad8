"""``agent-memory jobs``: periodic work on a store, and what was done."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_memory.cli.running import new_group
from agent_memory.cli.shared import (
    DEFAULT_PATH,
    OUT,
    JsonLinesOption,
    JsonOption,
    PathOption,
    moment,
    open_store,
    print_json,
    print_json_line,
    printable,
    say,
    show_place,
)
from agent_memory.errors import InvalidInputError
from agent_memory.formats import payload

if TYPE_CHECKING:
    from agent_memory.memory import Memory
    from agent_memory.reports import Job

app = new_group("Periodic jobs: run the worker, list, schedule, pause, resume, cancel, history.")

_Name = Annotated[str, typer.Argument(help="Name of the schedule.")]
_Which = Annotated[str, typer.Argument(help="Name of a schedule, or number of a job under way.")]


@app.command(epilog="Example: agent-memory jobs run -p ./my-agent   or, from cron: agent-memory jobs run purge backup")
def run(
    kinds: Annotated[list[str] | None, typer.Argument(help="Do these once and end; the schedules if left out.")] = None,
    path: PathOption = DEFAULT_PATH,
    as_json: JsonLinesOption = False,
) -> None:
    """Do the scheduled jobs until SIGTERM or Ctrl-C, as the store's only worker; a second one waits."""
    with open_store(path) as memory:
        if kinds:
            _run_once(memory, kinds, as_json)
            return
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        _announce("working", path, as_json)
        memory.work(stop)
    _announce("stopped", path, as_json)


def _run_once(memory: Memory, kinds: list[str], as_json: bool) -> None:
    options = {schedule.kind: schedule.options for schedule in memory.schedules()}
    for kind in kinds:
        job = memory.run_job(kind, options=options.get(kind))
        if as_json:
            print_json_line(job)
        else:
            OUT.print(printable(f"{kind}: {payload.dumps(job.progress)}"))


def _announce(state: str, path: str, as_json: bool) -> None:
    if as_json:
        print_json_line({"state": state, "path": show_place(path)})
    else:
        OUT.print(f"{state} on {show_place(path)}" if state == "working" else state)


@app.command("list", epilog="Example: agent-memory jobs list")
def list_(path: PathOption = DEFAULT_PATH, as_json: JsonOption = False) -> None:
    """Show the schedules, and the jobs that are under way."""
    with open_store(path) as memory:
        planned = memory.schedules()
        running = [job for job in memory.jobs() if job.finished_at is None]
    if as_json:
        print_json({"schedules": planned, "running": running})
        return
    for one in planned:
        where = "" if one.made_here else "  skipped: not scheduled here"
        last = f"last {moment(one.last_run_at)}" if one.last_run_at else "never yet"
        OUT.print(printable(f"{one.name}  {one.kind}  {one.trigger}  {last}{'  paused' if one.paused else ''}{where}"))
    for job in running:
        OUT.print(printable(f"job {job.id}  {job.kind}  {job.state}  {payload.dumps(job.progress)}"))
    if not planned and not running:
        OUT.print("nothing is scheduled or under way")


@app.command(epilog="Example: agent-memory jobs schedule backup '0 3 * * *' --folder ./backups --keep 14")
def schedule(
    kind: Annotated[str, typer.Argument(help="maintain, purge, compact, retrain, verify, snapshot or backup.")],
    trigger: Annotated[str, typer.Argument(help="Cron expression in UTC, or 'every 30m'.")],
    path: PathOption = DEFAULT_PATH,
    name: Annotated[str | None, typer.Option(help="A name of your own; the kind if left out.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where backups go.")] = None,
    keep: Annotated[int | None, typer.Option(help="How many backups to keep.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Have the worker do a job again and again; an existing schedule of the name is replaced."""
    given = {"folder": None if folder is None else str(folder.absolute()), "keep": keep}
    with open_store(path) as memory:
        options = {key: value for key, value in given.items() if value is not None}
        made = memory.schedule(kind, trigger, name=name, options=options)
    say(made, printable(f"{made.name}: {made.kind}, {made.trigger}"), as_json=as_json)


@app.command(epilog="Example: agent-memory jobs unschedule backup")
def unschedule(name: _Name, path: PathOption = DEFAULT_PATH, as_json: JsonOption = False) -> None:
    """Delete a schedule."""
    with open_store(path) as memory:
        memory.unschedule(name)
    say({"unscheduled": name}, printable(f"{name} is deleted"), as_json=as_json)


@app.command(epilog="Example: agent-memory jobs pause backup   or: agent-memory jobs pause 17")
def pause(which: _Which, path: PathOption = DEFAULT_PATH, as_json: JsonOption = False) -> None:
    """Leave a schedule out, or let a running re-index wait."""
    with open_store(path) as memory:
        if which.isdecimal():
            _print_job(memory.pause_job(int(which)), as_json)
        else:
            memory.pause_schedule(which)
            _print_schedule(memory, which, as_json)


@app.command(epilog="Example: agent-memory jobs resume backup")
def resume(which: _Which, path: PathOption = DEFAULT_PATH, as_json: JsonOption = False) -> None:
    """Continue with a paused schedule or re-index."""
    with open_store(path) as memory:
        if which.isdecimal():
            _print_job(memory.resume_job(int(which)), as_json)
        else:
            memory.pause_schedule(which, paused=False)
            _print_schedule(memory, which, as_json)


@app.command(epilog="Example: agent-memory jobs cancel 17")
def cancel(
    which: Annotated[str, typer.Argument(help="Number of a job under way.")],
    path: PathOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """End a re-index; what it has built is deleted, and the store stays as it is."""
    if not which.isdecimal():
        raise InvalidInputError(f"cancel takes the number of a job, got {which!r}; schedules are paused or unscheduled")
    with open_store(path) as memory:
        _print_job(memory.cancel_job(int(which)), as_json)


def _print_job(job: Job, as_json: bool) -> None:
    say(job, f"job {job.id} is {job.state}", as_json=as_json)


def _print_schedule(memory: Memory, name: str, as_json: bool) -> None:
    found = next(schedule for schedule in memory.schedules() if schedule.name == name)
    say(found, printable(f"{name} is {'paused' if found.paused else 'scheduled'}"), as_json=as_json)


@app.command(epilog="Example: agent-memory jobs history --limit 20")
def history(
    path: PathOption = DEFAULT_PATH,
    limit: Annotated[int, typer.Option(help="Maximum number of jobs.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Show what was done, the newest first."""
    with open_store(path) as memory:
        found = memory.jobs(limit=limit)
    if as_json:
        print_json(found)
        return
    for job in found:
        ended = moment(job.finished_at) if job.finished_at else "under way"
        OUT.print(printable(f"{job.id}  {job.kind}  {job.state}  {ended}  {job.error or payload.dumps(job.progress)}"))
