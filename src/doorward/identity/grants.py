"""Codes, refresh tokens and what was made from them: one state machine over rows, without I/O of its own (RFC 6749, OAuth 2.1).

A code leads to a family: one refresh token that is good now, and the access tokens that are. A code or a refresh token
that comes a second time means that somebody copied it, so the whole family ends (RFC 9700 §4.14, OAuth 2.1 §4.1.3).
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable, Collection
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from doorward.base.ids import mint_handle
from doorward.identity.clients import CODE, OWN, REFRESH, Client
from doorward.identity.oauth_forms import Form, OAuthRefusal, Token
from doorward.identity.oauth_store import Store, hashed
from doorward.identity.requests import Asked, check_resource, check_scope, plain_resource
from doorward.identity.tokens import issue

if TYPE_CHECKING:
    from doorward.base.clock import Clock
    from doorward.identity.keys import KeySet

CODE_SECONDS = 60.0
USED_SECONDS = 86_400.0  # that a used code is remembered, to notice its second use
CODES, FAMILIES = "oauth-code", "oauth-family"
TOKENS_COUNT = 64  # access tokens of one family that are remembered; they are short-lived
CLIENT_SUBJECT = (
    "client:"  # before the name of a client that acts for itself: never the name of a user (RFC 9068 §5)
)
_VERIFIER = re.compile(r"[A-Za-z0-9\-._~]{43,128}", re.ASCII)  # RFC 7636 §4.1
_TRIES = 8


class Who(msgspec.Struct, frozen=True):
    """A user as they signed in. ``roles`` are those that an identity provider gave; an account's are in the settings."""

    subject: str
    roles: tuple[str, ...] = ()
    created: bool = False  # an account of profile local or lab that stands in no settings
    provider: str = ""  # the issuer at which they signed in; "" for embedded accounts


Accounts = Callable[
    [Who], "tuple[str, ...] | None"
]  # the roles of a user now; None when there is no such account


class Lifetimes(msgspec.Struct, frozen=True):
    """Seconds that what we issue is good for."""

    access: int = 900
    refresh: int = 2_592_000


class Code(msgspec.Struct, frozen=True):
    """What a code stands for; the code itself is nowhere."""

    asked: Asked
    who: Who
    family: str
    expires_at: float
    used: bool = False


class Family(msgspec.Struct, frozen=True):
    """One consent at work: the refresh token that is good now (as a hash) and the access tokens made so far."""

    client_id: str
    who: Who
    resource: str
    scopes: tuple[str, ...]
    refresh: str  # hash; "" where the client gets none
    tokens: tuple[Token, ...]
    expires_at: float
    ended: bool = False


class Issued(msgspec.Struct, frozen=True):
    """What the token endpoint gives."""

    access_token: str
    expires_in: int
    scopes: tuple[str, ...]
    refresh_token: str
    subject: str
    resource: str
    token_id: str

    def answer(self) -> dict[str, Any]:
        """The response of RFC 6749 §5.1."""
        found: dict[str, Any] = {
            "access_token": self.access_token,
            "token_type": "Bearer",
            "expires_in": self.expires_in,
            "scope": " ".join(self.scopes),
        }
        return {**found, "refresh_token": self.refresh_token} if self.refresh_token else found

    def __repr__(self) -> str:
        return f"Issued({self.token_id})"


