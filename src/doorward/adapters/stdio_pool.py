"""All stdio servers of one Doorward, in the supervisor: who may have which process, and the bus towards the workers.

A process belongs to one (server, principal, era, version, capabilities): legacy servers keep the state of their one client
in the process, so two principals never share one (ST-05), unless the operator says ``per_principal = false``.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

from doorward.adapters.bus import Channel
from doorward.adapters.cage import Cage, Packaged
from doorward.adapters.cgroup import ProcessGroups
from doorward.adapters.stdio_berth import Berth
from doorward.adapters.stdio_child import ChildEvents, StdioChild
from doorward.adapters.stdio_traffic import Attachment
from doorward.base import limits
from doorward.base.errors import CallerError, OperatorError, UpstreamError
from doorward.catalogue.server import ServerSpec
from doorward.gateway.http_reply import wrong_era
from doorward.protocol import codes
from doorward.protocol.envelope import parse_message
from doorward.protocol.json_door import encode_json
from doorward.protocol.message import Era, Message

EVERYBODY = "*"
_CLOSE_SECONDS = 8.0
_Key = tuple[str, str, str, str, str]
Event = Callable[[str, str, str, str], None]


def plain_env(spec: ServerSpec) -> dict[str, str]:
    """The declared environment of a server that names no secrets. Raises: OperatorError when it names one."""
    env: dict[str, str] = {}
    for name, value in spec.env.items():
        if not isinstance(value, str):
            raise OperatorError(
                "settings-not-available",
                f"servers.{spec.name}.env.{name}: no secret store is connected here.",
            )
        env[name] = value
    return env


class StdioPool:
    """Start, share, restart and end the processes of stdio servers."""

    def __init__(
        self,
        cage: Cage,
        *,
        env_of: Callable[[ServerSpec], dict[str, str]] = plain_env,
        package_of: Callable[[ServerSpec], Packaged] | None = None,
        on_event: Event = lambda *_: None,
    ) -> None:
        """``env_of`` resolves a server's declared environment; ``package_of`` finds and verifies an installed package (it
        may read many files and is called in a thread). Both may raise OperatorError. ``on_event`` hears ``server-started``,
        ``server-restarted`` and ``server-exited`` with the server, the principal (``*``: everybody's) and a reason."""
        self._on_event = on_event
        self._starts: dict[_Key, int] = {}
        self._watches: set[asyncio.Task[None]] = set()
        self._cage = cage
        self._env_of = env_of
        self._package_of = package_of
        self._groups = ProcessGroups()
        self._specs: dict[str, ServerSpec] = {}
        self._berths: dict[_Key, Berth] = {}
        self._leaving: set[Berth] = set()
        self._eras: dict[str, dict[Era, bool]] = {}
        self._channels: dict[Channel, str] = {}
        self._is_closed = False

    # -- for the supervisor -------------------------------------------------------------------------------------

    @property
    def counts_processes(self) -> bool:
        """True where a server's processes are counted by a cgroup."""
        return self._groups.is_available

    def running(self) -> dict[str, int]:
        """How many processes each server has."""
        counts: dict[str, int] = {}
        for berth in self._berths.values():
            if berth.is_running:
                counts[berth.name] = counts.get(berth.name, 0) + 1
        return counts

    def set_servers(self, specs: dict[str, ServerSpec]) -> None:
        """Take a new revision of the settings: processes of servers that changed or went end in order."""
        for name in set(self._specs) | set(specs):
            if self._specs.get(name) == specs.get(name):
                continue
            self._eras.pop(name, None)
            for key, berth in list(self._berths.items()):
                if key[0] == name:
                    self._drop(key, berth.retire)
        self._specs = {name: spec for name, spec in specs.items() if spec.is_stdio}

    def end_principal(self, principal: str) -> None:
        """End the processes of a principal (revoked, removed)."""
        for key, berth in list(self._berths.items()):
            if key[1] == principal:
                self._drop(key, berth.stop)

    async def close(self) -> None:
        """End all processes; returns when they are gone, within a few seconds."""
        self._is_closed = True
        for key, berth in list(self._berths.items()):
            self._drop(key, berth.stop)
        for berth in self._leaving:
            berth.stop()
        if self._leaving:
            waits = [asyncio.ensure_future(berth.wait()) for berth in self._leaving]
            await asyncio.wait(waits, timeout=_CLOSE_SECONDS)
            for wait in waits:
                wait.cancel()
        self._leaving.clear()
        if self._watches:  # the last ends are told of before this returns
            await asyncio.wait(self._watches, timeout=1.0)
            for watch in self._watches:
                watch.cancel()

    def accept(self, payload: Any, channel: Channel) -> None:
        """Serve a link of a worker (topic ``stdio`` of the bus)."""
        match payload:
            case {
                "server": str(server),
                "principal": str(principal),
                "era": "legacy" | "modern" as era,
                "version": str(version),
                "capabilities": dict(capabilities),
            }:
                _Link(self, channel).begin(server, principal, era, version, capabilities)
            case _:
                channel.close("bus-payload")

    # -- for links ----------------------------------------------------------------------------------------------

    def find(
        self, server: str, principal: str, era: Era, version: str, capabilities: dict[str, Any]
    ) -> Berth | UpstreamError:
        """The berth for somebody, or why there is none."""
        spec = self._specs.get(server)
        if spec is None or self._is_closed:
            return UpstreamError("upstream-absent", "The protected server is not there any more.")
        if self._eras.get(server, {}).get(era) is False:
            other: Era = "legacy" if era == "modern" else "modern"
            versions = codes.LEGACY_VERSIONS if other == "legacy" else codes.MODERN_VERSIONS
            return wrong_era(other, versions)
        owner = principal if spec.per_principal else EVERYBODY
        if era == "legacy":
            digest = hashlib.sha256(encode_json(capabilities)).hexdigest()
            key: _Key = (server, owner, era, version, digest)
        else:
            key = (server, owner, era, "", "")  # every request carries its own version and capabilities
        berth = self._berths.get(key)
        if berth is None:
            full = self._make_room(owner)
            if full is not None:
                return full
            berth = self._berths[key] = self._make(key, spec, era)
        return berth

    def _make(self, key: _Key, spec: ServerSpec, era: Era) -> Berth:
        eras = self._eras.setdefault(spec.name, {})
        berth = Berth(
            spec.name,
            era,
            lambda events: self._start(key, spec, events),
            start_timeout_seconds=spec.start_timeout_seconds,
            era_known=eras.__setitem__,
            needs_probe=lambda: "modern" not in eras,
            on_idle=lambda one: self._drop(key, one.stop),
        )
        berth.principal = key[1]
        return berth

    def _make_room(self, owner: str) -> UpstreamError | None:
        own = [key for key in self._berths if key[1] == owner]
        for keys, most, whose in (
            (own, limits.CHILDREN_PER_PRINCIPAL, "this caller"),
            (list(self._berths), limits.CHILDREN_TOTAL, "all callers"),
        ):
            if len(keys) < most:
                continue
            unused = next((key for key in keys if not self._berths[key].attachments), None)
            if unused is None:
                return UpstreamError(
                    "upstream-too-many", f"Too many server processes run for {whose}; try again later."
                )
            self._drop(unused, self._berths[unused].stop)
        return None

    def _drop(self, key: _Key, end: Callable[[], None]) -> None:
        berth = self._berths.pop(key, None)
        if berth is None:
            return
        self._leaving.add(berth)
        end()
        task = asyncio.ensure_future(berth.wait())
        task.add_done_callback(lambda _: self._leaving.discard(berth))

    async def _start(self, key: _Key, spec: ServerSpec, events: ChildEvents) -> StdioChild:
        """Start a process. Raises: OperatorError, UpstreamError."""
        env = self._env_of(spec)
        packaged = None
        if spec.package:
            if self._package_of is None:
                raise OperatorError(
                    "settings-not-available", f"servers.{spec.name}.package is not available here."
                )
            packaged = await asyncio.to_thread(self._package_of, spec)
        child = StdioChild(spec.name, self._cage.launch(spec, env, packaged), events, self._groups)
        await child.start()
        again = self._starts.get(key, 0)
        self._starts[key] = again + 1
        method = "server-restarted" if again else "server-started"
        self._on_event(method, spec.name, key[1], f"process {child.pid}, {spec.sandbox} sandbox")
        watch = asyncio.get_running_loop().create_task(self._watch(key, child))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)
        return child

    async def _watch(self, key: _Key, child: StdioChild) -> None:
        pid = child.pid
        await child.wait()
        if key not in self._berths:
            self._starts.pop(key, None)
        self._on_event("server-exited", key[0], key[1], f"process {pid}, exit status {child.exit_status}")


