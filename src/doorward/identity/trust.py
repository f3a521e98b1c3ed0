"""How far another issuer is trusted: what its access tokens look like, and what of them counts here.

A profile says where an identity provider puts client, scopes, roles and tenant, and how its access tokens differ from its
ID tokens, which are signed with the same keys. Nothing here checks signatures or clocks.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Literal

import msgspec

from doorward.identity.binding import FREE, Confirmation, read_confirmation

ALGORITHMS = ("ES256", "ES384", "RS256", "PS256", "EdDSA")
NAME_CHARS = 1_024  # of a subject, client, audience or token id
ROLES_COUNT = 256  # groups of a large company
SCOPES_COUNT = 64
AUDIENCES_COUNT = 32

ProfileName = Literal["generic", "entra", "keycloak", "auth0", "okta"]


class Profile(msgspec.Struct, frozen=True):
    """Where one kind of identity provider puts things."""

    types: tuple[str, ...]  # of the JOSE header, lower case; "" where there may be none
    clients: tuple[str, ...] = ("client_id", "azp")
    scopes: tuple[str, ...] = ("scope",)
    roles: str = "roles"
    tenants: tuple[str, ...] = ("tid",)
    token_ids: tuple[str, ...] = ("jti",)
    subject: str = "sub"
    shared_audience: bool = False
    payload_type: str = ""  # what the claim `typ` must be
    id_prefix: str = ""  # what `jti` must begin with


PROFILES: dict[ProfileName, Profile] = {
    "generic": Profile(("at+jwt", "application/at+jwt")),
    # v1 tokens name the client `appid`, v2 tokens `azp`; `uti` is what Entra has for `jti`.
    "entra": Profile(("jwt", "at+jwt"), ("azp", "appid"), ("scp",), token_ids=("uti", "jti")),
    # ID tokens and refresh tokens of the same realm have the same header and keys: `typ` inside tells them apart.
    "keycloak": Profile(
        ("jwt", "at+jwt"),
        ("azp", "client_id"),
        roles="realm_access.roles",
        shared_audience=True,
        payload_type="Bearer",
    ),
    "auth0": Profile(
        ("jwt", "at+jwt"), ("azp", "client_id"), tenants=("org_id", "tid"), shared_audience=True
    ),
    "okta": Profile(
        ("", "jwt", "at+jwt", "application/okta-internal-at+jwt"), ("cid",), ("scp",), id_prefix="AT."
    ),
}


class Introspected(msgspec.Struct, frozen=True):
    """That an issuer may be asked about tokens, and how long an answer counts."""

    cache_seconds: float = 30.0


class TrustedIssuer(msgspec.Struct, frozen=True):
    """One issuer and how far it is trusted; what ``[[identity.issuers]]`` says, completed."""

    issuer: str
    profile: ProfileName = "generic"
    audience: str = ""  # "": the resource that was asked
    audiences: dict[str, str] = {}  # resource -> audience, beyond ``audience``
    shared_audience: bool = False
    algorithms: tuple[str, ...] = ALGORITHMS
    clients: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()
    roles_claim: str = "roles"
    roles: frozenset[str] = frozenset()  # that it may give; empty: all
    scope: str = "mcp"
    ask_scope: str = "mcp"
    max_lifetime_seconds: int = 86_400
    acr_values: tuple[str, ...] = ()
    max_age_seconds: int = 0
    introspection: Introspected | None = None

    def audience_of(self, resource: str) -> str:
        """What ``aud`` must be in a token for ``resource``."""
        return self.audiences.get(resource) or self.audience or resource


class ForeignClaims(msgspec.Struct, frozen=True):
    """What a token of another issuer says, in our words."""

    issuer: str
    tenant: str
    subject: str
    client: str
    audiences: tuple[str, ...]
    token_id: str
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    issued_at: float
    not_before: float
    expires_at: float
    contexts: tuple[str, ...] = ()  # `acr`, or `acrs` of Entra
    signed_in_at: float = 0.0  # `auth_time`; 0 where the token does not say
    bound: Confirmation = FREE  # what bind-token asks of whoever presents it
    understands_claims: bool = False  # the client can answer a claims challenge (Entra's capability cp1)


def allowed_type(trust: TrustedIssuer, kind: object) -> bool:
    """Whether the JOSE header's ``typ`` may be that of an access token of this issuer."""
    if kind is None:
        return "" in PROFILES[trust.profile].types
    return isinstance(kind, str) and kind != "" and kind.lower() in PROFILES[trust.profile].types


