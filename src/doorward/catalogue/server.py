"""One protected server as the settings describe it."""

from __future__ import annotations

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


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What Doorward presents to an HTTP upstream; never anything that a caller sent."""

    type: Literal["none", "header", "oauth", "client-credentials", "token-exchange"] = "none"
    name: str = "Authorization"  # header: the field's name
    value: SecretReference | None = None  # header: the field's value
    prefix: str = ""  # header: put before the value, such as "Bearer "


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
