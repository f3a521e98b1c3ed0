"""Controls made from settings: their order, their modes, and a policy that closes when nothing opens it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from doorward.app.controls import build_controls, build_policy, limits_of, mode_of
from doorward.base.clock import FakeClock
from doorward.controls.limit_rate import Limit, Ticket
from doorward.controls.order import ORDER
from doorward.gateway.pinned import PinDesk
from doorward.identity.keys import KeySet
from doorward.identity.principal import Principal
from doorward.settings import Settings
from doorward.settings_load import load_bytes


class NoCounters:
    def admit(self, demands: Any) -> Ticket:
        return Ticket(0.0, ())

    def release(self, ticket: Ticket) -> None: ...

    def give_back(self, ticket: Ticket) -> None: ...


def settings_of(folder: Path, text: str = "") -> Settings:
    content = f'[gateway]\ndata_dir = "{folder}"\n[servers.time]\nurl = "http://127.0.0.1:9/mcp"\n{text}'
    return load_bytes(content.encode(), folder / "doorward.toml").settings


def placed(settings: Settings) -> list[Any]:
    payload = {"jwks": KeySet.generate().jwks(), "revoked": []}
    pins = PinDesk(lambda _, then: then(None), FakeClock())
    return build_controls(settings, payload, build_policy(settings, {}), NoCounters(), FakeClock(), pins)[0]


def alice() -> Principal:
    return Principal(tenant="default", issuer="http://x", subject="alice", client="cli", roles=("user",))


def test_every_control_is_there_once_in_the_order_of_the_list(tmp_path: Path) -> None:
    assert [type(one.control) for one in placed(settings_of(tmp_path))] == list(ORDER)


def test_every_control_is_enforced_unless_settings_say_otherwise(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path, '[controls.limit-rate]\nmode = "report"\n[controls.ask-policy]\nmode = "off"\n'
    )
    modes = {one.control.slug: one.mode for one in placed(settings)}
    assert modes.pop("limit-rate") == "report" and modes.pop("ask-policy") == "off"
    assert set(modes.values()) == {"enforce"} and mode_of(settings, "check-token") == "enforce"


def test_roles_decide_where_no_policy_file_is_named(tmp_path: Path) -> None:
    policy = build_policy(settings_of(tmp_path), {})
    assert policy.may(alice(), "tools/call", "time", "now").allowed


def test_policy_files_that_match_nothing_let_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    settings = settings_of(tmp_path, '[policy]\nfiles = ["policies/*.cedar"]\n')
    policy = build_policy(settings, {})
    assert not policy.may(alice(), "tools/call", "time", "now").allowed
    assert not policy.may_use_server(alice(), "time")


def test_only_policy_files_decide_where_there_are_some(tmp_path: Path) -> None:
    (tmp_path / "p.cedar").write_text("")
    settings = settings_of(tmp_path, '[policy]\nfiles = ["p.cedar"]\n')
    for word, allowed in (("forbid", False), ("permit", True)):
        policy = build_policy(settings, {"p.cedar": f"{word}(principal, action, resource);"})
        assert policy.may(alice(), "tools/call", "time", "now").allowed is allowed


def test_limits_carry_over_as_written(tmp_path: Path) -> None:
    text = '[limits]\ncalls = 7\nper_seconds = 3\nconcurrent = 2\n[limits.principal."bob"]\ncalls = 9\n[limits.tool."time/now"]\ncalls = 1\n[limits.address]\ncalls = 5\n'
    limits = limits_of(settings_of(tmp_path, text))
    assert limits.default == Limit(7, 3, 2) and limits.principal["bob"].calls == 9
    assert limits.tool["time/now"].calls == 1 and limits.address is not None and limits.address.calls == 5


@pytest.mark.parametrize("mode", ["embedded", "off"])
def test_no_token_is_judged_only_where_identity_is_off(tmp_path: Path, mode: str) -> None:
    controls = placed(settings_of(tmp_path, f'[identity]\nmode = "{mode}"\n'))
    token = next(one for one in controls if one.control.slug == "check-token")
    assert token.mode == "enforce"
