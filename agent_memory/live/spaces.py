"""``Spaces``: finds the encoders of a generation among those given and those built in, with their rotation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_memory.encoders.registry import NAMES, load_encoder, load_session_encoder
from agent_memory.errors import CheckpointError
from agent_memory.live.gathering import Gathering
from agent_memory.live.sessions import Sessions
from agent_memory.live.space import Space
from agent_memory.storage.base import Transaction
from agent_memory.storage.records import Generation

if TYPE_CHECKING:
    from agent_memory.encoders import Encoder, SessionEncoder
    from agent_memory.encoders.rotation import Rotation

ROTATION = "rotation.safetensors"
_MARK = "+rotation-"


class Spaces:
    """The embedding spaces that this process can use.

    Args:
        folder: The store's folder, for messages.
        encoder: The encoder that the memory was opened with, as for ``Memory``.
        session_encoder: The session encoder that it was opened with, likewise.
        gather: Makes what gathers the questions of a space; it may return None.
    """

    def __init__(
        self,
        folder: Path,
        encoder: Encoder | str | Path | None,
        session_encoder: SessionEncoder | str | None,
        gather: Callable[[], Gathering | None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._gather = gather
        self._given = encoder
        self._session_encoder = session_encoder
        self._session_encoders: dict[str, SessionEncoder] = {}
        self._known: dict[str, Encoder] = {}

    def open(self, tx: Transaction, generation: Generation | None) -> Space:
        """Return the space to open a store with.

        Raises:
            EncoderMismatchError: The store's vectors were made by other encoders. Encoders given by name may be of
                another version: after an upgrade of the package the old weights are gone, and the store must be open
                to be re-indexed.
        """
        if generation is None:
            return self.open_new()
        given, name = self._given, generation.encoder.get("name")
        if given is None and isinstance(name, str) and name in NAMES:
            given = name
        encoder = load_encoder(given)
        self.add(encoder)
        encoder = _rotate(tx, generation, encoder) or encoder
        recorded = generation.session_encoder or {}
        space = self.build(encoder, self.find_session_encoder(self._session_encoder, encoder, recorded))
        if not self._may_open(space, generation):
            space.accept(generation)
        return space

    def open_new(self) -> Space:
        """Return the space to begin a new store with."""
        encoder = load_encoder(self._given)
        self.add(encoder)
        return self.build(encoder, self.find_session_encoder(self._session_encoder, encoder, None))

    def _may_open(self, space: Space, generation: Generation) -> bool:
        named = _is_name(self._given) and generation.encoder.get("name") == space.spec.name
        theirs, ours = (facts or {} for facts in (generation.session_encoder, space.sessions.facts))
        named_sessions = _is_name(self._session_encoder) and theirs.get("name") == ours.get("name")
        return (named or space.fingerprint == generation.fingerprint) and (
            named_sessions or space.sessions.fits(generation)
        )

    def find(self, tx: Transaction, generation: Generation) -> Space | None:
        """Return the space of a generation, or None if this process does not have its encoder."""
        encoder = self._find_encoder(tx, generation)
        if encoder is None:
            return None
        recorded = generation.session_encoder or {}
        return self.build(encoder, self.find_session_encoder("auto", encoder, recorded))

    def _find_encoder(self, tx: Transaction, generation: Generation) -> Encoder | None:
        for encoder in list(self._known.values()):
            if encoder.spec.fingerprint == generation.fingerprint:
                return encoder
            rotated = _rotate(tx, generation, encoder)
            if rotated is not None:
                self.add(rotated)
                return rotated
        name = generation.encoder.get("name")
        if not _is_name(self._given) or name not in NAMES:
            return None
        encoder = load_encoder(str(name))
        encoder = _rotate(tx, generation, encoder) or encoder
        if encoder.spec.fingerprint != generation.fingerprint:
            return None
        self.add(encoder)
        return encoder

    def build(self, encoder: Encoder, session_encoder: SessionEncoder | None) -> Space:
        """Return the space of two encoders."""
        return Space(encoder, Sessions(session_encoder, encoder.spec.dtype), self._folder, self._gather())

    def add(self, encoder: Encoder) -> None:
        """Register an encoder for ``find``."""
        self._known[encoder.spec.fingerprint] = encoder
        base = get_base(encoder)
        self._known.setdefault(base.spec.fingerprint, base)

    def find_session_encoder(
        self, given: SessionEncoder | str | None, encoder: Encoder, recorded: Mapping[str, Any] | None
    ) -> SessionEncoder | None:
        """Return a session encoder; ``"auto"`` returns the recorded one, even if it was given as an object before.

        Args:
            given: As for ``Memory``.
            encoder: The encoder whose vectors it evolves.
            recorded: Facts that the generation records of its session encoder; None for a new store.
        """
        known = self._session_encoders.get(str((recorded or {}).get("fingerprint")))
        found = known if given == "auto" and known is not None else load_session_encoder(given, encoder, recorded)
        if found is not None:
            self._session_encoders[found.spec.fingerprint] = found
        return found


def _is_name(given: object) -> bool:
    return given is None or isinstance(given, str | Path)


def get_base(encoder: Encoder) -> Encoder:
    """Return an encoder without its rotation, if it has one."""
    from agent_memory.encoders.rotation import RotatedEncoder

    return encoder.encoder if isinstance(encoder, RotatedEncoder) else encoder


def read_rotation(tx: Transaction, generation: Generation) -> Rotation | None:
    """Return the rotation of a generation's vectors, or None.

    Raises:
        CheckpointError: It is damaged or missing.
    """
    if _MARK not in str(generation.encoder.get("pipeline", "")):
        return None
    from agent_memory.encoders.rotation import Rotation

    content = tx.generations.read_file(generation.id, ROTATION)
    if content is None:
        raise CheckpointError(f"the rotation of generation {generation.id} is missing")
    return Rotation.from_bytes(content, f"the rotation of generation {generation.id}")


def _rotate(tx: Transaction, generation: Generation, encoder: Encoder) -> Encoder | None:
    """Return an encoder followed by a generation's rotation, or None if that is not the generation's space."""
    if _MARK not in str(generation.encoder.get("pipeline", "")) or encoder.spec.dimension != generation.dimension:
        return None
    from agent_memory.encoders.rotation import RotatedEncoder

    encoder = get_base(encoder)
    rotation = read_rotation(tx, generation)
    if rotation is None or rotation.dimension != encoder.spec.dimension:
        return None
    rotated = RotatedEncoder(encoder, rotation)
    return rotated if rotated.spec.fingerprint == generation.fingerprint else None
