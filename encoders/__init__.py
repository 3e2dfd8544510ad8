"""From text to vectors. Knows nothing of storage or indexes.

Names are loaded when they are first used: importing this package imports no model library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent_memory.encoders.base import Encoder, EncoderSpec, Progress, tiers_for
    from agent_memory.encoders.minilm import MiniLMEncoder
    from agent_memory.encoders.registry import load_encoder
    from agent_memory.encoders.reranker import CrossEncoderReranker, Reranker
    from agent_memory.encoders.sentence_transformer import SentenceTransformerEncoder

_HOMES = {
    "CrossEncoderReranker": "reranker",
    "Reranker": "reranker",
    "Encoder": "base",
    "EncoderSpec": "base",
    "Progress": "base",
    "tiers_for": "base",
    "MiniLMEncoder": "minilm",
    "SentenceTransformerEncoder": "sentence_transformer",
    "load_encoder": "registry",
}

__all__ = [
    "CrossEncoderReranker",
    "Encoder",
    "EncoderSpec",
    "MiniLMEncoder",
    "Progress",
    "Reranker",
    "SentenceTransformerEncoder",
    "load_encoder",
    "tiers_for",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
