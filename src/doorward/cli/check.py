"""``doorward check``: read a settings file as ``serve`` would, and say what is in force and why."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from doorward.cli.output import paint, print_json, print_table

if TYPE_CHECKING:
    from doorward.settings import Settings


def check(
    *,
    explain: Annotated[
        bool, Parameter(name="--explain", help="Print every value and its source.", negative="")
    ] = False,
    as_json: Annotated[bool, Parameter(name="--json", help="One JSON document.", negative="")] = False,
    config: Annotated[Path | None, Parameter(name="--config", help="The settings file.")] = None,
) -> int:
    """Check a settings file, and explain every value."""
    from doorward.policy.engine import PolicyEngine
    from doorward.settings import explain as explain_settings
    from doorward.settings import load
    from doorward.settings_load import policy_texts

    loaded = load(config)
    settings = loaded.settings
    PolicyEngine(settings.roles, policy_texts(settings), tuple(settings.servers))
    weak = _weakenings(settings)
    rows = explain_settings(settings, loaded.origins) if explain else []
    if as_json:
        document = {"ok": True, "file": str(loaded.path), "digest": loaded.digest, "weakened": weak}
        print_json({**document, "settings": rows} if explain else document)
        return 0
    if explain:
        print_table(
            ("key", "value", "from", "what it does"), [(r.key, r.value, r.source, r.sentence) for r in rows]
        )
    for line in weak:
        sys.stdout.write(paint(f"weakened: {line}", "red") + "\n")
    names = ", ".join(settings.servers) or "none yet"
    sys.stdout.write(f"{loaded.path} is fine: profile {settings.gateway.profile}, servers: {names}.\n")
    return 0


def _weakenings(settings: Settings) -> list[str]:
    """What somebody switched off on purpose: it is allowed, and it is said."""
    found: list[str] = []
    if settings.identity.mode == "off":
        found.append('identity.mode = "off": every caller is the principal `local`')
    identity, profile = settings.identity, settings.gateway.profile
    if identity.mode == "embedded" and profile in identity.embedded_accounts_in:
        found.append(
            f"identity.embedded_accounts_in: profile {profile} has embedded accounts, without an identity provider"
        )
    found += [
        f"identity.registration.schemes: any program on a user's machine can claim links that begin with {scheme}:"
        for scheme in identity.registration.schemes
    ]
    if identity.registration.localhost_ports:
        found.append(
            "identity.registration.localhost_ports: the port of http://localhost redirect URIs may vary (RFC 8252 section 8.3)"
        )
    found += [
        f'servers.{name}.sandbox = "none": this program runs without a cage'
        for name, spec in settings.servers.items()
        if spec.sandbox == "none"
    ]
    found += [
        f'servers.{name}.tls.mode = "report": another key than the pinned one goes through'
        for name, spec in settings.servers.items()
        if spec.tls is not None and spec.tls.mode == "report"
    ]
    found += [
        f'controls.{slug}.mode = "{control.mode}"'
        for slug, control in settings.controls.items()
        if control.mode != "enforce"
    ]
    return found
