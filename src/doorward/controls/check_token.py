"""Every request to an MCP endpoint carries a good access token for that endpoint, or is refused before its
body is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from doorward.controls.control import Answer, Control, Head, Refuse
from doorward.identity import metadata
from doorward.identity.bearer import Pending, TokenRefusal
from doorward.identity.foreign_judge import Lease
from doorward.identity.principal import LOCAL

if TYPE_CHECKING:
    from doorward.identity.foreign_judge import ForeignJudge
    from doorward.identity.tokens import TokenJudge

_HELP = {
    "missing": "Get a token from the authorization server that the resource metadata names.",
    "malformed": "Send one header of the form: Authorization: Bearer TOKEN.",
    "invalid": "Get a fresh token for exactly this MCP server's URL.",
    "step-up": "Sign in again as the challenge asks, and come back with the new token.",
    "busy": "Wait as Retry-After says, then send a valid token.",
    "unavailable": "Try again later; the authorization server cannot be asked at the moment.",
}


class CheckToken(Control):
    """Authenticate each request by its own token: MCP authorization, access token usage; RFC 6750, RFC 9068.

    Sessions, state handles and addresses prove nothing here. A token in the query is not looked at (RFC 9700
    §4.3.2). Fails: refuses with 401, 400 for a malformed header, 403 where the scope is too small, 429 where an
    address has sent too many bad tokens, 503 where an issuer must vouch and cannot be asked.
    """

    slug: ClassVar[str] = "check-token"
    covers: ClassVar[tuple[str, ...]] = ("M1", "M2")
    partly: ClassVar[tuple[str, ...]] = ("S1.2", "S1.3", "S1.4", "S1.7")
    floor: ClassVar[bool] = True

    def __init__(
        self,
        judge: TokenJudge | ForeignJudge | None,
        public_url: str,
        scope: str = metadata.SCOPE,
        honeytokens: Mapping[str, str] | None = None,
    ) -> None:
        """``judge`` is None where identity is off: every caller is then the principal ``local``. ``scope``: what clients
        must ask their authorization server for. ``honeytokens`` maps digests of tokens that were laid out to be stolen to
        their names."""
        self._judge = judge
        self._scope = scope
        self._honeytokens = dict(honeytokens or {})
        self._public_url = public_url

    def head(self, head: Head) -> Answer:
        if head.server is None:
            return None  # no MCP endpoint: health, metadata and what answers 404 anyway
        if self._judge is None:
            head.principal = LOCAL
            return None
        head.principal = None
        if "authorization" in head.repeated:
            return self._refuse(head, _TWICE)
        head.pending = None
        found = self._judge.judge(head.fields.get("authorization"), head.resource, head.address)
        if isinstance(found, Pending):
            head.pending = found.begin
            return None
        if isinstance(found, TokenRefusal):
            if found.retry_at:
                head.expires_at = _earliest(head.expires_at, found.retry_at)
            return self._refuse(head, found)
        if isinstance(found, Lease):
            head.expires_at = _earliest(head.expires_at, found.until)
            found = found.principal
        head.expires_at = _earliest(head.expires_at, found.expires_at)
        if metadata.SCOPE not in found.scopes:
            return self._refuse_scope(head)
        head.principal = found
        return None

    def _refuse(self, head: Head, refusal: TokenRefusal) -> Refuse:
        path = metadata.endpoint_path(head.server or "")
        told = metadata.challenge(
            self._public_url,
            path,
            error=refusal.error,
            scope=self._scope,
            description=refusal.tell if refusal.error else None,
            more=refusal.more,
        )
        headers = (
            [("WWW-Authenticate", told)] if refusal.status in (400, 401, 403) else [("Retry-After", "1")]
        )
        laid = self._laid_out(head)
        return Refuse(
            reason=f"token {refusal.kind}: {refusal.reason}" + (f"; honeytoken {laid}" if laid else ""),
            alert=("honeytoken", laid) if laid else None,
            tell=refusal.tell,
            status=refusal.status,
            help=_HELP[refusal.kind],
            headers=tuple(headers),
        )

    def _laid_out(self, head: Head) -> str:
        """The name of the honeytoken that was presented, if it is one. Only refused tokens are looked at."""
        if not self._honeytokens:
            return ""
        token = head.fields.get("authorization", "").rpartition(" ")[2]
        return self._honeytokens.get(hashlib.sha256(token.encode("latin-1", "replace")).hexdigest(), "")

    def _refuse_scope(self, head: Head) -> Refuse:
        tell = "The access token's scope is too small for this MCP server."
        path = metadata.endpoint_path(head.server or "")
        told = metadata.challenge(
            self._public_url, path, error="insufficient_scope", scope=self._scope, description=tell
        )
        return Refuse(
            reason="insufficient scope",
            tell=tell,
            status=403,
            help="Get a token with all scopes that the challenge names.",
            headers=(("WWW-Authenticate", told),),
        )


_TWICE = TokenRefusal(
    "malformed",
    400,
    "more than one Authorization header",
    "The Authorization header came twice.",
    "invalid_request",
)


def _earliest(first: float, second: float) -> float:
    return min(first, second) if first else second  # 0 means never
