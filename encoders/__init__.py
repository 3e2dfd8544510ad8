"""Turns text into vectors; knows nothing of storage or indexes.

``base`` and ``session`` are the contracts, ``static``, ``compact`` and ``evo`` implement them, ``registry`` turns names
into encoders, and ``training`` made the files in ``weights``.

Names are loaded when they are first used: importing this package imports no model library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent_memory.encoders.base import Encoder, EncoderSpec, tiers_for
    from agent_memory.encoders.compact.encoder import CompactSessionEncoder
    from agent_memory.encoders.evo.model import EvoEmbeddingModel
    from agent_memory.encoders.evo.segments import Exchange
    from agent_memory.encoders.evo.session import EvoEncoder, EvoSessionEncoder
    from agent_memory.encoders.evo_reranker import EvoReranker
    from agent_memory.encoders.registry import load_encoder
    from agent_memory.encoders.reranker import CrossEncoderReranker, Reranker
    from agent_memory.encoders.rotation import RotatedEncoder, Rotation, fit_rotation, needs_rotation
    from agent_memory.encoders.session import (
        LatentQueue,
        SessionEncoder,
        SessionEncoderSpec,
        SessionSegment,
        encode_session,
    )
    from agent_memory.encoders.static.aegis import AegisEncoder
    from agent_memory.encoders.static.matryoshka import MatryoshkaEncoder
    from agent_memory.encoders.static.minilm import MiniLMEncoder
    from agent_memory.encoders.static.multilingual import MultilingualEncoder
    from agent_memory.encoders.static.openai import OpenAIEncoder
    from agent_memory.encoders.static.sentence_transformer import SentenceTransformerEncoder
    from agent_memory.types import Progress

_HOMES = {
    "Encoder": "base",
    "EncoderSpec": "base",
    "Progress": "base",
    "tiers_for": "base",
    "AegisEncoder": "static.aegis",
    "CompactSessionEncoder": "compact.encoder",
    "CrossEncoderReranker": "reranker",
    "EvoEmbeddingModel": "evo.model",
    "EvoEncoder": "evo.session",
    "EvoReranker": "evo_reranker",
    "EvoSessionEncoder": "evo.session",
    "Exchange": "evo.segments",
    "LatentQueue": "session",
    "MatryoshkaEncoder": "static.matryoshka",
    "MiniLMEncoder": "static.minilm",
    "MultilingualEncoder": "static.multilingual",
    "OpenAIEncoder": "static.openai",
    "RotatedEncoder": "rotation",
    "Reranker": "reranker",
    "Rotation": "rotation",
    "SentenceTransformerEncoder": "static.sentence_transformer",
    "SessionEncoder": "session",
    "SessionEncoderSpec": "session",
    "SessionSegment": "session",
    "encode_session": "session",
    "fit_rotation": "rotation",
    "load_encoder": "registry",
    "needs_rotation": "rotation",
}

__all__ = [
    "AegisEncoder",
    "CompactSessionEncoder",
    "CrossEncoderReranker",
    "Encoder",
    "EncoderSpec",
    "EvoEmbeddingModel",
    "EvoEncoder",
    "EvoReranker",
    "EvoSessionEncoder",
    "Exchange",
    "LatentQueue",
    "MatryoshkaEncoder",
    "MiniLMEncoder",
    "MultilingualEncoder",
    "OpenAIEncoder",
    "Progress",
    "Reranker",
    "RotatedEncoder",
    "Rotation",
    "SentenceTransformerEncoder",
    "SessionEncoder",
    "SessionEncoderSpec",
    "SessionSegment",
    "encode_session",
    "fit_rotation",
    "load_encoder",
    "needs_rotation",
    "tiers_for",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
