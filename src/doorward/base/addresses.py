"""Which URLs and which addresses Doorward may connect to when somebody else chose them (RFC 6890, RFC 3986).

A URL has one spelling here or it is refused: what two readers could take for different hosts is how such guards are
passed. An address is judged by what a router would do with it in the end, so forms that carry an IPv4 address inside
(mapped, compatible, NAT64, 6to4, Teredo, ISATAP) reach nobody, whatever they carry.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Literal

import msgspec

from doorward.base.errors import UpstreamError

URL_CHARS = 2_048
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
_NUMBER = re.compile(
    r"[0-9]+|0x[0-9a-f]*"
)  # a last label of this form is an address to some readers (WHATWG URL)
_URL = re.compile(
    r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::([1-9][0-9]{0,4}))?(/[!$-;=@-Z_a-z~%]*)?(\?[!$-;=?-Z_a-z~%]*)?",
    re.ASCII,
)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_OPEN_FROM_PORT = 1024  # lower ones speak other protocols; only 443 of them is for the web

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Kind = Literal["public", "inner", "never"]


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


# Nothing useful ever answers there, or what answers gives away the machine's credentials: no setting opens these.
_NEVER = _networks(
    "0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3",  # this network; link-local with the metadata services; multicast and reserved
    "192.0.0.192/32", "100.100.100.200/32", "168.63.129.16/32",  # metadata of Oracle, Alibaba and Azure (a public address)
    "::/128", "fe80::/10", "fec0::/10", "ff00::/8",  # unspecified, link-local, site-local, multicast
    "fd00:ec2::/32", "fd20:ce::/32",  # metadata of AWS and Google
    "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32",  # an IPv4 address in disguise
)  # fmt: skip
# Somebody's own network: reached where `[network] allow` names the host and port.
_INNER = _networks(
    "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24",
    "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24",
    "203.0.113.0/24", "2001::/23", "2001:db8::/32", "2620:4f:8000::/48", "3fff::/20", "fc00::/7",
)  # fmt: skip
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")  # nothing else is routed on the internet
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)  # the upper half of the interface identifier (RFC 5214 section 6.1)


class Target(msgspec.Struct, frozen=True):
    """A URL taken apart; ``host`` is lower case, an IPv6 address without brackets."""

    scheme: str
    host: str
    port: int
    path: str  # with the query

    @property
    def authority(self) -> str:
        """What stands in Host: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme, host and port as text."""
        return f"{self.scheme}://{self.authority}"

    @property
    def url(self) -> str:
        """The URL again, in its one spelling."""
        return self.origin + self.path

    @property
    def literal(self) -> Address | None:
        """The address that the host itself is, if it is one."""
        return as_address(self.host)


def parse_target(url: str) -> Target:
    """Take an absolute http or https URL apart. Raises: UpstreamError ``fetch-refused``."""
    if len(url) > URL_CHARS:
        raise refused("The URL is too long.", f"{len(url)} characters")
    scheme, mark, rest = url.partition("://")
    cut = next((index for index, char in enumerate(rest) if char in "/?"), len(rest))
    match = _URL.fullmatch(f"{scheme.lower()}{mark}{rest[:cut].lower()}{rest[cut:]}")
    if match is None:
        raise refused(
            "The URL is not a plain https URL.", "another scheme, a user, a fragment or an odd character"
        )
    scheme, host, port_text, path, query = match.groups()
    port = int(port_text) if port_text else _DEFAULT_PORTS[scheme]
    if port > 65_535:
        raise refused("The URL is not a plain https URL.", "port out of range")
    return Target(scheme, parse_host(host), port, (path or "/") + (query or ""))


def parse_host(host: str) -> str:
    """A host in its one spelling; ``host`` is lower case already. Raises: UpstreamError ``fetch-refused``."""
    if host.startswith("["):
        address = as_address(host[1:-1])
        if address is None or address.version != 6:
            raise refused("The URL's host is no address.", "brackets without an IPv6 address")
        return str(address)
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        # SECURITY: 0x7f.1, 127.1, 2130706433 and 0177.0.0.1 are addresses to some resolvers, so only the one form counts.
        if as_address(host) is None:
            raise refused("The URL's host is no address.", "an unusual spelling of an IPv4 address")
        return host
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise refused("The URL's host is no plain name.", "empty label, trailing dot or too long")
    return host


def as_address(host: str) -> Address | None:
    """The IP address that this text is, without scope."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return None if "%" in host else address


