"""What offices keep and must stay secret: rows of the state, sealed for exactly their space, key and version.

Whoever reads the file sees that there is something, not what. A row that was copied to another place, changed, or put back
to what it was before does not open. The caller names spaces by purpose and keys by owner.
"""

from __future__ import annotations

import hashlib

import msgspec

from doorward.adapters.state import State
from doorward.base.errors import StoreError, TamperError
from doorward.identity.sealing import MasterKeys

PREFIX = "sealed/"  # of every space here, so that a change of the master key finds all of them
_TRIES = 8  # of a write against others who write the same row


class SealedState:
    """``State`` for secrets. All methods block: call them from a thread."""

    def __init__(self, state: State, keys: MasterKeys) -> None:
        self._state = state
        self.keys = keys

    # Every method takes the space without its prefix.

    def keep(self, space: str, key: str, value: bytes, *, now: float, expires_at: float = 0.0) -> None:
        """Write a row, whatever stood there. Raises: StoreError."""
        for _ in range(_TRIES):
            found = self._state.kept(PREFIX + space, key, now)
            seen = 0 if found is None else found[1]
            if self.replace(space, key, value, seen=seen, now=now, expires_at=expires_at):
                return
        raise StoreError("state-contended", "A row of the state is written by too many at once.")

    def replace(
        self, space: str, key: str, value: bytes, *, seen: int, now: float, expires_at: float = 0.0
    ) -> bool:
        """Write a row only if it stands at version ``seen``; see ``State.replace``."""
        sealed = self.keys.seal(value, bound=_bound(space, key, seen + 1))
        return self._state.replace(PREFIX + space, key, sealed, seen=seen, now=now, expires_at=expires_at)

    def kept(self, space: str, key: str, now: float) -> tuple[bytes, int] | None:
        """A row's value and version. Raises: TamperError ``sealed-broken``, StoreError."""
        found = self._state.kept(PREFIX + space, key, now)
        if found is None:
            return None
        return self.keys.open(found[0], bound=_bound(space, key, found[1])), found[1]

    def take(self, space: str, key: str, now: float) -> bytes | None:
        """A row's value, which is gone with it. Raises: TamperError, StoreError."""
        found = self._state.kept(PREFIX + space, key, now)
        taken = self._state.take(PREFIX + space, key, now)
        if found is None or taken is None or taken != found[0]:
            return None  # another was first
        return self.keys.open(taken, bound=_bound(space, key, found[1]))

    def drop(self, space: str, key: str) -> bool:
        """Delete a row; False when there was none."""
        return self._state.drop(PREFIX + space, key)

    def all_kept(self, space: str, now: float) -> dict[str, bytes]:
        """All rows of a space that open. Raises: TamperError for the first that does not."""
        rows: dict[str, bytes] = {}
        for key in self._state.all_kept(PREFIX + space, now):
            found = self.kept(space, key, now)
            if found is not None:
                rows[key] = found[0]
        return rows

    def rewrap(self, now: float) -> tuple[int, int]:
        """Seal with the current key what older ones sealed: (rows that were, rows that do not open and stay as they are)."""
        done = broken = 0
        for whole in self._state.spaces(PREFIX):
            space = whole.removeprefix(PREFIX)
            for key, sealed in self._state.all_kept(whole, now).items():
                if self.keys.is_current(sealed):
                    continue
                try:
                    done += self._rewrap_row(space, key, now)
                except TamperError:
                    broken += 1
        return done, broken

    def _rewrap_row(self, space: str, key: str, now: float) -> bool:
        for _ in range(_TRIES):
            row = self._state.row(PREFIX + space, key, now)
            if row is None:
                return False
            sealed, version, expires_at = row
            if self.keys.is_current(sealed):
                return True
            value = self.keys.open(sealed, bound=_bound(space, key, version))
            if self.replace(space, key, value, seen=version, now=now, expires_at=expires_at):
                return True
        raise StoreError("state-contended", "A row of the state is written by too many at once.")


def owner_key(*parts: str) -> str:
    """A row's key for an owner: names nobody, and no two owners share one."""
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def _bound(space: str, key: str, version: int) -> tuple[str, ...]:
    return (space, key, str(version))
