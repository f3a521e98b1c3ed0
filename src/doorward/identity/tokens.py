"""Access tokens: issuing them, and judging those that callers present (RFC 9068, RFC 6750, RFC 7519, RFC
8725).

A token is good when our key signed it for exactly the resource that was asked, it is in time, not revoked,
and its subject still has an account (MCP authorization: token handling, access token privilege restriction).
There is no I/O here, so a judgement never waits, and nothing that a token says (``jku``, ``kid`` as a path)
is ever fetched or opened.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from doorward.base.errors import CallerError
from doorward.base.ids import mint_handle
from doorward.identity.keys import ALGORITHM, KeySet, verifying_keys
from doorward.identity.metadata import SCOPE
from doorward.identity.principal import Principal
from doorward.protocol.json_door import parse_json

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from doorward.base.clock import Clock

TOKEN_BYTES = 16_384  # a longer token is refused before anything looks at it
HEADER_BYTES = 1_024  # of a token's decoded JOSE header; ours has under 150
MAX_LIFETIME_SECONDS = 86_400  # no token lives longer than a day
SKEW_SECONDS = 5.0  # that iat and nbf may lie ahead of our clock; expiry gets no grace
REMEMBERED_COUNT = 4_096  # judgements kept, good and bad apart
ROLES_COUNT = 64  # roles or scopes in one token
# true in tokens of accounts that the command line made up (profiles local and lab)
CREATED_CLAIM = "doorward_created"

_TOKEN68 = re.compile(r"[A-Za-z0-9\-._~+/]+=*", re.ASCII)  # RFC 9110 §11.2
_SEGMENT = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_TYPES = ("at+jwt", "application/at+jwt")  # RFC 9068 §4: compared without case
# SECURITY: a token may neither bring its key nor change how it is read (RFC 7515 §4.1, RFC 7797, RFC 8725
# §3).
_REFUSED_HEADERS = frozenset({"jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc", "epk"})


class TokenRefusal(msgspec.Struct, frozen=True):
    """Why a request is not authenticated.

    ``reason`` is for the record and never holds token text; ``tell`` is constant text for the caller;
    ``error`` is the RFC 6750 error code or None when no bearer token was sent. ``retry_at``: Unix seconds
    when another judgement of the same bytes may differ, 0 for never.
    """

    kind: Literal["missing", "malformed", "invalid"]
    status: int
    reason: str
    tell: str
    error: str | None = None
    retry_at: float = 0.0


_MISSING = TokenRefusal("missing", 401, "no bearer token", "Send an access token for this MCP server.")


def _malformed(reason: str) -> TokenRefusal:
    return TokenRefusal("malformed", 400, reason, "The Authorization header is malformed.", "invalid_request")


def _invalid(reason: str, retry_at: float = 0.0) -> TokenRefusal:
    tell = "The access token is not valid for this MCP server."
    return TokenRefusal("invalid", 401, reason, tell, "invalid_token", retry_at)


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
) -> str:
    """Sign an access token (RFC 9068 §2) for exactly one resource.

    ``created`` marks an account that exists in no settings. The caller keeps ``ttl_seconds`` between 1 and
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
        "jti": mint_handle(16),
        "scope": " ".join(scopes),
        "roles": list(roles),
    }
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
        tenant: str = "default",
        max_lifetime_seconds: int = MAX_LIFETIME_SECONDS,
    ) -> None:
        """``jwks`` is the public key set, ``revoked`` the ids of revoked tokens, ``users`` the accounts and
        their current roles. ``accepts_created`` (profiles local and lab): accounts that only ``doorward
        token`` knows count."""
        self._keys = verifying_keys(dict(jwks))
        self._issuer = issuer
        self._clock = clock
        self._tenant = tenant
        self._max_lifetime_seconds = max_lifetime_seconds
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

    def judge(self, authorization: str | None, resource: str) -> Principal | TokenRefusal:
        """Judge the value of one Authorization header for a request to ``resource``."""
        if authorization is None:
            return _MISSING
        key = (resource, hashlib.sha256(authorization.encode("utf-8", "surrogatepass")).digest())
        known = self._admitted.get(key)
        if known is not None and known[0] <= self._clock.now() < known[1].expires_at:
            return known[1]
        found = self._judge(authorization, resource)
        if isinstance(found, Principal):
            _remember(self._admitted, key, (self._clock.now(), found))
        return found

    def _judge(self, authorization: str, resource: str) -> Principal | TokenRefusal:
        scheme, _, token = authorization.strip(" \t").partition(" ")
        if scheme.lower() != "bearer":
            return _MISSING if _TOKEN68.fullmatch(scheme) else _malformed("no authentication scheme")
        token = token.strip(" ")
        if len(token) > TOKEN_BYTES:
            return _invalid("token longer than the cap")
        if not _TOKEN68.fullmatch(token):
            return _malformed("no single token68 after Bearer")
        found = self._recall(token)
        return found if isinstance(found, TokenRefusal) else self._admit(found, resource)

    def _recall(self, token: str) -> _Claims | TokenRefusal:
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
        found = self._read(token)
        if isinstance(found, TokenRefusal):
            _remember(self._bad, digest, found)
        else:
            _remember(self._good, digest, found)
        return found

    def _read(self, token: str) -> _Claims | TokenRefusal:
        """Everything about a token that no clock, resource or setting can change."""
        segments = token.split(".")
        if len(segments) != 3:
            return _invalid("not a signed JWT")
        decoded = [_decode_segment(segment) for segment in segments]
        if decoded[0] is None or decoded[1] is None or decoded[2] is None:
            return _invalid("not canonical base64url")
        kid = _read_header(decoded[0])
        if isinstance(kid, TokenRefusal):
            return kid
        key = self._keys.get(kid)
        if key is None:
            return _invalid("signed with an unknown key")
        if not self._is_signed(token, key):
            return _invalid("signature does not hold")
        claims = _parse_object(decoded[1])
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
        if current is None and not (claims.created and self._accepts_created):
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
        )


