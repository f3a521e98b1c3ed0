"""Rules of ``[identity]``: who may issue tokens, and which accounts there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from doorward.settings import Settings
from doorward.settings_clients import check_broker, check_clients
from doorward.settings_common import HARD_PROFILES, OPEN_PROFILES, is_loopback, no_such, split_listen
from doorward.settings_issuers import check_issuers

if TYPE_CHECKING:
    from doorward.settings_load import Reader


def check_people(settings: Settings, reader: Reader) -> None:
    """Check ``[identity]``."""
    gateway, identity = settings.gateway, settings.identity
    check_issuers(settings, reader)
    if identity.users or reader.is_written("identity", "mode"):
        check_embedded(settings, reader)
    if identity.mode == "off":
        path = ("identity", "mode")
        if gateway.profile not in OPEN_PROFILES:
            reader.fail("settings-floor", path, '"off" is for profile local and lab only.')
        if not is_loopback(split_listen(gateway.listen)[0]):
            reader.fail("settings-floor", path, '"off" needs gateway.listen on a loopback address.')
    names: set[str] = set()
    for index, user in enumerate(identity.users):
        here = ("identity", "users", index)
        if user.name in names:
            reader.fail("settings-invalid", (*here, "name"), "an account of this name stands above.")
        names.add(user.name)
        for role in user.roles:
            if role not in settings.roles:
                no_such(reader, (*here, "roles"), "role", role, list(settings.roles))
    check_clients(settings, reader)
    check_broker(settings, reader)


def check_embedded(settings: Settings, reader: Reader) -> None:
    """Refuse embedded accounts where the profile wants an identity provider, unless they are allowed by name."""
    identity, profile = settings.identity, settings.gateway.profile
    if (
        identity.mode == "embedded"
        and profile in HARD_PROFILES
        and profile not in identity.embedded_accounts_in
    ):
        reader.fail(
            "settings-floor",
            ("identity", "mode"),
            f"profile {profile} has no embedded accounts, unless identity.embedded_accounts_in names it.",
        )