def kind_of(address: Address) -> Kind:
    """What lies behind an address: the internet, somebody's own network, or what nobody may reach through us."""
    if any(address in network for network in _NEVER if network.version == address.version):
        return "never"
    if isinstance(address, ipaddress.IPv6Address):
        if (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP:
            return "never"
        if address == ipaddress.IPv6Address(1):
            return "inner"
        if address in ipaddress.IPv6Network("::/96"):
            return "never"  # IPv4-compatible (RFC 4291 section 2.5.5.1)
        if address not in _GLOBAL_IPV6:
            return "inner" if any(address in one for one in _INNER if one.version == 6) else "never"
    inner = any(address in network for network in _INNER if network.version == address.version)
    return "inner" if inner or not address.is_global else "public"


class NetworkRules(msgspec.Struct, frozen=True):
    """What ``[network]`` and the profile allow. ``allow`` holds hosts with port in their one spelling."""

    allow: frozenset[str] = frozenset()
    plain_loopback: bool = False  # http to a named loopback address (profiles local and lab)

    @classmethod
    def of(cls, allow: Iterable[str], *, plain_loopback: bool) -> NetworkRules:
        """From settings. Raises: ValueError for an entry that is no host with port, or that nothing may open."""
        return cls(frozenset(parse_exception(entry) for entry in allow), plain_loopback)

    def admit(self, url: str) -> Target:
        """Judge a URL before anything is resolved. Raises: UpstreamError ``fetch-refused``."""
        target = parse_target(url)
        named = self.names(target)
        if target.scheme == "http":
            address = target.literal
            is_loopback = target.host == "localhost" or (address is not None and address.is_loopback)
            if not (named and is_loopback and self.plain_loopback):
                raise refused(
                    "Plain http is for loopback addresses that network.allow names, in profile local and lab; use https.",
                    target.authority,
                )
        if not named and target.port != 443 and target.port < _OPEN_FROM_PORT:
            raise refused("The URL's port is for another protocol than https.", target.authority)
        if target.literal is not None:
            self.admit_address(target, target.literal)
        return target

    def admit_address(self, target: Target, address: Address) -> None:
        """Judge an address that a target's name stands for. Raises: UpstreamError ``fetch-refused``."""
        kind = kind_of(address)
        if target.scheme == "http" and not address.is_loopback:
            raise refused("Plain http is for loopback addresses only.", target.authority)
        if kind == "never" or (kind == "inner" and not self.names(target)):
            raise refused(
                "The URL leads into a network that Doorward does not reach; network.allow names exceptions.",
                f"{target.authority} is {address}",
            )

    def names(self, target: Target) -> bool:
        """True where ``[network] allow`` names the target's host, as the URL writes it, and port."""
        return f"{target.host}|{target.port}" in self.allow


def parse_exception(entry: str) -> str:
    """An entry of ``[network] allow``, host:port, in its one spelling. Raises: ValueError."""
    host, colon, port = entry.lower().rpartition(":")
    if not colon or not re.fullmatch(r"[1-9][0-9]{0,4}", port, re.ASCII) or int(port) > 65_535:
        raise ValueError(entry)
    bracketed = host.startswith("[")
    if bracketed != host.endswith("]") or (":" in host and not bracketed):
        raise ValueError(entry)
    try:
        host = parse_host(host)
    except UpstreamError:
        raise ValueError(entry) from None
    address = as_address(host)
    if address is not None and kind_of(address) == "never":
        raise ValueError(entry)
    return f"{host}|{port}"


def refused(tell: str, detail: str = "") -> UpstreamError:
    """A request that Doorward does not make."""
    return UpstreamError("fetch-refused", tell, detail)
