"""What settings must satisfy together, what each profile allows, and what cannot be promised yet."""

from __future__ import annotations

import ipaddress
import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from doorward.catalogue.server import FileGrant, SecretReference, ServerSpec
from doorward.policy.roles import EVERYTHING
from doorward.settings import SLUGS, Origin, Settings

if TYPE_CHECKING:
    from doorward.settings_load import Reader

OPEN_PROFILES = ("local", "lab")
HARD_PROFILES = ("production", "regulated")
LAB_MARK = "made-by-lab"  # a file in the data folder of a lab
RESERVED = frozenset({"mcp", "oauth", "connect", "healthz", "readyz", "api", "metrics"})
_SERVER_NAME = re.compile(r"[a-z][a-z0-9-]{0,23}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_PACKAGE = re.compile(
    r"pypi:[A-Za-z0-9][A-Za-z0-9._-]{0,127}==[A-Za-z0-9.+!_-]{1,64}"
    r"|npm:(@[a-z0-9][a-z0-9._~-]{0,127}/)?[a-z0-9][a-z0-9._~-]{0,127}@[A-Za-z0-9.+_-]{1,64}"
)
_HOST = re.compile(r"([A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")
# What the gateway writes itself, or what would change how the upstream reads the message (RFC 9110, MCP transports).
_OWN_FIELDS = frozenset(
    {
        "host",
        "content-length",
        "content-type",
        "transfer-encoding",
        "connection",
        "upgrade",
        "te",
        "trailer",
        "accept",
    }
    | {"keep-alive", "expect", "accept-encoding", "content-encoding", "mcp-session-id", "last-event-id"}
)


def complete(settings: Settings, reader: Reader) -> Settings:
    """Check all rules and return the settings with paths resolved and what the profile brings."""
    _check_floor(settings, reader)
    settings = _resolved(settings, reader)
    _check_gateway(settings, reader)
    _check_lab(settings, reader)
    _check_people(settings, reader)
    servers = {name: _checked_server(spec, settings, reader) for name, spec in settings.servers.items()}
    settings = msgspec.structs.replace(settings, servers=servers)
    _check_names(settings, reader)
    _check_available(settings, reader)
    return settings


def unkept_promise(profile: str) -> str:
    """What a profile promises and this version cannot keep; "" when nothing."""
    if profile in OPEN_PROFILES:
        return ""
    return "settings and policy that are activated only as signed revisions, and review of tool definitions"


