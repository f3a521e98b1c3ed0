"""One running stdio server: start, strict lines in and out, and an end that leaves nothing behind (MCP basic/transports, stdio)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from typing import Any, Protocol

from doorward.adapters.cage import Launch, ResourceLimits, explain_failure
from doorward.adapters.cgroup import ProcessGroup, ProcessGroups
from doorward.adapters.seccomp import open_filter
from doorward.base import limits
from doorward.base.errors import CallerError, UpstreamError
from doorward.protocol.envelope import parse_message
from doorward.protocol.json_door import encode_json
from doorward.protocol.lines import LineReader
from doorward.protocol.message import Message

_log = logging.getLogger("doorward.stdio")
_STDERR_KEPT_BYTES = 4_096
_INFO_BYTES = 4_096
_LAST_WORDS_SECONDS = 0.5


class ChildEvents(Protocol):
    """Who owns a child."""

    def on_message(self, message: Message) -> None:
        """The server wrote one well-formed message."""

    def on_malformed(self) -> None:
        """The server wrote a line that looks like a message and is none."""

    def on_exit(self, error: UpstreamError) -> None:
        """The server is gone, or was given up; called exactly once, also after ``stop``."""


class Tie:
    """Ties one process to its owner; what a process says after it was cut loose is not heard."""

    def __init__(self, owner: ChildEvents) -> None:
        self._owner: ChildEvents | None = owner

    def cut(self) -> None:
        """Hear nothing more."""
        self._owner = None

    def on_message(self, message: Message) -> None:
        """See ``ChildEvents``."""
        if self._owner is not None:
            self._owner.on_message(message)

    def on_malformed(self) -> None:
        """See ``ChildEvents``."""
        if self._owner is not None:
            self._owner.on_malformed()

    def on_exit(self, error: UpstreamError) -> None:
        """See ``ChildEvents``."""
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.on_exit(error)


class StdioChild(asyncio.SubprocessProtocol):
    """A process (tree) and its three pipes."""

    def __init__(self, name: str, launch: Launch, events: ChildEvents, groups: ProcessGroups) -> None:
        self.name = name
        self.is_full = False  # stdin takes no more for now
        self.lines_ignored = 0
        self._launch = launch
        self._events = events
        self._group: ProcessGroup | None = groups.make(launch.resources.processes)
        self._reader = LineReader(limits.LINE_BYTES)
        self._spoke = False  # the first well-formed message has come
        self._transport: asyncio.SubprocessTransport | None = None
        self._over = False  # on_exit was called
        self._exited = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None
        self._errors = _StderrLog(name)
        self._why: UpstreamError | None = None
        self._paused = False

    @property
    def pid(self) -> int | None:
        """The process that Doorward started (the cage's outer process)."""
        return None if self._transport is None else self._transport.get_pid()

    @property
    def is_alive(self) -> bool:
        """True while messages can be sent."""
        return self._transport is not None and not self._over

    @property
    def exit_status(self) -> int | None:
        """How it ended: negative for a signal, None while it runs or when nobody saw it end."""
        return None if self._transport is None else self._transport.get_returncode()

    def why_gone(self) -> UpstreamError:
        """Why the server is gone; only sensible once it is."""
        return self._exit_error(None if self._transport is None else self._transport.get_returncode())

    async def start(self) -> None:
        """Start the process. Raises: UpstreamError ``upstream-start`` when it cannot be started at all."""
        loop = asyncio.get_running_loop()
        launch = self._launch
        argv, fds = list(launch.argv), []
        gate_in = gate_out = info_in = info_out = calls = -1
        if launch.is_caged:
            # The cage waits at the gate until limits are set on it, so that nothing inside ever ran without them.
            gate_out, gate_in = os.pipe()
            info_in, info_out = os.pipe()
            argv[1:1] = ["--block-fd", str(gate_out), "--info-fd", str(info_out)]
            fds = [gate_out, info_out]
            if (calls := open_filter()) >= 0:
                argv[1:1] = ["--seccomp", str(calls)]
                fds.append(calls)
        try:
            await loop.subprocess_exec(
                lambda: self, *argv, env=dict(launch.env), cwd=launch.folder, pass_fds=tuple(fds),
                start_new_session=True, close_fds=True,
            )  # fmt: skip
            if launch.is_caged:
                os.close(gate_out)
                os.close(info_out)
                gate_out = info_out = -1
                pid = await asyncio.wait_for(_read_pid(info_in), limits.CHILD_PROBE_SECONDS)
            else:
                pid = self.pid or 0
            if pid:
                self._limit(pid)
        except (OSError, ValueError, TimeoutError) as error:
            self._kill_now()
            raise UpstreamError(
                "upstream-start",
                "The protected server could not be started.",
                f"{type(error).__name__}: {error}",
            ) from error
        finally:
            for fd in (
                gate_in,
                gate_out,
                info_in,
                info_out,
                calls,
            ):  # closing the gate's writing end opens the gate
                if fd >= 0:
                    os.close(fd)

    def _limit(self, pid: int) -> None:
        _set_limits(pid, self._launch.resources, has_group=self._group is not None)
        if self._group is not None:
            try:
                self._group.add(pid)
            except OSError as error:
                _log.warning(
                    "a server runs without a process count", extra={"server": self.name, "cause": str(error)}
                )

    def send(self, message: Message) -> None:
        """Write one message as one line. Raises: UpstreamError when the server is gone or does not read."""
        # uvloop's pipe transports do not derive from asyncio's.
        stdin: Any = None if self._transport is None or self._over else self._transport.get_pipe_transport(0)
        if stdin is None or stdin.is_closing():
            raise UpstreamError("upstream-exited", "The protected server has stopped.")
        if stdin.get_write_buffer_size() > limits.CHILD_STDIN_BYTES:
            raise UpstreamError("upstream-busy", "The protected server does not read what it is sent.")
        stdin.write(encode_json(message.value) + b"\n")

    def pause(self) -> None:
        """Stop reading what the server says."""
        self._paused = True
        self._stdout("pause_reading")

    def resume(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            self._stdout("resume_reading")

    def _stdout(self, action: str) -> None:
        stdout: Any = None if self._transport is None else self._transport.get_pipe_transport(1)
        if stdout is not None and not stdout.is_closing():
            getattr(stdout, action)()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self._errors.feed(data)
            return
        if self._over:
            return
        try:
            for line in self._reader.feed(data):
                self._line(line)
        except UpstreamError as error:
            self.give_up(error)

    def _line(self, line: bytes) -> None:
        if self._over:
            return
        try:
            message = parse_message(line)
        except CallerError as error:
            self._ignore(line, error.code)
            return
        self._spoke = True
        self._events.on_message(message)

    def _ignore(self, line: bytes, code: str) -> None:
        """A line that is no message: banners are common, so they cost nothing until there are too many."""
        self.lines_ignored += 1
        if self.lines_ignored == 1 or self._spoke:
            when = "after its first message" if self._spoke else "before its first message"
            _log.warning(
                f"a server wrote a line that is not MCP on stdout {when}",
                extra={"server": self.name, "cause": code, "line": line[:120].decode("utf-8", "replace")},
            )
        if self.lines_ignored > limits.BANNER_LINES:
            self.give_up(
                UpstreamError(
                    "upstream-not-mcp", "The protected server writes something else than MCP on its stdout."
                )
            )
        elif self._spoke and line.startswith(b"{"):
            self._events.on_malformed()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1 and not self._over:
            # Without stdout nothing can be answered any more, whether or not the process lives on.
            self.give_up(None)

    def process_exited(self) -> None:
        self._exited.set()
        # Its last words may still lie in the pipe; but a process that left it can hold the pipe open for ever.
        asyncio.get_running_loop().call_later(_LAST_WORDS_SECONDS, self._bury)

    def connection_lost(self, exc: Exception | None) -> None:
        self._exited.set()
        self._bury()

    def _bury(self) -> None:
        code = None if self._transport is None else self._transport.get_returncode()
        self._finish(self._exit_error(code))
        self._clear()

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False

    # The end.

    def give_up(self, error: UpstreamError | None) -> None:
        """Kill the server because of what it did."""
        self._why = self._why or error
        if error is not None:
            _log.warning("a server was ended", extra={"server": self.name, "code": error.code})
            self._kill_now()
            self._finish(error)
        self.stop()

    def stop(self) -> None:
        """End the server in order: stdin, SIGTERM, SIGKILL of the whole tree. Returns at once."""
        if self._stopping is None and not self._exited.is_set():
            self._stopping = asyncio.get_running_loop().create_task(self._end())

    async def wait(self) -> None:
        """Wait until the process is gone."""
        if self._transport is not None:
            await self._exited.wait()
        if self._stopping is not None:
            await self._stopping

    async def _end(self) -> None:
        self._stdout("resume_reading")
        stdin = None if self._transport is None else self._transport.get_pipe_transport(0)
        if stdin is not None:
            stdin.close()
        if not await self._gone_within(limits.CHILD_STOP_SECONDS):
            self._signal(signal.SIGTERM)
            if not await self._gone_within(limits.CHILD_STOP_SECONDS):
                self._kill_now()
                await self._gone_within(limits.CHILD_STOP_SECONDS)
        self._finish(self._why or UpstreamError("upstream-exited", "The protected server has stopped."))
        self._clear()

    async def _gone_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._exited.wait(), seconds)
        return self._exited.is_set()

    def _signal(self, number: int) -> None:
        """Signal the server: inside the cage bubblewrap's own processes do not pass signals on, so ask the cgroup or /proc."""
        pid = self.pid
        if pid is None or self._exited.is_set():
            return
        targets = _descendants(pid) if self._launch.is_caged else []
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if not targets:
                os.killpg(pid, number)
        for target in targets:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(target, number)

    def _kill_now(self) -> None:
        pid = self.pid
        if pid is None:
            return
        if not self._exited.is_set():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(
                    pid, signal.SIGKILL
                )  # the cage's outer process: its end ends the whole PID namespace
        if self._group is not None:
            self._group.kill()

    def _clear(self) -> None:
        """Kill what is left of an uncaged tree and remove the cgroup."""
        if not self._launch.is_caged and self.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        group, self._group = self._group, None
        if group is not None:
            group.kill()
            _remove_soon(group, 50)
        self._errors.close()
        if self._transport is not None:
            self._transport.close()

    def _exit_error(self, code: int | None) -> UpstreamError:
        if self._why is not None:
            return self._why
        detail = f"exit status {code}; stderr: {self._errors.tail}"
        if self._launch.is_caged and not self._spoke and self._errors.tail.startswith("bwrap:"):
            return UpstreamError(
                "upstream-start",
                "The protected server's cage could not be built.",
                explain_failure(self._errors.tail),
            )
        return UpstreamError("upstream-exited", "The protected server has stopped.", detail)

    def _finish(self, error: UpstreamError) -> None:
        if not self._over:
            self._over = True
            self._events.on_exit(error)


class _StderrLog:
    """A server's stderr, line by line, into our log; never to clients (it may hold anything)."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._rest = b""
        self._window = 0.0
        self._count = 0
        self._dropped = 0
        self._kept = b""

    @property
    def tail(self) -> str:
        """The last bytes, for the log."""
        return self._kept.decode("utf-8", "replace").strip()

    def feed(self, part: bytes) -> None:
        """Take the next bytes."""
        self._kept = (self._kept + part)[-_STDERR_KEPT_BYTES:]
        *lines, rest = (self._rest + part).split(b"\n")
        self._rest = rest[: limits.CHILD_STDERR_LINE_BYTES]
        for line in lines:
            if line.strip():
                self._write(line)

    def _write(self, line: bytes) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._window >= 1.0:
            self._window, self._count = now, 0
            self._say_dropped()
        self._count += 1
        if self._count > limits.CHILD_STDERR_LINES_PER_SECOND:
            self._dropped += 1
            return
        text = line[: limits.CHILD_STDERR_LINE_BYTES].decode("utf-8", "replace").rstrip()
        _log.info("a server wrote on stderr", extra={"server": self._server, "line": text})

    def _say_dropped(self) -> None:
        if self._dropped:
            _log.warning("stderr lines were dropped", extra={"server": self._server, "count": self._dropped})
            self._dropped = 0

    def close(self) -> None:
        """Write what is left."""
        rest, self._rest = self._rest, b""
        if rest.strip():
            self._write(rest)
        self._say_dropped()


async def _read_pid(fd: int) -> int:
    """The id of the cage's first process, from bubblewrap's --info-fd (a small JSON object). 0 if it gave none."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    said = b""
    while b"}" not in said and len(said) < _INFO_BYTES:
        ready = loop.create_future()
        loop.add_reader(fd, _resolve, ready)
        try:
            await ready
        finally:
            loop.remove_reader(fd)
        part = os.read(fd, _INFO_BYTES)
        if not part:
            break
        said += part
    _, _, after = said.partition(b'"child-pid":')
    digits = after.strip().split(b",")[0].split(b"\n")[0].strip(b" }")
    return int(digits) if digits.isdigit() else 0


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _set_limits(pid: int, resources: ResourceLimits, *, has_group: bool) -> None:
    """Limit a process and all that it will start. Only Linux can do this from outside."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    wanted = {
        resource.RLIMIT_DATA: resources.memory_bytes,  # not RLIMIT_AS: Node reserves address space that it never uses
        resource.RLIMIT_NOFILE: resources.open_files,
        resource.RLIMIT_FSIZE: resources.file_bytes,
        resource.RLIMIT_CORE: 0,
    }
    if not has_group and os.geteuid() != 0:
        # Counts every process of this user, so it has to leave room for those outside the cage.
        wanted[resource.RLIMIT_NPROC] = resources.processes + _own_processes()
    for which, amount in wanted.items():
        _, hard = resource.prlimit(pid, which)
        most = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.prlimit(pid, which, (most, most))


def _own_processes() -> int:
    """Processes and threads of this user now."""
    uid, count = os.geteuid(), 0
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == uid:
                    count += len(os.listdir(f"/proc/{entry.name}/task"))
    return count


def _descendants(pid: int) -> list[int]:
    """The processes under a cage's outer process, without bubblewrap's own first one inside."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with (
                contextlib.suppress(OSError, ValueError, IndexError),
                open(f"/proc/{entry.name}/stat", "rb") as stat,
            ):
                parent = int(stat.read().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    inits = children.get(pid, [])
    found: list[int] = []
    waiting = [one for init in inits for one in children.get(init, [])]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += children.get(one, [])
    return found


def _remove_soon(group: ProcessGroup, tries: int) -> None:
    """A cgroup can be removed only once the kernel has buried its last process."""
    if not group.remove() and tries > 0:
        group.kill()
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().call_later(0.05, _remove_soon, group, tries - 1)
