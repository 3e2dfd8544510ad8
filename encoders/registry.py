"""Turns the encoder that a user names or passes into an encoder object."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from agent_memory.encoders.base import Encoder
from agent_memory.encoders.compact.encoder import CompactSessionEncoder
from agent_memory.encoders.compact.weights import is_trained_for
from agent_memory.encoders.files import MPNET_SHA256, locate_model, verify_file
from agent_memory.encoders.reranker import Reranker
from agent_memory.encoders.session import SessionEncoder
from agent_memory.encoders.static.pairs import MiniLMReranker
from agent_memory.errors import DimensionMismatchError, EncoderMismatchError, InvalidInputError, ModelNotFoundError
from agent_memory.inputs import describe

NAMES = ("default", "minilm", "minilm-matryoshka", "multilingual", "mpnet", "aegis")


def load_encoder(encoder: Encoder | str | Path | None = None) -> Encoder:
    """Return the encoder for a name or folder; an encoder object is returned as it is.

    No weights are read here; they load when the first text is encoded.

    Args:
        encoder: None or ``"default"`` for the embedded encoder, ``"multilingual"``, ``"minilm"``, ``"mpnet"``,
            ``"aegis"``, the folder or locally cached name of a sentence-transformers model, or any object that
            implements ``Encoder``. ``"multilingual"`` needs the extra of that name or its pulled model;
            ``"mpnet"`` and models by folder or name need the extra ``sentence-transformers``.

    Raises:
        ModelNotFoundError: The model is not on this machine; the message names the command that fetches it.
        MissingDependencyError: The model needs sentence-transformers, which is not installed.
        InvalidInputError: ``encoder`` is none of these.
    """
    if isinstance(encoder, str) and not encoder.strip():
        raise InvalidInputError(f"encoder must name a model, got {encoder!r}")
    if encoder is None or isinstance(encoder, (str, Path)):
        return _make_encoder("default" if encoder is None else encoder)
    if isinstance(encoder, type) or not isinstance(encoder, Encoder):
        raise InvalidInputError(
            f"encoder must be one of {NAMES}, a model folder or an object with spec, encode_documents and "
            f"encode_queries, got {encoder!r}"
        )
    return encoder


def load_reranker(reranker: Reranker | str | None) -> Reranker | None:
    """Return the reranker for ``"default"``, the embedded one; a reranker object, or None, is returned as it is.

    No weights are read here.

    Raises:
        InvalidInputError: ``reranker`` is none of these.
    """
    if isinstance(reranker, str) and reranker == "default":
        return _keep_reranker()
    if isinstance(reranker, str) or (reranker is not None and not callable(getattr(reranker, "score", None))):
        raise InvalidInputError(
            f"rerank must be 'default' or an object with a method 'score', got {describe(reranker)}"
        )
    return reranker


@cache
def _keep_reranker() -> Reranker:
    """Return the embedded reranker, whose weights stay once they are read: each recall asks for it by name."""
    return MiniLMReranker()


def load_session_encoder(
    session_encoder: SessionEncoder | str | None, encoder: Encoder, recorded: Mapping[str, Any] | None
) -> SessionEncoder | None:
    """Return the session encoder of a store.

    Args:
        session_encoder: ``"auto"`` for the one the store was written with or, for a new store, the embedded one if
            it was trained on the encoder's vectors; ``"compact"`` for the embedded one; None for no session
            encoder; or an object that implements ``SessionEncoder``.
        encoder: The store's static encoder.
        recorded: The session encoder recorded in the store, empty if it has none; None for a new store.

    Returns:
        The session encoder; None if sessions are not to be encoded.

    Raises:
        InvalidInputError: ``session_encoder`` is none of these.
        DimensionMismatchError: The session encoder evolves vectors of another dimension.
        EncoderMismatchError: The store was written with a session encoder that must be passed as an object.
        CheckpointError: The embedded session encoder does not fit the encoder.
    """
    if session_encoder is None or isinstance(session_encoder, str):
        return _make_session_encoder(session_encoder, encoder, recorded)
    if isinstance(session_encoder, type) or not isinstance(session_encoder, SessionEncoder):
        raise InvalidInputError(
            "session_encoder must be 'auto', 'compact', None or an object with spec, empty_memory, embed_segment and "
            f"embed_query, got {session_encoder!r}"
        )
    if session_encoder.spec.dimension != encoder.spec.dimension:
        raise DimensionMismatchError(encoder.spec.dimension, session_encoder.spec.dimension)
    return session_encoder


def _make_session_encoder(
    name: str | None, encoder: Encoder, recorded: Mapping[str, Any] | None
) -> SessionEncoder | None:
    if name == "compact":
        return CompactSessionEncoder(encoder)
    if name == "auto" and recorded is None:
        return CompactSessionEncoder(encoder) if is_trained_for(encoder) else None
    if name == "auto" and recorded:
        if recorded.get("name") != "compact":
            raise EncoderMismatchError(
                f"the store was written with session encoder {recorded.get('name')!r}; pass it as session_encoder"
            )
        return CompactSessionEncoder(encoder)
    if name in ("auto", None):
        return None
    raise InvalidInputError(f"session_encoder must be 'auto', 'compact', None or a SessionEncoder, got {name!r}")


def _make_encoder(name: str | Path) -> Encoder:
    from agent_memory.encoders.static.sentence_transformer import SentenceTransformerEncoder

    if name in ("default", "minilm-matryoshka"):
        from agent_memory.encoders.static.matryoshka import MatryoshkaEncoder

        return MatryoshkaEncoder()
    if name == "minilm":
        from agent_memory.encoders.static.minilm import MiniLMEncoder

        return MiniLMEncoder()
    if name == "multilingual":
        from agent_memory.encoders.static.multilingual import MultilingualEncoder

        return MultilingualEncoder()
    if name == "aegis":
        from agent_memory.encoders.static.aegis import AegisEncoder

        return AegisEncoder()
    if name == "mpnet":
        return SentenceTransformerEncoder(_find_mpnet(), name="mpnet")
    return SentenceTransformerEncoder(name)


def _find_mpnet() -> Path:
    folder = locate_model("mpnet")
    if not folder.is_dir():
        raise ModelNotFoundError(f"mpnet is not in {folder}; run: agent-memory models pull mpnet")
    verify_file(folder / "model.safetensors", MPNET_SHA256)
    return folder
