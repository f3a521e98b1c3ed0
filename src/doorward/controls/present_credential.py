"""What a server gets to see instead of the caller's token: a credential of its own, for this caller, or the call is refused.

Servers with a fixed header have none of this. Where a caller has to link an account first, the refusal says where.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import msgspec

from doorward.controls.control import Answer, Call, Control, Facts, Refuse, Verdict
from doorward.protocol import codes

if TYPE_CHECKING:
    from doorward.identity.principal import Principal


_URL_ELICITATION = -32042  # 2025-11-25: the caller has to open a URL first


class Lack(msgspec.Struct, frozen=True):
    """Why there is no credential; ``url`` is where the caller can change that, or ""."""

    tell: str
    url: str
    reason: str


class Credentials(Protocol):
    """What this control asks; the gateway's credential book answers it."""

    @property
    def is_idle(self) -> bool:
        """True where no server wants a token."""

    def needs(self, server: str) -> bool: ...

    def know(self, principal: Principal, authorization: str) -> None: ...

    def obtain(self, server: str, principal: Principal) -> Lack | Awaitable[Lack | None] | None: ...


class PresentCredential(Control):
    """Get the credential before the call goes on: MCP authorization (token passthrough is forbidden), RFC 8693, RFC 9700.

    Fails: a credential that cannot be had refuses with -31007. The caller's own token is never used in its place.
    """

    slug: ClassVar[str] = "present-credential"
    partly: ClassVar[tuple[str, ...]] = ("S1.3", "S7.5")
    floor: ClassVar[bool] = True

    def __init__(self, credentials: Credentials | None = None) -> None:
        self._credentials = credentials

    def request(self, call: Call, seen: Facts) -> Answer:
        book = self._credentials
        if book is None or book.is_idle or call.message.kind != "request":
            return None
        if call.server and not book.needs(call.server):
            return None
        book.know(call.principal, _token(call))
        if not call.server:  # a fan-out: servers without a credential for this caller are left out
            return None
        found = book.obtain(call.server, call.principal)
        if isinstance(found, Awaitable):
            return self._wait(found, call)
        return None if found is None else _refuse(found, call)

    async def _wait(self, found: Awaitable[Lack | None], call: Call) -> Verdict:
        lack = await found
        return None if lack is None else _refuse(lack, call)


def _token(call: Call) -> str:
    scheme, _, token = call.head.fields.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _refuse(lack: Lack, call: Call) -> Refuse:
    help_text = f"Open {lack.url} in a browser, link your account, and call again." if lack.url else ""
    if lack.url and call.era == "legacy" and _opens_urls(call.capabilities):
        # A client of 2025-11-25 that can show its user a URL is asked to (client/elicitation, URL mode; SF-35).
        asked = {"mode": "url", "elicitationId": f"link-{call.event}", "url": lack.url, "message": lack.tell}
        return Refuse(
            reason=lack.reason,
            tell=lack.tell,
            code=_URL_ELICITATION,
            help=help_text,
            extra={"elicitations": [asked], "server": call.server, "url": lack.url},
        )
    return Refuse(
        reason=lack.reason,
        tell=lack.tell,
        code=codes.NO_CREDENTIAL,
        help=help_text,
        extra={"server": call.server, **({"url": lack.url} if lack.url else {})},
    )


def _opens_urls(capabilities: dict[str, Any]) -> bool:
    offered = capabilities.get("elicitation")
    return isinstance(offered, dict) and isinstance(offered.get("url"), dict)
