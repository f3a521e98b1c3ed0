"""Access tokens: issuing them, and judging those that callers present (RFC 9068, RFC 6750, RFC 7519, RFC
8725).

A token is good when our key signed it for exactly the resource that was asked, it is in time, not revoked,
and its subject still has an account (MCP authorization: token handling, access token privilege restriction).
There is no I/O here, so a judgement never waits, and nothing that a token says (``jku``, ``kid`` as a path)
is ever fetched or opened.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import msgspec

from doorward.base.ids import mint_handle
from doorward.identity.bearer import (
    HEADER_BYTES,
    MISSING,
    REFUSED_HEADERS,
    SKEW_SECONDS,
    TokenRefusal,
    busy,
    parse_object,
    read_bearer,
    remember,
    split_token,
)
from doorward.identity.bearer import invalid as _invalid
from doorward.identity.binding import Confirmation, read_confirmation
from doorward.identity.keys import ALGORITHM, KeySet, verifying_keys
from doorward.identity.metadata import SCOPE
from doorward.identity.principal import Principal
from doorward.identity.trust import moment as _moment

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from doorward.base.clock import Clock
    from doorward.identity.budget import CheckBudget

TENANT = "default"  # of callers whose token is our own
MAX_LIFETIME_SECONDS = 86_400  # no token lives longer than a day
ROLES_COUNT = 64  # roles or scopes in one token
# true in tokens of accounts that the command line made up (profiles local and lab)
CREATED_CLAIM = "doorward_created"

_TYPES = ("at+jwt", "application/at+jwt")  # RFC 9068 §4: compared without case


class _Claims(msgspec.Struct, frozen=True):
    """What a token says, once its form and signature are in order; says nothing about time, resource or
    account.
    """

    audience: str
    subject: str
    client: str
    token_id: str
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    issued_at: float
    not_before: float
    expires_at: float
    created: bool
    bound: Confirmation


def issue(
    keys: KeySet,
    *,
    issuer: str,
    resource: str,
    subject: str,
    client: str,
    clock: Clock,
    roles: Collection[str] = (),
    scopes: Collection[str] = (SCOPE,),
    ttl_seconds: int = 3600,
    created: bool = False,
    confirmation: Mapping[str, str] | None = None,
    token_id: str = "",
) -> str:
    """Sign an access token (RFC 9068 §2) for exactly one resource.

    ``created`` marks an account that exists in no settings, ``confirmation`` is what the token is bound to (RFC 7800). The caller keeps ``ttl_seconds`` between 1 and
    ``MAX_LIFETIME_SECONDS``; a longer-lived token would be refused.
    """
    now = math.floor(clock.now())
    claims: dict[str, Any] = {
        "iss": issuer,
        "sub": subject,
        "aud": resource,
        "client_id": client,
        "iat": now,
        "nbf": now,
        "exp": now + ttl_seconds,
        "jti": token_id or mint_handle(16),
        "scope": " ".join(scopes),
        "roles": list(roles),
    }
    if confirmation:
        claims["cnf"] = dict(confirmation)
    if created:
        claims[CREATED_CLAIM] = True
    return keys.current.sign({"typ": "at+jwt"}, msgspec.json.encode(claims))


class TokenJudge:
    """Judges Authorization headers for one issuer. Signatures are checked once for each distinct token.

    Fails: whatever is not understood is refused.
    """

    def __init__(
        self,
        jwks: Mapping[str, Any],
        issuer: str,
        clock: Clock,
        revoked: Collection[str] = (),
        *,
        users: Mapping[str, Collection[str]] | None = None,
        accepts_created: bool = False,
        is_brokered: bool = False,
        tenant: str = TENANT,
        max_lifetime_seconds: int = MAX_LIFETIME_SECONDS,
        budget: CheckBudget | None = None,
    ) -> None:
        """``jwks`` is the public key set, ``revoked`` the ids of revoked tokens, ``users`` the accounts and
        their current roles. ``accepts_created`` (profiles local and lab): accounts that only ``doorward
        token`` knows count. ``is_brokered``: accounts are at an identity provider, so whom we gave a token has one.
        ``budget`` bounds what one address may have checked in vain.
        """
        self._keys = verifying_keys(dict(jwks))
        self._issuer = issuer
        self._clock = clock
        self._tenant = tenant
        self._max_lifetime_seconds = max_lifetime_seconds
        self._is_brokered = is_brokered
        self._budget = budget
        self._good: dict[bytes, _Claims] = {}
        self._bad: dict[bytes, TokenRefusal] = {}
        # What was admitted, by resource and digest of the whole header value, with the time from which it is good.
        self._admitted: dict[tuple[str, bytes], tuple[float, Principal]] = {}
        self.signature_checks = 0  # how often the costly part ran
        self.renew(revoked=revoked, users=users or {}, accepts_created=accepts_created)

    def renew(
        self, *, revoked: Collection[str], users: Mapping[str, Collection[str]], accepts_created: bool = False
    ) -> None:
        """Take over new accounts and revocations; what is known of signatures stays."""
        self._revoked = frozenset(revoked)
        self._users = {name: frozenset(roles) for name, roles in users.items()}
        self._accepts_created = accepts_created
        self._admitted.clear()

    def judge(self, authorization: str | None, resource: str, address: str = "") -> Principal | TokenRefusal:
        """Judge the value of one Authorization header for a request to ``resource`` from ``address``."""
        if authorization is None:
            return MISSING
        key = (resource, hashlib.sha256(authorization.encode("utf-8", "surrogatepass")).digest())
        known = self._admitted.get(key)
        if known is not None and known[0] <= self._clock.now() < known[1].expires_at:
            return known[1]
        found = self._judge(authorization, resource, address)
        if isinstance(found, Principal):
            remember(self._admitted, key, (self._clock.now(), found))
        return found

    def _judge(self, authorization: str, resource: str, address: str) -> Principal | TokenRefusal:
        token = read_bearer(authorization)
        if isinstance(token, TokenRefusal):
            return token
        found = self._recall(token, address)
        return found if isinstance(found, TokenRefusal) else self._admit(found, resource)

    def _recall(self, token: str, address: str) -> _Claims | TokenRefusal:
        # SHA-256 as the key: the cache holds no bearer secrets, and a refused token costs no second signature
        # check.
        digest = hashlib.sha256(token.encode()).digest()
        good = self._good.pop(digest, None)
        if good is not None:
            self._good[digest] = good  # most recently used last
            return good
        bad = self._bad.get(digest)
        if bad is not None:
            return bad
        if self._budget is not None and not self._budget.has_room(address):
            return busy(self._clock.now())
        found = self._read(token)
        if isinstance(found, TokenRefusal):
            remember(self._bad, digest, found)
            if self._budget is not None:
                self._budget.charge(address)
        else:
            remember(self._good, digest, found)
        return found

    def _read(self, token: str) -> _Claims | TokenRefusal:
        """Everything about a token that no clock, resource or setting can change."""
        parts = split_token(token)
        if parts is None:
            return _invalid("not a signed JWT")
        if isinstance(parts, TokenRefusal):
            return parts
        kid = _read_header(parts[0])
        if isinstance(kid, TokenRefusal):
            return kid
        key = self._keys.get(kid)
        if key is None:
            return _invalid("signed with an unknown key")
        if not self._is_signed(token, key):
            return _invalid("signature does not hold")
        claims = parse_object(parts[1])
        if claims is None:
            return _invalid("claims are not one strict JSON object")
        if claims.get("iss") != self._issuer:
            return _invalid("another issuer")
        return _read_claims(claims, self._max_lifetime_seconds)

    def _is_signed(self, token: str, key: Any) -> bool:
        from joserfc import jws
        from joserfc.errors import JoseError

        self.signature_checks += 1
        try:
            jws.deserialize_compact(token, key, algorithms=[ALGORITHM])
        except (JoseError, ValueError):
            return False
        return True

    def _admit(self, claims: _Claims, resource: str) -> Principal | TokenRefusal:
        """What may change from one request to the next."""
        now = self._clock.now()
        if now >= claims.expires_at:
            return _invalid("expired")
        starts_at = max(claims.not_before, claims.issued_at) - SKEW_SECONDS
        if now < starts_at:
            return _invalid("not valid yet", retry_at=starts_at)
        if claims.audience != resource:
            return _invalid("issued for another resource")
        if claims.token_id in self._revoked:
            return _invalid("revoked")
        current = self._users.get(claims.subject)
        known = self._is_brokered or (claims.created and self._accepts_created)
        if current is None and not known:
            return _invalid("no such account")
        roles = claims.roles if current is None else tuple(role for role in claims.roles if role in current)
        return Principal(
            tenant=self._tenant,
            issuer=self._issuer,
            subject=claims.subject,
            client=claims.client,
            roles=roles,
            scopes=claims.scopes,
            token_id=claims.token_id,
            expires_at=claims.expires_at,
            bound=claims.bound,
        )


def _read_header(text: bytes) -> str | TokenRefusal:
    header = parse_object(text) if len(text) <= HEADER_BYTES else None
    if header is None:
        return _invalid("JOSE header is not one small strict JSON object")
    if header.get("alg") != ALGORITHM:
        return _invalid("algorithm not allowed")
    kind = header.get("typ")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        return _invalid("not an access token")
    if not REFUSED_HEADERS.isdisjoint(header):
        return _invalid("JOSE header member not allowed")
    kid = header.get("kid")
    return kid if isinstance(kid, str) else _invalid("names no key")


def _read_claims(claims: dict[str, Any], max_lifetime_seconds: int) -> _Claims | TokenRefusal:
    issued_at, not_before, expires_at = (
        _moment(claims.get("iat")),
        _moment(claims.get("nbf", 0)),
        _moment(claims.get("exp")),
    )
    if issued_at is None or not_before is None or expires_at is None:
        return _invalid("iat, nbf or exp is not a point in time")
    if not 0 < expires_at - issued_at <= max_lifetime_seconds:
        return _invalid("lifetime not allowed")
    audience = claims.get("aud")
    if isinstance(audience, list) and len(audience) == 1:
        audience = audience[0]
    names = (audience, claims.get("sub"), claims.get("client_id"), claims.get("jti"))
    if not all(isinstance(name, str) and 0 < len(name) <= HEADER_BYTES for name in names):
        return _invalid("aud, sub, client_id or jti is not one short text")
    bound = read_confirmation(claims)
    if bound is None:
        return _invalid("bound in a way that is not known here")
    roles, scope = claims.get("roles", []), claims.get("scope", "")
    if (
        not isinstance(roles, list)
        or not all(isinstance(role, str) for role in roles)
        or len(roles) > ROLES_COUNT
    ):
        return _invalid("roles is not a short list of texts")
    if not isinstance(scope, str) or scope.count(" ") > ROLES_COUNT:
        return _invalid("scope is not a short text")
    return _Claims(
        audience=str(audience),
        subject=claims["sub"],
        client=claims["client_id"],
        token_id=claims["jti"],
        roles=tuple(roles),
        scopes=tuple(scope.split()),
        issued_at=issued_at,
        not_before=not_before,
        expires_at=expires_at,
        created=claims.get(CREATED_CLAIM) is True,
        bound=bound,
    )