def is_loopback(host: str) -> bool:
    """True for localhost and loopback addresses, with or without brackets."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def split_listen(listen: str) -> tuple[str, int]:
    """Host (without brackets) and port of ``host:port``. Raises: ValueError."""
    host, colon, port = listen.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isascii() or not port.isdigit() or not 1 <= int(port[:6]) <= 65_535:
        raise ValueError(listen)
    plain = host[1:-1] if bracketed else host
    if plain != "localhost" and ipaddress.ip_address(plain).version != (6 if bracketed else 4):
        raise ValueError(listen)
    return plain, int(port)


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
        if slug == "keep-ledger":
            reader.fail("settings-not-available", path, "running without a ledger does not exist.")
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
        if not _HOST.fullmatch(host):
            reader.fail(
                "settings-invalid", ("gateway", "hosts", index), "expected a host name, with or without port."
            )
    for index, origin in enumerate(gateway.origins):
        scheme, mark, host = origin.partition("://")
        if not mark or not scheme.isalpha() or not _HOST.fullmatch(host):
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
        fine = fine and bool(_HOST.fullmatch(parts.netloc))
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


def _check_people(settings: Settings, reader: Reader) -> None:
    gateway, identity = settings.gateway, settings.identity
    if identity.mode in ("external", "broker"):
        reader.fail(
            "settings-not-available",
            ("identity", "mode"),
            f"{identity.mode!r} does not exist yet; use embedded.",
        )
    if identity.mode == "off":
        path = ("identity", "mode")
        if gateway.profile not in OPEN_PROFILES:
            reader.fail("settings-floor", path, '"off" is for profile local and lab only.')
        if not is_loopback(split_listen(gateway.listen)[0]):
            reader.fail("settings-floor", path, '"off" needs gateway.listen on a loopback address.')
    names: set[str] = set()
    for index, user in enumerate(identity.users):
        here = ("identity", "users", index)
        if user.name in names:
            reader.fail("settings-invalid", (*here, "name"), "an account of this name stands above.")
        names.add(user.name)
        for role in user.roles:
            if role not in settings.roles:
                _no_such(reader, (*here, "roles"), "role", role, list(settings.roles))


def _no_such(reader: Reader, path: tuple[str | int, ...], what: str, name: str, known: list[str]) -> None:
    near = get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}."
    reader.fail("settings-invalid", path, f"there is no {what} {name!r}; {hint}")


def _checked_server(spec: ServerSpec, settings: Settings, reader: Reader) -> ServerSpec:
    path = ("servers", spec.name)
    if not _SERVER_NAME.fullmatch(spec.name):
        reader.fail(
            "settings-invalid",
            path,
            "a server's name is a to z, 0 to 9 and -, begins with a letter, at most 24 long.",
        )
    if spec.name in RESERVED:
        reader.fail("settings-invalid", path, "this name is reserved; choose another.")
    if bool(spec.command) == bool(spec.url):
        what = "has both command and url; keep one." if spec.url else "needs either command or url."
        reader.fail("settings-invalid", path, what)
    if spec.url:
        _check_upstream(spec, reader)
    else:
        _check_command(spec, reader)
    _check_trust(spec, settings.gateway.profile, reader)
    if not 0 < spec.start_timeout_seconds <= 600:
        reader.fail(
            "settings-invalid", (*path, "start_timeout_seconds"), "expected a number of seconds up to 600."
        )
    files = tuple(FileGrant(path=reader.resolve_path(grant.path), write=grant.write) for grant in spec.files)
    return msgspec.structs.replace(spec, files=files, trust="off")


def _check_command(spec: ServerSpec, reader: Reader) -> None:
    path = ("servers", spec.name)
    if not spec.command[0]:
        reader.fail("settings-invalid", (*path, "command", 0), "expected a program.")
    if spec.package and not _PACKAGE.fullmatch(spec.package):
        reader.fail(
            "settings-invalid", (*path, "package"), 'expected "pypi:NAME==VERSION" or "npm:NAME@VERSION".'
        )
    if reader.is_written(*path, "credentials"):
        reader.fail(
            "settings-invalid", (*path, "credentials"), "are for servers with url; a command gets env."
        )
    for name in spec.env:
        if not _VARIABLE.fullmatch(name):
            reader.fail("settings-invalid", (*path, "env", name), "is no name of an environment variable.")
    for index, grant in enumerate(spec.files):
        if not grant.path:
            reader.fail("settings-invalid", (*path, "files", index, "path"), "expected a path.")


def _check_upstream(spec: ServerSpec, reader: Reader) -> None:
    path = ("servers", spec.name)
    for key in ("package", "env", "files", "sandbox"):
        if reader.is_written(*path, key):
            reader.fail("settings-invalid", (*path, key), "is for servers that Doorward starts with command.")
    try:
        parts = urlsplit(spec.url)
        fine = parts.scheme in ("http", "https") and bool(_HOST.fullmatch(parts.netloc)) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or "#" in spec.url or any(char <= " " or char > "~" for char in spec.url):
        reader.fail(
            "settings-invalid",
            (*path, "url"),
            "expected an absolute http or https URL, without user, password or fragment.",
        )
    if spec.url.startswith("http:") and not is_loopback(urlsplit(spec.url).hostname or ""):
        reader.fail(
            "settings-invalid", (*path, "url"), "plain http is for loopback addresses only; use https."
        )
    credentials, here = spec.credentials, (*path, "credentials")
    if credentials.type not in ("none", "header"):
        reader.fail(
            "settings-not-available",
            (*here, "type"),
            f"{credentials.type!r} does not exist yet; use none or header.",
        )
    if (credentials.type == "header") != (credentials.value is not None):
        what = (
            'type "header" needs value, a secret reference.'
            if credentials.type == "header"
            else 'value needs type = "header".'
        )
        reader.fail("settings-invalid", here, what)
    name = credentials.name
    if not _FIELD_NAME.fullmatch(name) or name.lower() in _OWN_FIELDS or name.lower().startswith("mcp-"):
        reader.fail("settings-invalid", (*here, "name"), "is no header that can carry a credential.")
    if any(char < " " or char > "~" for char in credentials.prefix):
        reader.fail("settings-invalid", (*here, "prefix"), "expected printable ASCII.")


def _check_trust(spec: ServerSpec, profile: str, reader: Reader) -> None:
    """Definitions are not pinned yet, so nothing may claim that they are."""
    path = ("servers", spec.name)
    written = reader.is_written(*path, "trust")
    if written and spec.trust != "off":
        reader.fail(
            "settings-not-available",
            (*path, "trust"),
            f'{spec.trust!r} needs pinned definitions, which do not exist yet; "off" does.',
        )
    if not written and profile not in OPEN_PROFILES:
        reader.fail(
            "settings-not-available",
            path,
            f'profile {profile} means trust = "review", which does not exist yet; write trust = "off".',
        )
    if reader.is_written(*path, "on_change"):
        reader.fail(
            "settings-not-available",
            (*path, "on_change"),
            "needs pinned definitions, which do not exist yet.",
        )
    if spec.egress:
        reader.fail(
            "settings-not-available",
            (*path, "egress"),
            "servers in the cage have no network yet; leave it empty.",
        )


def _check_names(settings: Settings, reader: Reader) -> None:
    """Limits name servers that exist."""
    known = list(settings.servers)
    for name in settings.limits.server:
        if name not in settings.servers:
            _no_such(reader, ("limits", "server", name), "server", name, known)
    for name in settings.limits.tool:
        server, slash, tool = name.partition("/")
        if not slash or not tool:
            reader.fail("settings-invalid", ("limits", "tool", name), 'expected "server/tool".')
        if server not in settings.servers:
            _no_such(reader, ("limits", "tool", name), "server", server, known)


def _check_available(settings: Settings, reader: Reader) -> None:
    profile = settings.gateway.profile
    if profile in HARD_PROFILES:
        for name, spec in settings.servers.items():
            for key, value in (*spec.env.items(), ("", spec.credentials.value)):
                if isinstance(value, SecretReference) and value.env is not None:
                    path = ("servers", name, "env", key) if key else ("servers", name, "credentials", "value")
                    reader.fail(
                        "settings-floor",
                        path,
                        f"profile {profile} takes no secrets from the environment; use file.",
                    )
    if settings.network.allow:
        reader.fail(
            "settings-not-available",
            ("network", "allow"),
            "nothing that it would allow exists yet; leave it empty.",
        )
    promise = unkept_promise(profile)
    if promise:
        reader.fail(
            "settings-not-available",
            ("gateway", "profile"),
            f"{profile!r} promises {promise}, which does not exist yet.",
        )