class Grants:
    """The grants of one issuer. Every method blocks on the store; Raises: OAuthRefusal, StoreError."""

    def __init__(
        self,
        store: Store,
        keys: KeySet,
        clock: Clock,
        *,
        issuer: str,
        resources: Collection[str],
        accounts: Accounts,
        lifetimes: Lifetimes,
    ) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._issuer = issuer
        self._resources = frozenset(resources)
        self._accounts = accounts
        self._lifetimes = lifetimes

    # -- codes --------------------------------------------------------------------------------------------------

    def grant(self, asked: Asked, who: Who) -> str:
        """A fresh code for a user who consented."""
        code, now = mint_handle(), self._clock.now()
        kept = Code(asked, who, mint_handle(16), now + CODE_SECONDS)
        self._store.keep(CODES, hashed(code), msgspec.msgpack.encode(kept), expires_at=now + USED_SECONDS)
        return code

    def redeem(self, client: Client, form: Form) -> Issued:
        """Tokens for a code. Whatever is wrong with the rest of the request, the code is used up by it."""
        if CODE not in client.grants:
            raise OAuthRefusal("unauthorized_client", "This client may not use codes.")
        code, now = form.get("code"), self._clock.now()
        if not code:
            raise OAuthRefusal("invalid_request", "code is missing.")
        found = self._store.kept(CODES, hashed(code), now)
        if found is None:
            raise _bad_grant("unknown code")
        kept = msgspec.msgpack.decode(found[0], type=Code)
        spent = msgspec.msgpack.encode(msgspec.structs.replace(kept, used=True))
        first = not kept.used and self._store.replace(
            CODES, hashed(code), spent, seen=found[1], now=now, expires_at=now + USED_SECONDS
        )
        if not first:
            raise self._again(kept.family, "code used before", kept.who.subject)
        self._check_code(kept, client, form, now)
        asked = kept.asked
        return self.begin(kept.family, client, kept.who, asked.resource, asked.scopes)

    def _check_code(self, kept: Code, client: Client, form: Form, now: float) -> None:
        asked = kept.asked
        verifier = form.get("code_verifier")
        if asked.client_id != client.id:
            raise _bad_grant("code of another client")
        if now >= kept.expires_at:
            raise _bad_grant("code expired")
        if form.get("redirect_uri") and form.get("redirect_uri") != asked.redirect_uri:
            raise _bad_grant("another redirect URI")
        if not _VERIFIER.fullmatch(verifier) or not hmac.compare_digest(_s256(verifier), asked.challenge):
            raise _bad_grant("code_verifier does not fit")
        self._check_bound(form, asked.resource, asked.scopes)

    def _check_bound(self, form: Form, resource: str, scopes: tuple[str, ...]) -> None:
        """A request may name again what its grant is bound to, and nothing else (RFC 8707 §2.2, RFC 6749 §6)."""
        if any(plain_resource(one) != resource for one in form.resources) or resource not in self._resources:
            raise OAuthRefusal("invalid_target", "The grant is for another resource.")
        if form.get("scope") and not set(check_scope(form)) <= set(scopes):
            raise OAuthRefusal("invalid_scope", "The grant is for less.")

    # -- refresh tokens -----------------------------------------------------------------------------------------

    def refresh(self, client: Client, form: Form) -> Issued:
        """The next tokens of a family; the refresh token is another one afterwards."""
        family_id, _, secret = form.get("refresh_token").partition(".")
        if not family_id or not secret:
            raise (
                OAuthRefusal("invalid_request", "refresh_token is missing.")
                if not family_id
                else _bad_grant("malformed")
            )
        now = self._clock.now()
        kept, version = self._family(family_id, now)
        if kept is None or kept.ended or now >= kept.expires_at:
            raise _bad_grant("refresh token of no living family")
        if kept.client_id != client.id:
            raise _bad_grant("refresh token of another client")
        if not hmac.compare_digest(hashed(secret), kept.refresh):
            raise self._again(family_id, "refresh token used before", kept.who.subject)
        self._check_bound(form, kept.resource, kept.scopes)
        roles = self._roles(kept.who)
        fresh, token = mint_handle(), self._token(now)
        alive = (*(one for one in kept.tokens if one.expires_at > now), token)
        if len(alive) > TOKENS_COUNT:  # none of them may be forgotten, or ending the family would miss it
            raise OAuthRefusal("slow_down", "Use the access token until it runs out.", status=429)
        following = msgspec.structs.replace(kept, refresh=hashed(fresh), tokens=alive)
        if not self._write(family_id, following, version, now):
            raise self._again(family_id, "refresh token used twice at once", kept.who.subject)
        return self._issued(client, kept.who, roles, following, token, f"{family_id}.{fresh}")

    # -- clients for themselves ---------------------------------------------------------------------------------

    def own(self, client: Client, form: Form) -> Issued:
        """An access token for a client that acts for itself (RFC 6749 §4.4)."""
        if OWN not in client.grants or client.is_public:
            raise OAuthRefusal("unauthorized_client", "This client may not act for itself.")
        resource, scopes, now = check_resource(form, self._resources), check_scope(form), self._clock.now()
        who = Who(CLIENT_SUBJECT + client.id)
        family = Family(client.id, who, resource, scopes, "", (), now)
        return self._issued(client, who, client.roles, family, self._token(now), "")

    def asserted(self, client: Client, who: Who, resource: str, scopes: tuple[str, ...]) -> Issued:
        """An access token for a user whom the enterprise's provider vouches for; to renew it, the provider is asked anew."""
        now = self._clock.now()
        family = Family(client.id, who, resource, scopes, "", (), now)
        return self._issued(client, who, self._roles(who), family, self._token(now), "")

    # -- the end ------------------------------------------------------------------------------------------------

    def end(self, family_id: str) -> list[Token]:
        """End a family, or see that it never begins; gives its access tokens that are still good."""
        for _ in range(_TRIES):
            now = self._clock.now()
            kept, version = self._family(family_id, now)
            if kept is not None and kept.ended:
                return _alive(kept, now)  # again: whoever ended it may not have come to revoking them
            if kept is None:
                nobody = Family("", Who(""), "", (), "", (), now + USED_SECONDS, ended=True)
                if self._write(family_id, nobody, 0, now):
                    return []
            elif self._write(family_id, msgspec.structs.replace(kept, ended=True), version, now):
                return _alive(kept, now)
        raise OAuthRefusal("temporarily_unavailable", "The grant is in use; try again.", status=503)

    def end_all(self, subject: str, client_id: str) -> list[Token]:
        """End every family of a user with a client."""
        ended: list[Token] = []
        now = self._clock.now()
        for key, value in self._store.all_kept(FAMILIES, now).items():
            kept = msgspec.msgpack.decode(value, type=Family)
            if kept.who.subject == subject and kept.client_id == client_id and not kept.ended:
                ended += self._end_row(key)
        return ended

    def revoke_refresh(self, client: Client, token: str) -> list[Token] | None:
        """End the family of a refresh token of this client (RFC 7009 §2.1); None when it is none."""
        family_id, _, secret = token.partition(".")
        kept, _ = self._family(family_id, self._clock.now())
        if kept is None or kept.client_id != client.id or not secret or not kept.refresh:
            return None
        return self.end(family_id)

    def living(self, token: str) -> Family | None:
        """The family whose refresh token of now this is."""
        family_id, _, secret = token.partition(".")
        now = self._clock.now()
        kept, _ = self._family(family_id, now)
        if kept is None or kept.ended or now >= kept.expires_at or not kept.refresh:
            return None
        return kept if hmac.compare_digest(hashed(secret), kept.refresh) else None

    # -- parts --------------------------------------------------------------------------------------------------

    def begin(
        self, family_id: str, client: Client, who: Who, resource: str, scopes: tuple[str, ...]
    ) -> Issued:
        """The first tokens of a family that nobody has begun yet."""
        roles, now = self._roles(who), self._clock.now()
        fresh = mint_handle() if REFRESH in client.grants else ""
        token = self._token(now)
        expires_at = now + (self._lifetimes.refresh if fresh else self._lifetimes.access)
        family = Family(
            client.id, who, resource, scopes, hashed(fresh) if fresh else "", (token,), expires_at
        )
        if not self._write(family_id, family, 0, now):
            raise _bad_grant("code used before")  # the second use was faster and ended what this one begins
        return self._issued(client, who, roles, family, token, f"{family_id}.{fresh}" if fresh else "")

    def _issued(
        self, client: Client, who: Who, roles: tuple[str, ...], family: Family, token: Token, refresh: str
    ) -> Issued:
        access = issue(
            self._keys,
            issuer=self._issuer,
            resource=family.resource,
            subject=who.subject,
            client=client.id,
            clock=self._clock,
            roles=roles,
            scopes=family.scopes,
            ttl_seconds=self._lifetimes.access,
            created=who.created,
            token_id=token.token_id,
        )
        seconds = self._lifetimes.access
        return Issued(access, seconds, family.scopes, refresh, who.subject, family.resource, token.token_id)

    def _token(self, now: float) -> Token:
        return Token(mint_handle(16), now + self._lifetimes.access + 1.0)

    def _roles(self, who: Who) -> tuple[str, ...]:
        roles = self._accounts(who)
        if roles is None:
            raise _bad_grant("no such account any more")
        return roles

    def _family(self, family_id: str, now: float) -> tuple[Family | None, int]:
        found = self._store.kept(FAMILIES, hashed(family_id), now)
        return (None, 0) if found is None else (msgspec.msgpack.decode(found[0], type=Family), found[1])

    def _write(self, family_id: str, family: Family, seen: int, now: float) -> bool:
        return self._store.replace(
            FAMILIES,
            hashed(family_id),
            msgspec.msgpack.encode(family),
            seen=seen,
            now=now,
            expires_at=max(family.expires_at, now + self._lifetimes.access) + 60.0,
        )

    def _end_row(self, key: str) -> list[Token]:
        for _ in range(_TRIES):
            now = self._clock.now()
            found = self._store.kept(FAMILIES, key, now)
            if found is None:
                return []
            kept = msgspec.msgpack.decode(found[0], type=Family)
            ended = msgspec.msgpack.encode(msgspec.structs.replace(kept, ended=True))
            if self._store.replace(FAMILIES, key, ended, seen=found[1], now=now, expires_at=kept.expires_at):
                return _alive(kept, now)
        raise OAuthRefusal("temporarily_unavailable", "The grant is in use; try again.", status=503)

    def _again(self, family_id: str, reason: str, subject: str) -> OAuthRefusal:
        """What was good once came again: everything made from it ends before anybody is answered."""
        return OAuthRefusal(
            "invalid_grant", _GRANT, reason=reason, withdrawn=self.end(family_id), subject=subject
        )


_GRANT = "The grant is unknown, used, expired or not this client's."


def _alive(family: Family, now: float) -> list[Token]:
    return [one for one in family.tokens if one.expires_at > now]


def _bad_grant(reason: str) -> OAuthRefusal:
    return OAuthRefusal("invalid_grant", _GRANT, reason=reason)


def _s256(verifier: str) -> str:
    return base64.urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()
