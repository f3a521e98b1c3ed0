"""``doorward routes``: every path of the data plane, what answers there, and for which OAuth resource."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from doorward.cli.output import print_json, print_table
from doorward.identity.metadata import endpoint_path, resource_of

if TYPE_CHECKING:
    from doorward.catalogue.server import ServerSpec
    from doorward.settings import Settings

_OAUTH = {
    "/oauth/authorize": "authorization of OAuth clients",
    "/oauth/consent": "consent of users",
    "/oauth/token": "tokens for OAuth clients",
    "/oauth/revoke": "revocation by OAuth clients",
    "/oauth/introspect": "introspection by OAuth clients",
    "/oauth/style.css": "style of these pages",
}
_METADATA = "/.well-known/oauth-protected-resource"


def routes(
    *,
    as_json: Annotated[bool, Parameter(name="--json", help="One JSON document.", negative="")] = False,
    config: Annotated[Path | None, Parameter(name="--config", help="The settings file.")] = None,
) -> int:
    """List every path and what answers there."""
    from doorward.settings import load

    rows = routes_of(load(config).settings)
    if as_json:
        print_json(rows)
    else:
        titles = ("path", "what", "server", "upstream", "resource")
        print_table(titles, [[row[title] for title in titles] for row in rows])
    return 0


def routes_of(settings: Settings) -> list[dict[str, Any]]:
    """One row for each path that the data plane serves with these settings."""
    url = settings.gateway.public_url
    rows = [
        _row(endpoint_path(name), "mcp", name, _upstream(spec), resource_of(url, name))
        for name, spec in settings.servers.items()
    ]
    rows.append(_row(endpoint_path(""), "mcp", "", "all servers", resource_of(url, "")))
    if settings.identity.mode != "off":
        rows.append(_row(_METADATA, "protected resource metadata", "", "", resource_of(url, "")))
        rows += [
            _row(
                _METADATA + endpoint_path(name),
                "protected resource metadata",
                name,
                "",
                resource_of(url, name),
            )
            for name in ("", *settings.servers)
        ]
    if settings.identity.mode not in ("off", "external"):
        rows += [
            _row("/.well-known/oauth-authorization-server", "authorization server metadata"),
            _row("/.well-known/openid-configuration", "authorization server metadata"),
            _row("/oauth/jwks", "public keys"),
        ]
    if settings.identity.mode in ("embedded", "broker"):
        rows += [_row(path, what) for path, what in _OAUTH.items()]
        is_broker = settings.identity.mode == "broker"
        rows.append(
            _row("/oauth/callback", "return from the identity provider")
            if is_broker
            else _row("/oauth/login", "sign-in by a one-time link")
        )
        if any("device_code" in one.grants for one in settings.identity.clients):
            rows.append(_row("/oauth/device", "codes of devices"))
            rows.append(_row("/oauth/device_authorization", "sign-in of devices"))
        if settings.identity.registration.dynamic:
            rows.append(_row("/oauth/register", "registration of OAuth clients"))
    if any(one.events_audience for one in settings.identity.issuers):
        rows.append(_row("/oauth/events", "security events of issuers"))
    return [*rows, _row("/healthz", "health"), _row("/readyz", "readiness")]


def _row(path: str, what: str, server: str = "", upstream: str = "", resource: str = "") -> dict[str, Any]:
    return {"path": path, "what": what, "server": server, "upstream": upstream, "resource": resource}


def _upstream(spec: ServerSpec) -> str:
    if spec.is_stdio:
        return "stdio, caged" if spec.sandbox == "strict" else "stdio, NOT caged"
    return "http"
