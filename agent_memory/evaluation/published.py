"""Reads benchmarks as they are published: LoCoMo, REALTALK, LongMemEval and BEIR. Nothing is downloaded.

What a file says wrongly of a few questions (an evidence that is no turn, a date that is none) is counted and left out;
a file of another form is an error.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from agent_memory.config import Config
from agent_memory.errors import InvalidInputError, NotFoundError
from agent_memory.evaluation.questions import spread
from agent_memory.inputs import check_optional_name, check_text, parse_time, read_objects

_TURN = re.compile(r"D\s*:?\s*(\d+)\s*:\s*(\d+)", re.IGNORECASE)
_SESSION = re.compile(r"session_(\d+)")
_TIMES = (
    "%I:%M %p on %d %B, %Y",  # LoCoMo
    "%Y/%m/%d (%a) %H:%M",  # LongMemEval
    "%Y/%m/%d %H:%M",
    "%d.%m.%Y, %H:%M:%S",  # REALTALK
    "%d.%m.%Y, %H:%M",
)
_MAX_TEXT, _MAX_QUESTION = Config().max_text_chars, Config().max_query_chars
_LOCOMO_CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One text to find.

    Attributes:
        id: Its name inside the haystack.
        text: What was said; of a picture, its caption as well.
        session: The session it belongs to; None for documents.
        speaker: Who said it.
        time: When.
    """

    id: str
    text: str
    session: str | None = None
    speaker: str | None = None
    time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledQuestion:
    """A question with its evidence.

    Attributes:
        id: Its name.
        text: The question.
        turns: How much each turn that answers it is worth, by the turn's id; empty if the turns are not known.
        sessions: The sessions that answer it.
        category: Its kind.
        time: When it was asked.
    """

    id: str
    text: str
    turns: Mapping[str, float]
    sessions: frozenset[str] = frozenset()
    category: str = "all"
    time: datetime | None = None


