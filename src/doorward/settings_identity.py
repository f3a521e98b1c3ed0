"""Settings of who is asking: ``[identity]`` and what stands below it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from doorward.catalogue.server import SecretReference
from doorward.settings_meta import says as _says
from doorward.settings_oauth import BrokerSettings, ClientSettings, RegistrationSettings

Algorithm = Literal["ES256", "ES384", "RS256", "PS256", "EdDSA"]
ALGORITHMS: tuple[Algorithm, ...] = ("ES256", "ES384", "RS256", "PS256", "EdDSA")


class UserSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[[identity.users]]``: one embedded account."""

    name: Annotated[
        str, _says("The account's name, the subject of its tokens.", min_length=1, max_length=128)
    ]
    roles: Annotated[tuple[str, ...], _says("Roles that the account has.")] = ()


class IntrospectionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``introspection`` of an issuer: tokens that are no JWTs are asked about (RFC 7662)."""

    client_id: Annotated[
        str, _says("As whom Doorward asks the issuer about tokens.", min_length=1, max_length=256)
    ]
    client_secret: Annotated[SecretReference, _says("The secret of that client, as a reference.")]
    url: Annotated[
        str, _says("The introspection endpoint. Default: the one that the issuer's metadata names.")
    ] = ""
    cache_seconds: Annotated[
        int,
        _says(
            "How long an answer counts: a token withdrawn there lives this much longer here.", ge=1, le=300
        ),
    ] = 30


class IssuerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[[identity.issuers]]``: one issuer whose access tokens are taken, and how far it is trusted."""

    issuer: Annotated[
        str,
        _says("The issuer's identifier, to the letter as its tokens and metadata have it.", max_length=1024),
    ]
    profile: Annotated[
        Literal["generic", "entra", "keycloak", "auth0", "okta"],
        _says("How its access tokens look; `generic` is RFC 9068, `typ` at+jwt."),
    ] = "generic"
    audience: Annotated[
        str,
        _says("What `aud` must be for every server. Default: each server's own resource.", max_length=1024),
    ] = ""
    audiences: Annotated[
        dict[str, str], _says("What `aud` must be for one server (`mcp`: for all as one), beyond `audience`.")
    ] = {}
    shared_audience: Annotated[
        bool | None,
        _says(
            "Whether `aud` may name others beside us. Default: true for `keycloak` and `auth0`, else false."
        ),
    ] = None
    jwks_uri: Annotated[
        str, _says("Where its keys are. Default: where the issuer's metadata says.", max_length=1024)
    ] = ""
    ca_file: Annotated[
        str, _says("The only certificate authorities (PEM) that it may have its certificate from.")
    ] = ""
    algorithms: Annotated[
        tuple[Algorithm, ...], _says("How its tokens may be signed; by default in each of these ways.")
    ] = ALGORITHMS
    clients: Annotated[
        tuple[str, ...], _says("The OAuth clients whose tokens are taken; empty: all of this issuer.")
    ] = ()
    tenants: Annotated[
        tuple[str, ...],
        _says("The tenants (`tid`, `org_id`) whose tokens are taken; empty: all of this issuer."),
    ] = ()
    roles_claim: Annotated[
        str,
        _says(
            "Where the roles are, dots lead inwards. Default: `roles`; `realm_access.roles` for `keycloak`."
        ),
    ] = ""
    roles: Annotated[
        tuple[str, ...],
        _says("The roles that this issuer may give; empty: all. Others in its tokens count for nothing."),
    ] = ()
    scope: Annotated[
        str,
        _says(
            "The scope in its tokens that gives leave to use MCP here; empty: none is needed.", max_length=128
        ),
    ] = "mcp"
    ask_scope: Annotated[
        str, _says("What clients must ask for to get that scope. Default: `scope`.", max_length=256)
    ] = ""
    max_lifetime_seconds: Annotated[int, _says("A token made for longer is refused.", ge=60, le=172_800)] = (
        86_400
    )
    keys_max_age_seconds: Annotated[
        int,
        _says(
            "How long its keys count when it cannot be reached; then its tokens are refused.",
            ge=60,
            le=604_800,
        ),
    ] = 86_400
    acr_values: Annotated[
        tuple[str, ...],
        _says("Authentication contexts, one of which a token must show (RFC 9470; `acrs` for `entra`)."),
    ] = ()
    max_age_seconds: Annotated[
        int,
        _says(
            "How long ago a person may have signed in (RFC 9470); 0: does not matter.", ge=0, le=31_536_000
        ),
    ] = 0
    events_audience: Annotated[
        str,
        _says(
            "Takes its security events (CAEP, RISC by RFC 8935) at `/oauth/events` that are for this audience; empty: none.",
            max_length=1024,
        ),
    ] = ""
    introspection: Annotated[
        IntrospectionSettings | None,
        _says("How its tokens that are no JWTs are asked about; at most one issuer has it."),
    ] = None


class IdentitySettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[identity]``: who is asking."""

    mode: Annotated[
        Literal["embedded", "external", "broker", "off"],
        _says(
            "Who issues tokens; `off` makes every caller the principal `local` (loopback, local and lab only)."
        ),
    ] = "embedded"
    issuers: Annotated[
        tuple[IssuerSettings, ...], _says("With `external`: whose access tokens are taken.")
    ] = ()
    dpop_nonce: Annotated[
        Literal["required", "optional"],
        _says(
            "Whether a proof of possession (DPoP) needs a nonce of ours, so that none can be made ahead of time."
        ),
    ] = "required"
    users: Annotated[tuple[UserSettings, ...], _says("The embedded accounts.")] = ()
    clients: Annotated[tuple[ClientSettings, ...], _says("OAuth clients that the operator knows.")] = ()
    registration: Annotated[
        RegistrationSettings, _says("How programs become clients that the operator does not know.")
    ] = RegistrationSettings()
    broker: Annotated[BrokerSettings, _says("The identity provider behind `broker`.")] = BrokerSettings()
    access_token_seconds: Annotated[
        int, _says("How long an access token of a sign-in is good.", ge=30, le=86_400)
    ] = 900
    refresh_token_seconds: Annotated[
        int,
        _says(
            "How long a client may renew tokens after a sign-in; with `broker` at most `session_seconds`.",
            ge=60,
            le=31_536_000,
        ),
    ] = 2_592_000
    session_seconds: Annotated[int, _says("How long a browser stays signed in.", ge=60, le=604_800)] = 28_800
    embedded_accounts_in: Annotated[
        tuple[Literal["production", "regulated"], ...],
        _says("Profiles above team in which embedded accounts are allowed all the same, by name."),
    ] = ()
