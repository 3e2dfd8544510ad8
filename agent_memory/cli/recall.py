"""Commands that search: recall, why."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from agent_memory.cli.shared import (
    DEFAULT_PATH,
    ERR,
    LINE_CHARS,
    OUT,
    EncoderOption,
    HitsOption,
    JsonOption,
    KeyArgument,
    ModeOption,
    NamespaceOption,
    PathOption,
    SessionOption,
    SpeakerOption,
    TimezoneOption,
    WhereOption,
    describe_origin,
    open_store,
    parse_object,
    print_facts,
    print_json,
    print_line,
    printable,
    shorten,
)
from agent_memory.formats import payload

app = typer.Typer()

_Query = Annotated[str, typer.Argument(help="A question or statement.")]
_Rerank = Annotated[bool, typer.Option("--rerank", help="Read the best 30 again with the embedded cross-encoder.")]


def _excerpt(text: str, passage: tuple[int, int]) -> str:
    from agent_memory.formats.passages import excerpt_passage  # brings NumPy

    return excerpt_passage(text, passage, LINE_CHARS)


@app.command(epilog='Example: agent-memory recall "Where does Alice live?" -k 3')
def recall(
    query: _Query,
    path: PathOption = DEFAULT_PATH,
    k: HitsOption = 5,
    session: SessionOption = None,
    speaker: SpeakerOption = None,
    where: WhereOption = None,
    since: Annotated[str | None, typer.Option(help="Earliest event time, ISO 8601: 2024, 2024-05-01, …")] = None,
    until: Annotated[str | None, typer.Option(help="Latest event time, ISO 8601; a day or year is included.")] = None,
    as_of: Annotated[str | None, typer.Option(help="Read the store as it was then, ISO 8601.")] = None,
    now: Annotated[str | None, typer.Option(help='What "yesterday" refers to, ISO 8601.')] = None,
    timezone: TimezoneOption = None,
    mode: ModeOption = "hybrid",
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every entry.")] = False,
    min_confidence: Annotated[
        float, typer.Option(help="Leave out what answers with less chance than this, from 0 to 1.")
    ] = 0.0,
    rerank: _Rerank = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show how each score came about.")] = False,
    namespace: NamespaceOption = "",
    encoder: EncoderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the entries closest in meaning to a query."""
    filters = parse_object(where, "--where")
    with open_store(path, namespace, encoder=encoder, timezone=timezone, encodes=mode != "lexical") as memory:
        hits = memory.recall(
            query,
            k=k,
            session=session,
            speaker=speaker,
            where=filters,
            since=since,
            until=until,
            as_of=as_of,
            now=now,
            mode=mode,
            exact=exact,
            min_confidence=min_confidence,
            rerank="default" if rerank else None,
            explain=explain,
        )
    if hits.evidence == "none" and hits:
        ERR.print("nothing of this seems to answer: the memory has no evidence")
    if as_json:
        print_json(hits)
        return
    if not hits:
        ERR.print("nothing matches")
    for hit in hits:
        shown = hit.text if hit.passage is None else _excerpt(hit.text, hit.passage)
        sure = "" if hit.confidence is None else f"  {hit.confidence:4.0%}"
        print_line((f"{hit.score:.3f}", "bold"), sure, "  ", (describe_origin(hit.entry), "dim"), "  ", shorten(shown))
        if hit.stale_by is not None:
            print_line(("       probably out of date: see ", "dim"), printable(hit.stale_by))
        if hit.trace:
            OUT.print("       " + payload.dumps(hit.trace))


@app.command(epilog='Example: agent-memory why "Where does Alice live?" home')
def why(
    query: _Query,
    key: KeyArgument,
    path: PathOption = DEFAULT_PATH,
    k: HitsOption = 5,
    session: SessionOption = None,
    where: WhereOption = None,
    mode: ModeOption = "hybrid",
    now: Annotated[str | None, typer.Option(help='What "yesterday" refers to, ISO 8601.')] = None,
    timezone: TimezoneOption = None,
    rerank: _Rerank = False,
    namespace: NamespaceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Say why an entry is, or is not, among the hits of a query."""
    filters = parse_object(where, "--where")
    with open_store(path, namespace, timezone=timezone) as memory:
        chosen: dict[str, Any] = {"mode": mode, "now": now, "rerank": "default" if rerank else None}
        trace = memory.why(query, key, k=k, session=session, where=filters, **chosen)
    if as_json:
        print_json(trace)
        return
    OUT.print(printable(f"{trace.stage}: {trace.reason}"))
    if trace.margin is not None:
        OUT.print(f"it missed by {trace.margin:.3f}")
    if trace.detail:
        print_facts(trace.detail)
