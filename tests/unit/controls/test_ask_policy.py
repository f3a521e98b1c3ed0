from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorward.controls import ask_policy
from doorward.controls.ask_policy import AskPolicy, unknown_item
from doorward.controls.control import Call, Head, Refuse
from doorward.identity.principal import Principal
from doorward.policy.engine import PolicyEngine
from doorward.policy.roles import EVERYTHING, Role
from doorward.protocol.message import Era, Message

ENGINE = PolicyEngine(
    {"user": EVERYTHING, "clock": Role(servers=("time",), tools=("get_*",))}, None, ("time", "tickets")
)
CONTROL = AskPolicy(ENGINE)
FILES = """
permit(principal, action in Action::"connect", resource == Server::"time");
permit(principal, action == Action::"prompts/get", resource == Prompt::"time/open");
permit(principal, action == Action::"resources/read", resource == Template::"time/t:{x}");
forbid(principal, action == Action::"logging/setLevel", resource);
"""


def someone(*roles: str) -> Principal:
    return Principal(tenant="t", issuer="i", subject="s", client="c", roles=roles)


def call(
    method: str,
    *roles: str,
    server: str = "time",
    item: str = "",
    era: Era = "legacy",
    kind: Any = "request",
    params: dict[str, Any] | None = None,
) -> Call:
    message = Message(kind=kind, method=method, id=1, params=params, value={})
    one = Call(
        head=Head(verb="POST", path="/", query="", fields={}, repeated=frozenset()),
        principal=someone(*roles),
        server=server,
        era=era,
        message=message,
        event="e",
    )
    one.item = item
    return one


def refused(one: Call, control: AskPolicy = CONTROL) -> Refuse:
    verdict = control.request(one, {})
    assert isinstance(verdict, Refuse)
    return verdict


def test_ordinary_calls_pass() -> None:
    for method, item in (
        ("tools/call", "get_time"),
        ("tools/list", ""),
        ("prompts/get", "p"),
        ("resources/read", "x:y"),
    ):
        assert CONTROL.request(call(method, "clock", item=item), {}) is None


def test_a_tool_that_the_caller_may_not_use_answers_as_an_unknown_one() -> None:
    hidden = refused(call("tools/call", "clock", item="set_time"))
    unknown = unknown_item(call("tools/call", "clock", item="no_such_tool"), "not listed")
    assert (hidden.code, hidden.tell, hidden.help, hidden.status, hidden.extra) == (
        unknown.code,
        unknown.tell,
        unknown.help,
        unknown.status,
        unknown.extra,
    )
    assert (hidden.code, hidden.tell) == (-32602, ask_policy.UNKNOWN_TOOL)
    assert hidden.reason == "nothing permits it"


@pytest.mark.parametrize(("era", "code"), [("legacy", -32002), ("modern", -32602)])
def test_a_hidden_resource_answers_as_its_era_says_of_unknown_ones(era: Era, code: int) -> None:
    control = AskPolicy(PolicyEngine({}, {"a": FILES}, ("time",)))
    assert refused(call("resources/read", item="x:y", era=era), control).code == code


@pytest.mark.parametrize(
    "method", ["initialize", "ping", "tools/list", "tools/call", "prompts/get", "made/up"]
)
def test_a_server_that_no_role_names_refuses_every_method(method: str) -> None:
    verdict = refused(call(method, "clock", server="tickets", item="get_time"))
    assert (verdict.code, verdict.status) == (-31001, 200)
    assert verdict.reason == "no access to the server"


@pytest.mark.parametrize("kind", ["notification", "response"])
def test_notifications_and_responses_need_the_server_too(kind: str) -> None:
    assert CONTROL.request(call("notifications/x", "clock", kind=kind), {}) is None
    assert refused(call("notifications/x", "clock", server="tickets", kind=kind)).code == -31001


def test_a_notification_cannot_smuggle_a_call() -> None:
    assert refused(call("tools/call", "clock", item="set_time", kind="notification")).code == -32602


