"""One Doorward with the embedded authorization server for all tests of this folder that need no settings of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.oauth.kit import Browser
from tests.stack.kit import Stack
from tests.stand_ins.http_server import HttpUpstream, tool

DESK = {
    "id": "desk",
    "name": "Desk",
    "redirect_uris": ["http://127.0.0.1/callback", "http://[::1]/callback", "https://desk.example/cb"],
}
SHOP = {
    "id": "shop",
    "name": "Shop",
    "redirect_uris": ["https://shop.example/cb?from=us", "https://shop.example/second"],
    "secret": {"file": "shop-secret"},
    "introspect": True,
}
LAMP = {
    "id": "lamp",
    "name": "Lamp",
    "grants": ["client_credentials"],
    "secret": {"file": "lamp-secret"},
    "roles": ["user"],
}
SECRETS = {"shop-secret": "the secret of the shop", "lamp-secret": "the secret of the lamp"}


def identity(**more: object) -> dict[str, object]:
    """The [identity] table of these tests."""
    return {
        "users": [{"name": "alice", "roles": ["user"]}, {"name": "bob", "roles": ["user"]}],
        "clients": [DESK, SHOP, LAMP],
        **more,
    }


class OAuthStack(Stack):
    """A stack that has written its secrets."""

    def start(self) -> Stack:
        """See ``Stack.start``."""
        for name, text in SECRETS.items():
            path = self.folder / name
            path.write_text(text)
            path.chmod(0o600)
        return super().start()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    servers = {"notes": HttpUpstream(tools=[tool("list")]), "wiki": HttpUpstream(tools=[tool("list")])}
    started = OAuthStack(
        tmp_path_factory.mktemp("oauth"), servers, workers=2, tables={"identity": identity()}
    )
    try:
        yield started.start()
    finally:
        try:
            started.stop()
        finally:
            for server in servers.values():
                server.close()


@pytest.fixture
def browser(stack: Stack) -> Browser:
    """A browser at which alice is signed in."""
    return Browser(stack).sign_in()
