"""Settings of who is asking: ``[identity]`` and what stands below it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from doorward.settings_meta import says as _says
from doorward.settings_oauth import BrokerSettings, ClientSettings, RegistrationSettings


class UserSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[[identity.users]]``: one embedded account."""

    name: Annotated[
        str, _says("The account's name, the subject of its tokens.", min_length=1, max_length=128)
    ]
    roles: Annotated[tuple[str, ...], _says("Roles that the account has.")] = ()


class IdentitySettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[identity]``: who is asking."""

    mode: Annotated[
        Literal["embedded", "external", "broker", "off"],
        _says(
            "Who issues tokens; `off` makes every caller the principal `local` (loopback, local and lab only). `external` does not exist yet."
        ),
    ] = "embedded"
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
