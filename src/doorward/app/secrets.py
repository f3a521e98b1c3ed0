"""Read the secrets that settings refer to, and forget where they came from.

Variables of the environment that hold secrets are read once; the process then replaces itself by one that does not have
them, because an environment can be read by whoever may look at the process and is inherited by every child.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import msgspec

from doorward.base.errors import OperatorError
from doorward.base.secret import Secret
from doorward.settings_load import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from doorward.catalogue.server import SecretReference, ServerSpec
    from doorward.settings import Settings

_HANDOVER = "DOORWARD_SECRETS_FD"
_SECRET_BYTES = 65_536


def _references(settings: Settings) -> Iterator[tuple[str, SecretReference]]:
    for table, listener in (("gateway", settings.gateway.tls), ("admin", settings.admin.tls)):
        if listener is not None and listener.key is not None:
            yield f"{table}.tls.key", listener.key
    for name, spec in settings.servers.items():
        for variable, value in spec.env.items():
            if not isinstance(value, str):
                yield f"servers.{name}.env.{variable}", value
        if spec.credentials.value is not None:
            yield f"servers.{name}.credentials.value", spec.credentials.value
    for index, one in enumerate(settings.identity.issuers):
        if one.introspection is not None:
            yield f"identity.issuers[{index}].introspection.client_secret", one.introspection.client_secret
        if spec.tls is not None and spec.tls.client_key is not None:
            yield f"servers.{name}.tls.client_key", spec.tls.client_key


def leave_environment(settings: Settings) -> None:
    """Start this process anew without the variables that hold secrets, if there are any; else return.

    The values cross in a file without a name that only the new process inherits.
    """
    names = {one.env for _, one in _references(settings) if one.env is not None and one.env in os.environ}
    if not names or _HANDOVER in os.environ:
        return
    descriptor = os.memfd_create("doorward-secrets", 0)
    os.write(descriptor, msgspec.msgpack.encode({name: os.environ[name] for name in names}))
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment[_HANDOVER] = str(descriptor)
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


class SecretReader:
    """Resolve references; what came from the environment is kept in memory only."""

    def __init__(self, settings: Settings) -> None:
        self._handed: dict[str, str] = {}
        descriptor = os.environ.pop(_HANDOVER, "")
        if descriptor.isdigit():
            number = int(descriptor)
            content = os.pread(number, _SECRET_BYTES * 16, 0)
            os.close(number)
            self._handed = msgspec.msgpack.decode(content, type=dict[str, str])
        self.check(settings)

    def check(self, settings: Settings) -> None:
        """See that every reference leads to a secret. Raises: OperatorError."""
        for where, reference in _references(settings):
            self.resolve(reference, where)

    def resolve(self, reference: SecretReference, where: str) -> Secret:
        """The secret. Raises: OperatorError ``secret-missing``."""
        if reference.env is not None:
            found = self._handed.get(reference.env)
            if found is None:
                raise OperatorError("secret-missing", f"{where}: the variable {reference.env} is not set.")
            return Secret(found)
        try:
            return resolve(reference)
        except OperatorError as error:
            raise OperatorError(error.code, f"{where}: {error.tell}") from error

    def env_of(self, spec: ServerSpec) -> dict[str, str]:
        """The environment of a stdio server. Raises: OperatorError."""
        return {
            name: value
            if isinstance(value, str)
            else self.resolve(value, f"servers.{spec.name}.env.{name}").reveal().decode()
            for name, value in spec.env.items()
        }

    def credentials(self, settings: Settings) -> dict[str, bytes]:
        """What is presented to HTTP upstreams, by server. Raises: OperatorError."""
        return {
            name: self.resolve(spec.credentials.value, f"servers.{name}.credentials.value").reveal()
            for name, spec in settings.servers.items()
            if spec.credentials.value is not None
        }
