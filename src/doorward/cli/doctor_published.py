"""What of a server's OAuth documents a client really sees at ``gateway.public_url``, for ``doorward doctor oauth``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from doorward.adapters.guarded_http import GuardedHttp
from doorward.base.addresses import NetworkRules
from doorward.base.errors import DoorwardError
from doorward.cli.doctor_lines import Line
from doorward.identity import metadata
from doorward.identity.bearer import parse_object

if TYPE_CHECKING:
    from doorward.settings import Settings

_METADATA = re.compile(r'resource_metadata="([^"]*)"')


async def published(settings: Settings, server: str) -> Line:
    """Ask as a client would: without a token, then where the challenge leads."""
    public = settings.gateway.public_url
    parts = urlsplit(public)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    # The operator named this address themselves, so it needs no exception of its own.
    rules = NetworkRules.of([*settings.network.allow, f"{host}:{port}"], plain_loopback=True)
    http = GuardedHttp(rules)
    try:
        return await _ask(http, public, server)
    except DoorwardError as error:
        what = f"{public} cannot be asked ({error.tell.rstrip('.')}); is Doorward running, and does this name lead to it?"
        return Line("published", "warn", what, "settings")
    finally:
        http.close()


async def _ask(http: GuardedHttp, public: str, server: str) -> Line:
    resource = metadata.resource_of(public, server)
    path = metadata.endpoint_path(server)
    wanted = metadata.resource_metadata_url(public, path)
    refused = await http.get(resource)
    found = _METADATA.search(refused.fields.get("www-authenticate", ""))
    if refused.status != 401 or found is None:
        what = f"{resource} answers {refused.status} without a challenge to who has no token; is another program or a proxy there?"
        return Line("published", "fail", what, "settings")
    if found[1] != wanted:
        return Line(
            "published", "fail", f"the challenge leads to {found[1][:200]} instead of {wanted}", "settings"
        )
    got = await http.get(wanted)
    document = parse_object(got.body) if got.status == 200 else None
    if document is None:
        return Line(
            "published",
            "fail",
            f"{wanted} answers {got.status}; a proxy must pass /.well-known on.",
            "settings",
        )
    if document.get("resource") != resource:
        what = f"{wanted} names another resource than {resource}; clients refuse it (RFC 9728 section 3.3)."
        return Line("published", "fail", what, "settings")
    servers = document.get("authorization_servers")
    listed = ", ".join(str(one)[:200] for one in servers) if isinstance(servers, list) else "nobody"
    return Line("published", "ok", f"clients are sent to {listed}", "settings")
