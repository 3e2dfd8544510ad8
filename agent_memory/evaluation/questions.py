"""Labelled questions, read from the files of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_memory.errors import InvalidInputError
from agent_memory.inputs import read_objects

RERANK = "+rerank"
"""What stands behind a mode of recall whose hits are read again by the embedded cross-encoder."""


@dataclass(frozen=True, slots=True)
class Question:
    """A labelled query.

    Attributes:
        text: The query.
        session: The conversation to search; None for a collection of passages.
        evidence: Keys of the entries that answer it.
        category: Its kind.
        source: Index of the turn that the query was taken from; that turn is hidden from the search.
        hides_later: Whether the turns after ``source`` are hidden too.
    """

    text: str
    session: str | None
    evidence: tuple[str, ...]
    category: str
    source: int | None = None
    hides_later: bool = False

    @property
    def where(self) -> Mapping[str, Any] | None:
        """Filter that hides the source turn, and the turns after it if they are hidden too."""
        return None if self.source is None else {"idx": {"$lt" if self.hides_later else "$ne": self.source}}


def read_questions(folder: Path) -> Iterator[Question]:
    """Yield the questions of ``queries.jsonl``, those without evidence included.

    Raises:
        NotFoundError: The file is missing.
        InvalidInputError: A line is not a JSON object, or no question.
    """
    file = folder / "queries.jsonl"
    for number, line in enumerate(read_objects(file), start=1):
        try:
            yield _read_question(line)
        except (KeyError, TypeError) as error:
            raise InvalidInputError(f"{file}, question {number} is malformed: {error!r}") from error


def _read_question(line: Mapping[str, Any]) -> Question:
    text, category = line["query"], line.get("category", "all")
    if not isinstance(text, str) or not isinstance(category, str):
        raise TypeError("query and category must be strings")
    if "positives" in line:
        return Question(text, None, tuple(line["positives"]), category)
    evidence = tuple(f"{line['conv_id']}:{index}" for index in line["evidence"])
    # What a reply needed must have been said before it.
    later = category == "need_memory"
    return Question(text, line["conv_id"], evidence, category, line.get("source_idx"), later)


def spread(count: int, limit: int | None) -> list[int]:
    """Return the positions of up to ``limit`` of so many questions, spread evenly.

    Raises:
        InvalidInputError: The limit is below 1.
    """
    if limit is not None and limit < 1:
        raise InvalidInputError(f"limit must be at least 1, got {limit}")
    if limit is None or limit >= count:
        return list(range(count))
    return [at * count // limit for at in range(limit)]


def split_mode(mode: str) -> dict[str, Any]:
    """Return the arguments of a recall that a mode stands for."""
    return {"mode": mode.removesuffix(RERANK), "rerank": "default" if mode.endswith(RERANK) else None}
