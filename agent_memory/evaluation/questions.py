"""Labelled questions, read from the files of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        InvalidInputError: A line is not a JSON object.
    """
    for line in read_objects(folder / "queries.jsonl"):
        category = line.get("category", "all")
        if "positives" in line:
            yield Question(line["query"], None, tuple(line["positives"]), category)
            continue
        evidence = tuple(f"{line['conv_id']}:{index}" for index in line["evidence"])
        # What a reply needed must have been said before it.
        later = category == "need_memory"
        yield Question(line["query"], line["conv_id"], evidence, category, line.get("source_idx"), later)


def split_mode(mode: str) -> dict[str, Any]:
    """Return the arguments of a recall that a mode stands for."""
    return {"mode": mode.removesuffix(RERANK), "rerank": "default" if mode.endswith(RERANK) else None}
