"""Rules of ``[servers.NAME]``: how a server is started or reached, and what it may be given."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import msgspec

from doorward.catalogue.server import FileGrant, ServerSpec
from doorward.settings import Origin, Settings
from doorward.settings_common import HOST, OPEN_PROFILES, is_loopback
from doorward.settings_credentials import check_credentials
from doorward.settings_literals import literals_of
from doorward.settings_transport import checked_server_tls

if TYPE_CHECKING:
    from doorward.settings_load import Reader

RESERVED = frozenset({"mcp", "oauth", "connect", "healthz", "readyz", "api", "metrics"})
_SERVER_NAME = re.compile(r"[a-z][a-z0-9-]{0,23}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_PACKAGE = re.compile(
    r"pypi:[A-Za-z0-9][A-Za-z0-9._-]{0,127}==[A-Za-z0-9.+!_-]{1,64}"
    r"|npm:(@[a-z0-9][a-z0-9._~-]{0,127}/)?[a-z0-9][a-z0-9._~-]{0,127}@[A-Za-z0-9.+_-]{1,64}"
)
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


def checked_server(spec: ServerSpec, settings: Settings, reader: Reader) -> ServerSpec:
    """A server with absolute paths and what the profile brings, once all rules hold."""
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
        _check_upstream(spec, settings, reader)
    else:
        _check_command(spec, reader)
    trust = _trust_of(spec, settings.gateway.profile, reader)
    for below, advice in literals_of(spec):
        reader.fail("settings-invalid", (*path, *below), advice)
    if not 0 < spec.start_timeout_seconds <= 600:
        reader.fail(
            "settings-invalid", (*path, "start_timeout_seconds"), "expected a number of seconds up to 600."
        )
    spec = checked_server_tls(spec, reader)
    files = tuple(FileGrant(path=reader.resolve_path(grant.path), write=grant.write) for grant in spec.files)
    credentials = spec.credentials
    if credentials.ca_file:
        credentials = msgspec.structs.replace(credentials, ca_file=reader.resolve_path(credentials.ca_file))
    return msgspec.structs.replace(spec, files=files, credentials=credentials, trust=trust)


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


def _check_upstream(spec: ServerSpec, settings: Settings, reader: Reader) -> None:
    path = ("servers", spec.name)
    for key in ("package", "env", "files", "sandbox"):
        if reader.is_written(*path, key):
            reader.fail("settings-invalid", (*path, key), "is for servers that Doorward starts with command.")
    try:
        parts = urlsplit(spec.url)
        fine = parts.scheme in ("http", "https") and bool(HOST.fullmatch(parts.netloc)) and parts.port != 0
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
    check_credentials(spec, settings, reader)
    credentials, here = spec.credentials, (*path, "credentials")
    name = credentials.name
    if not _FIELD_NAME.fullmatch(name) or name.lower() in _OWN_FIELDS or name.lower().startswith("mcp-"):
        reader.fail("settings-invalid", (*here, "name"), "is no header that can carry a credential.")
    if any(char < " " or char > "~" for char in credentials.prefix):
        reader.fail("settings-invalid", (*here, "prefix"), "expected printable ASCII.")


def _trust_of(spec: ServerSpec, profile: str, reader: Reader) -> Literal["review", "first-use", "off"]:
    """When a definition becomes callable: as written, else as the profile wants it."""
    path = ("servers", spec.name)
    if spec.egress:
        reader.fail(
            "settings-not-available",
            (*path, "egress"),
            "servers in the cage have no network yet; leave it empty.",
        )
    if spec.trust == "signed":
        reader.fail(
            "settings-not-available",
            (*path, "trust"),
            '"signed" needs signed lock files, which do not exist yet; use review.',
        )
    if reader.is_written(*path, "trust"):
        return spec.trust
    reader.origins.setdefault(f"servers.{spec.name}.trust", Origin("profile"))
    return "first-use" if profile in OPEN_PROFILES else "review"
