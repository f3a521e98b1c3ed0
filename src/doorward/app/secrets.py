"""Read the secrets that settings refer to, and forget where they came from.

Variables of the environment that hold secrets are read once; the process then replaces itself by one that does not have
them, because an environment can be read by whoever may look at the process and is inherited by every child.
"""

from __future__ import annotations

import hmac
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

import msgspec

from doorward.base.errors import OperatorError
from doorward.base.secret import Secret
from doorward.settings_common import OPEN_PROFILES
from doorward.settings_load import resolve
from doorward.settings_secrets import references_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from doorward.adapters.secret_stores import SecretStores
    from doorward.catalogue.server import SecretReference, ServerSpec
    from doorward.settings import Settings

_HANDOVER = "DOORWARD_SECRETS_FD"
_SECRET_BYTES = 65_536
_EVENTS_COUNT = 1_024  # that wait to be put on record


class Seen(msgspec.Struct):
    """What is known of one reference; ``mark`` tells only whether its value changed."""

    kind: str
    place: str
    state: str = "unknown"  # ok | failing | unknown
    why: str = ""
    read_at: float = 0.0
    changed_at: float = 0.0
    mark: bytes = b""


class ReadEvent(msgspec.Struct, frozen=True):
    """A read that goes on record: the first, a changed or a failed one, and one for a purpose that is not usual."""

    where: str
    kind: str
    purpose: str
    what: str  # read | changed | failed | used
    reason: str = ""


