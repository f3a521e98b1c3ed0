"""The office of credentials: what Doorward presents to servers that want a token of their own authorization server."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from doorward.app.office import Answering, Office
from doorward.app.token_desk import Presented, TokenDesk
from doorward.base.errors import DoorwardError, StoreError, UpstreamError
from doorward.identity.oauth_metadata import scopes_of

if TYPE_CHECKING:
    from doorward.app.supervisor import Supervisor
    from doorward.catalogue.server import ServerSpec

_log = logging.getLogger("doorward.credentials")
_UNAVAILABLE = "The credential for the protected server cannot be had now; try again later."


class CredentialRoom(Office):
    """Answers workers that need a header line."""

    name = "credentials"

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__(supervisor)
        self._turn = 0

    async def open(self) -> None:
        """See ``Office.open``."""
        self.desk = TokenDesk(self.supervisor.settings, self.supervisor.secrets)

    def renew(self) -> None:
        """See ``Office.renew``."""
        before, self.desk = self.desk, TokenDesk(self.supervisor.settings, self.supervisor.secrets)
        self.desk.take_over(before)
        before.close()

    async def close(self) -> None:
        """See ``Office.close``."""
        self.desk.close()

    def paper(self) -> Any:
        """See ``Office.paper``."""
        return self._turn

    def forget(self) -> None:
        """No worker may go on with what it has."""
        self._turn += 1
        self.supervisor.push()

    def asks(self) -> Mapping[str, Answering]:
        """See ``Office.asks``."""
        return {"credential": self._credential}

    async def _credential(self, index: int, payload: Any) -> dict[str, Any]:
        match payload:
            case {"server": str(server)} if server in self.supervisor.settings.servers:
                spec = self.supervisor.settings.servers[server]
            case _:
                raise StoreError("bus-payload", "A worker asked for a credential in a wrong way.")
        caller = tuple(str(part) for part in payload.get("caller") or ())
        spent, scopes = bytes(payload.get("spent") or b""), scopes_of(payload.get("scopes"))
        try:
            found = await self._find(spec, caller, str(payload.get("token") or ""), spent, scopes)
        except DoorwardError as error:
            _log.warning(
                "no credential for a server",
                extra={"server": server, "code": error.code, "detail": error.detail},
            )
            self.supervisor.note(
                "credential-refused",
                caller[2] if caller else "doorward",
                kind="server",
                server=server,
                verdict="refuse",
                control="present-credential",
                reason=f"{error.code} {error.detail}"[:200]
                if error.code.startswith("oauth-")
                else error.code,
            )
            return {"missing": error.tell if isinstance(error, UpstreamError) else _UNAVAILABLE, "url": ""}
        return {"line": found.line, "again_at": found.again_at, "until": found.until}

    async def _find(
        self, spec: ServerSpec, caller: tuple[str, ...], token: str, spent: bytes, scopes: tuple[str, ...]
    ) -> Presented:
        if spec.credentials.type == "client-credentials":
            return await self.desk.shared(spec, spent, scopes)
        if len(caller) == 4 and token and spec.credentials.type in ("token-exchange", "on-behalf-of"):
            return await self.desk.exchanged(spec, caller, token, spent, scopes)
        raise UpstreamError("credential-unavailable", _UNAVAILABLE)
