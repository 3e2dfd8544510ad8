"""From text to vectors. Knows nothing of storage or indexes.

Names are loaded when they are first used: importing this package imports no model library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent_memory.encoders.aegis import AegisEncoder
    from agent_memory.encoders.base import Encoder, EncoderSpec, Progress, tiers_for
    from agent_memory.encoders.compact import CompactSessionEncoder
    from agent_memory.encoders.evo_session import EvoEncoder, EvoSessionEncoder
    from agent_memory.encoders.evo_state import Exchange, LatentQueue
    from agent_memory.encoders.evoembedding import EvoEmbeddingModel
    from agent_memory.encoders.matryoshka import MatryoshkaEncoder
    from agent_memory.encoders.minilm import MiniLMEncoder
    from agent_memory.encoders.openai import OpenAIEncoder
    from agent_memory.encoders.registry import load_encoder
    from agent_memory.encoders.reranker import CrossEncoderReranker, Reranker
    from agent_memory.encoders.rotation import RotatedEncoder, Rotation, fit_rotation, needs_rotation
    from agent_memory.encoders.sentence_transformer import SentenceTransformerEncoder
    from agent_memory.encoders.session import SessionEncoder, SessionEncoderSpec, SessionSegment, encode_session

_HOMES = {
    "Encoder": "base",
    "EncoderSpec": "base",
    "Progress": "base",
    "tiers_for": "base",
    "AegisEncoder": "aegis",
    "CompactSessionEncoder": "compact",
    "CrossEncoderReranker": "reranker",
    "EvoEmbeddingModel": "evoembedding",
    "EvoEncoder": "evo_session",
    "EvoSessionEncoder": "evo_session",
    "Exchange": "evo_state",
    "LatentQueue": "evo_state",
    "MatryoshkaEncoder": "matryoshka",
    "MiniLMEncoder": "minilm",
    "OpenAIEncoder": "openai",
    "RotatedEncoder": "rotation",
    "Reranker": "reranker",
    "Rotation": "rotation",
    "SentenceTransformerEncoder": "sentence_transformer",
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
    "EvoSessionEncoder",
    "Exchange",
    "LatentQueue",
    "MatryoshkaEncoder",
    "MiniLMEncoder",
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