def test_a_method_that_policy_forbids_is_told_as_such() -> None:
    control = AskPolicy(PolicyEngine({}, {"a": FILES}, ("time",)))
    assert refused(call("logging/setLevel"), control).reason == "method not permitted"


def test_completion_does_not_tell_of_hidden_items() -> None:
    control = AskPolicy(PolicyEngine({}, {"a": FILES}, ("time",)))
    good: list[Any] = [
        {"type": "ref/prompt", "name": "open"},
        {"type": "ref/resource", "uri": "t:{x}"},
    ]
    for reference in good:
        assert control.request(call("completion/complete", params={"ref": reference}), {}) is None
    bad: list[Any] = [
        {"type": "ref/prompt", "name": "hidden"},
        {"type": "ref/resource", "uri": "u:{x}"},
        {"type": "ref/prompt"},
        {"type": "x", "name": "hidden"},
        7,
    ]
    for reference in bad:
        assert refused(call("completion/complete", params={"ref": reference}), control).code == -32602


def test_lists_show_only_what_the_caller_may_use() -> None:
    items: list[dict[str, Any]] = [{"name": "get_a"}, {"name": "set_a"}, {"name": 5}, {}]
    assert CONTROL.listing(call("tools/list", "clock"), items, "tools") is None
    assert items == [{"name": "get_a"}]
    resources: list[dict[str, Any]] = [{"uri": "x:y"}, {"name": "only"}]
    assert CONTROL.listing(call("resources/list", "clock"), resources, "resources") is None
    assert resources == [{"uri": "x:y"}]
    templates: list[dict[str, Any]] = [{"uriTemplate": "x:{y}"}]
    assert CONTROL.listing(call("resources/templates/list", "clock"), templates, "resourceTemplates") is None
    assert templates == [{"uriTemplate": "x:{y}"}]


def test_a_merged_list_is_filtered_by_the_server_in_each_name() -> None:
    items: list[dict[str, Any]] = [
        {"name": "time__get_a"},
        {"name": "tickets__get_a"},
        {"name": "get_a"},
        {"name": "time__set"},
    ]
    assert CONTROL.request(call("tools/list", "clock", server=""), {}) is None
    assert CONTROL.listing(call("tools/list", "clock", server=""), items, "tools") is None
    assert items == [{"name": "time__get_a"}]


def test_a_list_of_an_unknown_kind_is_refused() -> None:
    assert isinstance(CONTROL.listing(call("x/list", "user"), [], "surprises"), Refuse)


@pytest.mark.parametrize("verb", ["GET", "DELETE"])
def test_streams_and_ends_of_sessions_need_the_server(verb: str) -> None:
    head = Head(verb=verb, path="/", query="", fields={}, repeated=frozenset())
    assert CONTROL.head(head) is None
    head.server, head.principal = "tickets", someone("clock")
    verdict = CONTROL.head(head)
    assert isinstance(verdict, Refuse)
    assert verdict.status == 403
    head.server = "time"
    assert CONTROL.head(head) is None


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=30), st.text(max_size=30), st.sampled_from(["time", "tickets", "other"]))
def test_nobody_without_a_role_passes_whatever_they_send(method: str, item: str, server: str) -> None:
    for name in (method, "tools/call", "prompts/get"):
        assert isinstance(CONTROL.request(call(name, server=server, item=item), {}), Refuse)


def test_an_unknown_resource_is_said_back_as_the_caller_wrote_it_and_a_long_one_not() -> None:
    asked = call("resources/read", "clock", item="file:///nope")
    asked.sent = Message("request", "resources/read", 1, {"uri": "clock+file:///nope"}, {})
    assert unknown_item(asked, "why").extra == {"uri": "clock+file:///nope"}
    asked.sent = Message("request", "resources/read", 1, {"uri": "x:" + "y" * 4_000}, {})
    assert unknown_item(asked, "why").extra is None
