"""Settings of a memory, with defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import timedelta, tzinfo
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from agent_memory.times import parse_zone

if TYPE_CHECKING:
    from pydantic import BaseModel


def _check(settings: Retention | Config) -> None:
    """Convert and check what differs from the defaults, by pydantic, which is imported if anything does.

    Raises:
        ValueError: A setting is out of its bounds, or of another type.
    """
    changed = {}
    for one in fields(settings):
        value, default = getattr(settings, one.name), _get_default(one)
        if type(value) is not type(default) or value != default:
            changed[one.name] = value
    if changed:
        kind: Any = type(settings)
        checked = _make_model(kind)(**changed)
        for name in changed:
            object.__setattr__(settings, name, getattr(checked, name))


def _get_default(one: Field[Any]) -> object:
    return one.default if one.default_factory is MISSING else one.default_factory()


@cache
def _make_model(kind: Any) -> type[BaseModel]:  # noqa: ANN401 - a class, which mypy takes for not hashable
    from pydantic import ConfigDict, create_model
    from pydantic import Field as Checked

    hints = get_type_hints(kind)
    parts: dict[str, Any] = {
        one.name: (hints[one.name], Checked(default=_get_default(one), **one.metadata)) for one in fields(kind)
    }
    return create_model(kind.__name__, __config__=ConfigDict(extra="forbid"), **parts)


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How long the entries of a namespace are kept, and how many; see ``Config.retention``.

    Attributes:
        max_age: How long after their last change; None keeps them.
        max_entries: How many, the latest; None for all.
    """

    max_age: timedelta | None = field(default=None, metadata={"gt": timedelta(0)})
    max_entries: int | None = field(default=None, metadata={"ge": 1})

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings that callers may change when they open a memory.

    Attributes:
        lock_timeout_s: Seconds to wait for another process that is writing, before LockTimeoutError.
        batch_size: Number of entries that ``add_many`` encodes and commits together; four times as many if their
            vectors are given and they belong to no session.
        max_text_chars: Maximum length of a text, in characters.
        max_metadata_chars: Maximum length of an entry's metadata, in characters of its JSON. Adapters of frameworks,
            which keep whole messages with their images there, open a folder with 64,000,000.
        max_query_chars: Maximum length of the text of a query, in characters. A longer one is refused, not cut: what
            would be left out might be the question. Adapters of frameworks ask with the end of a longer message.
        snapshot_every: Number of changes after which a recall writes the index to disk, as ``close`` does.
        keep_versions: Number of former versions kept of each entry, for ``history`` and ``as_of``.
        retention: By namespace (parts joined with ``/``, "" for all), how long its entries and those below it are kept.
            ``purge_expired`` and maintenance forget what is beyond that.
        recall_target: Share of the exact top 10 that the tiers must find; they keep more candidates until they do.
        threads: Number of threads that one index search may use.
        gather_ms: Milliseconds within which the questions of several threads are encoded together; 0 to encode each by
            itself. A question that comes alone never waits. The server sets 2.
        query_log: Number of recent queries that the store keeps as vectors, for dry runs of ``maintenance`` and
            ``reindex``; 0 turns the log off. They stay in the store's file; ``clear_queries`` deletes them.
        query_text: What the log keeps of their text: ``none``, ``hash`` (SHA-256, to match them with your own logs;
            short questions can be guessed from it) or ``plain`` (needed to rehearse another encoder).
        max_mention_chars: Length up to which a text is read for times that it mentions ("next Friday"), told from its
            event time: a question about that Friday finds it. 0 turns it off, which makes bulk writes faster.
        timezone: The zone that times without one are meant in, and in which days, weeks and months begin: a name
            (``Europe/Berlin``) or an offset (``+02:00``). It changes how times are read, never those that are stored.
        date_order: What ``5/8/2023`` in a query means: ``day-first``, ``month-first``, or ``auto``: what another date
            of the query shows (``25/12/2023``), else the custom of its language, which is month first in English.
        index: Where vectors are searched: ``local``, in the memory of this process, which loads all of them; or
            ``server``, in PostgreSQL by its extension pgvector.
        nearby_words: Whether a recall in a session counts the query's words for the three turns before and after the
            one that holds them, too.
    """

    lock_timeout_s: float = field(default=30.0, metadata={"gt": 0, "le": 3600})
    batch_size: int = field(default=512, metadata={"ge": 1, "le": 100_000})
    max_text_chars: int = field(default=1_000_000, metadata={"ge": 1})
    max_metadata_chars: int = field(default=1_000_000, metadata={"ge": 2, "le": 256_000_000})
    max_query_chars: int = field(default=10_000, metadata={"ge": 1})
    snapshot_every: int = field(default=20_000, metadata={"ge": 1})
    keep_versions: int = field(default=20, metadata={"ge": 0})
    retention: Mapping[str, Retention] = field(default_factory=dict)
    recall_target: float = field(default=0.98, metadata={"gt": 0, "le": 1})
    threads: int = field(default=1, metadata={"ge": 1, "le": 256})
    gather_ms: float = field(default=0.0, metadata={"ge": 0, "le": 1000})
    query_log: int = field(default=0, metadata={"ge": 0, "le": 10_000})
    query_text: Literal["none", "hash", "plain"] = "none"
    max_mention_chars: int = field(default=2_000, metadata={"ge": 0})
    timezone: str = "UTC"
    date_order: Literal["auto", "day-first", "month-first"] = "auto"
    nearby_words: bool = True
    index: Literal["local", "server"] = "local"

    def __post_init__(self) -> None:
        _check(self)
        if self.timezone != "UTC":
            parse_zone("timezone", self.timezone)

    def dump(self) -> dict[str, Any]:
        """Return the settings by name, as JSON has them."""
        from pydantic import TypeAdapter

        found: dict[str, Any] = TypeAdapter(Config).dump_python(self, mode="json")
        return found

    @property
    def zone(self) -> tzinfo:
        """The zone that ``timezone`` names."""
        return parse_zone("timezone", self.timezone)