def read_foreign(
    claims: Mapping[str, Any], trust: TrustedIssuer, fallback_id: str, *, is_introspected: bool = False
) -> ForeignClaims | str:
    """The claims of a token that its issuer has vouched for, or why it is refused.

    ``fallback_id`` names a token that has no id of its own. An introspection answer has none of the marks of a JWT.
    """
    profile = PROFILES[trust.profile]
    times = _read_times(claims, trust)
    if isinstance(times, str):
        return times
    bound = read_confirmation(claims)
    if bound is None:
        return "bound in a way that is not known here"
    audiences = _read_audiences(claims.get("aud"), shared=trust.shared_audience)
    client = _client(claims, profile, is_introspected=is_introspected)
    # An introspection answer need not name a subject (RFC 7662 section 2.2); the client then acts for itself.
    subject = claims.get("sub", client if is_introspected else None)
    if audiences is None or not is_name(subject) or client is None:
        return "aud, sub or the client is not one short text"
    tenant = next((claims[name] for name in profile.tenants if name in claims), "")
    if not isinstance(tenant, str) or len(tenant) > NAME_CHARS:
        return "the tenant is not one short text"
    if trust.tenants and tenant not in trust.tenants:
        return "tenant not allowed"
    if trust.clients and client not in trust.clients:
        return "client not allowed"
    token_id = next((claims[name] for name in profile.token_ids if name in claims), fallback_id)
    if not is_name(token_id):
        return "jti is not one short text"
    if not is_introspected and (wrong := _another_kind(claims, profile, token_id)):
        return wrong
    scopes = _texts(next((claims[name] for name in profile.scopes if name in claims), ""), SCOPES_COUNT)
    roles = _texts(_at(claims, trust.roles_claim), ROLES_COUNT)
    if scopes is None or roles is None:
        return "scopes or roles are not few short texts"
    signed_in_at = 0.0 if "auth_time" not in claims else moment(claims["auth_time"])
    contexts = _texts(claims.get("acrs" if trust.profile == "entra" else "acr", ""), SCOPES_COUNT)
    if signed_in_at is None or contexts is None:
        return "acr or auth_time cannot be read"
    abilities = claims.get("xms_cc")
    return ForeignClaims(
        issuer=trust.issuer,
        tenant=tenant or "default",
        subject=str(subject),
        client=client,
        audiences=audiences,
        token_id=token_id,
        roles=tuple(role for role in roles if not trust.roles or role in trust.roles),
        scopes=scopes,
        issued_at=times[0],
        not_before=times[1],
        expires_at=times[2],
        contexts=contexts,
        signed_in_at=signed_in_at,
        bound=bound,
        understands_claims=isinstance(abilities, list)
        and any(str(one).lower() == "cp1" for one in abilities),
    )


def moment(value: object) -> float | None:
    """A NumericDate (RFC 7519 section 2) as Unix seconds; the strict door keeps decimals in a type of its own."""
    if value is None or isinstance(value, (bool, str, bytes, list, dict)):
        return None
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) and found >= 0 else None


def is_name(value: object) -> bool:
    """A text that is neither empty nor long nor holds what ends a line."""
    return isinstance(value, str) and 0 < len(value) <= NAME_CHARS and value.isprintable()


