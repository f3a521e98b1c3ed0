from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from doorward.adapters.key_files import load_or_create_keys
from doorward.base.clock import FakeClock
from doorward.base.errors import OperatorError
from doorward.catalogue.server import ServerSpec
from doorward.cli.token import Minted, mint_token
from doorward.identity.principal import Principal
from doorward.identity.tokens import TokenJudge, TokenRefusal
from doorward.policy.roles import EVERYTHING
from doorward.settings import GatewaySettings, IdentitySettings, Settings, UserSettings

if TYPE_CHECKING:
    from pathlib import Path

PUBLIC = "http://127.0.0.1:8808"
CLOCK = FakeClock()


def settings_in(data_dir: Path, *, profile: Any = "local", mode: Any = "embedded") -> Settings:
    return Settings(
        gateway=GatewaySettings(public_url=PUBLIC, data_dir=str(data_dir), profile=profile),
        identity=IdentitySettings(mode=mode, users=(UserSettings(name="alice", roles=("user", "auditor")),)),
        roles={"user": EVERYTHING, "auditor": EVERYTHING, "admin": EVERYTHING},
        servers={name: ServerSpec(name=name, command=("x",)) for name in ("time", "fetch")},
    )


def mint(data_dir: Path, *, profile: str = "local", mode: str = "embedded", **asked: Any) -> Minted:
    options: dict[str, Any] = {"user": "alice", "server": "time", "clock": CLOCK} | asked
    return mint_token(settings_in(data_dir, profile=profile, mode=mode), **options)


def judged(data_dir: Path, minted: Minted, *, local: bool = True) -> Principal | TokenRefusal:
    jwks = load_or_create_keys(data_dir).jwks()
    judge = TokenJudge(jwks, PUBLIC, CLOCK, users={"alice": ("user", "auditor")}, accepts_created=local)
    return judge.judge(f"Bearer {minted.access_token}", minted.resource)


@pytest.mark.parametrize(("server", "path"), [("time", "/time/mcp"), ("mcp", "/mcp")])
def test_the_printed_token_is_good_at_the_server(tmp_path: Path, server: str, path: str) -> None:
    minted = mint(tmp_path, server=server)
    assert minted.resource == PUBLIC + path
    found = judged(tmp_path, minted)
    assert isinstance(found, Principal)
    assert (found.subject, found.roles, found.scopes) == ("alice", ("user", "auditor"), ("mcp",))
    assert found.expires_at == CLOCK.now() + 3600
    assert not minted.created


def test_role_and_scope_narrow_the_token(tmp_path: Path) -> None:
    found = judged(tmp_path, mint(tmp_path, roles=("auditor",), scopes=("a b", "c")))
    assert isinstance(found, Principal)
    assert (found.roles, found.scopes) == (("auditor",), ("a", "b", "c"))


def test_an_unknown_user_is_created_in_local_only(tmp_path: Path) -> None:
    minted = mint(tmp_path, user="carol")
    assert minted.created
    found = judged(tmp_path, minted)
    assert isinstance(found, Principal)
    assert found.roles == ("user",)
    assert isinstance(judged(tmp_path, minted, local=False), TokenRefusal)


@pytest.mark.parametrize(
    ("asked", "code", "word"),
    [
        ({"server": "tiem"}, "token-unknown-server", "fetch, time, mcp"),
        ({"server": ""}, "token-unknown-server", "known"),
        ({"user": "carol", "profile": "team"}, "token-unknown-user", "alice"),
        ({"user": ""}, "token-unknown-user", "name"),
        ({"roles": ("admin",)}, "token-role", "user, auditor"),
        ({"user": "carol", "roles": ("root",)}, "token-role", "admin"),
        ({"ttl_seconds": 0}, "token-lifetime", "86400"),
        ({"ttl_seconds": 86_401}, "token-lifetime", "86400"),
        ({"mode": "off"}, "token-not-embedded", "off"),
    ],
)
def test_what_the_settings_do_not_allow_is_refused_in_words(
    tmp_path: Path, asked: dict[str, Any], code: str, word: str
) -> None:
    with pytest.raises(OperatorError) as caught:
        mint(tmp_path, **asked)
    assert caught.value.code == code
    assert word in caught.value.tell
    assert not (tmp_path / "keys").exists()
