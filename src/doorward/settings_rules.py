"""What settings must satisfy together, what each profile allows, and what cannot be promised yet."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from doorward.base.addresses import parse_exception
from doorward.policy.roles import EVERYTHING
from doorward.settings import SLUGS, Origin, Settings
from doorward.settings_alerts import check_alerts
from doorward.settings_clients import with_paths
from doorward.settings_common import HARD_PROFILES, HOST, OPEN_PROFILES, is_loopback, no_such, split_listen
from doorward.settings_issuers import resolved_issuers
from doorward.settings_people import check_embedded, check_people
from doorward.settings_secrets import check_secrets, paths_of
from doorward.settings_servers import checked_server
from doorward.settings_transport import check_transport, resolved_transport

if TYPE_CHECKING:
    from doorward.settings_load import Reader

LAB_MARK = "made-by-lab"  # a file in the data folder of a lab


def complete(settings: Settings, reader: Reader) -> Settings:
    """Check all rules and return the settings with paths resolved and what the profile brings."""
    _check_floor(settings, reader)
    settings = resolved_issuers(with_paths(_resolved(settings, reader), reader), reader)
    settings = resolved_transport(settings, reader)
    _check_gateway(settings, reader)
    _check_lab(settings, reader)
    check_people(settings, reader)
    check_transport(settings, reader)
    servers = {name: checked_server(spec, settings, reader) for name, spec in settings.servers.items()}
    settings = msgspec.structs.replace(settings, servers=servers)
    _check_names(settings, reader)
    check_secrets(settings, reader)
    check_alerts(settings, reader)
    _check_available(settings, reader)
    check_embedded(settings, reader)
    return settings


def unkept_promise(profile: str) -> str:
    """What a profile promises and this version cannot keep; "" when nothing."""
    if profile in OPEN_PROFILES:
        return ""
    return "settings and policy that are activated only as signed revisions, and review of tool definitions"


def _check_floor(settings: Settings, reader: Reader) -> None:
    """Floor controls are always in force outside of the range."""
    profile = settings.gateway.profile
    for slug, control in settings.controls.items():
        if slug not in SLUGS:
            reader.unknown(("controls", slug), list(SLUGS))
        if not SLUGS[slug] or control.mode == "enforce":
            continue
        path = ("controls", slug, "mode")
        if profile != "lab":
            reader.fail(
                "settings-floor",
                path,
                f"{slug} belongs to the floor: only profile lab may run it as {control.mode!r}.",
            )
        if slug == "keep-cage":
            reader.fail(
                "settings-not-available", path, 'the cage is left out by sandbox = "none" of a server.'
            )
        if slug == "keep-tls":
            reader.fail("settings-not-available", path, "TLS is left out by listening on loopback.")
        if slug in ("keep-ledger", "keep-secrets"):
            reader.fail("settings-not-available", path, "running without it does not exist.")
    for name, spec in settings.servers.items():
        if spec.sandbox == "none" and profile in HARD_PROFILES:
            reader.fail(
                "settings-floor",
                ("servers", name, "sandbox"),
                f"profile {profile} starts no server without a cage.",
            )
    weaker = settings.audit.durability != "before-upstream" and reader.is_written("audit", "durability")
    if profile in HARD_PROFILES and weaker:
        reader.fail("settings-floor", ("audit", "durability"), f'profile {profile} needs "before-upstream".')


def _resolved(settings: Settings, reader: Reader) -> Settings:
    """Absolute paths, and what the profile raises or brings."""
    gateway, audit, roles = settings.gateway, settings.audit, settings.roles
    profile = gateway.profile
    if not gateway.data_dir:
        reader.fail("settings-invalid", ("gateway", "data_dir"), "expected a path.")
    gateway = msgspec.structs.replace(gateway, data_dir=reader.resolve_path(gateway.data_dir))
    if not reader.is_written("gateway", "public_url"):
        gateway = msgspec.structs.replace(gateway, public_url=f"http://{gateway.listen}")
    if profile in HARD_PROFILES:
        audit = msgspec.structs.replace(audit, durability="before-upstream")
        reader.origins.setdefault("audit.durability", Origin("profile"))
    if profile in OPEN_PROFILES and "user" not in roles:
        roles = {"user": EVERYTHING, **roles}
        reader.origins["roles.user.servers"] = reader.origins["roles.user.tools"] = Origin("profile")
    files = tuple(reader.resolve_path(name) for name in settings.policy.files)
    policy = msgspec.structs.replace(settings.policy, files=files)
    return msgspec.structs.replace(settings, gateway=gateway, audit=audit, roles=roles, policy=policy)


def _check_gateway(settings: Settings, reader: Reader) -> None:
    gateway = settings.gateway
    places = []
    for table, listen in (("gateway", gateway.listen), ("admin", settings.admin.listen)):
        try:
            places.append(split_listen(listen))
        except ValueError:
            reader.fail(
                "settings-invalid",
                (table, "listen"),
                "expected an address and a port, such as 127.0.0.1:8808 or [::1]:8808.",
            )
    if places[0] == places[1]:
        reader.fail("settings-invalid", ("admin", "listen"), "is the same as gateway.listen.")
    _check_public_url(gateway.public_url, gateway.profile, reader)
    for index, host in enumerate(gateway.hosts):
        if not HOST.fullmatch(host):
            reader.fail(
                "settings-invalid", ("gateway", "hosts", index), "expected a host name, with or without port."
            )
    for index, origin in enumerate(gateway.origins):
        scheme, mark, host = origin.partition("://")
        if not mark or not scheme.isalpha() or not HOST.fullmatch(host):
            reader.fail(
                "settings-invalid",
                ("gateway", "origins", index),
                "expected scheme://host, with or without port.",
            )
    for key, built_in in (("state", "sqlite"), ("cache", "memory")):
        if getattr(gateway, key) != built_in:
            reader.fail(
                "settings-invalid",
                ("gateway", key),
                f'expected "{built_in}" or a secret reference to a URL; a URL holds a secret and never stands here itself.',
            )


def _check_public_url(url: str, profile: str, reader: Reader) -> None:
    path = ("gateway", "public_url")
    hint = "" if reader.is_written(*path) else "is needed, it would follow gateway.listen: "
    try:
        parts = urlsplit(url)
        fine = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and (parts.port is None or parts.port > 0)
        )
        fine = fine and bool(HOST.fullmatch(parts.netloc))
    except ValueError:
        reader.fail("settings-invalid", path, "expected an absolute http or https URL.")
    if not fine or any(char <= " " or char > "~" for char in url):
        reader.fail(
            "settings-invalid", path, "expected an absolute http or https URL, without user or password."
        )
    if url.endswith("/") or "?" in url or "#" in url:
        reader.fail("settings-invalid", path, "must not end in a slash or hold a query or fragment.")
    if ipaddress_is_any(parts.hostname or ""):
        reader.fail(
            "settings-invalid",
            path,
            f"{hint}clients cannot reach this address; write the name that they use.",
        )
    if parts.scheme == "http" and not (is_loopback(parts.hostname or "") and profile in OPEN_PROFILES):
        reader.fail(
            "settings-invalid",
            path,
            f"{hint}http is for loopback addresses in profile local and lab; use https.",
        )


def ipaddress_is_any(host: str) -> bool:
    """True for 0.0.0.0 and ::."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _check_lab(settings: Settings, reader: Reader) -> None:
    """The range's profile cannot be reached by accident and never touches anything real."""
    if settings.gateway.profile != "lab":
        return
    path = ("gateway", "profile")
    if os.environ.get("DOORWARD_LAB") != "1":
        reader.fail(
            "settings-floor",
            path,
            "lab weakens Doorward on purpose; it needs DOORWARD_LAB=1 in the environment.",
        )
    for table, listen in (("gateway", settings.gateway.listen), ("admin", settings.admin.listen)):
        if not is_loopback(split_listen(listen)[0]):
            reader.fail("settings-floor", (table, "listen"), "profile lab listens on loopback only.")
    folder = Path(settings.gateway.data_dir)
    try:
        fresh = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
        if fresh:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (folder / LAB_MARK).touch(mode=0o600)
        elif not (folder / LAB_MARK).is_file():
            reader.fail(
                "settings-floor", ("gateway", "data_dir"), "profile lab needs a fresh folder, empty or new."
            )
    except OSError as error:
        reader.fail("settings-invalid", ("gateway", "data_dir"), f"cannot be used: {error.strerror}.")


