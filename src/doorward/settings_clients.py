"""Rules of ``[[identity.clients]]``, ``[identity.registration]`` and ``[identity.broker]``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from doorward.base.addresses import parse_target
from doorward.base.errors import UpstreamError
from doorward.identity.grants import CLIENT_SUBJECT
from doorward.identity.redirects import RedirectRules, is_private_scheme
from doorward.settings import Settings
from doorward.settings_common import HARD_PROFILES, no_such

if TYPE_CHECKING:
    from doorward.settings_load import Reader
    from doorward.settings_oauth import ClientSettings

_CLIENT_ID = re.compile(r"[!-~]{1,256}", re.ASCII)


def check_clients(settings: Settings, reader: Reader) -> None:
    """Check the clients and how others become one."""
    registration = settings.identity.registration
    for index, scheme in enumerate(registration.schemes):
        if not is_private_scheme(scheme):
            path = ("identity", "registration", "schemes", index)
            reader.fail("settings-invalid", path, "expected a private scheme in lower case, such as cursor.")
    rules = RedirectRules(registration.schemes, registration.localhost_ports)
    names: set[str] = set()
    for index, user in enumerate(settings.identity.users):
        if user.name.startswith(CLIENT_SUBJECT):
            reader.fail(
                "settings-invalid",
                ("identity", "users", index, "name"),
                f"must not begin with {CLIENT_SUBJECT}.",
            )
    for index, client in enumerate(settings.identity.clients):
        if client.id in names:
            reader.fail(
                "settings-invalid", ("identity", "clients", index, "id"), "a client of this id stands above."
            )
        names.add(client.id)
        _check_client(client, index, settings, rules, reader)


def _check_client(
    client: ClientSettings, index: int, settings: Settings, rules: RedirectRules, reader: Reader
) -> None:
    here = ("identity", "clients", index)
    if not _CLIENT_ID.fullmatch(client.id) or client.id.startswith(("https://", "dcr-")):
        reader.fail(
            "settings-invalid", (*here, "id"), "expected printable text without spaces that is no URL."
        )
    for number, uri in enumerate(client.redirect_uris):
        if why := rules.judge(uri):
            reader.fail("settings-invalid", (*here, "redirect_uris", number), f"it {why}.")
    if "authorization_code" in client.grants and not client.redirect_uris:
        reader.fail("settings-invalid", (*here, "redirect_uris"), "is needed for authorization_code.")
    if client.secret is not None and client.jwks_file:
        reader.fail("settings-invalid", (*here, "jwks_file"), "a client has a secret or keys, not both.")
    proves = client.secret is not None or bool(client.jwks_file)
    if "jwt_bearer" in client.grants and settings.identity.mode != "broker":
        reader.fail("settings-invalid", (*here, "grants"), 'jwt_bearer needs identity.mode = "broker".')
    itself = {"client_credentials", "jwt_bearer"} & set(client.grants)
    if (itself or client.introspect) and not proves:
        reader.fail(
            "settings-invalid", (*here, "secret"), "a client that acts for itself has a secret or jwks_file."
        )
    for role in client.roles:
        if role not in settings.roles:
            no_such(reader, (*here, "roles"), "role", role, list(settings.roles))
    if (
        client.secret is not None
        and client.secret.env is not None
        and settings.gateway.profile in HARD_PROFILES
    ):
        reader.fail(
            "settings-floor",
            (*here, "secret"),
            f"profile {settings.gateway.profile} takes no secrets from the environment; use file.",
        )


def check_broker(settings: Settings, reader: Reader) -> None:
    """Check the identity provider behind mode broker."""
    broker = settings.identity.broker
    path = ("identity", "broker")
    if settings.identity.mode != "broker":
        if reader.is_written(*path):
            reader.fail("settings-invalid", path, 'is for identity.mode = "broker".')
        return
    if not broker.client_id:
        reader.fail("settings-invalid", (*path, "client_id"), "is required.")
    try:
        target = parse_target(broker.issuer)
    except UpstreamError:
        reader.fail("settings-invalid", (*path, "issuer"), "expected the https URL of the provider's issuer.")
    if "?" in target.path:
        reader.fail("settings-invalid", (*path, "issuer"), "an issuer has no query.")
    if "openid" not in broker.scopes:
        reader.fail("settings-invalid", (*path, "scopes"), "openid is needed: it brings the ID token.")
    for value, roles in broker.roles.items():
        for role in roles:
            if role not in settings.roles:
                no_such(reader, (*path, "roles", value), "role", role, list(settings.roles))
    if (
        broker.secret is not None
        and broker.secret.env is not None
        and settings.gateway.profile in HARD_PROFILES
    ):
        reader.fail(
            "settings-floor",
            (*path, "secret"),
            f"profile {settings.gateway.profile} takes no secrets from the environment; use file.",
        )


def with_paths(settings: Settings, reader: Reader) -> Settings:
    """The same with absolute paths, and self-registration off where the profile wants it."""
    identity = settings.identity
    clients = tuple(
        msgspec.structs.replace(one, jwks_file=reader.resolve_path(one.jwks_file)) if one.jwks_file else one
        for one in identity.clients
    )
    registration, broker = identity.registration, identity.broker
    if registration.ca_file:
        registration = msgspec.structs.replace(
            registration, ca_file=reader.resolve_path(registration.ca_file)
        )
    if settings.gateway.profile in HARD_PROFILES and not reader.is_written(
        "identity", "registration", "dynamic"
    ):
        registration = msgspec.structs.replace(registration, dynamic=False)
    if broker.ca_file:
        broker = msgspec.structs.replace(broker, ca_file=reader.resolve_path(broker.ca_file))
    identity = msgspec.structs.replace(identity, clients=clients, registration=registration, broker=broker)
    return msgspec.structs.replace(settings, identity=identity)