def _remember(cache: dict[Any, Any], digest: object, value: object) -> None:
    if len(cache) >= REMEMBERED_COUNT:
        del cache[next(iter(cache))]
    cache[digest] = value


def _decode_segment(segment: str) -> bytes | None:
    if not _SEGMENT.fullmatch(segment):
        return None
    try:
        decoded = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError:
        return None
    # One spelling only: stray bits in the last character would give a revoked or refused token further names.
    return decoded if base64.urlsafe_b64encode(decoded).rstrip(b"=").decode() == segment else None


def _parse_object(text: bytes) -> dict[str, Any] | None:
    # SECURITY: the strict door, for a lenient parser keeps the last of two equal claims (sub: alice, sub:
    # root).
    try:
        value = parse_json(text)
    except CallerError:
        return None
    return value if isinstance(value, dict) else None


def _read_header(text: bytes) -> str | TokenRefusal:
    header = _parse_object(text) if len(text) <= HEADER_BYTES else None
    if header is None:
        return _invalid("JOSE header is not one small strict JSON object")
    if header.get("alg") != ALGORITHM:
        return _invalid("algorithm not allowed")
    kind = header.get("typ")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        return _invalid("not an access token")
    if not _REFUSED_HEADERS.isdisjoint(header):
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
    if "cnf" in claims:
        return _invalid("bound to a key that a bearer does not prove")  # RFC 9449 §7.1, RFC 8705 §3
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
    )


def _moment(value: object) -> float | None:
    """A NumericDate (RFC 7519 §2) as Unix seconds; the strict door keeps decimals in a type of its own."""
    if value is None or isinstance(value, (bool, str, bytes, list, dict)):
        return None
    try:
        moment = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return moment if math.isfinite(moment) and moment >= 0 else None