def _check_names(settings: Settings, reader: Reader) -> None:
    """Limits name servers that exist."""
    known = list(settings.servers)
    for name in settings.limits.server:
        if name not in settings.servers:
            no_such(reader, ("limits", "server", name), "server", name, known)
    for name in settings.limits.tool:
        server, slash, tool = name.partition("/")
        if not slash or not tool:
            reader.fail("settings-invalid", ("limits", "tool", name), 'expected "server/tool".')
        if server not in settings.servers:
            no_such(reader, ("limits", "tool", name), "server", server, known)


def _check_available(settings: Settings, reader: Reader) -> None:
    profile = settings.gateway.profile
    if profile in HARD_PROFILES:
        for where, reference in paths_of(settings):
            if reference.env is not None:
                reader.fail(
                    "settings-floor",
                    where,
                    f"profile {profile} takes no secrets from the environment; use file.",
                )
    for index, entry in enumerate(settings.network.allow):
        try:
            parse_exception(entry)
        except ValueError:
            reader.fail(
                "settings-invalid",
                ("network", "allow", index),
                "expected host:port, such as idp.example.internal:443 or 127.0.0.1:9000; link-local and metadata addresses are never opened.",
            )
    promise = unkept_promise(profile)
    if promise:
        reader.fail(
            "settings-not-available",
            ("gateway", "profile"),
            f"{profile!r} promises {promise}, which does not exist yet.",
        )
