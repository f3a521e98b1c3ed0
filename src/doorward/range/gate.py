"""A real Doorward for one lab: `doorward serve` in a process of its own, profile lab, loopback ports, a fresh folder."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from doorward.adapters.admin_client import AdminClient
from doorward.adapters.key_files import load_or_create_keys
from doorward.adapters.ledger_read import LedgerReader, find_public_key, verify_folder
from doorward.base.clock import SystemClock
from doorward.base.errors import DoorwardError, OperatorError
from doorward.identity import metadata
from doorward.identity.tokens import issue
from doorward.settings import Settings, flatten, load

START_SECONDS = 30.0
_STOP_SECONDS = 20.0
_SWITCH_SECONDS = 15.0
_POLL_SECONDS = 0.02
_STARTS = 3  # another program may take a port between our choice and its use

# Ends with us, however we end: a weakened gateway must not outlive its lab (prctl(2), PR_SET_PDEATHSIG).
_LEASH = (
    "import ctypes, os, sys; sys.platform == 'linux' and ctypes.CDLL(None).prctl(1, 15); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)

Tables = Mapping[str, Mapping[str, Any]]  # dotted table name -> its keys


def merge(*parts: Tables) -> dict[str, dict[str, Any]]:
    """Settings tables over one another, later ones last."""
    found: dict[str, dict[str, Any]] = {}
    for part in parts:
        for name, table in part.items():
            found[name] = {**found.get(name, {}), **table}
    return found


def write_toml(tables: Tables) -> str:
    """Settings tables as a settings file. Values are texts, numbers, booleans and lists of texts."""
    lines = []
    for name, table in tables.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def lab_environment() -> Iterator[None]:
    """What profile lab asks of the environment, while settings are read."""
    before = os.environ.get("DOORWARD_LAB")
    os.environ["DOORWARD_LAB"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["DOORWARD_LAB"]
        else:
            os.environ["DOORWARD_LAB"] = before


def difference(old: Settings, new: Settings) -> list[dict[str, Any]]:
    """The settings that differ: key, value before, value after (None: absent)."""
    before, after = flatten(old), flatten(new)
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [{"key": key, "before": before.get(key), "after": after.get(key)} for key in keys]


class Gate:
    """One gateway before some servers. ``tables`` are settings that hold in all phases."""

    def __init__(self, servers: Mapping[str, str], tables: Tables) -> None:
        """``servers``: the URL of each by its name."""
        self.issued: list[str] = []  # every token that was handed out, so that transcripts can leave them out
        self._base = merge({f"servers.{name}": {"url": url} for name, url in servers.items()}, tables)
        self._seen: dict[str, int] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._stack = contextlib.ExitStack()
        self._tokens: dict[tuple[str, ...], str] = {}
        self.host = "127.0.0.1"
        self.port = 0
        self.settings: Settings | None = None

    @property
    def authority(self) -> str:
        """Host and port of the MCP endpoints."""
        return f"{self.host}:{self.port}"

    # -- life ---------------------------------------------------------------------------------------------------

    async def start(self, tables: Tables) -> None:
        """Start with further settings. Raises: OperatorError ``range-machine-gateway`` when it does not start."""
        made = tempfile.TemporaryDirectory(prefix="doorward-lab-", ignore_cleanup_errors=True)
        self.folder = Path(self._stack.enter_context(made))
        self.config, self.data_dir = self.folder / "doorward.toml", self.folder / "data"
        for attempt in range(1, _STARTS + 1):
            self.port, self._admin_port = free_port(), free_port()
            self.settings = self._write(tables)
            if await self._launch():
                return
            if attempt == _STARTS or "listen-in-use" not in self.log():
                raise OperatorError(
                    "range-machine-gateway", f"The lab's Doorward does not start: {self._last_words()}"
                )

    def _write(self, tables: Tables) -> Settings:
        """Put the settings file in place, whole, and read it as Doorward will."""
        own = {
            "gateway": {
                "listen": self.authority,
                "public_url": f"http://{self.authority}",
                "data_dir": "./data",
                "profile": "lab",
            },
            "admin": {"listen": f"{self.host}:{self._admin_port}"},
        }
        fresh = self.config.with_suffix(".new")
        fresh.write_text(write_toml(merge(own, self._base, tables)), encoding="utf-8")
        fresh.replace(self.config)
        with lab_environment():
            return load(self.config).settings

    async def _launch(self) -> bool:
        reading, writing = os.pipe()
        try:
            with (self.folder / "log").open("wb") as log:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-c",
                    _LEASH,
                    *("-m", "doorward.cli.main", "serve", "--config", str(self.config)),
                    *("--ready-fd", str(writing)),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    env={**os.environ, "DOORWARD_LAB": "1"},
                    pass_fds=(writing,),
                    start_new_session=True,
                )
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        said = await _read_line(reading, START_SECONDS)
        if said:
            return True
        await self.end()
        return False

    async def stop(self) -> None:
        """End the process and remove the folder."""
        try:
            await self.end()
        finally:
            self._stack.close()

    async def end(self) -> None:
        """End the process; the folder stays until ``stop``."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()

    def log(self) -> str:
        """What the process has said."""
        try:
            return (self.folder / "log").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def _last_words(self) -> str:
        lines = [line.strip() for line in self.log().splitlines() if line.strip()]
        return lines[-1][:400] if lines else "it said nothing"

    # -- settings -----------------------------------------------------------------------------------------------

    async def switch(self, tables: Tables) -> list[dict[str, Any]]:
        """Put other settings in force in the running Doorward, and wait until every worker serves under them.

        Returns what has changed. Raises: OperatorError ``range-machine-switch``.
        """
        old = self.settings
        new = self._write(tables)
        self.settings = new
        try:
            async with asyncio.timeout(_SWITCH_SECONDS):
                await self._ask("POST", "/api/v1/reload")
                while not _is_in_force(await self._ask("GET", "/api/v1/status")):
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError as error:
            raise OperatorError(
                "range-machine-switch", "The lab's Doorward did not take its new settings."
            ) from error
        return difference(old, new) if old is not None else []

    async def _ask(self, verb: str, path: str, body: Any = None) -> Any:
        """Ask over the admin socket, which appears a moment after the workers are ready."""
        client = AdminClient(self.data_dir)
        while True:
            try:
                if verb == "POST":
                    return await asyncio.to_thread(client.post, path, body)
                return await asyncio.to_thread(client.get, path)
            except OperatorError as error:
                if error.code != "admin-not-running" or self._process is None:
                    raise OperatorError(
                        "range-machine-switch", f"The lab's Doorward says: {error.tell}"
                    ) from error
                if self._process.returncode is not None:
                    raise OperatorError(
                        "range-machine-gateway", f"The lab's Doorward has ended: {self._last_words()}"
                    ) from error
            await asyncio.sleep(_POLL_SECONDS)

    # -- people and records -------------------------------------------------------------------------------------

    async def login_link(self, user: str) -> str:
        """A link that signs a browser in once. Raises: OperatorError."""
        made = await self._ask("POST", "/api/v1/login-links", {"user": user})
        return str(made["url"])

    def token(self, user: str, server: str, client: str = "doorward-range", role: str = "user") -> str:
        """An access token as `doorward token` issues it; ``server`` "mcp" is the endpoint of all servers."""
        key = (user, server, client, role)
        if key not in self._tokens:
            url = f"http://{self.authority}"
            self._tokens[key] = issue(
                load_or_create_keys(self.data_dir),
                issuer=metadata.issuer_of(url),
                resource=metadata.resource_of(url, server),
                subject=user,
                client=client,
                roles=(role,),
                clock=SystemClock(),
                created=True,
            )
            self.issued.append(self._tokens[key])
        return self._tokens[key]

    async def new_records(self) -> list[dict[str, Any]]:
        """What has come on record since the last call, oldest first."""
        return await asyncio.to_thread(LedgerReader(self.data_dir).newer, self._seen)

    async def verify(self) -> str:
        """Check every byte of the ledger, after ``end``; what is wrong with it, or ""."""
        try:
            report = await asyncio.to_thread(
                lambda: verify_folder(self.data_dir, find_public_key(self.data_dir))
            )
        except DoorwardError as error:
            return error.tell
        return "" if report.ok else "; ".join(sorted({problem.what for problem in report.problems}))


def _is_in_force(status: Any) -> bool:
    if not isinstance(status, dict):
        return False
    generations = status.get("generations")
    return (
        isinstance(generations, list) and bool(generations) and set(generations) == {status.get("generation")}
    )


async def _read_line(descriptor: int, seconds: float) -> bytes:
    """The first bytes from a pipe; b"" when its other end closes or nothing comes in time. Closes the descriptor."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    pipe = os.fdopen(descriptor, "rb", 0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        return await asyncio.wait_for(reader.read(64), seconds)
    except TimeoutError:
        return b""
    finally:
        transport.close()
