"""The office of keys: what signs, seals and is kept secret by Doorward itself, how old it is, and how it is changed.

Keys change with an overlap. A retired token key verifies until the last token that it signed is over; a retired master key
opens until everything is sealed anew, and is then destroyed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doorward.adapters.key_files import (
    MASTER_KEYS_FILE,
    TOKEN_KEYS_FILE,
    key_file_times,
    load_or_create_keys,
    load_or_create_master,
    replace_key_file,
)
from doorward.adapters.sealed_state import SealedState
from doorward.adapters.state import State
from doorward.app.office import Office
from doorward.base import limits
from doorward.base.clock import rfc3339
from doorward.base.errors import CallerError, DoorwardError
from doorward.console.acts import Act, Asked
from doorward.identity.bearer import SKEW_SECONDS
from doorward.identity.keys import KeySet
from doorward.identity.tokens import MAX_LIFETIME_SECONDS

if TYPE_CHECKING:
    from doorward.app.supervisor import Supervisor

_log = logging.getLogger("doorward.keys")
_ROUND_SECONDS = 30.0
_LOOK_SECONDS = 0.01
_SPACE = "token-keys"  # retired kid -> when it stops to verify
OVERLAP_SECONDS = MAX_LIFETIME_SECONDS + SKEW_SECONDS
_KINDS = {
    "token-signing.json": "signs access tokens",
    "master.json": "wraps what is sealed in the state",
    "ledger-signing.pem": "signs the ledger; stays, so that all of it verifies",
    "session.secret": "seals session ids",
    "digest.secret": "keys digests in records",
    "admin.secret": "the admin token",
}
ROTATED = ("token", "master")


class KeyRoom(Office):
    """Lists and rotates; opens what is sealed for the other offices."""

    name = "keys"
    sealed: SealedState  # for all offices, once this one is open

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__(supervisor)
        self._rounds: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    async def open(self) -> None:
        """See ``Office.open``."""
        state = self.supervisor.ready_state()
        master = await asyncio.to_thread(load_or_create_master, self.supervisor.data_dir)
        self.sealed = SealedState(state, master)
        if len(master.names) > 1:  # a rotation that did not come to its end
            await asyncio.to_thread(finish_master, self.supervisor.data_dir, self.sealed)
        self._rounds = asyncio.get_running_loop().create_task(self._run_rounds())

    async def close(self) -> None:
        """See ``Office.close``."""
        if self._rounds is not None:
            self._rounds.cancel()

    def acts(self) -> Sequence[Act]:
        """See ``Office.acts``."""
        kinds = {"type": "string", "enum": list(ROTATED)}
        schema = {
            "type": "object",
            "properties": {"key": kinds, "overlap_seconds": {"type": "number", "minimum": 0}},
            "required": ["key"],
        }
        return (
            Act("GET", "keys", "Doorward's own keys, without their values", self._list),
            Act("POST", "keys/rotate", "Rotate a key with an overlap", self._rotate, schema),
        )

    async def _list(self, _: Asked) -> list[dict[str, Any]]:
        return await asyncio.to_thread(list_keys, self.supervisor.data_dir, self.supervisor.ready_state())

    async def _rotate(self, asked: Asked) -> dict[str, Any]:
        match asked.body:
            case {"key": "token"}:
                overlap = asked.body.get("overlap_seconds", OVERLAP_SECONDS)
                if isinstance(overlap, bool) or not isinstance(overlap, int | float) or overlap < 0:
                    raise CallerError("body", "overlap_seconds is a number of seconds, 0 or more.")
                found = await self.rotate_token(asked.who, float(overlap))
            case {"key": "master"}:
                found = await self.rotate_master(asked.who)
            case _:
                raise CallerError("body", f'Send {{"key": one of {", ".join(ROTATED)}}}.')
        return found

    async def rotate_token(self, by: str, overlap_seconds: float = OVERLAP_SECONDS) -> dict[str, Any]:
        """Sign with a fresh key; the old one verifies for the overlap. Raises: OperatorError, StoreError."""
        own = self.supervisor
        async with self._lock:
            before = await asyncio.to_thread(load_or_create_keys, own.data_dir)
            fresh = before.rotated()
            # Every worker verifies with the fresh key before anybody can sign with it: no good token is ever refused.
            own.adopt_keys(KeySet(before.current, (fresh.current.public(), *before.retired)))
            await self._known_everywhere(own.generation)
            found = await asyncio.to_thread(
                rotate_token_key, own.data_dir, own.ready_state(), overlap_seconds, fresh
            )
            own.adopt_keys(fresh)
        own.note("key-rotated", by, item=f"token {found['kid']}", reason=f"overlap {overlap_seconds:.0f} s")
        await self._retire()
        return found

    async def _known_everywhere(self, generation: int) -> None:
        until = time.monotonic() + limits.SNAPSHOT_SECONDS  # a worker that is further behind refuses anyway
        while time.monotonic() < until and any(
            worker.is_ready and worker.numbers.get("generation", 0) < generation
            for worker in self.supervisor.workers.values()
        ):
            await asyncio.sleep(_LOOK_SECONDS)

    async def rotate_master(self, by: str) -> dict[str, Any]:
        """Seal everything anew with a fresh key and destroy the old ones. Raises: OperatorError, StoreError."""
        async with self._lock:
            found = await asyncio.to_thread(rotate_master_key, self.supervisor.data_dir, self.sealed)
        reason = f"{found['rewrapped']} rows sealed anew, {found['broken']} do not open"
        self.supervisor.note("key-rotated", by, item=f"master {found['name']}", reason=reason)
        return found

    async def _run_rounds(self) -> None:
        while True:
            try:
                await self._retire()
            except DoorwardError as error:
                _log.error("retired keys could not be looked at", extra={"code": error.code})
            await asyncio.sleep(_ROUND_SECONDS)

    async def _retire(self) -> None:
        """End retired token keys whose overlap is over, everywhere."""
        own = self.supervisor
        async with self._lock:
            over = await asyncio.to_thread(retire_token_keys, own.data_dir, own.ready_state(), time.time())
            if not over:
                return
            own.adopt_keys(await asyncio.to_thread(load_or_create_keys, own.data_dir))
        for kid in over:
            own.note("key-retired", "doorward", item=f"token {kid}", reason="its overlap is over")


# -- the same without a running Doorward ------------------------------------------------------------------------


def list_keys(data_dir: Path, state: State) -> list[dict[str, Any]]:
    """Every key by file, with ages; never a value. Raises: OperatorError, StoreError."""
    now = time.time()
    rows: list[dict[str, Any]] = []
    for file, written_at in key_file_times(data_dir).items():
        row: dict[str, Any] = {
            "file": file,
            "use": _KINDS.get(file, "key of an office"),
            "id": "",
            "state": "current",
            "since": rfc3339(written_at),
            "until": None,
            "age_seconds": max(0, int(now - written_at)),
        }
        if file == TOKEN_KEYS_FILE:
            keys = load_or_create_keys(data_dir)
            rows.append({**row, "id": keys.current.kid})
            for key in keys.retired:
                until = _until(state, str(key["kid"]), now)
                told = rfc3339(until) if until is not None else None
                rows.append({**row, "id": key["kid"], "state": "retired", "since": None, "until": told})
        elif file == MASTER_KEYS_FILE:
            names = load_or_create_master(data_dir).names
            rows.append({**row, "id": names[0]})
            rows += [{**row, "id": name, "state": "retired", "since": None} for name in names[1:]]
        else:
            rows.append(row)
    return rows


def rotate_token_key(
    data_dir: Path, state: State, overlap_seconds: float, fresh: KeySet | None = None
) -> dict[str, Any]:
    """Sign with a fresh key from now on: that of ``fresh``, which must come from the keys there are, or a new one."""
    until = time.time() + overlap_seconds
    before = load_or_create_keys(data_dir)
    retired, fresh = before.current.kid, fresh or before.rotated()
    replace_key_file(data_dir, TOKEN_KEYS_FILE, fresh.to_bytes())
    state.keep(_SPACE, retired, repr(until).encode())
    return {"key": "token", "kid": fresh.current.kid, "retired": retired, "until": rfc3339(until)}


def retire_token_keys(data_dir: Path, state: State, now: float) -> list[str]:
    """Forget retired keys whose overlap is over; one that nobody set a time for gets the usual one now."""
    keys = load_or_create_keys(data_dir)
    over = []
    for key in keys.retired:
        kid = str(key["kid"])
        until = _until(state, kid, now)
        if until is None:
            state.keep(_SPACE, kid, repr(now + OVERLAP_SECONDS).encode())
        elif until <= now:
            over.append(kid)
    if over:
        replace_key_file(data_dir, TOKEN_KEYS_FILE, keys.without(over).to_bytes())
        for kid in over:
            state.drop(_SPACE, kid)
    return over


def _until(state: State, kid: str, now: float) -> float | None:
    found = state.kept(_SPACE, kid, now)
    return None if found is None else float(found[0])


def rotate_master_key(data_dir: Path, sealed: SealedState) -> dict[str, Any]:
    """A fresh master key; all rows sealed anew; the old keys destroyed unless a row still needs one."""
    fresh = load_or_create_master(data_dir).rotated()
    replace_key_file(data_dir, MASTER_KEYS_FILE, fresh.to_bytes())  # before anything is sealed with it
    sealed.keys = fresh
    done, broken = finish_master(data_dir, sealed)
    return {"key": "master", "name": fresh.current, "rewrapped": done, "broken": broken}


def finish_master(data_dir: Path, sealed: SealedState) -> tuple[int, int]:
    """Seal anew what older master keys sealed, and destroy them: (rows done, rows that do not open)."""
    done, broken = sealed.rewrap(time.time())
    if broken:
        _log.error("sealed rows do not open; the old master keys are kept", extra={"rows": broken})
        return done, broken
    alone = sealed.keys.alone()
    replace_key_file(data_dir, MASTER_KEYS_FILE, alone.to_bytes())
    sealed.keys = alone
    return done, broken
