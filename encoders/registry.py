"""From what a user writes to an encoder."""

from __future__ import annotations

from pathlib import Path

from agent_memory.encoders.base import Encoder
from agent_memory.encoders.files import MPNET_SHA256, model_folder, verify
from agent_memory.errors import InvalidInputError, ModelNotFoundError

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


def _named(name: str | Path) -> Encoder:
    from agent_memory.encoders.sentence_transformer import SentenceTransformerEncoder

    if name in ("default", "minilm-matryoshka"):
        from agent_memory.encoders.matryoshka import MatryoshkaEncoder

        return MatryoshkaEncoder()
    if name == "minilm":
        from agent_memory.encoders.minilm import MiniLMEncoder

        return MiniLMEncoder()
    if name == "aegis":
        from agent_memory.encoders.aegis import AegisEncoder

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
