"""What ``doorward doctor`` says of one thing."""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["ok", "warn", "fail"]


class Line(msgspec.Struct, frozen=True):
    """One thing that was looked at. ``about`` decides the exit code: 3 for the machine, 2 for the settings."""

    name: str
    state: State
    what: str
    about: Literal["machine", "settings"] = "machine"
