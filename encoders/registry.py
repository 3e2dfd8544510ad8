"""From what a user writes to an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent_memory.encoders.base import Encoder
from agent_memory.encoders.compact.encoder import CompactSessionEncoder
from agent_memory.encoders.compact.weights import trained_for
from agent_memory.encoders.files import MPNET_SHA256, model_folder, verify
from agent_memory.encoders.session import SessionEncoder
from agent_memory.errors import DimensionMismatchError, EncoderMismatchError, InvalidInputError, ModelNotFoundError

NAMES = ("default", "minilm", "minilm-matryoshka", "mpnet", "aegis")


def load_encoder(encoder: Encoder | str | Path | None = None) -> Encoder:
    """Return the encoder for a name, a folder, or an encoder that is one already.

    No weights are read here; that happens at the first text.

    Args:
        encoder: None or ``"default"`` for the embedded one, ``"minilm"``, ``"mpnet"``, ``"aegis"``, the
            folder or locally cached name of a sentence-transformers model, or any object that satisfies
            ``Encoder``.

    Raises:
        ModelNotFoundError: The model is not on this machine; the message names the command that fetches it.
        InvalidInputError: None of the above.
    """
    if isinstance(encoder, str) and not encoder.strip():
        raise InvalidInputError(f"encoder must name a model, got {encoder!r}")
    if encoder is None or isinstance(encoder, (str, Path)):
        return _named("default" if encoder is None else encoder)
    if isinstance(encoder, type) or not isinstance(encoder, Encoder):
        raise InvalidInputError(
            f"encoder must be one of {NAMES}, a model folder or an object with spec, encode_documents and "
            f"encode_queries, got {encoder!r}"
        )
    return encoder


def load_session_encoder(
    session_encoder: SessionEncoder | str | None, encoder: Encoder, recorded: Mapping[str, Any] | None
) -> SessionEncoder | None:
    """Return the session encoder of a store.

    Args:
        session_encoder: ``"auto"`` for the store's own, or for a new store the embedded one if it was trained for
            the encoder; ``"compact"`` for the embedded one; None for none; or a ``SessionEncoder``.
        encoder: The store's static encoder.
        recorded: What the store says of its session encoder, empty for none; None for a new store.

    Raises:
        InvalidInputError: None of the above.
        EncoderMismatchError: The store's own session encoder is one that was passed as an object.
        CheckpointError: The embedded one does not fit the encoder.
    """
    if session_encoder is None or isinstance(session_encoder, str):
        return _named_session_encoder(session_encoder, encoder, recorded)
    if isinstance(session_encoder, type) or not isinstance(session_encoder, SessionEncoder):
        raise InvalidInputError(
            "session_encoder must be 'auto', 'compact', None or an object with spec, empty_memory, embed_segment and "
            f"embed_query, got {session_encoder!r}"
        )
    if session_encoder.spec.dimension != encoder.spec.dimension:
        raise DimensionMismatchError(encoder.spec.dimension, session_encoder.spec.dimension)
    return session_encoder


def _named_session_encoder(
    name: str | None, encoder: Encoder, recorded: Mapping[str, Any] | None
) -> SessionEncoder | None:
    if name == "compact":
        return CompactSessionEncoder(encoder)
    if name == "auto" and recorded is None:
        return CompactSessionEncoder(encoder) if trained_for(encoder) else None
    if name == "auto" and recorded:
        if recorded.get("name") != "compact":
            raise EncoderMismatchError(
                f"the store was written with session encoder {recorded.get('name')!r}; pass it as session_encoder"
            )
        return CompactSessionEncoder(encoder)
    if name in ("auto", None):
        return None
    raise InvalidInputError(f"session_encoder must be 'auto', 'compact', None or a SessionEncoder, got {name!r}")


def _named(name: str | Path) -> Encoder:
    from agent_memory.encoders.static.sentence_transformer import SentenceTransformerEncoder

    if name in ("default", "minilm-matryoshka"):
        from agent_memory.encoders.static.matryoshka import MatryoshkaEncoder

        return MatryoshkaEncoder()
    if name == "minilm":
        from agent_memory.encoders.static.minilm import MiniLMEncoder

        return MiniLMEncoder()
    if name == "aegis":
        from agent_memory.encoders.static.aegis import AegisEncoder

        return AegisEncoder()
    if name == "mpnet":
        return SentenceTransformerEncoder(_mpnet_folder(), name="mpnet")
    return SentenceTransformerEncoder(name)


def _mpnet_folder() -> Path:
    folder = model_folder("mpnet")
    if not folder.is_dir():
        raise ModelNotFoundError(f"mpnet is not in {folder}; run: agent-memory models pull mpnet")
    verify(folder / "model.safetensors", MPNET_SHA256)
    return folder
