"""An identity provider that we did not write, in a process of its own, and a jar that walks through it as a browser does."""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
from typing import Any
from urllib.parse import urlsplit

from tests.peers.places import NODE_FOLDER, node, node_package
from tests.ports import free_port
from tests.stack.wire import until

SECRET = "our secret at the provider+%"


class Provider:
    """npm oidc-provider: its user is signed in already, and it remembers every consent."""

    def __init__(self, callback: str, **settings: Any) -> None:
        node_package("oidc-provider")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.asked: list[str] = []
        given = {
            "port": self.port,
            "client": {"id": "doorward", "secret": SECRET, "redirect": callback},
            "users": {"carol": ["staff", "user", "unheard-of"]},
            "user": "carol",
            **settings,
        }
        self._process = subprocess.Popen(
            [str(node()), str(NODE_FOLDER / "idp_login.mjs"), json.dumps(given)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=NODE_FOLDER,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        until(lambda: "ready" in self.asked, "the identity provider")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.asked.append(line.strip())

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._reader.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def authorizations(self) -> int:
        """How many browsers came to sign in."""
        return sum(line.startswith("GET /auth?") for line in self.asked)

    def walk(self, target: str) -> str:
        """Follow redirects as the user's browser, until one leads elsewhere: that is where."""
        jar: dict[str, str] = {}
        for _ in range(10):
            parts = urlsplit(target)
            if parts.netloc and parts.netloc != f"127.0.0.1:{self.port}":
                return target
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
            cookies = "; ".join(f"{name}={value}" for name, value in jar.items())
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", path, headers={"Cookie": cookies} if cookies else {})
            answer = connection.getresponse()
            content = answer.read()
            for name, value in answer.getheaders():
                if name.lower() == "set-cookie":
                    key, _, text = value.partition(";")[0].partition("=")
                    jar[key] = text
            connection.close()
            location = answer.getheader("location")
            assert location, (answer.status, content[:2000])
            target = location
        raise AssertionError("the provider redirects for ever")
