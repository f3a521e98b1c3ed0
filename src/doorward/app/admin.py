"""Serve the admin plane from the supervisor: on its TCP address and on the socket in the data folder."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from doorward.adapters.admin_client import short_path
from doorward.adapters.deadlines import Deadlines
from doorward.adapters.key_files import load_or_create_secret
from doorward.adapters.tls_face import TlsConnection, TlsDoor
from doorward.app.admin_view import AdminView
from doorward.app.certificates import Certificates
from doorward.console.plane import AdminPlane

if TYPE_CHECKING:
    from doorward.app.supervisor import Supervisor


_CONNECTIONS = 64  # of the admin plane's TCP face at once
_CONNECTION_SECONDS = 30.0  # how long a connection may live; one with an answer under way gets it twice


class _BoundedProtocol(H11Protocol):
    """Serves anybody on the machine, but few at once and nobody who just waits: they must not use up our descriptors."""

    _open: ClassVar[set[_BoundedProtocol]] = set()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self._open) >= _CONNECTIONS:
            transport.abort()
            return
        self._open.add(self)
        self._patience = asyncio.get_running_loop().call_later(_CONNECTION_SECONDS, self._out_of_patience)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._open:
            self._open.discard(self)
            self._patience.cancel()
        super().connection_lost(exc)

    def _out_of_patience(self) -> None:
        cycle: Any = self.cycle  # None before the first request
        if cycle is None or cycle.response_complete:
            self.transport.abort()  # browsers connect again by themselves
        else:
            again = asyncio.get_running_loop().call_later(_CONNECTION_SECONDS, self.transport.abort)
            self._patience = again


class _OwnerProtocol(H11Protocol):
    """Serves only the user that runs Doorward, and root."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        sock: Any = transport.get_extra_info("socket")
        uid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
        if uid not in (0, os.geteuid()):
            transport.abort()
        self.client = (f"os:{uid}", 0)


def _secured(door: TlsDoor) -> Callable[..., TlsConnection]:
    """Makes what uvicorn takes for its protocol: TLS as on the data plane, with the same limits, before the bounded face."""
    deadlines = Deadlines(asyncio.get_running_loop())

    def make(**given: Any) -> TlsConnection:
        return TlsConnection(door, deadlines, lambda _certificate: _BoundedProtocol(**given))

    return make


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The supervisor has the signals."""
        yield


def _token(data_dir: Path) -> str:
    text = load_or_create_secret(data_dir, "admin").hex()
    path = data_dir / "admin-token"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text + "\n")
    return text


def _unix_socket(data_dir: Path) -> socket.socket:
    path = data_dir / "admin.sock"
    with contextlib.suppress(FileNotFoundError):
        path.unlink()  # the lock of the data folder says that nobody listens there
    sock = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        with short_path(path) as name:
            sock.bind(name)
    finally:
        os.umask(before)
    return sock


def _tcp_socket(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host.strip("[]"), int(port)))
    except OSError:
        sock.close()
        raise
    return sock


async def serve_admin(supervisor: Supervisor, *, tcp: bool = True) -> None:
    """Serve until cancelled; without ``tcp`` only on the socket. Raises: OSError when an address cannot be had."""
    listen = supervisor.settings.admin.listen
    port = listen.rpartition(":")[2]
    certificates = supervisor.offices.of(Certificates)
    names = frozenset(
        {listen, f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"}
        | {f"{name.lower()}:{port}" for name in certificates.names_of("admin")}
    )
    plane = AdminPlane(AdminView(supervisor), _token(supervisor.data_dir), names, supervisor.offices.acts())
    common: dict[str, Any] = {
        "lifespan": "off",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "ws": "none",
        "backlog": _CONNECTIONS,  # asyncio takes as many in one turn before any can be refused
    }
    door = certificates.admin_door
    face: Any = _BoundedProtocol if door is None else _secured(door)
    faces = [
        (
            _Server(uvicorn.Config(plane.app, http=_OwnerProtocol, proxy_headers=False, **common)),
            _unix_socket(supervisor.data_dir),
        ),
    ]
    if tcp:
        bounded = uvicorn.Config(plane.app, http=face, proxy_headers=False, **common)
        faces.append((_Server(bounded), _tcp_socket(listen)))
    try:
        await asyncio.gather(*(server.serve([sock]) for server, sock in faces))
    finally:
        for _, sock in faces:
            sock.close()
