from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.controls.control import Call, Head, Refuse
from doorward.controls.gate_server_requests import GateServerRequests, allowed_capabilities
from doorward.identity.principal import LOCAL
from doorward.protocol.message import Era, Message

ALL = {"sampling": {"tools": {}}, "elicitation": {"form": {}, "url": {}}, "roots": {"listChanged": True}}
CONTROL = GateServerRequests(
    {"open": ("sampling", "elicitation", "roots"), "shut": (), "half": ("sampling",)}
)
METHODS = ["sampling/createMessage", "elicitation/create", "roots/list"]


def asks(method: str, params: dict[str, Any] | None = None, kind: Any = "request") -> Message:
    return Message(kind=kind, method=method, id=1, params=params, value={})


def passes(
    method: str, server: str, capabilities: dict[str, Any], params: dict[str, Any] | None = None
) -> bool:
    noticed = CONTROL.notice(asks(method, params), server, capabilities)
    replied = CONTROL.reply(
        call(server, capabilities),
        answer(
            {"resultType": "input_required", "inputRequests": {"a": {"method": method, "params": params}}}
        ),
    )
    assert (noticed is None) == (replied is None)
    assert noticed is None or isinstance(noticed, Refuse)
    return noticed is None


def call(server: str, capabilities: dict[str, Any], method: str = "tools/call", era: Era = "modern") -> Call:
    head = Head(verb="POST", path="/", query="", fields={}, repeated=frozenset())
    one = Call(head=head, principal=LOCAL, server=server, era=era, message=asks(method), event="e")
    one.capabilities = capabilities
    return one


def answer(result: Any = None, error: Any = None) -> Message:
    value = {"error": error} if error is not None else {"result": result}
    return Message(kind="response", method="", id=1, params=None, value=value)


@pytest.mark.parametrize("method", METHODS)
def test_a_request_passes_only_if_settings_and_client_both_allow_it(method: str) -> None:
    kind = method.split("/", maxsplit=1)[0]
    assert passes(method, "open", ALL)
    assert passes(method, "open", {kind: {}})
    assert not passes(method, "open", {})
    assert not passes(method, "open", {kind: None})
    assert not passes(method, "open", {kind: True})
    assert not passes(method, "shut", ALL)
    assert not passes(method, "unheard-of", ALL)
    assert passes(method, "half", ALL) is (kind == "sampling")


@pytest.mark.parametrize(
    ("declared", "form", "url"),
    [
        ({}, True, False),
        ({"form": {}}, True, False),
        ({"url": {}}, False, True),
        ({"form": {}, "url": {}}, True, True),
    ],
)
def test_elicitation_passes_in_the_declared_modes_only(
    declared: dict[str, Any], form: bool, url: bool
) -> None:
    capabilities = {"elicitation": declared}
    assert passes("elicitation/create", "open", capabilities, {"message": "x"}) is form
    assert passes("elicitation/create", "open", capabilities, {"mode": "form"}) is form
    assert passes("elicitation/create", "open", capabilities, {"mode": "url"}) is url
    assert not passes("elicitation/create", "open", capabilities, {"mode": "URL"})
    assert not passes("elicitation/create", "open", capabilities, {"mode": ["url"]})
    notice = CONTROL.notice(
        asks("notifications/elicitation/complete", kind="notification"), "open", capabilities
    )
    assert (notice is None) is url


@pytest.mark.parametrize("member", ["tools", "toolChoice"])
def test_sampling_with_tools_needs_its_own_declaration(member: str) -> None:
    assert passes("sampling/createMessage", "open", {"sampling": {"tools": {}}}, {member: []})
    assert not passes("sampling/createMessage", "open", {"sampling": {}}, {member: []})


def test_other_requests_of_servers_are_refused_but_ping() -> None:
    assert CONTROL.notice(asks("ping"), "shut", {}) is None
    for method in ("tools/call", "sampling/CreateMessage", "x", ""):
        assert isinstance(CONTROL.notice(asks(method), "open", ALL), Refuse)
    assert isinstance(CONTROL.notice(asks("tasks/get"), "open", {}), Refuse)
    assert CONTROL.notice(asks("tasks/get"), "open", {"tasks": {}}) is None


