"""The office of secrets: reads references again by age, takes up what changed, and puts every unusual read on record."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from doorward.app.office import Office
from doorward.base.clock import rfc3339
from doorward.base.errors import DoorwardError
from doorward.console.acts import Act, Asked
from doorward.settings_secrets import references_of

if TYPE_CHECKING:
    from doorward.app.supervisor import Supervisor

_log = logging.getLogger("doorward.secrets")
_USUAL = frozenset(
    {"settings", "again", "server start", "sign-in"}
)  # purposes for which Doorward itself reads


class SecretRoom(Office):
    """What is read, when, for what, and whether it still can be."""

    name = "secrets"

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__(supervisor)
        self._rounds: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """See ``Office.open``."""
        self._record()
        self._rounds = asyncio.get_running_loop().create_task(self._run_rounds())

    async def close(self) -> None:
        """See ``Office.close``."""
        if self._rounds is not None:
            self._rounds.cancel()
        self._record()

    def renew(self) -> None:
        """See ``Office.renew``."""
        self._record()

    def acts(self) -> Sequence[Act]:
        """See ``Office.acts``."""
        return (
            Act("GET", "secrets", "Secret references with their state, without values", self._list),
            Act("POST", "secrets/check", "Read every secret again now", self._check),
        )

    async def _list(self, _: Asked) -> list[dict[str, Any]]:
        return rows_of(self.supervisor.secrets.seen)

    async def _check(self, asked: Asked) -> list[dict[str, Any]]:
        await self._read_again(f"asked by {asked.who}")
        return rows_of(self.supervisor.secrets.seen)

    async def _run_rounds(self) -> None:
        while True:
            await asyncio.sleep(self.supervisor.settings.secrets.reread_seconds)
            await self._read_again("again")

    async def _read_again(self, purpose: str) -> None:
        """Read all anew. One that cannot be read leaves what was known in force, and says so."""
        own = self.supervisor
        settings = own.settings

        def read() -> dict[str, bytes] | None:
            failed = False
            for where, reference in references_of(settings):
                try:
                    own.secrets.resolve(reference, where, purpose)
                except DoorwardError as error:
                    failed = True
                    _log.error("a secret cannot be read", extra={"key": where, "code": error.code})
            return None if failed else own.secrets.credentials(settings, "again")

        try:
            fresh = await asyncio.to_thread(read)
        except DoorwardError as error:
            _log.error("a secret cannot be used", extra={"code": error.code})
            fresh = None
        if fresh is not None and own.settings is settings:
            own.present(fresh)
        self._record()

    def _record(self) -> None:
        for event in self.supervisor.secrets.events():
            is_usual = event.purpose in _USUAL
            if event.what == "used" and is_usual and event.purpose != "server start":
                continue
            reason = f"{event.kind}: {event.what} for {event.purpose}" + (
                f", {event.reason}" if event.reason else ""
            )
            self.supervisor.note(
                f"secret-{event.what}",
                "doorward" if is_usual else event.purpose.removeprefix("asked by "),
                kind="server" if event.purpose == "server start" else "admin",
                item=event.where,
                reason=reason if is_usual else f"{reason} (not by Doorward itself)",
            )


def rows_of(seen: Any) -> list[dict[str, Any]]:
    """References as operators see them."""
    return [
        {
            "key": where,
            "kind": one.kind,
            "place": one.place,
            "state": one.state,
            "why": one.why,
            "last_read": rfc3339(one.read_at) if one.read_at else None,
            "last_changed": rfc3339(one.changed_at) if one.changed_at else None,
        }
        for where, one in sorted(seen.items())
    ]
