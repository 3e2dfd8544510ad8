"""``Router``: picks tools, skills, intents or namespaces for a text, learns from corrections, and may pick none."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex

from agent_memory.encoders.base import Encoder
from agent_memory.encoders.registry import load_encoder
from agent_memory.errors import InvalidInputError, NotFoundError
from agent_memory.files import new_lock
from agent_memory.inputs import check_count, check_name, check_query, check_share, check_text, type_name
from agent_memory.memory import Memory
from agent_memory.routing.confidence import EVERYDAY, Scale
from agent_memory.routing.kept import Kept, KeptHere, KeptInMemory
from agent_memory.routing.table import Found, Line, Table, find_best
from agent_memory.types import FloatArray

MIN_CONFIDENCE = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A route that a text may be for.

    Attributes:
        name: The route.
        rank: 1 for the best.
        confidence: Calibrated chance that it is the right one, from 0 to 1.
        score: Cosine of its best sentence; of one that a correction has taught, the square of it.
        sentence: That sentence: of its description, or one that a correction has taught.
    """

    name: str
    rank: int
    confidence: float
    score: float
    sentence: str


class Router:
    """Tells which of many routes a text is for: tools, skills, intents, namespaces, each described by a few sentences.

    The 64-d tier finds sentences, all 768 dimensions rank them; no LLM is called. Corrections count from the next call
    on. With a memory, sentences and corrections are entries of a namespace of it: they are kept, and what another
    process learns is known here at the next call. They are in an internal namespace, ``"@internal"`` below the given
    one: the memory's recalls and lists leave them out, exports and backups carry them. Safe to share between threads.

    Args:
        source: An open ``Memory``; or an encoder as ``Memory`` takes it, None for the embedded one, which keeps the
            routes in this object alone.
        routes: Descriptions by name: a sentence or several. A route that is there already gets these in place of its
            own; what it has learned stays.
        namespace: Where in the memory, within its own namespace; routers of one name share their routes.

    Raises:
        InvalidInputError: A name or a sentence is unusable, or the source is a memory that is not open in this process
            (``RemoteMemory``, ``AsyncMemory``); nothing was written.

    Example:
        >>> router = Router(memory, {"email": "Sends an e-mail.", "alarm": "Wakes a person at a given time."})
        >>> router.route("Wake me at half past five")[0].name
        'alarm'
    """

    def __init__(
        self,
        source: Memory | Encoder | str | Path | None = None,
        routes: Mapping[str, str | Sequence[str]] | None = None,
        *,
        namespace: Sequence[str] = ("routes",),
    ) -> None:
        self._kept: Kept = _keep(source, namespace)
        self._lock = new_lock()
        self._scaled: tuple[Table, Scale] | None = None
        self._everyday: tuple[str, FloatArray] | None = None
        if routes is not None:
            self.add(routes)

    @property
    def routes(self) -> dict[str, list[str]]:
        """The sentences of each route, those that it has learned included, in the order they were added."""
        found: dict[str, list[str]] = {}
        for line in self._kept.read().lines:
            if line.route is not None:
                found.setdefault(line.route, []).append(line.text)
        return found

    def add(self, routes: Mapping[str, str | Sequence[str]]) -> None:
        """Describe routes; those that are known get the new descriptions, and keep what they have learned.

        Args:
            routes: Descriptions by name: a sentence or several, e.g. what a tool does and a request that it answers.

        Raises:
            InvalidInputError: A name or a sentence is unusable; nothing was written.
        """
        lines = self._check_routes(routes)
        with self._lock:
            names, known = {line.route for line in lines}, self._kept.read().lines
            old = {line for line in known if line.route in names and not line.learned}
            self._kept.change([line for line in old if line not in lines], [line for line in lines if line not in old])

    def remove(self, name: str) -> None:
        """Remove a route with all that it has learned.

        Raises:
            NotFoundError: There is no such route.
        """
        with self._lock:
            lines = self._find_lines(check_name("name", name))
            self._kept.change(lines, [])

    def feedback(self, text: str, name: str | None) -> None:
        """Learn which route a text is for. A later correction of the same text takes the place of the former one.

        Args:
            text: What was asked.
            name: The right route; None if it is for none of them.

        Raises:
            NotFoundError: There is no such route.
            InvalidInputError: The text is unusable.
        """
        said = check_text("text", text, self._kept.config)
        with self._lock:
            if name is not None:
                self._find_lines(check_name("name", name))
            former = [line for line in self._kept.read().lines if line.learned and line.text == said]
            self._kept.change(former, [Line(name, said, True)])

    def route(
        self,
        text: str,
        k: SupportsIndex = 5,
        min_confidence: float = MIN_CONFIDENCE,
        *,
        among: Collection[str] | None = None,
    ) -> list[Choice]:
        """Return the routes that a text is for, best first; an empty list says "none of these".

        Args:
            text: A request or question.
            k: How many routes at most.
            min_confidence: Return nothing unless the best route is the right one with at least this chance; 0 to always
                get routes. Of the others, the k best come along, however unsure: the right one is often among them.
            among: Names of the routes to choose from; all if left out.

        Raises:
            InvalidInputError: An argument is unusable.
            EncoderError: The text could not be encoded.

        Example:
            >>> router = Router(routes={"email": "Sends an e-mail.", "alarm": "Wakes a person at a given time."})
            >>> router.route("How old is the Pope?")
            []
        """
        said, limit = check_query(text, self._kept.config), check_count("k", k)
        floor = check_share("min_confidence", min_confidence)
        if among is not None and (isinstance(among, (str, bytes)) or not isinstance(among, Collection)):
            raise InvalidInputError(f"among must be a list of names, got {type_name(among)}")
        vector = self._kept.encoder.encode_queries([said])[0]
        return self.route_vector(vector, k=limit, min_confidence=floor, among=among)

    def route_vector(
        self,
        vector: FloatArray,
        k: int = 5,
        min_confidence: float = MIN_CONFIDENCE,
        *,
        among: Collection[str] | None = None,
    ) -> list[Choice]:
        """Do as ``route`` does for a text that is encoded already: float32 (dimension,), of unit length."""
        table = self._kept.read()
        found = table.search(vector, k, among)
        choices = _rate(found, self._scale(table)) if any(each.route is not None for each in found) else []
        unsure = not choices or choices[0].confidence < min_confidence
        return [] if unsure or (min_confidence and found[0].route is None) else choices[:k]

    def _scale(self, table: Table) -> Scale:
        """Return what everyday texts get among the present routes."""
        scaled = self._scaled
        if scaled is None or scaled[0] is not table:
            scaled = table, Scale.of(find_best(table, self._encode_everyday()))
            self._scaled = scaled
        return scaled[1]

    def _encode_everyday(self) -> FloatArray:
        encoder, known = self._kept.encoder, self._everyday
        if known is None or known[0] != encoder.spec.fingerprint:
            known = encoder.spec.fingerprint, encoder.encode_queries(list(EVERYDAY))
            self._everyday = known
        return known[1]

    def _find_lines(self, name: str) -> list[Line]:
        lines = [line for line in self._kept.read().lines if line.route == name]
        if not lines:
            raise NotFoundError(f"no route is named {name!r}")
        return lines

    def _check_routes(self, routes: object) -> list[Line]:
        if not isinstance(routes, Mapping):
            raise InvalidInputError(f"routes must be a mapping of names to sentences, got {type_name(routes)}")
        lines: dict[Line, None] = {}
        for name, said in routes.items():
            check_name("the name of a route", name)
            sentences = [said] if isinstance(said, str) else said
            if not isinstance(sentences, Sequence) or isinstance(sentences, bytes) or not sentences:
                raise InvalidInputError(f"route {name!r} must have a sentence or a list of them, got {type_name(said)}")
            for at, sentence in enumerate(sentences):
                text = check_text(f"sentence {at + 1} of route {name!r}", sentence, self._kept.config)
                lines[Line(name, text, False)] = None
        return list(lines)


def _keep(source: Memory | Encoder | str | Path | None, namespace: Sequence[str]) -> Kept:
    if isinstance(source, Memory):
        return KeptInMemory(source, namespace)
    if callable(getattr(source, "recall", None)):
        raise InvalidInputError(
            f"source must be an open Memory or an encoder, got {type_name(source)}: a router compares vectors, which "
            "only the process that has opened the store can read"
        )
    return KeptHere(load_encoder(source))


def _rate(found: Sequence[Found], scale: Scale) -> list[Choice]:
    """Return the routes that were found with their confidence; what is for none of them is a rival only."""
    choices: list[Choice] = []
    for each in found:
        if each.route is None:
            continue
        rival = next((other.score for other in found if other.route != each.route), None)
        confidence = scale.rate(each.score, rival)
        rank = len(choices) + 1
        choices.append(
            Choice(name=each.route, rank=rank, confidence=confidence, score=each.score, sentence=each.line.text)
        )
    return choices