def _read_times(claims: Mapping[str, Any], trust: TrustedIssuer) -> tuple[float, float, float] | str:
    issued_at = moment(claims.get("iat"))
    not_before, expires_at = moment(claims.get("nbf", 0)), moment(claims.get("exp"))
    if issued_at is None or not_before is None or expires_at is None:
        return "iat, nbf or exp is not a point in time"
    if not 0 < expires_at - issued_at <= trust.max_lifetime_seconds:
        return "lifetime not allowed"
    return issued_at, not_before, expires_at


def _read_audiences(value: object, *, shared: bool) -> tuple[str, ...] | None:
    names = value if isinstance(value, list) else [value]
    if not 0 < len(names) <= (AUDIENCES_COUNT if shared else 1) or not all(is_name(name) for name in names):
        return None
    return tuple(str(name) for name in names)


def _client(claims: Mapping[str, Any], profile: Profile, *, is_introspected: bool) -> str | None:
    names = ("client_id",) if is_introspected else profile.clients  # RFC 7662 section 2.2
    found = {name: claims[name] for name in names if name in claims}
    # Two names for one client are fine, two clients in one token are not: whoever reads the other decides otherwise.
    values = list(found.values())
    if not values or not is_name(values[0]) or any(value != values[0] for value in values):
        return None
    return str(values[0])


def _another_kind(claims: Mapping[str, Any], profile: Profile, token_id: str) -> str:
    """SECURITY: an ID token of the same issuer for the same audience must not pass for an access token (RFC 8725 3.12)."""
    if profile.payload_type and claims.get("typ") != profile.payload_type:
        return "not an access token"
    if not token_id.startswith(profile.id_prefix):
        return "not an access token"
    if (
        profile is PROFILES["entra"]
        and "scp" not in claims
        and claims.get("idtyp") != "app"
        and "roles" not in claims
    ):
        return "not an access token"
    return "not an access token" if "nonce" in claims or "at_hash" in claims or "c_hash" in claims else ""


def _at(claims: Mapping[str, Any], path: str) -> object:
    """What stands at a dotted path; a claim of exactly that name comes first (``https://example.com/roles``)."""
    if path in claims:
        return claims[path]
    here: object = claims
    for part in path.split("."):
        if not isinstance(here, Mapping) or part not in here:
            return []
        here = here[part]
    return here


def _texts(value: object, count: int) -> tuple[str, ...] | None:
    """A list of texts, or one text with spaces, as a tuple; None for anything else."""
    if isinstance(value, str):
        value = value.split(" ") if value else []
    if not isinstance(value, list) or len(value) > count:
        return None
    if not all(isinstance(one, str) and len(one) <= NAME_CHARS and one.isprintable() for one in value):
        return None
    return tuple(one for one in value if one)


def trusted(given: Mapping[str, Any], resource_of: Collection[tuple[str, str]]) -> TrustedIssuer:
    """Complete one ``[[identity.issuers]]`` table; ``resource_of`` holds server and resource of each endpoint."""
    name: ProfileName = given["profile"]
    profile = PROFILES[name]
    shared = given["shared_audience"]
    introspection = given["introspection"]
    return TrustedIssuer(
        issuer=given["issuer"],
        profile=name,
        audience=given["audience"],
        audiences={
            resource: given["audiences"][server]
            for server, resource in resource_of
            if server in given["audiences"]
        },
        shared_audience=profile.shared_audience if shared is None else shared,
        algorithms=tuple(given["algorithms"]),
        clients=frozenset(given["clients"]),
        tenants=frozenset(given["tenants"]),
        roles_claim=given["roles_claim"] or profile.roles,
        roles=frozenset(given["roles"]),
        scope=given["scope"],
        ask_scope=given["ask_scope"] or given["scope"],
        max_lifetime_seconds=given["max_lifetime_seconds"],
        acr_values=tuple(given["acr_values"]),
        max_age_seconds=given["max_age_seconds"],
        introspection=None if introspection is None else Introspected(introspection.cache_seconds),
    )
