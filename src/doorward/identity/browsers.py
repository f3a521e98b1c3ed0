"""Who is signed in at which browser, one-time links that sign in, and which clients a user has consented to.

There is no password anywhere: embedded accounts sign in by a link that the command line prints and that works once. A
cookie is only a random name; what it stands for is kept here, under a hash.
"""

from __future__ import annotations

import hashlib

import msgspec

from doorward.base.ids import mint_handle
from doorward.identity.clients import Client
from doorward.identity.grants import Who
from doorward.identity.oauth_forms import OAuthRefusal
from doorward.identity.oauth_store import Store, hashed
from doorward.identity.requests import Asked

LINK_SECONDS = 600.0
SESSIONS, LINKS, CONSENTS = "oauth-session", "oauth-link", "oauth-consent"


class Session(msgspec.Struct, frozen=True):
    """A signed-in browser."""

    who: Who
    since: float
    until: float


class Consent(msgspec.Struct, frozen=True):
    """What a user agreed to. Another version of the client, redirect URI or resource is another question."""

    subject: str
    client_id: str
    client_name: str
    client_version: str
    at: float
    redirect_uris: tuple[str, ...]
    resources: tuple[str, ...]
    scopes: tuple[str, ...]

    def covers(self, asked: Asked) -> bool:
        """True where the very same was agreed to before."""
        return (
            self.client_version == asked.client_version
            and asked.redirect_uri in self.redirect_uris
            and asked.resource in self.resources
            and set(asked.scopes) <= set(self.scopes)
        )


class Browsers:
    """Sessions, links and consents over the rows of a store; every method blocks. Raises: StoreError."""

    def __init__(self, store: Store, *, session_seconds: float) -> None:
        self._store = store
        self._seconds = session_seconds

    # -- links --------------------------------------------------------------------------------------------------

    def make_link(self, who: Who, now: float) -> str:
        """A ticket that signs this user in once."""
        ticket = mint_handle()
        value = msgspec.msgpack.encode(who)
        self._store.keep(LINKS, hashed(ticket), value, expires_at=now + LINK_SECONDS)
        return ticket

    def look_at_link(self, ticket: str, now: float) -> Who | None:
        """Whom a ticket would sign in; looking does not use it up (a mail scanner looks, too)."""
        found = self._store.kept(LINKS, hashed(ticket), now)
        return None if found is None else msgspec.msgpack.decode(found[0], type=Who)

    def use_link(self, ticket: str, now: float) -> Who:
        """The user of a ticket, which is gone with it. Raises: OAuthRefusal with status 403."""
        found = self._store.take(LINKS, hashed(ticket), now) if ticket else None
        if found is None:
            raise gone_link()
        return msgspec.msgpack.decode(found, type=Who)

    # -- sessions -----------------------------------------------------------------------------------------------

    def sign_in(self, who: Who, now: float) -> str:
        """A new browser name for whoever has just proven who they are: never one that the browser had before."""
        browser = mint_handle()
        session = Session(who, now, now + self._seconds)
        self._store.keep(SESSIONS, hashed(browser), msgspec.msgpack.encode(session), expires_at=session.until)
        return browser

    def session(self, browser: str, now: float) -> Session | None:
        """Who is signed in at this browser."""
        found = self._store.kept(SESSIONS, hashed(browser), now) if browser else None
        return None if found is None else msgspec.msgpack.decode(found[0], type=Session)

    def sign_out(self, browser: str) -> None:
        """Forget a browser."""
        if browser:
            self._store.drop(SESSIONS, hashed(browser))

    # -- consents -----------------------------------------------------------------------------------------------

    def remember(self, who: Who, client: Client, asked: Asked, now: float) -> None:
        """Keep what a user agreed to, beside what they agreed to before with the same client."""
        key = consent_key(who, client.id)
        for _ in range(8):
            found = self._store.kept(CONSENTS, key, now)
            before = None if found is None else msgspec.msgpack.decode(found[0], type=Consent)
            kept = _joined(before, who.subject, client, asked, now)
            if self._store.replace(
                CONSENTS, key, msgspec.msgpack.encode(kept), seen=found[1] if found else 0, now=now
            ):
                return
        raise OAuthRefusal("temporarily_unavailable", "Try again.", status=503)

    def has_agreed(self, who: Who, asked: Asked, now: float) -> bool:
        """True where this user agreed to exactly this before."""
        found = self._store.kept(CONSENTS, consent_key(who, asked.client_id), now)
        return found is not None and msgspec.msgpack.decode(found[0], type=Consent).covers(asked)

    def consents(self, now: float) -> dict[str, Consent]:
        """All consents by their identifiers."""
        rows = self._store.all_kept(CONSENTS, now)
        return {key: msgspec.msgpack.decode(value, type=Consent) for key, value in rows.items()}

    def forget(self, key: str, now: float) -> Consent | None:
        """Take a consent back."""
        found = self._store.take(CONSENTS, key, now)
        return None if found is None else msgspec.msgpack.decode(found, type=Consent)


def gone_link() -> OAuthRefusal:
    """The one answer for a link that is used, old or never was."""
    return OAuthRefusal(
        "access_denied",
        "This link does not sign anybody in any more: it was used, is older than ten minutes or never was. Make a new one.",
        reason="no such link",
        status=403,
    )


def consent_key(who: Who, client_id: str) -> str:
    """The identifier of a consent: of one user to one client."""
    pair = msgspec.msgpack.encode((who.provider, who.subject, client_id))
    return hashlib.sha256(pair).hexdigest()[:32]


def _joined(before: Consent | None, subject: str, client: Client, asked: Asked, now: float) -> Consent:
    same = before if before is not None and before.client_version == client.version else None
    uris = same.redirect_uris if same else ()
    resources = same.resources if same else ()
    # Only what was agreed to together counts together: a new redirect URI does not inherit older resources.
    if same is not None and asked.redirect_uri not in uris:
        uris, resources = (), ()
    return Consent(
        subject=subject,
        client_id=client.id,
        client_name=client.name,
        client_version=client.version,
        at=now,
        redirect_uris=tuple(dict.fromkeys((*uris, asked.redirect_uri))),
        resources=tuple(dict.fromkeys((*resources, asked.resource))),
        scopes=tuple(dict.fromkeys((*(same.scopes if same else ()), *asked.scopes))),
    )
