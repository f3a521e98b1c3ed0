"""``doorward demo``: Doorward before two real servers from the registries, started, proven and explained in one command."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from doorward.base.errors import OperatorError, UpstreamError
from doorward.cli.demo_call import Call, prove, refused_without_token, wait_for_http
from doorward.cli.output import paint

TIME = "pypi:mcp-server-time==2026.10.19"  # stdio, started by Doorward in the cage
EVERYTHING = "npm:@modelcontextprotocol/server-everything@2026.8.31"  # Streamable HTTP, started beside it
_READY_SECONDS = 30.0
_TOKEN_SECONDS = 28_800
_ADMIN_TRIES, _ADMIN_SECONDS = 100, 0.1


def demo(
    *,
    folder: Annotated[
        Path, Parameter(name="--folder", help="Where settings, packages, keys and ledger go.")
    ] = Path("doorward-data/demo"),
    once: Annotated[
        bool, Parameter(name="--once", help="Stop after the proof instead of running on.", negative="")
    ] = False,
) -> int:
    """Start Doorward before two real MCP servers, make one protected call as proof, and say how to connect."""
    folder = folder.resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    children: list[subprocess.Popen[bytes]] = []
    stopped = _Stopped()
    try:
        _install(folder)
        gateway, admin, upstream = _free_port(8808), _free_port(8809), _free_port(8810)
        config = _write_settings(folder, gateway, admin, upstream)
        _say("starting the HTTP server beside Doorward, in a cage of its own")
        children.append(_start_everything(folder, upstream))
        wait_for_http(upstream, children[-1], _READY_SECONDS)
        _say("starting Doorward")
        children.append(_start_doorward(config))
        _report(config, f"http://127.0.0.1:{gateway}", f"http://127.0.0.1:{admin}/", folder)
        if once:
            return 0
        _say("running; Ctrl-C ends everything")
        return stopped.wait_for(children[-1])
    finally:
        stopped.leave()
        for child in reversed(children):
            _end(child)


class _Stopped:
    """Ctrl-C and SIGTERM end the demo in order, children first."""

    def __init__(self) -> None:
        self._before = {
            number: signal.signal(number, self._heard) for number in (signal.SIGINT, signal.SIGTERM)
        }

    def _heard(self, number: int, frame: object) -> None:
        raise KeyboardInterrupt

    def wait_for(self, child: subprocess.Popen[bytes]) -> int:
        """Wait until Doorward ends or somebody stops the demo."""
        try:
            return child.wait()
        except KeyboardInterrupt:
            _say("stopping")
            return 0

    def leave(self) -> None:
        """From here on the ends of the children must not be interrupted."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)


def _say(text: str) -> None:
    sys.stderr.write(f"{paint('demo', 'cyan', sys.stderr)}  {text}\n")
    sys.stderr.flush()


def _install(folder: Path) -> None:
    """Install both servers once, hashes on record, install scripts off."""
    from doorward.adapters.packages import Packages, parse_package

    packages = Packages(folder)
    for server, text in (("time", TIME), ("everything", EVERYTHING)):
        try:
            if packages.lock(server)["package"] == text:
                continue
        except OperatorError:
            pass
        packages.install(server, parse_package(text), say=_say)


def _free_port(wanted: int) -> int:
    """The wanted port of 127.0.0.1, or any free one when it is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found = int(probe.getsockname()[1])
                if found != wanted:
                    _say(f"port {wanted} is taken; using {found}")
                return found
    raise OperatorError("port-none", "No port of 127.0.0.1 is free.")


def _write_settings(folder: Path, gateway: int, admin: int, upstream: int) -> Path:
    path = folder / "doorward.toml"
    path.write_text(
        f"""# Written by `doorward demo`; start from it for your own settings.
[gateway]
listen = "127.0.0.1:{gateway}"
public_url = "http://127.0.0.1:{gateway}"
data_dir = "."

[admin]
listen = "127.0.0.1:{admin}"

[identity.registration]
schemes = ["cursor"]    # Cursor is sent back by a link of its own scheme
localhost_ports = true  # Claude Code waits at http://localhost, on a port of the moment

[servers.time]
package = "{TIME}"
command = ["mcp-server-time", "--local-timezone", "UTC"]

