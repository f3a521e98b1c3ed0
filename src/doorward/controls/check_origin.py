"""Host and Origin of every request, before anything else is looked at: no web page reaches a gateway through a browser."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import ClassVar

from doorward.controls.control import Control, Head, Refuse, Verdict
from doorward.protocol import codes

_HOST = re.compile(r"(?:[a-z0-9._~-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::[0-9]{1,5})?", re.IGNORECASE)
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


class CheckOrigin(Control):
    """Refuse foreign Host and Origin values: DNS rebinding and cross-site requests (MCP basic/transports, security).

    ``hosts`` are authorities (``name`` or ``name:port``), ``origins`` serialised origins (``https://name``); both are
    compared exactly after lower-casing, and a default port equals none.
    """

    slug: ClassVar[str] = "check-origin"
    partly: ClassVar[tuple[str, ...]] = ("S12.1",)
    floor: ClassVar[bool] = True

    def __init__(self, hosts: Iterable[str], origins: Iterable[str]) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._plain_hosts = frozenset(
            host for host in self._hosts if _HOST.fullmatch(host)
        )  # as most write it
        self._origins = frozenset(_plain_origin(origin) for origin in origins)

    def head(self, head: Head) -> Verdict:
        host = head.fields.get("host")
        if host not in self._plain_hosts or "host" in head.repeated:
            if host is None or "host" in head.repeated or not _HOST.fullmatch(host):
                return _refuse("host-malformed", "The Host header is missing or malformed.", 400)
            if host.lower() not in self._hosts:
                return _refuse("host-foreign", "This host name is not served here.", 403)
        origin = head.fields.get("origin")
        if origin is None:
            return None
        # "null" is what sandboxed frames and files send; it is never in the list, and a repeated field never equals.
        if "origin" in head.repeated or origin == "null" or _plain_origin(origin) not in self._origins:
            return _refuse("origin-foreign", "Requests from this origin are not served.", 403)
        return None


def allowed_hosts(
    listen: str, public_authority: str, extra: Iterable[str], public_scheme: str = "http"
) -> frozenset[str]:
    """The Host values to serve: ``listen`` (host:port), the public URL's authority, ``extra``, and on a loopback
    listener its other names with the listening port."""
    host, _, port = listen.rpartition(":")
    found = {listen, public_authority, *extra}
    if is_loopback(host):
        found.update(f"{name}:{port}" for name in _LOOPBACK_NAMES)
    # A client leaves the default port out, or an odd one writes it.
    for authority in tuple(found):
        name, _, last = authority.rpartition(":")
        if authority == public_authority and not _has_port(authority):
            found.add(f"{authority}:{_DEFAULT_PORTS.get(public_scheme, '443')}")
        elif name and _has_port(authority) and last in ("80", "443"):
            found.add(name)
    return frozenset(one.lower() for one in found)


def allowed_origins(
    listen: str, public_origin: str, extra: Iterable[str], listen_scheme: str = "http"
) -> frozenset[str]:
    """The Origin values to serve: the public URL's, ``extra``, and on a loopback listener its names in its own scheme."""
    host, _, port = listen.rpartition(":")
    found = {public_origin, *extra}
    if is_loopback(host):
        found.update(f"{listen_scheme}://{name}:{port}" for name in _LOOPBACK_NAMES)
    return frozenset(_plain_origin(one) for one in found)


def is_loopback(host: str) -> bool:
    """True for the loopback names and addresses, as they are written in ``listen``."""
    host = host.lower()
    return host in ("localhost", "::1", "[::1]") or (
        host.startswith("127.") and host.replace(".", "").isdigit()
    )


def _has_port(authority: str) -> bool:
    return ":" in authority.rpartition("]")[2]


def _plain_origin(origin: str) -> str:
    origin = origin.lower()
    scheme, _, rest = origin.partition("://")
    return (
        origin.removesuffix(":" + _DEFAULT_PORTS[scheme])
        if scheme in _DEFAULT_PORTS and _has_port(rest)
        else origin
    )


def _refuse(reason: str, tell: str, status: int) -> Refuse:
    return Refuse(
        reason=reason,
        tell=tell,
        code=codes.INVALID_REQUEST,
        status=status,
        help="Use the public URL, or let the operator add the name to gateway.hosts or gateway.origins.",
    )
