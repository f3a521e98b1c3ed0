"""How often one address, or all of them, may begin what costs us rows or requests elsewhere."""

from __future__ import annotations

import time

from doorward.identity.oauth_forms import OAuthRefusal

_ADDRESSES_COUNT = 4_096


class AddressLimit:
    """So many times in so many seconds for each address; the address that was seen longest ago is forgotten first."""

    def __init__(self, count: int, seconds: float, tell: str) -> None:
        self._count = count
        self._seconds = seconds
        self._tell = tell
        self._times: dict[str, list[float]] = {}

    def admit(self, address: str) -> None:
        """Count one more. Raises: OAuthRefusal with status 429."""
        at = time.monotonic()
        recent = [one for one in self._times.pop(address, []) if one > at - self._seconds]
        while len(self._times) >= _ADDRESSES_COUNT:
            del self._times[next(iter(self._times))]
        self._times[address] = recent
        if len(recent) >= self._count:
            raise OAuthRefusal("temporarily_unavailable", self._tell, status=429)
        recent.append(at)
