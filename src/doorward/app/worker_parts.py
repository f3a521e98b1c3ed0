"""Small parts of a worker's data plane: alarms that are not repeated, time, addresses without a limit, and fixed credentials."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from doorward.adapters.bus import Peer
from doorward.base.clock import Clock
from doorward.catalogue.server import ServerSpec
from doorward.controls.control import Refuse
from doorward.gateway.credentials import Kind
from doorward.gateway.ports import Cancel
from doorward.identity.principal import Principal

_REPEAT_SECONDS, _RUNG_COUNT = 1.0, 1_024


class Alarm:
    """Tells the supervisor what must not wait; the same once a second, whatever comes."""

    def __init__(self, peer: Peer, clock: Clock) -> None:
        self._peer = peer
        self._clock = clock
        self._rung: dict[tuple[str, str, str], float] = {}

    def ring(self, rule: str, item: str, server: str, address: str) -> None:
        """Something happened that ``rule`` names."""
        key, now = (rule, item, address), self._clock.monotonic()
        if now - self._rung.get(key, -_REPEAT_SECONDS) < _REPEAT_SECONDS:
            return
        if len(self._rung) >= _RUNG_COUNT:
            self._rung.clear()
        self._rung[key] = now
        told = {"rule": rule, "item": item, "server": server, "address": address}
        self._peer.tell("alert", {**told, "reason": "presented at the door"})


def later(seconds: float, run: Callable[[], None]) -> Cancel:
    """Call this after so many seconds, unless it is cancelled before."""
    return asyncio.get_running_loop().call_later(seconds, run).cancel


def everyone(principal: Principal, server: str) -> bool:  # noqa: ARG001 - as the policy engine would be asked
    """Let everyone use every server."""
    return True


class NoLimit:
    """Addresses are not limited."""

    def admit_address(self, address: str) -> Refuse | None:
        """Everyone may come."""
        return None


def kind_of(spec: ServerSpec) -> Kind:
    """For whom a server's token is."""
    if not spec.credentials.varies:
        return "shared"
    return "personal" if spec.credentials.type == "oauth" else "exchange"


def fixed_credential(spec: ServerSpec, secret: bytes) -> bytes:
    """The header line with what Doorward presents to this upstream, or b""."""
    if spec.credentials.type != "header":
        return b""
    value = spec.credentials.prefix.encode() + secret
    return spec.credentials.name.encode() + b": " + value + b"\r\n"
