"""Rules of ``[identity]``: who may issue tokens, and which accounts there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from doorward.settings import Settings
from doorward.settings_common import OPEN_PROFILES, is_loopback, no_such, split_listen
from doorward.settings_issuers import check_issuers

if TYPE_CHECKING:
    from doorward.settings_load import Reader


def check_people(settings: Settings, reader: Reader) -> None:
    """Check ``[identity]``."""
    gateway, identity = settings.gateway, settings.identity
    check_issuers(settings, reader)
    if identity.mode == "broker":
        reader.fail(
            "settings-not-available",
            ("identity", "mode"),
            f"{identity.mode!r} does not exist yet; use embedded.",
        )
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
