"""The documents and challenges that tell a client where to get a token: RFC 9728, RFC 8414, RFC 6750 §3.

Pure builders over the configured public URL; nothing of a request ever reaches them, so a forged Host or
X-Forwarded-Host cannot change a word (MCP authorization, canonical server URI). Published is only what is
served.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from doorward.identity.assertions import ALGORITHMS
from doorward.identity.proof import ALGORITHMS as PROOF_ALGORITHMS

SCOPE = "mcp"  # the one scope: leave to use MCP here at all; what exactly is for policy to say
SCOPES = (SCOPE,)
FEDERATED = "mcp"  # the name by which `doorward token --server` calls the endpoint of all servers
_RESOURCE_WELL_KNOWN = "/.well-known/oauth-protected-resource"


def endpoint_path(server: str) -> str:
    """The path of a server's MCP endpoint below the public URL; "" and "mcp" are the federated one."""
    return "/mcp" if server in ("", FEDERATED) else f"/{server}/mcp"


def issuer_of(public_url: str) -> str:
    """The issuer identifier: the public URL without trailing slash, the same to the letter everywhere (RFC
    8414 §2).
    """
    return public_url.rstrip("/")


def resource_of(public_url: str, server: str) -> str:
    """The OAuth resource of a server's endpoint (RFC 8707; MCP canonical URI, no trailing slash)."""
    return issuer_of(public_url) + endpoint_path(server)


def protected_resource(
    public_url: str, path: str, scopes: Sequence[str] = SCOPES, issuers: Sequence[str] = ()
) -> dict[str, Any]:
    """The RFC 9728 document of the endpoint at ``path``, such as "/time/mcp"; no ``issuers`` means Doorward itself."""
    return {
        "resource": issuer_of(public_url) + path,
        "authorization_servers": list(issuers) or [issuer_of(public_url)],
        "scopes_supported": list(scopes),
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": list(PROOF_ALGORITHMS),
    }


class Offers(msgspec.Struct, frozen=True):
    """What the authorization server serves now: published is only what is served."""

    documents: bool = True  # clients may be URLs of documents about them
    dynamic: bool = True  # clients may register themselves
    devices: bool = False  # some client may sign in by a device code
    id_jag: bool = False  # some client may bring assertions of the enterprise's provider


def authorization_server(
    public_url: str, offers: Offers | None = None, scopes: tuple[str, ...] = SCOPES
) -> dict[str, Any]:
    """The RFC 8414 document of our own authorization server."""
    issuer = issuer_of(public_url)
    offers = offers or Offers()
    methods = ["none", "client_secret_basic", "client_secret_post", "private_key_jwt"]
    proving = methods[1:]
    algorithms = list(ALGORITHMS)
    document: dict[str, Any] = {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/oauth/authorize",
        "token_endpoint": f"{issuer}/oauth/token",
        "jwks_uri": f"{issuer}/oauth/jwks",
        "scopes_supported": list(scopes),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
        "token_endpoint_auth_methods_supported": methods,
        "token_endpoint_auth_signing_alg_values_supported": algorithms,
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
        "client_id_metadata_document_supported": offers.documents,
        "revocation_endpoint": f"{issuer}/oauth/revoke",
        "revocation_endpoint_auth_methods_supported": methods,
        "revocation_endpoint_auth_signing_alg_values_supported": algorithms,
        "introspection_endpoint": f"{issuer}/oauth/introspect",
        "introspection_endpoint_auth_methods_supported": proving,
        "introspection_endpoint_auth_signing_alg_values_supported": algorithms,
    }
    if offers.devices:
        document["grant_types_supported"].append("urn:ietf:params:oauth:grant-type:device_code")
        document["device_authorization_endpoint"] = f"{issuer}/oauth/device_authorization"
    if offers.id_jag:
        document["grant_types_supported"].append("urn:ietf:params:oauth:grant-type:jwt-bearer")
    if offers.dynamic:
        document["registration_endpoint"] = f"{issuer}/oauth/register"
    return document


def resource_metadata_url(public_url: str, path: str) -> str:
    """Where the document of the endpoint at ``path`` lies: the well-known part goes before the path (RFC 9728
    §3.1).
    """
    parts = urlsplit(issuer_of(public_url))
    return f"{parts.scheme}://{parts.netloc}{_RESOURCE_WELL_KNOWN}{parts.path}{path}"


def challenge(
    public_url: str,
    path: str,
    *,
    error: str | None = None,
    scope: str | None = SCOPE,
    description: str | None = None,
    more: Iterable[tuple[str, str]] = (),
    scheme: str = "Bearer",
    algs: str | None = None,
) -> str:
    """The value of ``WWW-Authenticate`` (RFC 6750 §3, RFC 9728 §5.1; RFC 9449 §7.1 for ``algs``).

    ``error`` stays None when no token was sent (RFC 6750 §3.1); ``scope`` names all that the operation needs.
    """
    parameters = [
        ("error", error),
        ("error_description", description),
        ("resource_metadata", resource_metadata_url(public_url, path)),
        ("scope", scope),
        *more,
        ("algs", algs),
    ]
    return f"{scheme} " + ", ".join(f"{name}={_quoted(value)}" for name, value in parameters if value)


def _quoted(value: str) -> str:
    # SECURITY: nothing that could end the quoted string or the header line gets through (RFC 9110 §5.6.4).
    kept = "".join(char for char in value if " " <= char <= "~")
    return '"' + kept.replace("\\", "\\\\").replace('"', '\\"') + '"'
