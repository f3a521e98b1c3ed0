"""Which path is which endpoint, and which name of the federated endpoint is which server's.

Names on the federated endpoint carry the configured server name, never a self-reported one: tools and prompts as
``{server}__{name}``, URIs as ``{server}+{uri}`` (``+`` is legal in a URI scheme, ``_`` is not; RFC 3986 §3.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from doorward.gateway.ports import Reply

SEPARATOR = "__"
URI_SEPARATOR = "+"
FEDERATED = ""  # the server name that stands for all of them


class Routes:
    """Exact paths only: nothing is decoded, so nothing can be decoded differently elsewhere."""

    def __init__(
        self, servers: Iterable[str], public_url: str, documents: Mapping[str, Reply], web: Iterable[str] = ()
    ) -> None:
        self.endpoints = {f"/{name}/mcp": name for name in servers}
        self.endpoints["/mcp"] = FEDERATED
        self.resources = {path: public_url + path for path in self.endpoints}
        self.documents = dict(documents)
        web = tuple(web)
        self._web_paths = frozenset(path for path in web if not path.endswith("/"))
        self._web_prefixes = tuple(path for path in web if path.endswith("/"))

    def server_of(self, path: str) -> str | None:
        """The protected server behind a path, ``FEDERATED``, or None."""
        return self.endpoints.get(path)

    def is_web(self, path: str) -> bool:
        """True for a path that an office of the supervisor serves."""
        return path in self._web_paths or path.startswith(self._web_prefixes)


def join_name(server: str, name: str) -> str:
    """The federated name of a server's tool or prompt."""
    return server + SEPARATOR + name


def split_name(name: str) -> tuple[str, str] | None:
    """Server and own name of a federated name; None when it has no such form."""
    server, mark, own = name.partition(SEPARATOR)
    return (server, own) if mark and server and own else None


def join_uri(server: str, uri: str) -> str:
    """The federated form of a server's resource URI or URI template."""
    return server + URI_SEPARATOR + uri


def split_uri(uri: str) -> tuple[str, str] | None:
    """Server and own URI of a federated URI; ``{server}__{uri}`` is understood as well."""
    # Whichever mark comes first ends the server's name, which holds neither: what follows is the server's own, marks and all.
    mark = min((SEPARATOR, URI_SEPARATOR), key=lambda one: uri.find(one) if one in uri else len(uri))
    server, found, own = uri.partition(mark)
    return (server, own) if found and server and own else None
