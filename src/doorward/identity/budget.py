"""How many tokens that turn out bad one address may have checked: signatures cost whoever checks them, not who sends them.

Only failures are charged, so that a company behind one address is not slowed down. A known token needs no check at all.
"""

from __future__ import annotations

import ipaddress

from doorward.base.clock import Clock

FAILURES_AT_ONCE = 30
FAILURES_PER_SECOND = 2.0
ADDRESSES_COUNT = 8_192


class CheckBudget:
    """A token bucket of failures for each address, an IPv6 network of 64 bits counting as one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._spent: dict[str, tuple[float, float]] = {}  # address -> (failures that count, when)

    def has_room(self, address: str) -> bool:
        """Whether one more token of this address may be looked at."""
        return self._of(address) <= FAILURES_AT_ONCE - 1

    def charge(self, address: str, failures: float = 1.0) -> None:
        """A token of this address was bad; negative where a charge was premature."""
        spent = max(0.0, self._of(address) + failures)
        name = _network(address)
        self._spent.pop(name, None)
        if spent <= 0.0:
            return
        if len(self._spent) >= ADDRESSES_COUNT:
            del self._spent[next(iter(self._spent))]
        self._spent[name] = (spent, self._clock.monotonic())

    def _of(self, address: str) -> float:
        found = self._spent.get(_network(address))
        if found is None:
            return 0.0
        spent, at = found
        return max(0.0, spent - (self._clock.monotonic() - at) * FAILURES_PER_SECOND)


def _network(address: str) -> str:
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)
