"""Which redirect URIs a client may have, and when one that is asked for is one of them (RFC 8252, RFC 9700 §4.1).

A URI has one spelling here or it is refused. Matching is equality of the texts; the one exception is the port of a
loopback address, which a native program cannot choose beforehand (RFC 8252 §7.3).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from urllib.parse import parse_qsl, quote

import msgspec

from doorward.base.addresses import as_address, parse_host
from doorward.base.errors import UpstreamError

URI_CHARS = 2_048
LOOPBACK_HOSTS = ("127.0.0.1", "[::1]")
# Everything that a browser runs, shows or opens by itself; a setting cannot name them (OC-27 of the MCP documents).
NEVER_SCHEMES = frozenset(
    [
        "about", "blob", "chrome", "chrome-extension", "content", "data", "devtools", "edge", "feed", "file", "filesystem",
        "ftp", "http", "https", "intent", "jar", "javascript", "mailto", "mhtml", "moz-extension", "ms-settings", "resource",
        "search-ms", "sms", "ssh", "tel", "telnet", "vbscript", "view-source", "ws", "wss", "wyciwyg",
    ]
)  # fmt: skip
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,62}", re.ASCII)
_URI = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::(?P<port>[1-9][0-9]{0,4}))?"
    r"(?P<rest>(?P<path>/[!$&-)+-;=@-Z_a-z~%]*)?(?:\?(?P<query>[!$&-)+-;=?-Z_a-z~%]*))?)",
    re.ASCII,
)
_BAD_ESCAPE = re.compile(
    r"%(?![0-9A-Fa-f]{2})|%(?:0[0-9a-f]|1[0-9a-f]|7f|2e|2f|5c)", re.IGNORECASE | re.ASCII
)
_OURS = frozenset({"code", "state", "iss", "error", "error_description", "error_uri", "response"})


class Parts(msgspec.Struct, frozen=True):
    """A redirect URI taken apart; ``host`` has brackets where it is an IPv6 address."""

    scheme: str
    host: str
    port: str
    rest: str  # path and query

    @property
    def is_loopback(self) -> bool:
        """True where it leads to a program on the user's own machine."""
        return self.scheme == "http"

    @property
    def authority(self) -> str:
        """Host and port as they are written."""
        return f"{self.host}:{self.port}" if self.port else self.host


class RedirectRules(msgspec.Struct, frozen=True):
    """What settings add: ``schemes`` are private ones (RFC 8252 §7.1) that the operator names; ``localhost_ports`` lets
    the port of http://localhost vary as well (RFC 8252 §8.3 advises against it)."""

    schemes: tuple[str, ...] = ()
    localhost_ports: bool = False

    def judge(self, uri: str) -> str:
        """Why a client may not have this redirect URI, or ""."""
        found = self.parse(uri)
        return found if isinstance(found, str) else ""

    def parse(self, uri: str) -> Parts | str:
        """The parts of a redirect URI, or why it is refused."""
        if not uri or len(uri) > URI_CHARS:
            return "is empty or too long"
        match = _URI.fullmatch(uri)
        if match is None:
            return "is not an absolute URI in its one spelling: no user, fragment, wildcard, upper-case host or odd character"
        scheme, host, port = match["scheme"], match["host"], match["port"] or ""
        path, query = match["path"] or "", match["query"] or ""
        if _BAD_ESCAPE.search(path) or any(part in (".", "..") for part in path.split("/")):
            return "has dots or escapes in its path that readers understand differently"
        if port and int(port) > 65_535:
            return "has a port that does not exist"
        if _OURS & {name for name, _ in parse_qsl(query, keep_blank_values=True)}:
            return "has a query parameter that belongs to the answer"
        if scheme in self.schemes and scheme not in NEVER_SCHEMES:
            return Parts(scheme, host, port, match["rest"])
        if scheme == "http":
            if host not in (*LOOPBACK_HOSTS, "localhost"):
                return "is http to another host than this machine"
        elif scheme != "https":
            return "has a scheme that is not allowed"
        else:
            try:
                if parse_host(host) != host.strip("[]"):
                    return "has a host in another than its one spelling"
            except UpstreamError:
                return "has a host that is no name or address"
            if host == "localhost" or (
                (address := as_address(host.strip("[]"))) is not None and address.is_loopback
            ):
                return "is https to this machine"
        return Parts(scheme, host, port, match["rest"])

    def find(self, asked: str, registered: Iterable[str]) -> Parts | None:
        """The parts of ``asked`` if it is one of the registered URIs."""
        parts = self.parse(asked)
        if isinstance(parts, str):
            return None
        for uri in registered:
            if uri == asked:
                return parts
            known = self.parse(uri)
            if not isinstance(known, str) and self._same_but_port(parts, known):
                return parts
        return None

    def _same_but_port(self, asked: Parts, known: Parts) -> bool:
        varies = asked.host in LOOPBACK_HOSTS or (self.localhost_ports and asked.host == "localhost")
        return (
            varies
            and asked.scheme == known.scheme == "http"
            and asked.host == known.host
            and (asked.rest or "/") == (known.rest or "/")
        )


def is_private_scheme(scheme: str) -> bool:
    """True for a scheme that a setting may allow."""
    return bool(_SCHEME.fullmatch(scheme)) and scheme not in NEVER_SCHEMES


def with_query(uri: str, parameters: Collection[tuple[str, str]]) -> str:
    """The URI with further query parameters; empty ones are left out."""
    added = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters if value)
    if not added:
        return uri
    return uri + ("&" if "?" in uri and not uri.endswith("?") else "" if uri.endswith("?") else "?") + added
