"""Rules of ``[[identity.issuers]]``: whose tokens are taken, and where their keys may be asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from doorward.base.addresses import NetworkRules
from doorward.base.errors import UpstreamError
from doorward.settings import Settings
from doorward.settings_common import HARD_PROFILES, OPEN_PROFILES, no_such

if TYPE_CHECKING:
    from doorward.settings_identity import IssuerSettings
    from doorward.settings_load import Reader

ISSUERS_COUNT = 32


def rules_of(settings: Settings) -> NetworkRules:
    """Where Doorward may connect when somebody else chose the URL. Raises: ValueError."""
    return NetworkRules.of(settings.network.allow, plain_loopback=settings.gateway.profile in OPEN_PROFILES)


def check_issuers(settings: Settings, reader: Reader) -> None:
    """Check all issuers and that the mode has a use for them."""
    identity = settings.identity
    external = identity.mode == "external"
    if external and not identity.issuers:
        reader.fail(
            "settings-invalid", ("identity", "mode"), '"external" needs at least one [[identity.issuers]].'
        )
    if identity.issuers and not external:
        reader.fail("settings-invalid", ("identity", "issuers"), 'needs identity.mode = "external".')
    if external and identity.users:
        reader.fail(
            "settings-invalid", ("identity", "users"), 'embedded accounts need identity.mode = "embedded".'
        )
    if len(identity.issuers) > ISSUERS_COUNT:
        reader.fail("settings-invalid", ("identity", "issuers"), f"at most {ISSUERS_COUNT} issuers.")
    seen: set[str] = set()
    asked = 0
    for index, one in enumerate(identity.issuers):
        here = ("identity", "issuers", index)
        if one.issuer in seen:
            reader.fail("settings-invalid", (*here, "issuer"), "this issuer stands above.")
        if one.issuer == settings.gateway.public_url:
            reader.fail("settings-invalid", (*here, "issuer"), "is gateway.public_url: Doorward itself.")
        seen.add(one.issuer)
        asked += one.introspection is not None
        if asked > 1:
            # SECURITY: a token that says nothing of its issuer would be shown to each of them.
            reader.fail("settings-invalid", (*here, "introspection"), "another issuer has it already.")
        _check_one(one, here, settings, reader)


def _check_one(one: IssuerSettings, here: tuple[str | int, ...], settings: Settings, reader: Reader) -> None:
    urls = [("issuer", one.issuer), ("jwks_uri", one.jwks_uri)]
    if one.introspection is not None:
        urls.append(("introspection", one.introspection.url))
        secret = one.introspection.client_secret
        if settings.gateway.profile in HARD_PROFILES and secret.env is not None:
            reader.fail(
                "settings-floor",
                (*here, "introspection", "client_secret"),
                f"profile {settings.gateway.profile} takes no secrets from the environment; use file.",
            )
    rules = _rules(settings)
    for key, url in urls:
        if not url and key != "issuer":
            continue
        try:
            target = rules.admit(url)
        except UpstreamError as error:
            reader.fail("settings-invalid", (*here, key), error.tell)
        if key == "issuer" and "?" in target.path:
            reader.fail("settings-invalid", (*here, key), "an issuer has no query (RFC 8414 section 2).")
    if not one.algorithms:
        reader.fail("settings-invalid", (*here, "algorithms"), "is empty: no token could be good.")
    for name in one.audiences:
        if name != "mcp" and name not in settings.servers:
            no_such(reader, (*here, "audiences", name), "server", name, [*settings.servers, "mcp"])


def _rules(settings: Settings) -> NetworkRules:
    try:
        return rules_of(settings)
    except ValueError:  # told where network.allow is judged
        return NetworkRules()


def resolved_issuers(settings: Settings, reader: Reader) -> Settings:
    """The same settings with absolute paths of authorities."""
    issuers = tuple(
        msgspec.structs.replace(one, ca_file=reader.resolve_path(one.ca_file)) if one.ca_file else one
        for one in settings.identity.issuers
    )
    return msgspec.structs.replace(
        settings, identity=msgspec.structs.replace(settings.identity, issuers=issuers)
    )
