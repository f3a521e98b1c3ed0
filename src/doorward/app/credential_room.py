"""The office of credentials: what Doorward presents to servers that want a token of their own authorization server."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from doorward.app.accounts import Accounts, Linked, LinkMissingError, Owner
from doorward.app.office import Answering, Office
from doorward.app.token_desk import Presented, TokenDesk
from doorward.base.clock import rfc3339
from doorward.base.errors import CallerError, DoorwardError, StoreError, UpstreamError
from doorward.console.acts import Act, Asked
from doorward.identity.metadata import issuer_of
from doorward.identity.oauth_metadata import scopes_of

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from doorward.app.authorization import Authorization
    from doorward.app.key_room import KeyRoom
    from doorward.app.supervisor import Supervisor
    from doorward.catalogue.server import ServerSpec

_log = logging.getLogger("doorward.credentials")
_UNAVAILABLE = "The credential for the protected server cannot be had now; try again later."


class CredentialRoom(Office):
    """Answers workers that need a header line."""

    name = "credentials"

    def __init__(self, supervisor: Supervisor, keys: KeyRoom, sign_ins: Authorization) -> None:
        """``keys`` seals what is kept; ``sign_ins`` knows who is signed in at which browser."""
        super().__init__(supervisor)
        self._keys = keys
        self._sign_ins = sign_ins
        self._turn = 0

    async def open(self) -> None:
        """See ``Office.open``."""
        self._adopt()

    def renew(self) -> None:
        """See ``Office.renew``."""
        before = self.desk
        self._adopt()
        self.desk.take_over(before)
        before.close()

    def _adopt(self) -> None:
        own = self.supervisor
        self.desk = TokenDesk(own.settings, own.secrets)
        self.accounts = Accounts(self.desk, self._keys.sealed, issuer_of(own.settings.gateway.public_url))

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
        except LinkMissingError as error:
            return {"missing": error.tell, "url": error.url}  # the call's own record says it
        except DoorwardError as error:
            self._failed(server, caller, error)
            return {"missing": error.tell if isinstance(error, UpstreamError) else _UNAVAILABLE, "url": ""}
        return {"line": found.line, "again_at": found.again_at, "until": found.until}

    def _failed(self, server: str, caller: tuple[str, ...], error: DoorwardError) -> None:
        _log.warning(
            "no credential for a server", extra={"server": server, "code": error.code, "detail": error.detail}
        )
        is_broken = "sealed-broken" in (error.code, error.detail)
        self.supervisor.note(
            "credential-refused",
            caller[2] if caller else "doorward",
            kind="alert" if is_broken else "server",
            server=server,
            verdict="refuse",
            control="present-credential",
            reason=f"{error.code} {error.detail}"[:200]
            if error.code.startswith("oauth-") or is_broken
            else error.code,
        )

    async def _find(
        self, spec: ServerSpec, caller: tuple[str, ...], token: str, spent: bytes, scopes: tuple[str, ...]
    ) -> Presented:
        if spec.credentials.type == "client-credentials":
            return await self.desk.shared(spec, spent, scopes)
        if len(caller) == 4 and token and spec.credentials.type in ("token-exchange", "on-behalf-of"):
            return await self.desk.exchanged(spec, caller, token, spent, scopes)
        if len(caller) == 4 and spec.credentials.type == "oauth":
            return await self.accounts.present(spec, caller, spent, scopes)
        raise UpstreamError("credential-unavailable", _UNAVAILABLE)

    # -- linked accounts ----------------------------------------------------------------------------------------

    def web_paths(self) -> Sequence[str]:
        """See ``Office.web_paths``."""
        servers = self.supervisor.settings.servers.values()
        return ("/connect/",) if any(spec.credentials.type == "oauth" for spec in servers) else ()

    def web(self) -> Sequence[BaseRoute]:
        """See ``Office.web``."""
        from doorward.app.connect_web import routes_of

        return routes_of(self, self._sign_ins)

    def acts(self) -> Sequence[Act]:
        """See ``Office.acts``."""
        return (
            Act("GET", "links", "Accounts at upstreams that users have linked", self._list),
            Act("DELETE", "links/{id}", "End a link, here and at its authorization server", self._unlink),
        )

    async def _list(self, _: Asked) -> list[dict[str, Any]]:
        return [
            {
                "id": key,
                "server": one.server,
                "subject": one.owner[2],
                "client": one.owner[3],
                "issuer": one.issuer,
                "scopes": list(one.token.scopes),
                "renews": bool(one.token.refresh),
                "expires_at": rfc3339(one.token.expires_at),
                "since": rfc3339(one.linked_at),
            }
            for key, one in (await self.accounts.all()).items()
        ]

    async def _unlink(self, asked: Asked) -> dict[str, Any]:
        if not await self._end(asked.path["id"], asked.who):
            raise CallerError("link", "There is no such link.", status=404)
        return {"unlinked": asked.path["id"]}

    async def unlink_owner(self, spec: ServerSpec, owner: Owner) -> bool:
        """End an owner's links at a server, at whichever authorization server they were made."""
        found = [
            key
            for key, one in (await self.accounts.all()).items()
            if one.owner == owner and one.server == spec.name
        ]
        ended = [await self._end(key, owner[2]) for key in found]
        return any(ended)

    async def _end(self, key: str, by: str) -> bool:
        linked = await self.accounts.unlink(key, self.supervisor.settings.servers)
        if linked is None:
            return False
        self.forget()
        self.supervisor.note(
            "account-unlinked",
            by,
            kind="auth",
            server=linked.server,
            item=linked.owner[2],
            client=linked.owner[3],
        )
        return True

    def linked(self, linked: Linked, address: str) -> None:
        """An account was linked: whoever was refused for the lack of it is served from now on."""
        self.forget()
        self.supervisor.note(
            "account-linked",
            linked.owner[2],
            kind="auth",
            verdict="allow",
            server=linked.server,
            client=linked.owner[3],
            item=linked.issuer,
            address=address,
        )
