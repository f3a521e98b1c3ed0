from __future__ import annotations

import timeit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorward.base.errors import OperatorError
from doorward.identity.principal import Principal
from doorward.policy import engine as engine_file
from doorward.policy.engine import CONNECT, ITEM_CHARS, PolicyEngine
from doorward.policy.roles import EVERYTHING, Role

SERVERS = ("time", "tickets")


def someone(*roles: str, subject: str = "alice", **other: str) -> Principal:
    return Principal(
        tenant="t", issuer="i", subject=subject, client=other.get("client", "c"), roles=roles, scopes=("mcp",)
    )


ROLES = {
    "user": EVERYTHING,
    "clock": Role(servers=("time",), tools=("get_*",)),
    "reader": Role(servers=("*",), tools=("tickets/read_*", "time/now")),
    "idle": Role(servers=("tickets",)),
    "nowhere": Role(tools=("*",)),
}
ENGINE = PolicyEngine(ROLES, None, SERVERS)


@pytest.mark.parametrize(
    ("role", "server", "tool", "allowed"),
    [
        ("user", "time", "anything", True),
        ("user", "elsewhere", "anything", False),
        ("clock", "time", "get_time", True),
        ("clock", "time", "set_time", False),
        ("clock", "time", "GET_time", False),
        ("clock", "tickets", "get_time", False),
        ("reader", "tickets", "read_one", True),
        ("reader", "time", "read_one", False),
        ("reader", "time", "now", True),
        ("reader", "tickets", "now", False),
        ("reader", "tickets", "tickets/read_x", False),
        ("reader", "tickets", "time/now", False),
        ("idle", "tickets", "read_one", False),
        ("nowhere", "time", "now", False),
        ("unknown", "time", "now", False),
        ("", "time", "now", False),
    ],
)
def test_roles_grant_exactly_what_their_globs_name(role: str, server: str, tool: str, allowed: bool) -> None:
    assert ENGINE.may(someone(role), "tools/call", server, tool).allowed is allowed


@pytest.mark.parametrize(
    "method", ["initialize", "ping", "tools/list", "server/discover", "completion/complete", CONNECT]
)
def test_methods_of_a_server_need_the_server_only(method: str) -> None:
    assert ENGINE.may(someone("idle"), method, "tickets").allowed
    assert not ENGINE.may(someone("idle"), method, "time").allowed
    assert ENGINE.may_use_server(someone("idle"), "tickets")
    assert not ENGINE.may_use_server(someone("idle"), "time")


def test_a_roles_servers_grant_prompts_resources_and_templates_too() -> None:
    for method in ("prompts/get", "resources/read", "resources/subscribe", "templates/read"):
        assert ENGINE.may(someone("idle"), method, "tickets", "x").allowed
        assert not ENGINE.may(someone("idle"), method, "time", "x").allowed
        assert not ENGINE.may(someone("idle"), method, "tickets", "").allowed


def test_roles_add_up_and_no_role_is_no_access() -> None:
    assert ENGINE.may(someone("idle", "clock"), "tools/call", "time", "get_x").allowed
    denied = ENGINE.may(someone(), "tools/call", "time", "get_x")
    assert (denied.allowed, denied.reason, denied.ids) == (False, "nothing permits it", ())


def test_a_decision_names_the_role_that_permits() -> None:
    assert ENGINE.may(someone("clock"), "tools/call", "time", "get_x").ids == ("role:clock",)


FILES = {
    "base.cedar": """
        @id("in") permit(principal in Role::"user", action in Action::"connect", resource == Server::"time");
        @id("now") permit(principal in Role::"user", action == Action::"tools/call", resource == Tool::"time/now");
        @id("read") permit(principal in Role::"user", action == Action::"resources/read", resource in Server::"time");
    """,
    "ban.cedar": '@id("ban") forbid(principal, action, resource) when { principal.subject == "mallory" };',
}


def test_where_files_are_configured_only_they_decide() -> None:
    engine = PolicyEngine(ROLES, FILES, SERVERS)
    assert engine.may(someone("user"), "tools/call", "time", "now").ids == ("now",)
    assert not engine.may(someone("user"), "tools/call", "time", "other").allowed
    assert engine.may(someone("user"), "tools/list", "time").allowed
    assert not engine.may(someone("user"), "tools/list", "tickets").allowed
    assert engine.may(someone("user"), "resources/read", "time", "file:///x").allowed
    assert engine.may(someone("user"), "templates/read", "time", "file:///{x}").allowed
    assert not engine.may(someone("user"), "resources/subscribe", "time", "file:///x").allowed
    assert not engine.may(someone("clock"), "tools/call", "time", "now").allowed