class _Link:
    """One worker's link at a berth: the attachment's outlet, and the other end of ``stdio_link.StdioLink``."""

    def __init__(self, pool: StdioPool, channel: Channel) -> None:
        self._pool = pool
        self._channel = channel
        self._attachment = Attachment(self)
        self._berth: Berth | None = None
        channel.on_message = self._heard
        channel.on_close = self._closed
        channel.on_writable = self._writable

    def begin(
        self, server: str, principal: str, era: Era, version: str, capabilities: dict[str, Any]
    ) -> None:
        """Find the berth and go aboard."""
        found = self._pool.find(server, principal, era, version, capabilities)
        if isinstance(found, UpstreamError):
            return self._ready(found)
        self._berth = found
        return found.attach(self._attachment, self._ready)

    def _ready(self, problem: UpstreamError | None) -> None:
        if problem is None:
            self._channel.send(["ready"])
            return
        self._channel.send(["refused", problem.code, problem.tell, problem.detail])
        self._channel.close("refused")
        self._closed("refused")

    def _heard(self, payload: Any) -> None:
        berth = self._berth
        if berth is None:
            return
        match payload:
            case ["post", int(number), bytes(body)]:
                try:
                    message = parse_message(body)
                except CallerError as error:  # the worker has parsed it before: a bug there
                    return self.failed(number, UpstreamError("upstream-malformed", error.tell))
                berth.post(self._attachment, number, message)
            case ["cancel", int(number)]:
                berth.cancel(self._attachment, number)
            case ["listen", int(number)]:
                self._attachment.listeners.append(number)
            case _:
                self._channel.close("bus-payload")
                self._closed("bus-payload")
        return None

    def _closed(self, reason: str) -> None:
        berth, self._berth = self._berth, None
        if berth is not None:
            berth.detach(self._attachment)

    def _writable(self) -> None:
        if self._berth is not None:
            self._berth.drained()

    # -- Outlet -------------------------------------------------------------------------------------------------

    @property
    def is_congested(self) -> bool:
        return self._channel.is_congested

    def message(self, number: int, message: Message) -> None:
        self._channel.send(["message", number, encode_json(message.value)])

    def done(self, number: int) -> None:
        self._channel.send(["done", number])

    def failed(self, number: int, error: UpstreamError) -> None:
        self._channel.send(["failed", number, error.code, error.tell, error.detail])