def test_notifications_and_responses_pass() -> None:
    assert CONTROL.notice(asks("notifications/progress", kind="notification"), "shut", {}) is None
    assert CONTROL.notice(answer({}), "shut", {}) is None


@pytest.mark.parametrize(
    "requests",
    [
        [],
        "x",
        {"a": 1},
        {"a": {}},
        {"a": {"method": 1}},
        {str(n): {"method": "roots/list"} for n in range(33)},
    ],
)
def test_input_requests_that_are_not_understood_are_refused(requests: Any) -> None:
    result = {"resultType": "input_required", "inputRequests": requests}
    assert isinstance(CONTROL.reply(call("open", ALL), answer(result)), Refuse)


def test_one_bad_input_request_among_good_ones_refuses_all() -> None:
    requests = {"a": {"method": "sampling/createMessage"}, "b": {"method": "roots/list"}}
    result = {"resultType": "input_required", "inputRequests": requests}
    assert isinstance(CONTROL.reply(call("half", ALL), answer(result)), Refuse)


def test_input_required_answers_three_methods_only() -> None:
    result = {"resultType": "input_required", "requestState": "s"}
    for method, fine in (
        ("tools/call", True),
        ("prompts/get", True),
        ("resources/read", True),
        ("tools/list", False),
    ):
        assert (CONTROL.reply(call("open", ALL, method), answer(result)) is None) is fine


def test_ordinary_answers_pass() -> None:
    for result in ({}, {"resultType": "complete"}, [], None):
        assert CONTROL.reply(call("shut", {}), answer(result)) is None
    assert CONTROL.reply(call("shut", {}), answer(error={"code": -32602})) is None
    assert CONTROL.reply(call("shut", {}), answer(error="odd")) is None
    assert CONTROL.reply(call("shut", {}, era="legacy"), answer({"resultType": "input_required"})) is None


def test_the_old_error_that_asks_for_a_url_is_gated_too() -> None:
    error = {"code": -32042, "message": "m", "data": {}}
    assert CONTROL.reply(call("open", ALL, era="legacy"), answer(error=error)) is None
    assert isinstance(CONTROL.reply(call("shut", ALL, era="legacy"), answer(error=error)), Refuse)
    assert isinstance(
        CONTROL.reply(call("open", {"elicitation": {}}, era="legacy"), answer(error=error)), Refuse
    )


def test_a_server_hears_only_of_capabilities_that_it_may_use() -> None:
    declared = ALL | {
        "experimental": {"x": {}},
        "tasks": {"list": {}, "requests": {"sampling": {}, "other": {}}},
    }
    kept = allowed_capabilities(declared, ("roots",))
    assert kept == {
        "roots": {"listChanged": True},
        "experimental": {"x": {}},
        "tasks": {"list": {}, "requests": {"other": {}}},
    }
    assert declared["tasks"] == {"list": {}, "requests": {"sampling": {}, "other": {}}}
    assert allowed_capabilities(ALL, ("sampling", "elicitation", "roots")) == ALL
    assert allowed_capabilities({}, ()) == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.text(max_size=8),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON, st.sampled_from(METHODS), st.dictionaries(st.sampled_from([*ALL, "tasks"]), JSON))
def test_no_hostile_value_passes_a_server_that_may_ask_nothing(
    value: Any, method: str, capabilities: dict[str, Any]
) -> None:
    result = {"resultType": "input_required", "inputRequests": {"a": {"method": method, "params": value}}}
    assert isinstance(CONTROL.reply(call("shut", capabilities), answer(result)), Refuse)
    assert isinstance(
        CONTROL.notice(asks(method, {"mode": value, "tools": value}), "shut", capabilities), Refuse
    )
    assert not set(ALL) & set(allowed_capabilities(capabilities, ()))
