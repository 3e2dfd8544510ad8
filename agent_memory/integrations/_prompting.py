"""Recalling for a prompt and remembering from a tool call, in the one way that all adapters share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent_memory.inputs import MAX_K
from agent_memory.integrations._opening import below, relative
from agent_memory.integrations._text import block, own_text, query_text
from agent_memory.memory import Memory
from agent_memory.records import Hit
from agent_memory.types import Namespace

NOTHING_KNOWN = "Nothing is known about that."
_REMEMBERED = "Remembered."
_KNOWN_ALREADY = "That is remembered already."


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompting:
    """What an adapter recalls into prompts, and where it remembers.

    Attributes:
        memory: Where to look and write.
        namespace: Where in it, relative to the memory's own namespace.
        k: How many memories are recalled at most.
        where: Only entries whose metadata match are recalled.
        min_score: Entries that score lower are left out.
    """

    memory: Memory
    namespace: Sequence[str] = ()
    k: int = 5
    where: Mapping[str, Any] | None = None
    min_score: float | None = None

    def __post_init__(self) -> None:
        relative(self.namespace)

    @property
    def scope(self) -> Namespace:
        """The namespace in full."""
        return below(self.memory, self.namespace)

    def hits(
        self, text: str, *, known: Collection[str] = (), min_score: float | None = None, **options: Any
    ) -> list[Hit]:
        """Return what a text reminds of, best first; nothing for a text that says nothing itself.

        Args:
            text: A question or statement.
            known: Keys of entries that the reader has already; they are left out.
            min_score: In place of the attribute.
            **options: Arguments of ``Memory.recall`` in place of the attributes.
        """
        query = query_text(own_text(text), self.memory)
        if not query:
            return []
        arguments = {"k": self.k, "where": self.where, "namespace": self.scope, **options}
        least = self.min_score if min_score is None else min_score
        hits = self.memory.recall(
            query, **{**arguments, "k": max(arguments["k"], min(arguments["k"] + len(known), MAX_K))}
        )
        fresh = [hit for hit in hits if hit.entry.key not in known and (least is None or hit.score >= least)]
        return fresh[: arguments["k"]]

    def block(self, text: str, **options: Any) -> str:
        """Return what a text reminds of as one tagged block; arguments as for ``hits``."""
        return block(self.hits(text, **options))

    def remember(self, text: str, session: str | None) -> str:
        """Keep a fact that a model hands to a tool; returns what to tell the model."""
        fact = own_text(text)
        if not fact:
            return _KNOWN_ALREADY
        self.memory.add(fact, session=session, namespace=self.scope)
        return _REMEMBERED