[servers.everything]
url = "http://127.0.0.1:{upstream}/mcp"
"""
    )
    return path


def _start_everything(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start the HTTP server: the cage that Doorward uses for its own children, but with this machine's network."""
    from doorward.adapters.cage import Cage
    from doorward.adapters.packages import Packages
    from doorward.catalogue.server import ServerSpec

    spec = ServerSpec(
        name="everything", package=EVERYTHING, command=("mcp-server-everything", "streamableHttp")
    )
    packaged = Packages(folder).packaged(spec)
    launch = Cage(folder, folder).launch(spec, {"PORT": str(port)}, packaged)
    argv = [word for word in launch.argv if word != "--unshare-net"]  # it has to listen on loopback
    return subprocess.Popen(
        argv,
        env=launch.env,
        cwd=launch.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _start_doorward(config: Path) -> subprocess.Popen[bytes]:
    reading, writing = os.pipe()
    try:
        program = Path(sys.executable).parent / "doorward"
        child = subprocess.Popen(
            [str(program), "serve", "--config", str(config), "--ready-fd", str(writing)],
            pass_fds=(writing,),
            start_new_session=True,
        )
    finally:
        os.close(writing)
    with os.fdopen(reading, "rb") as ready:
        if not ready.readline():  # the pipe ends when Doorward does
            raise OperatorError(
                "demo-start", f"Doorward did not start (exit code {child.wait()}); the log says why."
            )
    return child


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(20.0)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _token(config: Path, server: str) -> str:
    from doorward.cli.token import mint_token
    from doorward.settings import load

    settings = load(config).settings
    return mint_token(settings, user="you", server=server, ttl_seconds=_TOKEN_SECONDS).access_token


def _login_link(folder: Path) -> str:
    """A link that signs the user in once; the admin plane listens a moment after the data plane."""
    from doorward.adapters.admin_client import AdminClient

    for _ in range(_ADMIN_TRIES):
        try:
            return str(AdminClient(folder).post("/api/v1/login-links", {"user": "you"})["url"])
        except OperatorError as error:
            if error.code != "admin-not-running":
                raise
            time.sleep(_ADMIN_SECONDS)
    raise OperatorError("demo-start", "The admin plane of Doorward does not listen; the log says why.")


def _report(config: Path, url: str, admin: str, folder: Path) -> None:
    time_token, all_token = _token(config, "time"), _token(config, "mcp")
    try:
        stdio = prove(
            Call(f"{url}/time/mcp", time_token, "get_current_time", {"timezone": "Europe/Amsterdam"})
        )
        http = prove(Call(f"{url}/mcp", all_token, "everything__echo", {"message": "hello through the door"}))
        refused = refused_without_token(f"{url}/time/mcp")
    except (OSError, UpstreamError) as error:
        raise OperatorError("demo-proof", f"The proof call failed: {error}") from error
    good, line = paint("ok", "green"), "-" * 78
    login, program = _login_link(folder), Path(sys.executable).parent / "doorward"
    header = f"Authorization: Bearer {all_token}"
    print(f"""
{line}
Doorward stands before two real MCP servers.

  {good}  time        stdio, in a cage without network       {stdio}
  {good}  everything  Streamable HTTP                        {http}
  {good}  the same call without a token                      {refused}

MCP endpoints
  {url}/mcp              both servers as one
  {url}/time/mcp
  {url}/everything/mcp

Connect by browser: open this link once, within ten minutes, and allow the client when it asks
  {login}
  Claude Code   claude mcp add --transport http doorward {url}/mcp    then /mcp, Authenticate
  VS Code       code --add-mcp '{{"name":"doorward","type":"http","url":"{url}/mcp"}}'
  Cursor        {{"mcpServers":{{"doorward":{{"url":"{url}/mcp"}}}}}} in ~/.cursor/mcp.json
  another link  {program} login-link --user you --config {config}

Connect with a token (one for eight hours is in the line)
  Claude Code
    claude mcp add --transport http doorward {url}/mcp --header "{header}"
  VS Code
    code --add-mcp '{{"name":"doorward","type":"http","url":"{url}/mcp","headers":{{"Authorization":"Bearer {all_token}"}}}}'
  Cursor (put into ~/.cursor/mcp.json)
    {{"mcpServers":{{"doorward":{{"url":"{url}/mcp","headers":{{"Authorization":"Bearer {all_token}"}}}}}}}}

Try it with curl
  export TOKEN={time_token}
  curl -s {url}/time/mcp -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \\
    -H 'Accept: application/json, text/event-stream' -d '{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"2025-11-25","capabilities":{{}},"clientInfo":{{"name":"curl","version":"1"}}}}}}'

Console and admin API
  {admin}    token: {folder}/admin-token

What protects a call now: Host and Origin, a token for exactly this server, strict HTTP and JSON, exact limits,
policy (closed by default), gated server requests, a cage without network, and a signed log of every decision:
  {Path(sys.executable).parent}/doorward controls --config {config}
  {Path(sys.executable).parent}/doorward audit tail --config {config}
{line}""")
    sys.stdout.flush()
