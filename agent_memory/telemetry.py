"""Stages of the work, for whoever watches: metrics of the server, spans of OpenTelemetry. Nobody does by default."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeAlias

Observer: TypeAlias = Callable[[str, dict[str, Any]], AbstractContextManager[None]]
"""Returns a context that lasts as long as a stage; called with the stage's name and facts about it, no content."""

_observers: list[Observer] = []


class _Nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


_NOTHING = _Nothing()


def stage(name: str, **facts: Any) -> AbstractContextManager[Any]:  # noqa: ANN401 - numbers and names
    """Return the context of a stage: ``add``, ``recall``, ``encode``, ``tiers``, ``words``, ``rerank``, ``reindex``."""
    if not _observers:
        return _NOTHING
    stack = ExitStack()
    for observer in list(_observers):
        stack.enter_context(observer(name, facts))
    return stack


def observe(observer: Observer) -> Callable[[], None]:
    """Call an observer for every stage from now on; returns what ends that."""
    _observers.append(observer)

    def stop() -> None:
        if observer in _observers:
            _observers.remove(observer)

    return stop
