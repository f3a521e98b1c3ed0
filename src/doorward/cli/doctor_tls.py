"""What ``doorward doctor`` says of TLS: certificates that are missing, broken or about to run out, and lonely pins."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from doorward.base.errors import OperatorError
from doorward.cli.doctor_lines import Line

if TYPE_CHECKING:
    from doorward.settings import Settings
    from doorward.settings_transport import ListenerTls


def tls_lines(settings: Settings, data_dir: Path, *, running: bool) -> Iterator[Line]:
    """One line for each certificate, and for what weakens TLS."""
    for table, tls in (("gateway", settings.gateway.tls), ("admin", settings.admin.tls)):
        if tls is not None:
            yield _listener(table, tls)
    if settings.gateway.terminator:
        yield Line(
            "gateway.terminator",
            "warn",
            f"clients' TLS ends before Doorward, at: {settings.gateway.terminator}",
            "settings",
        )
    for name, spec in settings.servers.items():
        if spec.tls is None:
            continue
        here = f"servers.{name}.tls"
        if len(spec.tls.pin) == 1:
            yield Line(
                here,
                "warn",
                "one pin only: when the server's key changes nothing goes; pin a backup key.",
                "settings",
            )
        if spec.tls.mode == "report":
            yield Line(here, "warn", "broken pins are recorded and let through.", "settings")
    if running:
        yield from _upstreams(data_dir)


def _listener(table: str, tls: ListenerTls) -> Line:
    from doorward.adapters.tls_contexts import check_pair
    from doorward.app.expiry import Expiry
    from doorward.settings_load import resolve

    name = f"certificate of {table}.tls"
    now = time.time()
    try:
        chain = Path(tls.cert).read_bytes()
        if tls.key is None:
            return Line(name, "fail", "has no key.", "settings")
        facts = check_pair(chain, resolve(tls.key).reveal(), f"{table}.tls", now)
    except OperatorError as error:
        return Line(name, "fail", error.tell, "settings")
    except OSError as error:
        return Line(name, "fail", f"{tls.cert} cannot be read: {error.strerror}.", "settings")
    days = (facts.not_after - now) / 86_400
    if Expiry.step_of(facts.not_before, facts.not_after, now) is not None:
        return Line(
            name,
            "warn",
            f"runs out in {days:.1f} days; put a new one in its place, Doorward takes it at once.",
            "settings",
        )
    return Line(name, "ok", f"for {', '.join(facts.names) or facts.subject}, {days:.0f} days left")


def _upstreams(data_dir: Path) -> Iterator[Line]:
    """What the running Doorward has seen of its servers."""
    from doorward.adapters.admin_client import AdminClient

    try:
        found = AdminClient(data_dir, seconds=2.0).get("/api/v1/certificates")
    except OperatorError:
        return
    for row in found if isinstance(found, list) else []:
        where = str(row.get("where", ""))
        if not where.startswith("upstream "):
            continue
        if row.get("state") in ("refused", "reported"):
            yield Line(where, "warn", f"shows a key that is not pinned: {row.get('spki')}")
        elif row.get("due"):
            yield Line(
                where, "warn", f"its certificate runs out in {row.get('days_left')} days; tell who runs it."
            )
