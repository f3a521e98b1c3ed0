"""Settings of the authorization server: its clients, how others become clients, and the identity provider behind it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from doorward.catalogue.server import SecretReference
from doorward.settings_meta import says as _says


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[[identity.clients]]``: one OAuth client that the operator knows."""

    id: Annotated[str, _says("The client's `client_id`.", min_length=1, max_length=256)]
    name: Annotated[str, _says("What users see when they are asked for consent.", max_length=80)] = ""
    redirect_uris: Annotated[
        tuple[str, ...],
        _says("Where users may be sent back, to the letter; the port of a loopback address may vary."),
    ] = ()
    grants: Annotated[
        tuple[
            Literal["authorization_code", "refresh_token", "client_credentials", "jwt_bearer", "device_code"],
            ...,
        ],
        _says(
            "What the client may ask for; with `client_credentials` it acts for itself, with `roles`; with `device_code` it is a terminal whose user agrees in a browser elsewhere; with `jwt_bearer` it brings assertions (ID-JAG) of the provider behind `broker`."
        ),
    ] = ("authorization_code", "refresh_token")
    secret: Annotated[
        SecretReference | None, _says("A reference to the client's secret; a public client has none.")
    ] = None
    jwks_file: Annotated[
        str, _says("A file with the client's public keys (JWK set), for `private_key_jwt`.", max_length=4096)
    ] = ""
    roles: Annotated[tuple[str, ...], _says("Roles of the client itself.")] = ()
    introspect: Annotated[bool, _says("Whether the client may ask about tokens of other clients.")] = False


class RegistrationSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[identity.registration]``: how programs become clients that the operator does not know."""

    documents: Annotated[
        bool, _says("Whether a client's identifier may be the https URL of a document about it (CIMD).")
    ] = True
    document_hosts: Annotated[
        tuple[str, ...], _says("The only hosts whose documents are read; empty: any host.")
    ] = ()
    ca_file: Annotated[
        str, _says("Authorities (PEM) for hosts of documents that the system does not know.", max_length=4096)
    ] = ""
    dynamic: Annotated[
        bool,
        _says("Whether a program may register itself (RFC 7591). Off above team unless it is written."),
    ] = True
    dynamic_count: Annotated[int, _says("Registered clients that are kept at once.", ge=1, le=100_000)] = (
        1_000
    )
    schemes: Annotated[
        tuple[str, ...],
        _says(
            'Private schemes that redirect URIs may have, such as "cursor"; MCP wants https or loopback only.'
        ),
    ] = ()
    localhost_ports: Annotated[
        bool,
        _says(
            "Whether the port of an http://localhost redirect URI may vary as that of 127.0.0.1 and [::1] does."
        ),
    ] = False


class BrokerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[identity.broker]``: the identity provider at which users sign in with `mode = "broker"`."""

    issuer: Annotated[str, _says("The provider's issuer URL, to the letter.", max_length=2048)] = ""
    client_id: Annotated[str, _says("Doorward's own client at the provider.", max_length=256)] = ""
    secret: Annotated[SecretReference | None, _says("A reference to that client's secret.")] = None
    scopes: Annotated[tuple[str, ...], _says("What is asked of the provider.")] = ("openid", "profile")
    subject_claim: Annotated[
        str,
        _says(
            "The claim that names the user; only `sub` is never given to somebody else.",
            min_length=1,
            max_length=64,
        ),
    ] = "sub"
    roles_claim: Annotated[str, _says("The claim with the user's roles or groups.", max_length=64)] = "roles"
    roles: Annotated[
        dict[str, tuple[str, ...]],
        _says("Roles here, by a value of the roles claim. Without it values that are names of roles count."),
    ] = {}
    ca_file: Annotated[
        str, _says("Authorities (PEM) of the provider that the system does not know.", max_length=4096)
    ] = ""