def test_forbid_wins_and_is_named() -> None:
    found = PolicyEngine(ROLES, FILES, SERVERS).may(
        someone("user", subject="mallory"), "tools/call", "time", "now"
    )
    assert (found.allowed, found.reason, found.ids) == (False, "forbidden", ("ban",))


def test_a_forbid_that_errs_denies_instead_of_being_skipped() -> None:
    texts = {
        "a": "permit(principal, action, resource);\nforbid(principal, action, resource) when { context.amount > 5 };"
    }
    found = PolicyEngine({}, texts, SERVERS).may(someone("user"), "tools/call", "time", "now")
    assert (found.allowed, found.reason) == (False, "a policy could not be evaluated")


def test_a_file_without_policies_permits_nothing() -> None:
    assert not PolicyEngine(ROLES, {"a": "// none"}, SERVERS).may(someone("user"), "ping", "time").allowed


def test_a_policy_that_does_not_parse_names_file_and_line() -> None:
    texts = {
        "good.cedar": "permit(principal, action, resource);",
        "bad.cedar": "// x;\npermit(principal, action, resource);\n\nforbid(principal action);",
    }
    with pytest.raises(OperatorError) as caught:
        PolicyEngine({}, texts, SERVERS)
    assert caught.value.code == "policy-invalid"
    assert caught.value.tell.startswith("bad.cedar, line 4:")


def test_a_name_beyond_the_cap_is_denied_unasked_and_long_names_are_not_kept() -> None:
    engine = PolicyEngine(ROLES, None, SERVERS)
    assert not engine.may(someone("user"), "tools/call", "time", "x" * (ITEM_CHARS + 1)).allowed
    assert engine.may(someone("user"), "tools/call", "time", "x" * 2000).allowed
    assert engine._cached_count == 0


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_file, "DECISIONS_COUNT", 20)
    monkeypatch.setattr(engine_file, "CALLERS_COUNT", 5)
    engine = PolicyEngine(ROLES, None, SERVERS)
    for number in range(60):
        assert engine.may(someone("user"), "tools/call", "time", f"t{number}").allowed
        assert engine.may(someone("user", subject=f"s{number}"), "ping", "time").allowed
        assert sum(map(len, engine._by_digest.values())) <= 20
        assert len(engine._by_caller) <= 5


def test_tokens_of_one_caller_share_decisions() -> None:
    engine = PolicyEngine(ROLES, None, SERVERS)
    for token in ("a", "b"):
        caller = Principal(tenant="t", issuer="i", subject="s", client="c", roles=("user",), token_id=token)
        assert engine.may(caller, "ping", "time").allowed
    assert engine._cached_count == 1


def test_a_cached_decision_costs_next_to_nothing() -> None:
    caller = someone("user")
    ENGINE.may(caller, "tools/call", "time", "now")
    seconds = min(
        timeit.repeat(lambda: ENGINE.may(caller, "tools/call", "time", "now"), number=2000, repeat=5)
    )
    assert seconds / 2000 < 5e-6  # about 0.3 us on a quiet machine


CACHED = PolicyEngine(
    ROLES, FILES | {"roles": 'permit(principal in Role::"clock", action, resource);'}, SERVERS
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([*ROLES, "x"]), max_size=2),
    st.sampled_from(["alice", "mallory", "a|b", "a%7Cb"]),
    st.sampled_from(["c", "b|c"]),
    st.sampled_from(["tools/call", "prompts/get", "resources/read", "ping", CONNECT, "x/y"]),
    st.sampled_from([*SERVERS, "", "other", "time/now"]),
    st.sampled_from(["", "now", "get_x", "read_one", 'a"*\\', "\u00e9"]),
)
def test_a_cached_decision_equals_a_fresh_one(
    roles: list[str], subject: str, client: str, method: str, server: str, item: str
) -> None:
    caller = someone(*roles, subject=subject, client=client)
    for one in (ENGINE, CACHED):
        fresh = one.decide(caller, method, server, item)
        assert one.may(caller, method, server, item) == fresh
        assert one.may(caller, method, server, item) == fresh


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_no_name_raises_or_is_permitted_to_a_caller_without_roles(
    method: str, server: str, item: str
) -> None:
    assert not ENGINE.may(someone(), method, server, item).allowed
    assert not ENGINE.may(someone(), method, "time", item).allowed
