"""Judge access tokens of other issuers, each by its own trust (RFC 7519, RFC 8725, RFC 9068, RFC 7662, RFC 9470).

Whatever has to be asked of somebody (keys that are not known yet, an opaque token) is not waited for here: the judgement is
``Pending``, and judging again after the answer gives the verdict. What a token says is never fetched or opened.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal

import msgspec

from doorward.base.clock import Clock
from doorward.identity import bearer
from doorward.identity.bearer import Pending, TokenRefusal, busy, invalid, remember, unavailable
from doorward.identity.budget import CheckBudget
from doorward.identity.foreign_keys import VerifyingKeys, algorithm_of, foreign_keys, holds
from doorward.identity.metadata import SCOPE
from doorward.identity.principal import Principal
from doorward.identity.trust import ForeignClaims, TrustedIssuer, allowed_type, is_name, read_foreign

WAITING_COUNT = 256  # different questions that are under way at once
UNKNOWN_SECONDS = 5.0  # a key that its issuer does not have is not asked for again sooner
DOWN_SECONDS = 3.0  # an issuer that could not be asked is not asked again sooner
REFUSED_SECONDS = 30.0  # an opaque token that was not active is not asked about again sooner
FORGET_COUNT = 4_096

Ask = Callable[[str, dict[str, Any], Callable[[Any], None]], None]  # topic, payload, then(answer or None)


class KnownKeys(msgspec.Struct, frozen=True):
    """The keys of one issuer as the supervisor fetched them, and until when they count."""

    jwks: dict[str, Any]
    until: float


class Lease(msgspec.Struct, frozen=True):
    """A good token whose judgement must be made anew at ``until``, before the token itself is over."""

    principal: Principal
    until: float


class _Answer(msgspec.Struct, frozen=True):
    """What an issuer said of an opaque token."""

    claims: ForeignClaims | None
    reason: str
    until: float
    is_down: bool = False


class TokenMemory:
    """What outlives a snapshot: judgements, answers, questions under way and budgets of one worker."""

    def __init__(self, clock: Clock) -> None:
        self.budget = CheckBudget(clock)
        self.good: dict[bytes, ForeignClaims] = {}
        self.bad: dict[bytes, TokenRefusal] = {}
        self.answers: dict[bytes, _Answer] = {}  # that vouched for a token
        self.denials: dict[bytes, _Answer] = {}  # apart, so that garbage drives out no good answer
        # (issuer, kid) -> (until, could not be asked)
        self.unknown: dict[tuple[str, str], tuple[float, bool]] = {}
        self.waiting: dict[object, list[Callable[[], None]]] = {}
        self.signature_checks = 0
        self.trust_number = 0  # grows with each change of trust
        self._trusts: dict[str, TrustedIssuer] = {}
        self._keys: dict[str, dict[str, Any]] = {}

    def adopt(self, trusts: Mapping[str, TrustedIssuer], keys: Mapping[str, KnownKeys]) -> None:
        """Forget judgements that other keys or another trust were the reason for."""
        sets = {issuer: one.jwks for issuer, one in keys.items()}
        if self._trusts != trusts:
            self.trust_number += 1
            self.answers.clear()
            self.denials.clear()
        if self._trusts != trusts or self._keys != sets:
            # SECURITY: a token of a withdrawn key must not live on in memory, nor one be refused whose key came later.
            self.good.clear()
            self.bad.clear()
        self._trusts, self._keys = dict(trusts), sets


class ForeignJudge:
    """Judges Authorization headers for all issuers of ``identity.mode = "external"``.

    Fails: whatever is not understood is refused; where keys or answers are missing, 503 and nobody gets in.
    """

    def __init__(
        self,
        trusts: Iterable[TrustedIssuer],
        keys: Mapping[str, KnownKeys],
        clock: Clock,
        revoked: Collection[str] = (),
        *,
        withdrawn: Mapping[tuple[str, str], float] | None = None,
        memory: TokenMemory | None = None,
        ask: Ask | None = None,
    ) -> None:
        self._trusts = {trust.issuer: trust for trust in trusts}
        self._clock = clock
        self._revoked = frozenset(revoked)
        # (issuer, subject) -> tokens from before this moment count for nothing
        self._withdrawn = withdrawn or {}
        self._memory = memory or TokenMemory(clock)
        self._ask = ask
        self._until = {issuer: one.until for issuer, one in keys.items()}
        self._keys: dict[str, VerifyingKeys] = {
            issuer: foreign_keys(one.jwks, self._trusts[issuer].algorithms)
            for issuer, one in keys.items()
            if issuer in self._trusts
        }
        self._asked = next((one for one in self._trusts.values() if one.introspection is not None), None)
        self._memory.adopt(self._trusts, keys)

    @property
    def signature_checks(self) -> int:
        """How often the costly part ran."""
        return self._memory.signature_checks

    def judge(
        self, authorization: str | None, resource: str, address: str = ""
    ) -> Principal | Lease | TokenRefusal | Pending:
        """Judge the value of one Authorization header for a request to ``resource`` from ``address``."""
        token = bearer.read_bearer(authorization)
        if isinstance(token, TokenRefusal):
            return token
        digest = hashlib.sha256(token.encode()).digest()
        memory, now = self._memory, self._clock.now()
        good = memory.good.pop(digest, None)
        if good is not None:
            memory.good[digest] = good  # most recently used last
            return self._admit(good, resource, self._until.get(good.issuer, 0.0))
        answer = memory.answers.get(digest) or memory.denials.get(digest)
        if answer is not None and now < answer.until:
            return self._by_answer(answer, resource)
        bad = memory.bad.get(digest)
        if bad is not None and not 0 < bad.retry_at <= now:
            return bad
        if not memory.budget.has_room(address):
            return busy(now)
        found = self._read(token, digest, address)
        if isinstance(found, ForeignClaims):
            remember(memory.good, digest, found)
            return self._admit(found, resource, self._until.get(found.issuer, 0.0))
        if isinstance(found, TokenRefusal) and found.kind == "invalid":
            memory.budget.charge(address)
            remember(memory.bad, digest, found)
        return found

    # -- signed tokens ------------------------------------------------------------------------------------------

    def _read(self, token: str, digest: bytes, address: str) -> ForeignClaims | TokenRefusal | Pending:
        parts = bearer.split_token(token)
        if parts is None:
            if self._asked is None:
                return invalid("not a signed JWT")
            return self._ask_about(self._asked, token, digest, address)
        if isinstance(parts, TokenRefusal):
            return parts
        header = bearer.parse_object(parts[0]) if len(parts[0]) <= bearer.HEADER_BYTES else None
        if header is None:
            return invalid("JOSE header is not one small strict JSON object")
        claims = bearer.parse_object(parts[1])
        if claims is None:
            return invalid("claims are not one strict JSON object")
        issuer = claims.get("iss")
        trust = self._trusts.get(issuer) if isinstance(issuer, str) else None
        if trust is None:
            return invalid("another issuer")
        algorithm = algorithm_of(header.get("alg"))
        if wrong := _wrong_header(header, trust, algorithm):
            return invalid(wrong)
        key = self._key(trust, header["kid"], algorithm, address)
        if isinstance(key, TokenRefusal | Pending):
            return key
        self._memory.signature_checks += 1
        if not holds(key, algorithm, token.rpartition(".")[0].encode(), parts[2]):
            return invalid("signature does not hold")
        found = read_foreign(claims, trust, _name_of(digest))
        return invalid(found) if isinstance(found, str) else found

    def _key(self, trust: TrustedIssuer, kid: str, algorithm: str, address: str) -> Any:
        now = self._clock.now()
        if now < self._until.get(trust.issuer, 0.0):
            key = self._keys[trust.issuer].get((kid, algorithm))
            if key is not None:
                return key
        name = (trust.issuer, kid)
        until, is_down = self._memory.unknown.get(name, (0.0, False))
        if now < until:
            if is_down:
                return unavailable("keys of the issuer cannot be had", now)
            return invalid("signed with an unknown key", retry_at=until)
        if self._ask is None or len(self._memory.waiting) >= WAITING_COUNT:
            return unavailable("keys of the issuer cannot be asked for", now)
        return Pending(
            lambda then: self._begin(
                ("key", *name), "issuer-key", {"issuer": name[0], "kid": kid}, address, then
            )
        )

    # -- opaque tokens ------------------------------------------------------------------------------------------

    def _ask_about(
        self, trust: TrustedIssuer, token: str, digest: bytes, address: str
    ) -> TokenRefusal | Pending:
        if self._ask is None or len(self._memory.waiting) >= WAITING_COUNT:
            return unavailable("the issuer cannot be asked about tokens", self._clock.now())
        payload = {"issuer": trust.issuer, "token": token}
        return Pending(
            lambda then: self._begin(("token", digest), "issuer-introspect", payload, address, then)
        )

    def _by_answer(self, answer: _Answer, resource: str) -> Principal | Lease | TokenRefusal:
        if answer.claims is None:
            if answer.is_down:
                return unavailable(answer.reason, self._clock.now())
            return invalid(answer.reason, retry_at=answer.until)
        return self._admit(answer.claims, resource, answer.until)

    # -- questions ----------------------------------------------------------------------------------------------

    def _begin(
        self,
        key: tuple[Any, ...],
        topic: str,
        payload: dict[str, Any],
        address: str,
        then: Callable[[], None],
    ) -> None:
        """Ask once, however many wait for the same answer. The charge comes back where the answer is good."""
        memory = self._memory
        waiting = memory.waiting.get(key)
        if waiting is not None:
            waiting.append(then)
            return
        memory.waiting[key] = [then]
        memory.budget.charge(address)

        trust_then = memory.trust_number

        def answered(found: Any) -> None:
            # SECURITY: an answer is read by the trust of the question; where that has changed since, it is asked anew.
            if memory.trust_number == trust_then:
                is_good = (
                    self._take_key(key, found)
                    if key[0] == "key"
                    else self._take_answer(key[1], payload["issuer"], found)
                )
                if is_good:
                    memory.budget.charge(address, -1.0)
            for one in memory.waiting.pop(key):
                one()

        if self._ask is not None:
            self._ask(topic, payload, answered)

    def _take_key(self, key: tuple[Any, ...], found: Any) -> bool:
        """The keys themselves come with a snapshot; this is whether they are there."""
        state: Literal["known", "unknown", "down"] = found if found in ("known", "unknown") else "down"
        until = self._clock.now() + (DOWN_SECONDS if state == "down" else UNKNOWN_SECONDS)
        unknown = self._memory.unknown
        while len(unknown) >= FORGET_COUNT:
            del unknown[next(iter(unknown))]
        unknown[key[1], key[2]] = (until, state == "down")
        return state == "known"

    def _take_answer(self, digest: bytes, issuer: str, found: Any) -> bool:
        now, trust = self._clock.now(), self._trusts[issuer]
        claims = bearer.parse_object(found) if isinstance(found, bytes) else None
        if claims is None or trust.introspection is None:
            answer = _Answer(
                None, "the issuer could not be asked about the token", now + DOWN_SECONDS, is_down=True
            )
        elif claims.get("active") is not True:
            answer = _Answer(None, "the issuer says that it is not active", now + REFUSED_SECONDS)
        else:
            # One that does not say when it was issued counts as issued now: it is active now.
            read = self._read_answer({"iat": int(now), **claims}, trust, _name_of(digest))
            if isinstance(read, str):
                answer = _Answer(None, read, now + REFUSED_SECONDS)
            else:
                answer = _Answer(read, "", now + max(1.0, trust.introspection.cache_seconds))
        memory = self._memory
        memory.answers.pop(digest, None)
        memory.denials.pop(digest, None)
        remember(memory.denials if answer.claims is None else memory.answers, digest, answer)
        return answer.claims is not None

    @staticmethod
    def _read_answer(claims: dict[str, Any], trust: TrustedIssuer, name: str) -> ForeignClaims | str:
        if claims.get("iss", trust.issuer) != trust.issuer:
            return "another issuer"
        kind = claims.get("token_type", "Bearer")
        if not isinstance(kind, str) or kind.lower() not in ("bearer", "access_token"):
            return "not an access token"  # RFC 7662 section 4: a refresh token is active too
        return read_foreign(claims, trust, name, is_introspected=True)

    # -- what may change from one request to the next -----------------------------------------------------------

    def _admit(self, claims: ForeignClaims, resource: str, until: float) -> Principal | Lease | TokenRefusal:
        now, trust = self._clock.now(), self._trusts[claims.issuer]
        if now >= claims.expires_at:
            return invalid("expired")
        starts_at = max(claims.not_before, claims.issued_at) - bearer.SKEW_SECONDS
        if now < starts_at:
            return invalid("not valid yet", retry_at=starts_at)
        if now >= until:
            return unavailable("keys of the issuer are too old", now)
        if trust.audience_of(resource) not in claims.audiences:
            return invalid("issued for another resource")
        if claims.token_id in self._revoked:
            return invalid("revoked")
        if claims.issued_at < self._withdrawn.get((claims.issuer, claims.subject), 0.0):
            return invalid("withdrawn with its subject")
        if trust.max_age_seconds:
            fresh_until = claims.signed_in_at + trust.max_age_seconds
            if now >= fresh_until:
                return _step_up(trust, claims, "signed in too long ago")
            until = min(until, fresh_until)
        if trust.acr_values and not any(one in trust.acr_values for one in claims.contexts):
            return _step_up(trust, claims, "authentication context too weak")
        principal = Principal(
            tenant=claims.tenant,
            issuer=claims.issuer,
            subject=claims.subject,
            client=claims.client,
            roles=claims.roles,
            scopes=_scopes(claims, trust),
            token_id=claims.token_id,
            expires_at=claims.expires_at,
            bound=claims.bound,
        )
        return principal if until >= claims.expires_at else Lease(principal, until)


def _wrong_header(header: dict[str, Any], trust: TrustedIssuer, algorithm: str) -> str:
    """What is wrong with a JOSE header, or ""."""
    if algorithm not in trust.algorithms:
        return "algorithm not allowed"
    if not allowed_type(trust, header.get("typ")):
        return "not an access token"
    if not bearer.REFUSED_HEADERS.isdisjoint(header):
        return "JOSE header member not allowed"
    return "" if is_name(header.get("kid")) else "names no key"


def _name_of(digest: bytes) -> str:
    """How a token without an id of its own is called on record and in revocations."""
    return f"sha256:{digest.hex()[:32]}"


def _scopes(claims: ForeignClaims, trust: TrustedIssuer) -> tuple[str, ...]:
    """The token's scopes, where ours stands exactly for what this issuer gives leave with (applications have it as a role)."""
    has_leave = not trust.scope or trust.scope in claims.scopes
    if trust.profile == "entra" and not claims.scopes and trust.scope in claims.roles:
        has_leave = True
    others = tuple(scope for scope in claims.scopes if scope != SCOPE)
    return (SCOPE, *others) if has_leave else others


def _step_up(trust: TrustedIssuer, claims: ForeignClaims, reason: str) -> TokenRefusal:
    """Ask for a stronger or fresher sign-in: RFC 9470, or Entra's claims challenge where its client can answer one."""
    tell = "This MCP server needs a stronger or more recent sign-in."
    if trust.profile == "entra" and trust.acr_values:
        wanted = {"access_token": {"acrs": {"essential": True, "value": trust.acr_values[0]}}}
        asked = base64.b64encode(msgspec.json.encode(wanted)).decode()
        if not claims.understands_claims:
            return TokenRefusal(
                "step-up", 403, f"{reason}; its client cannot step up", tell, "insufficient_claims"
            )
        return TokenRefusal("step-up", 401, reason, tell, "insufficient_claims", more=(("claims", asked),))
    more = [("acr_values", " ".join(trust.acr_values))] if trust.acr_values else []
    if trust.max_age_seconds:
        more.append(("max_age", str(trust.max_age_seconds)))
    return TokenRefusal("step-up", 401, reason, tell, "insufficient_user_authentication", more=tuple(more))
