"""One protected server as the settings describe it."""

from __future__ import annotations

import re
from typing import Literal

import msgspec


class FileGrant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A path that a caged server may see; read-only unless ``write``."""

    path: str
    write: bool = False


class SecretReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a secret lies; exactly one member is set. The value itself never stands in settings."""

    env: str | None = None
    file: str | None = None
    keyring: str | None = None
    vault: str | None = None
    keyvault: str | None = None


# The forms of references that lead to a store.
PLACES = {
    "keyring": re.compile(r"([^/]{1,256})/(.{1,256})"),
    "vault": re.compile(r"([A-Za-z0-9._-]{1,128})/([A-Za-z0-9._/-]{1,512})#([^#/\s]{1,256})"),
    "keyvault": re.compile(
        r"([A-Za-z](?:[A-Za-z0-9-]{1,22}[A-Za-z0-9]))/([A-Za-z0-9-]{1,127})(?:/([0-9a-f]{32}))?"
    ),
}


def parts_of(kind: str, place: str) -> tuple[str, ...] | None:
    """The parts of a reference's place; None for one that has not its kind's form, or would leave its own path."""
    match = PLACES[kind].fullmatch(place)
    if match is None:
        return None
    parts = tuple(part or "" for part in match.groups())
    if kind == "vault" and any(step in ("", ".", "..") for part in parts[:2] for step in part.split("/")):
        return None
    return parts


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What Doorward presents to an HTTP upstream; never anything that a caller sent."""

    type: Literal["none", "header", "oauth", "client-credentials", "token-exchange", "on-behalf-of"] = "none"
    name: str = "Authorization"  # header: the field's name
    value: SecretReference | None = None  # header: the field's value
    prefix: str = ""  # header: put before the value, such as "Bearer "
    issuer: str = ""  # the authorization server; its metadata says the rest
    token_url: str = ""  # instead of an issuer
    authorize_url: str = ""  # oauth: beside token_url
    client_id: str = ""
    client_secret: SecretReference | None = None
    private_key: SecretReference | None = None  # PEM, for private_key_jwt
    key_id: str = ""
    client_auth: Literal["auto", "client_secret_basic", "client_secret_post", "private_key_jwt", "none"] = (
        "auto"
    )
    scopes: tuple[str, ...] = ()
    resource: str = ""  # RFC 8707; default: the server's URL
    audience: str = ""  # token-exchange
    act: bool = True  # token-exchange: Doorward names itself as the actor
    ca_file: str = ""

    @property
    def varies(self) -> bool:
        """True where what is presented depends on who calls."""
        return self.type in ("oauth", "token-exchange", "on-behalf-of")

    @property
    def is_granted(self) -> bool:
        """True where an authorization server gives it."""
        return self.type not in ("none", "header")


class ServerTls(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """How the connection to an HTTPS upstream is secured beyond the checks that are always made."""

    pin: tuple[str, ...] = ()  # "sha256/..." of public keys; the server's must be one of them
    mode: Literal["enforce", "report"] = "enforce"  # report: another key is on record and goes through
    ca_file: str = ""  # authorities that count instead of the system's
    client_cert: str = ""
    client_key: SecretReference | None = None


class ServerSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One ``[servers.NAME]`` table, checked. Exactly one of ``command`` and ``url`` is set."""

    name: str
    package: str = ""  # "pypi:NAME==VERSION" or "npm:NAME@VERSION"
    command: tuple[str, ...] = ()
    env: dict[str, str | SecretReference] = {}
    files: tuple[FileGrant, ...] = ()
    egress: tuple[str, ...] = ()
    url: str = ""
    credentials: Credentials = Credentials()
    tls: ServerTls | None = None
    trust: Literal["review", "first-use", "signed", "off"] = "first-use"
    on_change: Literal["withdraw", "keep"] = "withdraw"
    sandbox: Literal["strict", "none"] = "strict"
    allow_requests: tuple[Literal["sampling", "elicitation", "roots"], ...] = ()
    per_principal: bool = True
    start_timeout_seconds: float = 60.0

    @property
    def is_stdio(self) -> bool:
        """True when Doorward starts the server itself."""
        return bool(self.command)
