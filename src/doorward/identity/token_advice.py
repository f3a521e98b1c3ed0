"""Why a token does not fit an MCP server, in one sentence for whoever connects the two.

The verdict itself is the judge's; here its constant reasons become advice with the values that differ. The values come from a
token that the operator holds in hand, so they may be shown; the token itself is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from doorward.identity import bearer
from doorward.identity.bearer import TokenRefusal
from doorward.identity.trust import PROFILES, TrustedIssuer

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
_SHOWN_CHARS = 200


def read_unverified(token: str) -> tuple[dict[str, Any], dict[str, Any]] | str:
    """Header and claims of a JWT for advice only, or why it is none."""
    parts = bearer.split_token(token)
    if parts is None:
        return "it is no JWT but an opaque token; it can only be judged by asking its issuer (introspection)"
    if isinstance(parts, TokenRefusal):
        return "it is no whole JWT: a character is missing or was added when it was copied"
    header, claims = bearer.parse_object(parts[0]), bearer.parse_object(parts[1])
    if header is None or claims is None:
        return "its header or its claims are not one strict JSON object"
    return header, claims


def audience_advice(value: object, wanted: str, client: str = "") -> str:
    """What differs between the audience that a token has and the one that the server wants; "" where it fits."""
    names = (
        [str(one) for one in value]
        if isinstance(value, list)
        else [str(value)]
        if isinstance(value, str)
        else []
    )
    if wanted in names:
        return ""
    if not names:
        return f"it has no audience; ask the issuer for a token with resource={wanted}"
    for name in names:
        if name.rstrip("/") == wanted.rstrip("/"):
            return f"its audience {_shown(name)} differs from {wanted} only in the trailing slash; both must be the same to the letter"
        if name.lower() == wanted.lower():
            return f"its audience {_shown(name)} differs from {wanted} only in capital letters"
        if advice := _url_advice(name, wanted):
            return advice
        if client and name == client:
            return f"its audience is the client {_shown(client)} itself: that is an ID token, or no resource was asked for ({wanted})"
    return f"its audience is {_shown(', '.join(names))}, this server wants {wanted}; ask the issuer for a token with that resource, or set audience"


def _url_advice(name: str, wanted: str) -> str:
    try:
        had, want = urlsplit(name), urlsplit(wanted)
        _ = had.port, want.port  # raises where one is no number
    except ValueError:
        return ""
    if had.scheme not in ("http", "https") or not had.hostname:
        return ""
    same_host = had.hostname == want.hostname
    if had.path == want.path and {had.hostname, want.hostname} <= _LOOPBACK and not same_host:
        return f"its audience says {had.hostname} where this server says {want.hostname}; both lead here, but only one name counts"
    if same_host and had.path == want.path and had.scheme != want.scheme:
        return f"its audience begins with {had.scheme}, gateway.public_url with {want.scheme}"
    if same_host and had.path == want.path and _port(had) != _port(want):
        return f"its audience has port {_port(had)}, gateway.public_url has {_port(want)}"
    if same_host and _port(had) == _port(want):
        return f"its audience {_shown(name)} is another endpoint of the same host; this one is {wanted}"
    return ""


def token_advice(
    refusal: TokenRefusal,
    header: Mapping[str, Any],
    claims: Mapping[str, Any],
    trust: TrustedIssuer,
    resource: str,
    now: float,
) -> str:
    """One sentence for a refusal of the judge."""
    reason = refusal.reason
    client = next((str(claims[one]) for one in PROFILES[trust.profile].clients if one in claims), "")
    kind = header.get("typ")
    allowed = " or ".join(one or "none" for one in PROFILES[trust.profile].types)
    said: dict[str, str] = {
        "issued for another resource": audience_advice(
            claims.get("aud"), trust.audience_of(resource), client
        ),
        "algorithm not allowed": f"it is signed with {_shown(header.get('alg'))}; allowed are {', '.join(trust.algorithms)}",
        "expired": f"it ran out {int(now - _number(claims.get('exp')))} seconds ago; get a fresh one, or compare the clocks",
        "not valid yet": "it is not valid yet; compare the clocks of this machine and of the issuer",
        "lifetime not allowed": (
            f"it lives for {int(_number(claims.get('exp')) - _number(claims.get('iat')))} seconds; "
            f"max_lifetime_seconds is {trust.max_lifetime_seconds}"
        ),
        "signed with an unknown key": f"the issuer's key set has no key {_shown(header.get('kid'))} for {_shown(header.get('alg'))}",
        "signature does not hold": "its signature does not hold: it was changed, or signed with another key of the same name",
        "client not allowed": f"its client {_shown(client)} is not among the issuer's clients in the settings",
        "tenant not allowed": f"its tenant {_shown(claims.get('tid', claims.get('org_id', 'none')))} is not among the issuer's tenants",
        "names no key": "its header names no key (kid)",
        "revoked": "it was revoked here",
        "aud, sub or the client is not one short text": _names_advice(claims, trust, client),
        "another issuer": f"its issuer {_shown(claims.get('iss'))} is not the one of the settings",
        "bound in a way that is not known here": "it is bound to something (cnf) that Doorward does not know: neither a DPoP key nor a certificate",
        "not an access token": (
            f"it is no access token as profile {trust.profile} knows them: its header says typ {_shown(kind or 'none')}, "
            f"allowed is {allowed}; is it an ID token, or is the profile another?"
        ),
    }
    return said.get(reason) or f"{refusal.tell.rstrip('.')}: {reason}"


def scope_advice(scopes: tuple[str, ...], trust: TrustedIssuer) -> str:
    """What is missing where a good token gives no leave."""
    had = " ".join(scopes) or "none"
    return f"it is good, but its scopes ({_shown(had)}) lack {trust.scope}; the client must ask for {trust.ask_scope}"


def _names_advice(claims: Mapping[str, Any], trust: TrustedIssuer, client: str) -> str:
    audience = claims.get("aud")
    if isinstance(audience, list) and len(audience) > 1 and not trust.shared_audience:
        return f"it has {len(audience)} audiences; allow that with shared_audience = true"
    if not client:
        names = " or ".join(PROFILES[trust.profile].clients)
        return f"it names no client ({names}), or two different ones; is the profile right?"
    return "its aud or sub is not one short text"


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