UNANSWERED = "questions without evidence, for confidence alone"
"""What the notes call questions of which it is known that nothing answers them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Haystack:
    """Turns, and questions that are asked of them alone.

    Attributes:
        id: Its name.
        turns: What is searched.
        questions: Those with evidence.
        unanswered: Those without, of which only the confidence is measured.
    """

    id: str
    turns: tuple[Turn, ...]
    questions: tuple[LabelledQuestion, ...]
    unanswered: tuple[LabelledQuestion, ...] = ()


@dataclass(slots=True, kw_only=True)
class Benchmark:
    """A benchmark, as far as it could be read.

    Attributes:
        name: Name of its file or folder.
        format: One of ``FORMATS``.
        haystacks: Where to search, and for what.
        notes: How often something was left out or mended, by what it was.
    """

    name: str
    format: str
    haystacks: list[Haystack] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def questions(self) -> int:
        """Number of questions that have evidence."""
        return sum(len(haystack.questions) for haystack in self.haystacks)


def read_benchmark(format: str, path: Path, *, limit: int | None = None) -> Benchmark:
    """Read a benchmark.

    Args:
        format: One of ``FORMATS``.
        path: The published file; for BEIR, the folder.
        limit: Maximum number of questions, spread evenly; haystacks without any are left out.

    Raises:
        NotFoundError: The file is missing.
        InvalidInputError: It is not of this format, or no question has evidence.
    """
    if format not in FORMATS:
        raise InvalidInputError(f"format must be one of {sorted(FORMATS)}, got {format!r}")
    benchmark = Benchmark(name=path.stem, format=format)
    try:
        for haystack in FORMATS[format](path, benchmark.notes):
            benchmark.haystacks.append(haystack)
    except InvalidInputError as error:
        raise error if str(path) in str(error) else InvalidInputError(f"{path}: {error}") from error
    except NotFoundError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError, OSError) as error:
        raise InvalidInputError(f"{path} is not a file of {format}: {type(error).__name__}: {error}") from error
    if limit is not None:
        _thin(benchmark, limit)
    if not benchmark.questions:
        raise InvalidInputError(f"{path} has no question with evidence")
    return benchmark


def _thin(benchmark: Benchmark, limit: int) -> None:
    """Keep up to ``limit`` questions, spread evenly, and the same share of those without evidence."""
    total, without = benchmark.questions, sum(len(haystack.unanswered) for haystack in benchmark.haystacks)
    kept = set(spread(total, limit))
    kept_without = set(spread(without, -(-without * len(kept) // total) if total else None)) if without else set()
    asked, unasked, haystacks = count(), count(), []
    for haystack in benchmark.haystacks:
        chosen = tuple(question for question in haystack.questions if next(asked) in kept)
        unanswered = tuple(question for question in haystack.unanswered if next(unasked) in kept_without)
        if chosen or unanswered:
            haystacks.append(Haystack(id=haystack.id, turns=haystack.turns, questions=chosen, unanswered=unanswered))
    benchmark.haystacks = haystacks
    if without:
        benchmark.notes[UNANSWERED] = len(kept_without)


def _read_locomo(path: Path, notes: Counter[str]) -> Iterator[Haystack]:
    for number, sample in enumerate(_read_list(path), start=1):
        turns = _list_turns(sample["conversation"], notes, caption="blip_caption")
        name = str(sample.get("sample_id", number))
        yield _make_haystack(name, turns, sample["qa"], notes, _LOCOMO_CATEGORIES)


def _read_realtalk(path: Path, notes: Counter[str]) -> Iterator[Haystack]:
    for number, chat in enumerate(_read_list(path), start=1):
        turns = _list_turns(chat, notes, caption="image_caption")
        name = chat.get("name")
        yield _make_haystack(name if isinstance(name, str) else f"{path.stem}-{number}", turns, chat["qa"], notes, {})


def _list_turns(conversation: Mapping[str, Any], notes: Counter[str], *, caption: str) -> list[Turn]:
    """Return the turns of the members ``session_1``, ``session_2``, …, in the order of their numbers."""
    sessions = sorted((int(m[1]), name) for name in conversation if (m := _SESSION.fullmatch(name)))
    if not sessions:
        raise InvalidInputError(f"a conversation has no session_1: {sorted(conversation)[:8]}")
    found = []
    for number, name in sessions:
        begun = _read_time(conversation.get(f"{name}_date_time"), notes)
        for place, line in enumerate(conversation[name] or (), start=1):
            text = str(line.get("clean_text") or line.get("text") or "").strip()
            if shown := str(line.get(caption) or "").strip():
                text = f"{text} [picture: {shown}]".strip()
            if not _is_usable(text, _MAX_TEXT):
                notes["turns without usable text"] += 1
                continue
            found.append(
                Turn(
                    id=_find_turn_id(line.get("dia_id")) or f"D{number}:{place}",
                    text=text,
                    session=f"D{number}",
                    speaker=_read_speaker(line.get("speaker")),
                    time=_read_time(line["date_time"], notes) if line.get("date_time") else begun,
                )
            )
    return found


def _find_turn_id(value: object) -> str | None:
    return next(iter(parse_evidence(value)), None)


def parse_evidence(value: object) -> list[str]:
    """Return the turns that an evidence of LoCoMo or REALTALK names, in one spelling: ``D8:6``.

    Some are several in one string (``"D8:6; D9:17"``), some have a colon too many (``"D:11:26"``) or zeros before
    their numbers (``"D30:05"``); what names no turn (``"D"``) is nothing.

    Args:
        value: A string, or a list of them.
    """
    if isinstance(value, (list, tuple)):
        return list(dict.fromkeys(turn for item in value for turn in parse_evidence(item)))
    if not isinstance(value, str):
        return []
    return list(dict.fromkeys(f"D{int(session)}:{int(turn)}" for session, turn in _TURN.findall(value)))


def _make_haystack(
    name: str,
    turns: list[Turn],
    rows: Iterable[Mapping[str, Any]],
    notes: Counter[str],
    categories: Mapping[int, str],
) -> Haystack:
    present = {turn.id: turn for turn in turns}
    if len(present) != len(turns):
        raise InvalidInputError(f"conversation {name!r} has {len(turns)} turns, but only {len(present)} ids of turns")
    questions: list[LabelledQuestion] = []
    unanswered: list[LabelledQuestion] = []
    for number, row in enumerate(rows, start=1):
        given = row.get("evidence") or []
        named = parse_evidence(given)
        listed = list(given) if isinstance(given, (list, tuple)) else [given]
        notes["evidence strings mended"] += sum(1 for item in listed if parse_evidence(item) not in ([], [item]))
        notes["evidence strings that name no turn"] += sum(1 for item in listed if not parse_evidence(item))
        evidence = [turn for turn in named if turn in present]
        notes["evidence that is no turn of the conversation"] += len(named) - len(evidence)
        if not evidence and given:
            notes["questions without evidence, left out"] += 1
            continue
        if not _is_usable(str(row["question"]), _MAX_QUESTION):
            notes["questions that cannot be asked, left out"] += 1
            continue
        category = row.get("category", "all")
        (questions if evidence else unanswered).append(
            LabelledQuestion(
                id=f"{name}:{number}",
                text=str(row["question"]),
                turns=dict.fromkeys(evidence, 1.0),
                sessions=frozenset(str(present[turn].session) for turn in evidence),
                category=_name(categories.get(category, category) if isinstance(category, int) else category),
            )
        )
    if unanswered:
        notes[UNANSWERED] += len(unanswered)
    return Haystack(id=name, turns=tuple(turns), questions=tuple(questions), unanswered=tuple(unanswered))


def _read_longmemeval(path: Path, notes: Counter[str]) -> Iterator[Haystack]:
    for row in _read_list(path):
        question_id = str(row["question_id"])
        sessions, dates = row["haystack_sessions"], row["haystack_dates"]
        if not len(sessions) == len(dates) == len(row["haystack_session_ids"]):
            raise InvalidInputError(
                f"{path}, question {question_id!r}: {len(row['haystack_session_ids'])} session ids, {len(dates)} dates "
                f"and {len(sessions)} sessions"
            )
        answering = {str(name) for name in row.get("answer_session_ids") or ()}
        unanswerable = question_id.endswith("_abs")
        if not answering and not unanswerable:
            notes["questions without evidence, left out"] += 1
            continue
        if not _is_usable(str(row["question"]), _MAX_QUESTION):
            notes["questions that cannot be asked, left out"] += 1
            continue
        turns, evidence, places = [], {}, {}
        parts = zip(row["haystack_session_ids"], dates, sessions, strict=True)
        for number, (name, date, session) in enumerate(parts):
            label = f"{number}:{name}"  # a session may be there twice
            places[label] = str(name)
            time = _read_time(date, notes)
            for place, line in enumerate(session):
                if not _is_usable(str(line["content"]), _MAX_TEXT):
                    notes["turns without usable text"] += 1
                    continue
                turn = f"{label}:{place}"
                speaker = _read_speaker(line["role"])
                turns.append(Turn(id=turn, text=str(line["content"]), session=label, speaker=speaker, time=time))
                if line.get("has_answer") and str(name) in answering and not unanswerable:
                    evidence[turn] = 1.0
        if not evidence:
            notes[UNANSWERED if unanswerable else "questions whose turns are not labelled"] += 1
        question = LabelledQuestion(
            id=question_id,
            text=str(row["question"]),
            turns=evidence,
            sessions=frozenset(label for label, name in places.items() if name in answering and not unanswerable),
            category=_name(row.get("question_type", "all")),
            time=_read_time(row.get("question_date"), notes),
        )
        asked = {"questions": (), "unanswered": (question,)} if unanswerable else {"questions": (question,)}
        yield Haystack(id=question_id, turns=tuple(turns), **asked)


def _read_beir(path: Path, notes: Counter[str]) -> Iterator[Haystack]:
    turns = []
    for row in read_objects(path / "corpus.jsonl"):
        text = f"{row.get('title') or ''} {row.get('text') or ''}".strip()
        if not _is_usable(text, _MAX_TEXT):
            notes["documents without usable text"] += 1
            continue
        turns.append(Turn(id=str(row["_id"]), text=text))
    present = {turn.id for turn in turns}
    if len(present) != len(turns):
        raise InvalidInputError(f"{path}/corpus.jsonl has {len(turns)} documents, but only {len(present)} ids")
    relevant = _read_judgements(path / "qrels", present, notes)
    questions = []
    for row in read_objects(path / "queries.jsonl"):
        worth = relevant.get(str(row["_id"]))
        if worth and not _is_usable(str(row["text"]), _MAX_QUESTION):
            notes["questions that cannot be asked, left out"] += 1
        elif worth:
            questions.append(LabelledQuestion(id=str(row["_id"]), text=str(row["text"]), turns=worth))
    yield Haystack(id=path.name, turns=tuple(turns), questions=tuple(questions))


def _read_judgements(folder: Path, present: set[str], notes: Counter[str]) -> dict[str, dict[str, float]]:
    """Return what each document is worth for each question: those of ``test.tsv``, or of the only file."""
    files = sorted(folder.glob("*.tsv"))
    chosen = [file for file in files if file.name == "test.tsv"] or files
    if len(chosen) != 1:
        raise NotFoundError(f"{folder} has no test.tsv, and {len(files)} other files of judgements instead of one")
    found: dict[str, dict[str, float]] = {}
    for number, line in enumerate(chosen[0].read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        parts = line.split("\t")
        if number == 1 and parts[-1].strip() == "score":
            continue
        if len(parts) != 3:
            raise InvalidInputError(f"{chosen[0]}, line {number}: {len(parts)} columns, expected 3")
        question, document, score = parts[0], parts[1], float(parts[2])
        if document not in present:
            notes["evidence that is no document"] += 1
        elif not math.isfinite(score):
            raise InvalidInputError(f"{chosen[0]}, line {number}: a score must be a finite number, got {parts[2]!r}")
        elif score > 0:
            found.setdefault(question, {})[document] = score
    return found


def _read_list(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON file: a list of them, or one alone."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path} cannot be read as JSON: {error}") from error
    rows = content if isinstance(content, list) else [content]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise InvalidInputError(f"{path} must be a JSON list of objects")
    return rows


def _is_usable(text: str, most: int) -> bool:
    """Return whether a store takes a text: something can be seen of it, it is not too long, and valid Unicode."""
    try:
        return len(check_text("text", text, Config())) <= most
    except InvalidInputError:
        return False


def _name(value: object) -> str:
    """Return the name of a category, as files can hold it."""
    return str(value).encode("utf-8", "replace").decode()


def _read_speaker(value: object) -> str | None:
    """Return the name of a speaker, if it can be one."""
    try:
        return check_optional_name("speaker", value)
    except InvalidInputError:
        return None


def _read_time(value: object, notes: Counter[str]) -> datetime | None:
    """Return a time as the benchmarks write them; None, and a note, for one that cannot be read."""
    if value is None:
        return None
    for form in _TIMES:
        try:
            return datetime.strptime(str(value).strip(), form).replace(tzinfo=UTC)
        except ValueError:
            continue
    try:
        return parse_time("time", value)
    except InvalidInputError:
        notes["times that could not be read"] += 1
        return None


FORMATS: Mapping[str, Callable[[Path, Counter[str]], Iterator[Haystack]]] = {
    "beir": _read_beir,
    "locomo": _read_locomo,
    "longmemeval": _read_longmemeval,
    "realtalk": _read_realtalk,
}
"""Readers of the published formats, by name."""
