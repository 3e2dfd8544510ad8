"""Which encoder belongs to a generation: the one that was given, one known by name, with its rotation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_memory.encoders.registry import NAMES, load_encoder, load_session_encoder
from agent_memory.errors import CheckpointError
from agent_memory.live.sessions import Sessions
from agent_memory.storage.sqlite import generations
from agent_memory.storage.sqlite.database import Connection
from agent_memory.storage.sqlite.vectors import Generation

if TYPE_CHECKING:
    from agent_memory.encoders import Encoder, SessionEncoder
    from agent_memory.encoders.rotation import Rotation

ROTATION = "rotation.safetensors"
_MARK = "+rotation-"


class Spaces:
    """The encoders that this process can use, each of one embedding space.

    Args:
        given: What the caller named when the memory was opened.
        session_encoder: Likewise, for sessions.
    """

    def __init__(self, given: Encoder | str | Path | None, session_encoder: SessionEncoder | str | None) -> None:
        self._given = given
        self._session_encoder = session_encoder
        self._session_encoders: dict[str, SessionEncoder] = {}
        self._known: dict[str, Encoder] = {}

    def know(self, encoder: Encoder) -> None:
        """Remember an encoder, so that ``renewed`` finds it."""
        self._known[encoder.spec.fingerprint] = encoder
        base = base_of(encoder)
        self._known.setdefault(base.spec.fingerprint, base)

    def session_encoder(
        self, wish: SessionEncoder | str | None, encoder: Encoder, recorded: Mapping[str, Any] | None
    ) -> SessionEncoder | None:
        """Return a session encoder; with ``"auto"`` the recorded one, also if it was once given as an object."""
        known = self._session_encoders.get(str((recorded or {}).get("fingerprint")))
        found = known if wish == "auto" and known is not None else load_session_encoder(wish, encoder, recorded)
        if found is not None:
            self._session_encoders[found.spec.fingerprint] = found
        return found

    def sessions_of(self, encoder: Encoder, generation: Generation | None, *, opening: bool = False) -> Sessions:
        """Return the session encoding that goes with an encoder in a generation; None for a store without one."""
        recorded = None if generation is None else generation.session_encoder or {}
        wish = self._session_encoder if opening else "auto"
        return Sessions(self.session_encoder(wish, encoder, recorded), encoder.spec.dtype)

    def at_opening(self, connection: Connection, generation: Generation | None) -> Encoder:
        """Return the encoder to open a store with; it may still be another one than the generation's."""
        given = self._given
        name = None if generation is None else generation.encoder.get("name")
        if given is None and isinstance(name, str) and name in NAMES:
            given = name
        encoder = load_encoder(given)
        self.know(encoder)
        if generation is None:
            return encoder
        return _rotated(connection, generation, encoder) or encoder

    def may_open(self, encoder: Encoder, sessions: Sessions, generation: Generation) -> bool:
        """Return whether a store may be opened: with its own encoders, or other versions of them that were named.

        When an upgrade of the package brings other weights, the former are gone, and a re-index is the way on.
        Encoders given as objects must be the store's own.
        """
        named = _is_name(self._given) and generation.encoder.get("name") == encoder.spec.name
        theirs, ours = (facts or {} for facts in (generation.session_encoder, sessions.facts))
        named_sessions = _is_name(self._session_encoder) and theirs.get("name") == ours.get("name")
        return (named or encoder.spec.fingerprint == generation.fingerprint) and (
            named_sessions or sessions.fits(generation)
        )

    def renewed(self, connection: Connection, generation: Generation) -> Encoder | None:
        """Return the encoder of a generation that has become live meanwhile, or None if there is none at hand."""
        for encoder in list(self._known.values()):
            if encoder.spec.fingerprint == generation.fingerprint:
                return encoder
            rotated = _rotated(connection, generation, encoder)
            if rotated is not None:
                self.know(rotated)
                return rotated
        name = generation.encoder.get("name")
        if not _is_name(self._given) or name not in NAMES:
            return None
        encoder = load_encoder(str(name))
        encoder = _rotated(connection, generation, encoder) or encoder
        if encoder.spec.fingerprint != generation.fingerprint:
            return None
        self.know(encoder)
        return encoder


def _is_name(given: object) -> bool:
    return given is None or isinstance(given, str | Path)


def base_of(encoder: Encoder) -> Encoder:
    """Return an encoder without the rotation behind it, if it has one."""
    from agent_memory.encoders.rotation import RotatedEncoder

    return encoder.encoder if isinstance(encoder, RotatedEncoder) else encoder


def rotation_of(connection: Connection, generation: Generation) -> Rotation | None:
    """Return the rotation that a generation's vectors went through, or None.

    Raises:
        CheckpointError: It is damaged or missing.
    """
    if _MARK not in str(generation.encoder.get("pipeline", "")):
        return None
    from agent_memory.encoders.rotation import Rotation

    content = generations.asset(connection, generation.id, ROTATION)
    if content is None:
        raise CheckpointError(f"the rotation of generation {generation.id} is missing")
    return Rotation.from_bytes(content, f"the rotation of generation {generation.id}")


def _rotated(connection: Connection, generation: Generation, encoder: Encoder) -> Encoder | None:
    """Return an encoder with a generation's rotation behind it, if that is the generation's space."""
    if _MARK not in str(generation.encoder.get("pipeline", "")) or encoder.spec.dimension != generation.dimension:
        return None
    from agent_memory.encoders.rotation import RotatedEncoder

    encoder = base_of(encoder)
    rotation = rotation_of(connection, generation)
    if rotation is None or rotation.dimension != encoder.spec.dimension:
        return None
    rotated = RotatedEncoder(encoder, rotation)
    return rotated if rotated.spec.fingerprint == generation.fingerprint else None