def leave_environment(settings: Settings) -> None:
    """Start this process anew without the variables that hold secrets, if there are any; else return.

    The values cross in a file without a name that only the new process inherits.
    """
    forbid_core_dumps()
    names = {one.env for _, one in references_of(settings) if one.env is not None and one.env in os.environ}
    if not names or _HANDOVER in os.environ:
        return
    descriptor = os.memfd_create("doorward-secrets", 0)
    os.write(descriptor, msgspec.msgpack.encode({name: os.environ[name] for name in names}))
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment[_HANDOVER] = str(descriptor)
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def forbid_core_dumps() -> None:
    """A crash of this process, or of one that it starts, writes no memory to disk."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def core_limit() -> int:
    """How much memory a crash may write to disk."""
    import resource

    return resource.getrlimit(resource.RLIMIT_CORE)[0]


class SecretReader:
    """Resolve references; what came from the environment or a store is kept in memory only. Blocks: call it in a thread."""

    def __init__(self, settings: Settings, *, own_environment: bool = False) -> None:
        """``own_environment``: variables are those of this process, which a command has and a supervisor left behind."""
        self.seen: dict[str, Seen] = {}
        self._events: list[ReadEvent] = []
        self._turn = threading.Lock()
        self._marking = os.urandom(32)
        self._handed: dict[str, str] = {}
        self._settings = settings
        self._stores: tuple[object, SecretStores] | None = None
        descriptor = os.environ.pop(_HANDOVER, "")
        if descriptor.isdigit():
            number = int(descriptor)
            content = os.pread(number, _SECRET_BYTES * 16, 0)
            os.close(number)
            self._handed = msgspec.msgpack.decode(content, type=dict[str, str])
        if own_environment:
            self._handed = dict(os.environ)

    def check(self, settings: Settings, purpose: str = "settings") -> None:
        """See that every reference leads to a secret, in the stores of ``settings``. Raises: OperatorError."""
        before, self._settings = self._settings, settings
        try:
            for where, reference in references_of(settings):
                self.resolve(reference, where, purpose)
        except OperatorError:
            self._settings = before
            raise
        known = {where for where, _ in references_of(settings)}
        self.seen = {where: seen for where, seen in self.seen.items() if where in known}

    def resolve(self, reference: SecretReference, where: str, purpose: str = "use") -> Secret:
        """The secret. Raises: OperatorError ``secret-...``."""
        seen = self.seen.setdefault(where, Seen(kind_of(reference), place_of(reference)))
        seen.kind, seen.place = kind_of(reference), place_of(reference)
        try:
            value = self._fetch(reference)
        except OperatorError as error:
            if seen.state != "failing":
                self._tell(ReadEvent(where, seen.kind, purpose, "failed", error.code))
            seen.state, seen.why = "failing", error.code
            raise OperatorError(error.code, f"{where}: {error.tell}", error.detail) from error
        now, mark = time.time(), hmac.digest(self._marking, value, "sha256")
        if not hmac.compare_digest(seen.mark, mark):
            self._tell(ReadEvent(where, seen.kind, purpose, "changed" if seen.mark else "read"))
            seen.changed_at = now
        elif purpose not in ("settings", "again"):
            self._tell(ReadEvent(where, seen.kind, purpose, "used"))
        seen.state, seen.why, seen.read_at, seen.mark = "ok", "", now, mark
        return Secret(value)

    def _fetch(self, reference: SecretReference) -> bytes:
        if reference.env is not None:
            found = self._handed.get(reference.env)
            if found is None:
                raise OperatorError("secret-missing", f"The variable {reference.env} is not set.")
            return found.encode()
        if reference.file is not None:
            return resolve(reference).reveal()
        stores = self._stores_of(self._settings)
        if reference.vault is not None:
            return stores.vault(reference.vault)
        if reference.keyvault is not None:
            return stores.keyvault(reference.keyvault)
        return stores.keyring(reference.keyring or "")

    def _stores_of(self, settings: Settings) -> SecretStores:
        """The stores of these settings; their sign-ins stay for as long as nothing about them changes."""
        from doorward.adapters.secret_stores import KeyVault, SecretStores, Vault
        from doorward.base.addresses import NetworkRules

        key = (settings.secrets, settings.network, settings.gateway.profile)
        with self._turn:
            if self._stores is not None and self._stores[0] == key:
                return self._stores[1]
            vault, azure = settings.secrets.vault, settings.secrets.keyvault
            proof = vault.token if vault.auth == "token" else vault.secret_id
            rules = NetworkRules.of(
                settings.network.allow, plain_loopback=settings.gateway.profile in OPEN_PROFILES
            )
            made = SecretStores(
                rules,
                None
                if not vault.url or proof is None
                else Vault(
                    vault.url,
                    self._proof(proof),
                    vault.namespace,
                    vault.role_id if vault.auth == "approle" else "",
                    vault.approle_mount,
                    vault.ca_file or None,
                ),
                KeyVault(
                    azure.tenant,
                    azure.client_id,
                    None if azure.client_secret is None else self._proof(azure.client_secret),
                    azure.authority,
                    azure.dns_suffix,
                    azure.identity_endpoint,
                    azure.ca_file or None,
                ),
            )
            self._stores = (key, made)
            return made

    def _proof(self, reference: SecretReference) -> Callable[[], bytes]:
        return lambda: self._fetch(reference)

    def _tell(self, event: ReadEvent) -> None:
        with self._turn:
            if len(self._events) < _EVENTS_COUNT:
                self._events.append(event)

    def events(self) -> list[ReadEvent]:
        """What goes on record, once."""
        with self._turn:
            found, self._events = self._events, []
        return found

    def env_of(self, spec: ServerSpec) -> dict[str, str]:
        """The environment of a stdio server. Raises: OperatorError."""
        return {
            name: value
            if isinstance(value, str)
            else self.resolve(value, f"servers.{spec.name}.env.{name}", "server start").reveal().decode()
            for name, value in spec.env.items()
        }

    def credentials(self, settings: Settings, purpose: str = "settings") -> dict[str, bytes]:
        """What is presented to HTTP upstreams, by server. Raises: OperatorError ``secret-...``."""
        found = {
            name: self.resolve(spec.credentials.value, f"servers.{name}.credentials.value", purpose).reveal()
            for name, spec in settings.servers.items()
            if spec.credentials.type == "header" and spec.credentials.value is not None
        }
        for name, value in found.items():
            if any(
                byte < 0x20 or byte == 0x7F for byte in value
            ):  # RFC 9110 section 5.5: it would begin a new line
                raise OperatorError(
                    "secret-invalid", f"servers.{name}.credentials.value holds a control character."
                )
        return found


def kind_of(reference: SecretReference) -> str:
    """Which kind of store a reference leads to."""
    return str(next(iter(msgspec.to_builtins(reference))))


def place_of(reference: SecretReference) -> str:
    """Where in the store; this is no secret."""
    return str(next(iter(msgspec.to_builtins(reference).values())))
