"""The supervisor: owns settings, keys, state, stdio servers and the workers, and tells the workers what is in force.

Workers are started first and import while keys and state are read; none serves before it has a whole snapshot. A worker
that dies is started again with back-off; a supervisor that dies takes its workers with it, because their bus ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from doorward.adapters.bus import Channel, join
from doorward.adapters.key_files import load_or_create_ed25519, load_or_create_keys, load_or_create_secret
from doorward.adapters.ledger_signer import LedgerSigner
from doorward.adapters.open_files import raise_open_files
from doorward.adapters.shared_counters import SharedCounters, make_counters_file
from doorward.app.chronicle import Chronicle, own_actor
from doorward.app.data_folder import lock_data_folder
from doorward.app.offices import Offices
from doorward.app.postures import Postures
from doorward.app.revision import Prepared, judge, prepare, try_whole
from doorward.app.secrets import SecretReader
from doorward.app.watching import watch_settings
from doorward.app.worker_process import WORKER_MODULE, StartWorker, WorkerProcess
from doorward.base.errors import CallerError, DoorwardError, OperatorError, StoreError
from doorward.settings import Loaded, check_hot_change, load

if TYPE_CHECKING:
    from doorward.adapters.state import State
    from doorward.adapters.stdio_pool import StdioPool
    from doorward.base.secret import Secret
    from doorward.catalogue.server import SecretReference
    from doorward.identity.keys import KeySet

_log = logging.getLogger("doorward.supervisor")
_TICK_SECONDS = 0.5
_DRAIN_SECONDS = 10.0
_MAKE_WAY_SECONDS = 1.0
_BACKOFF_FIRST_SECONDS = 0.2
_BACKOFF_LAST_SECONDS = 10.0
_STEADY_SECONDS = 30.0  # a worker that lived this long starts its back-off anew
_STATE_SECONDS = 30.0
_BUMPS = 1_000_000  # snapshots that one revision of the settings may have
_REVOCATION_CHARS = 256


class Supervisor:
    """The parent of all that serves."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        on_ready: Callable[[], None] = lambda: None,
        worker_module: str = WORKER_MODULE,
        start_worker: StartWorker | None = None,
        admin: Literal["all", "socket", "none"] = "all",
    ) -> None:
        self.settings = loaded.settings
        self.loaded = loaded
        self.workers: dict[int, WorkerProcess] = {}
        self.restarts = 0
        self.started_at = time.time()
        self.last_reload_error: dict[str, str] | None = None
        self.revision = 0
        self.generation = 0
        self.data_dir = Path(loaded.settings.gateway.data_dir)
        self.pool: StdioPool | None = None
        self.state: State | None = None
        self.chronicle: Chronicle | None = None  # the supervisor's own log, once it is open
        self.postures = Postures(self)
        self.offices = Offices(self)
        self.mode_since: dict[str, float] = {}  # controls whose mode changed while this Doorward runs
        self._on_ready = on_ready
        self._start_process = start_worker or partial(WorkerProcess.start, module=worker_module)
        self._admin = admin
        self._revoked: list[str] = []
        self._over = asyncio.Event()
        self._prepared = asyncio.Event()
        self._stopping = False
        self._was_ready = False
        self._failure: DoorwardError | None = None
        self._backoff: dict[int, float] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._reloading = asyncio.Lock()

    # -- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Serve until told to stop. Returns the exit code. Raises: DoorwardError when it cannot start."""
        raise_open_files()
        lock = lock_data_folder(self.data_dir)
        self._counters_fd = make_counters_file(self.settings.gateway.workers)
        try:
            for sign in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(sign, self._stop_signal)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload_signal)
            for index in range(self.settings.gateway.workers):
                await self._start_worker(index)
            await self._prepare()
            self._spawn(self._tick())
            self._spawn(watch_settings(self))
            self._note_start()
            self._spawn(self._after_the_first_call(self.postures.try_cage))
            await self._over.wait()
            if self._failure is not None:
                raise self._failure
            return 0
        finally:
            await self._stop()
            os.close(self._counters_fd)
            os.close(lock)

    async def _prepare(self) -> None:
        """Read everything that the first snapshot holds."""
        opening = asyncio.ensure_future(asyncio.to_thread(self._open_state))
        await asyncio.sleep(0)
        data_dir = self.data_dir
        self.secrets = SecretReader(self.settings)
        self._keys = load_or_create_keys(data_dir)
        self._session_key = load_or_create_secret(data_dir, "session")
        self._digest_key = load_or_create_secret(data_dir, "digest")
        lab = self.settings.gateway.profile == "lab"
        self.signer = LedgerSigner(data_dir, load_or_create_ed25519(data_dir, "ledger-signing"), lab=lab)
        self.counters = SharedCounters.attach(self._counters_fd, 0)
        self._in_force = await asyncio.to_thread(prepare, self.loaded, self.secrets)  # stores may be far
        chronicle = Chronicle(
            data_dir, self.signer, self._digest_key, self.settings.audit.sync_ms, on_failed=self.fail
        )
        try:
            await chronicle.start()
            self.chronicle = chronicle
        finally:
            await opening
        await self.offices.open()
        self._prepared.set()

    def _open_state(self) -> None:
        from doorward.adapters.state import State

        now = time.time()
        state = State(self.data_dir)
        self._revoked = state.revoked(now)
        self.revision = state.add_revision(
            self.loaded.digest, msgspec.msgpack.encode(self.settings), now, "start"
        )
        self.generation = self.revision * _BUMPS
        self.state = state

    def _pool_for(self, loaded: Loaded) -> StdioPool | None:
        """The pool that settings need: the one there is, a new one, or none."""
        if self.pool is not None or not any(spec.is_stdio for spec in loaded.settings.servers.values()):
            return self.pool
        from doorward.adapters.cage import Cage
        from doorward.adapters.packages import Packages
        from doorward.adapters.stdio_pool import StdioPool

        return StdioPool(
            Cage(self.data_dir, loaded.path.parent),
            env_of=lambda spec: self.secrets.env_of(spec),
            package_of=Packages(self.data_dir).packaged,
            on_event=self._note_server,
        )

    def _take_pool(self, pool: StdioPool | None) -> None:
        self.pool = pool
        if pool is not None:
            pool.set_servers(self.settings.servers)

    async def _stop(self) -> None:
        """Drain the workers, then end everything that was started."""
        self._stopping = True
        self._prepared.set()  # workers that wait for a beginning hear that there is none
        for task in self._tasks:
            task.cancel()
        workers = list(self.workers.values())
        for worker in workers:
            worker.peer.tell("drain", {"seconds": _DRAIN_SECONDS})
        if workers:
            # The tasks that watch the processes end with them.
            ends = [asyncio.ensure_future(worker.ended()) for worker in workers]
            _, late = await asyncio.wait(ends, timeout=_DRAIN_SECONDS + 2.0)
            if late:
                for worker in workers:
                    worker.kill()
                await asyncio.wait(ends)
        if self.pool is not None:
            await self.pool.close()
        await self.offices.close()
        self.note("doorward-stopped", own_actor(), reason="" if self._failure is None else self._failure.code)
        try:
            if self.chronicle is not None:
                await self.chronicle.close()
        except StoreError as error:
            _log.critical("the last records have no checkpoint", extra={"code": error.code})
        if self.state is not None:
            await asyncio.to_thread(self.state.close)

    def stop(self) -> None:
        """End in order; a second call ends at once."""
        if self._over.is_set():
            for worker in self.workers.values():
                worker.kill()
        self._over.set()

    def _stop_signal(self) -> None:
        _log.info("stopping")
        self.stop()

    def fail(self, error: DoorwardError) -> None:
        """End because of an error, which ``run`` raises."""
        self._failure = self._failure or error
        self._over.set()

    @property
    def is_ready(self) -> bool:
        """True while every worker serves."""
        full = len(self.workers) == self.settings.gateway.workers
        return full and all(one.is_ready for one in self.workers.values())

    # -- records ------------------------------------------------------------------------------------------------

    def note(self, method: str, actor: str, **more: Any) -> None:
        """Put on record what is no call, once the log is open; see ``Chronicle.note``."""
        if self.chronicle is not None:
            self.chronicle.note(method, actor, **more)

    def _note_start(self) -> None:
        self.note(
            "doorward-started", own_actor(), item=self.settings.gateway.profile, reason=self.loaded.digest
        )
        self._note_weakened(own_actor())

    def _note_weakened(self, actor: str) -> None:
        """What the settings in force take away from the protection."""
        if self.settings.identity.mode == "off":
            self.note(
                "identity-off", actor, control="check-token", reason="every caller is the principal local"
            )
        for name, spec in self.settings.servers.items():
            if spec.is_stdio and spec.sandbox == "none":
                self.note("server-uncaged", actor, server=name, control="keep-cage", reason="sandbox is none")
        for slug, control in self.settings.controls.items():
            if control.mode != "enforce":
                self.note("control-weakened", actor, control=slug, reason=f"mode is {control.mode}")

    def _note_server(self, method: str, server: str, principal: str, reason: str) -> None:
        self.note(method, principal, kind="server", server=server, reason=reason)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- workers ------------------------------------------------------------------------------------------------

    async def _start_worker(self, index: int) -> None:
        worker = await self._start_process(index, self._counters_fd, self._worker_gone)
        self.workers[index] = worker
        peer = worker.peer
        peer.answer("hello", lambda _: self._hello(index))
        self.offices.listen(peer, index)
        peer.on_tell("ready", lambda _: self._worker_ready(worker))
        peer.on_tell("failed", lambda payload: self._worker_failed(payload))
        peer.on_tell("metrics", lambda payload: setattr(worker, "numbers", payload))
        peer.on_tell("list-changed", lambda payload: self._list_changed(index, payload))
        peer.accept("stdio", self._accept_stdio)
        peer.accept("relay", self._accept_relay)

    async def _hello(self, index: int) -> dict[str, Any]:
        await self._prepared.wait()
        # A worker that was told to drain before it could hear that has nothing to begin with.
        return {} if self._stopping else self._snapshot(index)

    def _snapshot(self, index: int) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "settings": msgspec.msgpack.encode(self.settings),
            "jwks": self._keys.jwks(),
            "revoked": self._revoked,
            "session_key": self._session_key,
            "digest_key": self._digest_key,
            "ledger_origin": self.signer.origin_of(f"w{index}"),
            "ledger_public_key": self.signer.public_key,
            "policies": self._in_force.policies,
            "secrets": self._in_force.credentials,
            "papers": self.offices.papers(),
            "web": self.offices.web_paths(),
        }

    def _worker_ready(self, worker: WorkerProcess) -> None:
        worker.is_ready = worker.was_ready = True
        if not self._was_ready and all(one.is_ready for one in self.workers.values()):
            self._was_ready = True
            _log.info("ready", extra={"listen": self.settings.gateway.listen, "workers": len(self.workers)})
            self._on_ready()
            self._take_pool(
                self._pool_for(self.loaded)
            )  # only now: the first call may come, but none has to wait for it
            if self._admin != "none":
                self._spawn(self._after_the_first_call(self._serve_admin))

    async def _after_the_first_call(self, work: Callable[[], Awaitable[Any]]) -> None:
        """What nobody waits for makes way where one client does, which has started us and wants its first answer."""
        if self._admin == "socket":
            await asyncio.sleep(_MAKE_WAY_SECONDS)
        await work()

    async def _serve_admin(self) -> None:
        from doorward.app.admin import serve_admin

        try:
            await serve_admin(self, tcp=self._admin == "all")
        except OSError as error:
            _log.critical("the admin plane cannot listen", extra={"errno": error.errno})

    def _worker_failed(self, payload: Any) -> None:
        tell = str(payload.get("tell", "")) if isinstance(payload, dict) else ""
        code = str(payload.get("code", "worker-failed")) if isinstance(payload, dict) else "worker-failed"
        if not self._was_ready:
            self.fail(OperatorError(code, tell or "A worker could not start; the log says why."))

    def _worker_gone(self, worker: WorkerProcess, code: int) -> None:
        if self.workers.get(worker.index) is worker:
            del self.workers[worker.index]
        if self._stopping or self._over.is_set():
            return
        _log.error("worker gone", extra={"worker": worker.index, "exit_code": code})
        if not self._was_ready and not worker.was_ready:
            self.fail(OperatorError("worker-failed", "A worker could not start; the log says why."))
            return
        self.restarts += 1
        self.note(
            "worker-gone", own_actor(), kind="server", item=f"w{worker.index}", reason=f"exit code {code}"
        )
        self.counters.forget_worker(worker.index)
        for other in self.workers.values():
            other.peer.tell("worker-gone", {"index": worker.index})
        self._spawn(self._start_again(worker))

    async def _start_again(self, worker: WorkerProcess) -> None:
        index = worker.index
        lived = time.monotonic() - worker.started_at
        wait = 0.0 if lived > _STEADY_SECONDS else self._backoff.get(index, 0.0)
        self._backoff[index] = min(max(2 * wait, _BACKOFF_FIRST_SECONDS), _BACKOFF_LAST_SECONDS)
        await asyncio.sleep(wait)
        try:
            await self._start_worker(index)
        except OSError as error:
            self.fail(OperatorError("worker-failed", "A worker process cannot be started.", str(error.errno)))

    async def _tick(self) -> None:
        while True:
            for worker in self.workers.values():
                worker.peer.tell("tick", {"generation": self.generation})
            await asyncio.sleep(_TICK_SECONDS)

    def secret(self, reference: SecretReference, where: str) -> Secret:
        """What a reference of the settings leads to. Raises: OperatorError."""
        return self.secrets.resolve(reference, where)

    # -- what workers ask ---------------------------------------------------------------------------------------

    def ready_state(self) -> State:
        """The opened state, for threads. Raises: StoreError."""
        if self.state is None:
            raise StoreError("state-unusable", "The state is not open.")
        return self.state

    def _list_changed(self, index: int, payload: Any) -> None:
        """One worker has heard that a server's list changed: the others may not hear it from the server."""
        match payload:
            case {"server": str(server)} if server in self.settings.servers:
                for number, worker in self.workers.items():
                    if number != index:
                        worker.peer.tell("list-changed", {"server": server})

    def _accept_stdio(self, payload: Any, channel: Channel) -> None:
        if self.pool is None:
            self._take_pool(self._pool_for(self.loaded))
        if self.pool is None:
            channel.close("upstream-absent")
            return
        self.pool.accept(payload, channel)

    def _accept_relay(self, payload: Any, channel: Channel) -> None:
        """Join the channel with one to the worker that owns the session."""
        target = self.workers.get(payload.get("to", -1)) if isinstance(payload, dict) else None
        if target is None:
            channel.close("worker-gone")
            return
        join(channel, target.peer, payload)

    # -- settings and revocations -------------------------------------------------------------------------------

    def push(self) -> None:
        """Tell the workers what is in force now."""
        self.generation += 1
        for worker in self.workers.values():
            if worker.is_ready:
                worker.peer.tell("snapshot", self._snapshot(worker.index))

    def adopt_keys(self, keys: KeySet) -> None:
        """Sign and verify with these from now on, everywhere: whoever holds the set sees the change."""
        self._keys.current, self._keys.retired = keys.current, keys.retired
        self.push()

    def present(self, credentials: dict[str, bytes]) -> None:
        """Present these to upstreams from now on, if they are others."""
        if credentials != self._in_force.credentials:
            self._in_force = msgspec.structs.replace(self._in_force, credentials=credentials)
            self.push()

    async def revoke(self, jti: str, until: float, by: str) -> None:
        """Revoke a token everywhere. Raises: CallerError, StoreError."""
        if not jti or len(jti) > _REVOCATION_CHARS:
            raise CallerError("revocation", "A revocation needs the token's jti.")
        await asyncio.to_thread(self.ready_state().revoke, jti, until, time.time(), by)
        if jti not in self._revoked:
            self._revoked.append(jti)
        self.note("token-revoked", by, item=jti)
        self.push()

    def _reload_signal(self) -> None:
        if self.settings.gateway.profile in ("local", "lab"):
            self._spawn(self.reload("signal", force=True))
        else:
            _log.warning("settings of this profile activate at start only")

    async def reload(self, by: str, *, force: bool = False) -> bool:
        """Take the settings file anew. A bad file is refused whole: the old settings stay. True when it is in force."""
        async with self._reloading:
            try:
                fresh = await asyncio.to_thread(load, self.loaded.path)
                if fresh.digest == self.loaded.digest and not force:
                    return True
                ready, pool = await self._ready_revision(fresh)
                content = msgspec.msgpack.encode(fresh.settings)
                revision = await asyncio.to_thread(
                    self.ready_state().add_revision, fresh.digest, content, time.time(), by
                )
            except DoorwardError as error:
                self.last_reload_error = {"code": error.code, "tell": error.tell}
                _log.error("settings refused; the old ones stay", extra=self.last_reload_error)
                self.note("settings-refused", by, verdict="refuse", reason=f"{error.code}: {error.tell}")
                return False
            # From here on nothing can be refused: all that could be is judged.
            self._note_modes(fresh)
            self.last_reload_error = None
            self.loaded, self.settings, self._in_force = fresh, fresh.settings, ready
            self.revision = revision
            self.generation = revision * _BUMPS
            self._take_pool(pool)
            self.offices.renew()
            self.push()
            self.note(
                "settings-activated", by, verdict="allow", item=f"revision {revision}", reason=fresh.digest
            )
            self._note_weakened(by)
            self._spawn(self.postures.try_cage())
            _log.info("settings in force", extra={"revision": revision})
            return True

    async def _ready_revision(self, fresh: Loaded) -> tuple[Prepared, StdioPool | None]:
        """Judge a changed file wholly. Raises: DoorwardError; nothing has changed then."""
        check_hot_change(self.settings, fresh.settings)
        ready = await asyncio.to_thread(prepare, fresh, self.secrets)
        jwks = self._keys.jwks()
        await asyncio.to_thread(try_whole, lambda: judge(ready, jwks, self.counters))
        await asyncio.to_thread(self.offices.judge, fresh)
        return ready, self._pool_for(fresh)

    def _note_modes(self, fresh: Loaded) -> None:
        before, after = self.settings.controls, fresh.settings.controls
        for slug in {*before, *after}:
            if before.get(slug) != after.get(slug):
                self.mode_since[slug] = time.time()
