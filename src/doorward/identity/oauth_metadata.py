"""Find a protected resource's authorization server, and judge what both say of themselves (RFC 9728, RFC 8414, MCP authorization).

Pure functions: URLs and bodies in, judged values out. What a document says of others than itself is refused, not mended.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import msgspec

from doorward.base.errors import UpstreamError

URL_CHARS = 2_048
ISSUERS_COUNT = 8
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,128}")  # RFC 6749 section 3.3
_PARAMETER = re.compile(
    r"""\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([!#$%&'*+.^_`|~0-9A-Za-z-]+))\s*(,|$)"""
)


class ServerMetadata(msgspec.Struct, frozen=True):
    """What an authorization server says of itself, judged."""

    issuer: str
    token_endpoint: str
    authorization_endpoint: str = ""
    registration_endpoint: str = ""
    revocation_endpoint: str = ""
    has_s256: bool = False
    says_iss: bool = False  # RFC 9207: every authorization response carries its issuer
    takes_documents: bool = False  # client id metadata documents
    auth_methods: tuple[str, ...] = ("client_secret_basic",)  # RFC 8414: the default
    scopes: tuple[str, ...] = ()


class ResourceMetadata(msgspec.Struct, frozen=True):
    """What a protected resource says of itself, judged."""

    resource: str
    issuers: tuple[str, ...]
    scopes: tuple[str, ...] = ()


def canonical(url: str) -> str:
    """A resource's URL as its identifier: scheme and host in lower case, no bare slash at the end (MCP, canonical server URI)."""
    parts = urlsplit(url)
    path = "" if parts.path == "/" else parts.path
    return f"{parts.scheme.lower()}://{parts.netloc.lower()}{path}" + (
        f"?{parts.query}" if parts.query else ""
    )


def resource_metadata_urls(resource: str) -> list[str]:
    """Where a resource's document may lie: at the path of the endpoint, then at the root (RFC 9728 section 3.1)."""
    parts = urlsplit(resource)
    root = f"{parts.scheme}://{parts.netloc}/.well-known/oauth-protected-resource"
    path = parts.path.rstrip("/")
    return [root + path, root] if path else [root]


def server_metadata_urls(issuer: str) -> list[str]:
    """Where an issuer's document may lie, in the order of MCP's authorization server discovery."""
    parts = urlsplit(issuer)
    root, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    oauth, openid = "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"
    if not path:
        return [root + oauth, root + openid]
    return [root + oauth + path, root + openid + path, root + path + openid]


def read_resource_metadata(body: bytes, resource: str, *, at_root: bool = False) -> ResourceMetadata:
    """Judge a resource's document. Raises: UpstreamError ``oauth-metadata``; another resource's is not used (section 3.3)."""
    told = _object(body)
    wanted = {canonical(resource)}
    if at_root:  # the root's own document speaks for the root
        parts = urlsplit(resource)
        wanted.add(canonical(f"{parts.scheme}://{parts.netloc}"))
    said = told.get("resource")
    if not isinstance(said, str) or not is_url(said) or canonical(said) not in wanted:
        raise _unfit("The server's resource metadata is that of another resource.")
    issuers = told.get("authorization_servers")
    if (
        not isinstance(issuers, list)
        or not issuers
        or not all(isinstance(one, str) and is_url(one) for one in issuers)
    ):
        raise _unfit("The server's resource metadata names no authorization server.")
    return ResourceMetadata(said, tuple(issuers[:ISSUERS_COUNT]), scopes_of(told.get("scopes_supported")))


def read_server_metadata(body: bytes, issuer: str) -> ServerMetadata:
    """Judge an issuer's document. Raises: UpstreamError ``oauth-metadata``; another issuer's is not used (RFC 8414 section 3.3)."""
    told = _object(body)
    if told.get("issuer") != issuer:  # to the letter: nothing is normalised
        raise _unfit("The authorization server's metadata is that of another issuer.")
    endpoints = {name: _endpoint(told, name) for name in _ENDPOINTS}
    if not endpoints["token_endpoint"]:
        raise _unfit("The authorization server's metadata names no token endpoint.")
    methods = told.get("code_challenge_methods_supported")
    auth = told.get("token_endpoint_auth_methods_supported")
    return ServerMetadata(
        issuer,
        **endpoints,
        has_s256=isinstance(methods, list) and "S256" in methods,
        says_iss=told.get("authorization_response_iss_parameter_supported") is True,
        takes_documents=told.get("client_id_metadata_document_supported") is True,
        auth_methods=tuple(str(one) for one in auth[:16])
        if isinstance(auth, list)
        else ("client_secret_basic",),
        scopes=scopes_of(told.get("scopes_supported")),
    )


_ENDPOINTS = ("token_endpoint", "authorization_endpoint", "registration_endpoint", "revocation_endpoint")


def _endpoint(told: dict[str, Any], name: str) -> str:
    url = told.get(name, "")
    # SECURITY: javascript:, data:, file: and the like never reach a browser or a client (OC-27; tests/unit/identity).
    if url and not (isinstance(url, str) and is_url(url)):
        raise _unfit("The authorization server's metadata names an endpoint that is no https URL.")
    return str(url)


def is_url(text: str) -> bool:
    """True for an absolute http or https URL without user, fragment or what a browser would read differently."""
    if (
        len(text) > URL_CHARS
        or not all("!" <= char <= "~" for char in text)
        or any(char in text for char in '"<>\\^`{|}#')
    ):
        return False
    try:
        parts = urlsplit(text)
        return (
            parts.scheme in ("https", "http")
            and bool(parts.hostname)
            and "@" not in parts.netloc
            and parts.port != 0
        )
    except ValueError:
        return False


def scopes_of(value: object) -> tuple[str, ...]:
    """Scopes of a JSON list or of text with spaces; what is no scope is left out."""
    words = value.split(" ") if isinstance(value, str) else value if isinstance(value, list) else ()
    found = [word for word in words if isinstance(word, str) and _SCOPE.fullmatch(word)]
    return tuple(dict.fromkeys(found[:64]))


def parse_challenge(field: str) -> dict[str, str]:
    """The parameters of a ``WWW-Authenticate`` that holds one Bearer challenge; {} for anything else (RFC 9110 section 11.6.1)."""
    scheme, _, rest = field.strip().partition(" ")
    if scheme.lower() != "bearer" or len(field) > 8_192:
        return {}
    found: dict[str, str] = {}
    place = 0
    while place < len(rest):
        match = _PARAMETER.match(rest, place)
        if match is None or match[1].lower() in found:
            return {}
        value = match[2] if match[2] is not None else match[3]
        found[match[1].lower()] = re.sub(r"\\(.)", r"\1", value) if match[2] is not None else value
        place = match.end()
    return found


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _unfit("A metadata document is not JSON.") from error
    if not isinstance(value, dict):
        raise _unfit("A metadata document is not a JSON object.")
    return value


def _unfit(tell: str) -> UpstreamError:
    return UpstreamError("oauth-metadata", tell)
