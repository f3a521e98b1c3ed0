"""Settings of who is asking: ``[identity]`` and what stands below it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from doorward.settings_meta import says as _says


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
            "Who issues tokens; `off` makes every caller the principal `local` (loopback, local and lab only). `external` and `broker` do not exist yet."
        ),
    ] = "embedded"
    dpop_nonce: Annotated[
        Literal["required", "optional"],
        _says(
            "Whether a proof of possession (DPoP) needs a nonce of ours, so that none can be made ahead of time."
        ),
    ] = "required"
    users: Annotated[tuple[UserSettings, ...], _says("The embedded accounts.")] = ()
