"""An identity provider that we did not write (npm oidc-provider) in a process of its own: started, stopped, its keys changed."""

from __future__ import annotations

import base64
import http.client
import json
import subprocess
import threading
import urllib.parse
from typing import Any

from tests.peers.places import NODE_FOLDER, node, node_package
from tests.ports import free_port
from tests.stack.wire import until
from tests.unit.identity.foreign_kit import Hand

AGENT = ("agent", "agent-secret")
GATEWAY = ("gateway", "gateway secret+%")  # needs the encoding of RFC 6749 section 2.3.1


class Idp:
    """One provider on loopback; ``asked`` holds a line for each request since it started."""

    def __init__(self, *keys: Hand, **settings: Any) -> None:
        node_package("oidc-provider")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.host = f"127.0.0.1:{self.port}"
        self.keys = keys
        self.settings = settings
        self.asked: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    def start(self, *keys: Hand) -> Idp:
        """Listen, with other keys if given; what it had issued is forgotten."""
        self.keys = keys or self.keys
        settings = {
            "port": self.port,
            "keys": [one.private() for one in self.keys],
            "alg": self.keys[0].algorithm,
            **self.settings,
        }
        command = [str(node()), str(NODE_FOLDER / "idp.mjs"), json.dumps(settings)]
        self._process = process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=NODE_FOLDER
        )
        self.asked = asked = []

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                asked.append(line.strip())

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()
        until(lambda: "ready" in asked, "the identity provider")
        return self

    def stop(self) -> None:
        """Be gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._reader.join(5)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def post(self, path: str, form: dict[str, str], who: tuple[str, str]) -> Any:
        """A form as a client of the provider."""
        pair = ":".join(urllib.parse.quote_plus(part) for part in who)
        fields = {
            "Authorization": "Basic " + base64.b64encode(pair.encode()).decode(),
            "Content-Type": "application/x-www-form-urlencoded",
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", path, urllib.parse.urlencode(form), fields)
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == 200, content
            return json.loads(content) if content else None
        finally:
            connection.close()

    def token(self, resource: str, who: tuple[str, str] = AGENT) -> str:
        """An access token for a resource (RFC 8707)."""
        form = {"grant_type": "client_credentials", "scope": "mcp", "resource": resource}
        return str(self.post("/token", form, who)["access_token"])

    def revoke(self, token: str) -> None:
        """RFC 7009."""
        self.post("/token/revocation", {"token": token}, AGENT)

    def count(self, path: str) -> int:
        """How often a path was asked for since the start."""
        return sum(line.split(" ")[-1] == path for line in list(self.asked))
