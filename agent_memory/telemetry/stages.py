"""Stages of the work, for whoever watches: metrics of the server, spans of OpenTelemetry. Nobody does by default."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeAlias

Facts: TypeAlias = dict[str, Any]
"""What is known of a stage; what comes of it is added until it ends. Some facts are content: see ``CONTENT``."""

Observer: TypeAlias = Callable[[str, Facts], AbstractContextManager[None]]
"""Returns a context that lasts as long as a stage; called with the stage's name and facts about it."""

CONTENT = frozenset({"query", "texts", "hits", "key", "session"})
"""Facts that say what is remembered or asked: an observer keeps them to itself unless its user wants them told."""

_observers: list[Observer] = []


class _Ignored(dict[str, Any]):
    """Facts that nobody wants to know."""

    def __setitem__(self, name: str, value: object) -> None:
        pass


class _Nothing:
    def __enter__(self) -> Facts:
        return _IGNORED

    def __exit__(self, *_: object) -> None:
        pass


_IGNORED, _NOTHING = _Ignored(), _Nothing()


def stage(name: str, **facts: Any) -> AbstractContextManager[Facts]:  # noqa: ANN401 - numbers, names, records
    """Return the context of a stage; it yields its facts, to which what comes of it may be added.

    Args:
        name: ``add``, ``update``, ``forget``, ``recall``, ``why``, ``encode``, ``tiers``, ``words``, ``rerank``,
            ``reindex`` or ``rollback``.
        **facts: What is known of it.
    """
    return _watch(name, facts) if _observers else _NOTHING


@contextmanager
def _watch(name: str, facts: Facts) -> Iterator[Facts]:
    with ExitStack() as stack:
        for observer in list(_observers):
            stack.enter_context(observer(name, facts))
        yield facts


def observe(observer: Observer) -> Callable[[], None]:
    """Call an observer for every stage from now on; returns what ends that."""
    _observers.append(observer)

    def stop() -> None:
        if observer in _observers:
            _observers.remove(observer)

    return stop
