from __future__ import annotations

from typing import Any

import pytest

from doorward.base.errors import CallerError
from doorward.protocol import legacy, modern
from doorward.protocol.envelope import notification, request, response

META: dict[str, Any] = {modern.VERSION_KEY: "2026-07-28", modern.CAPABILITIES_KEY: {"roots": {}}}


@pytest.mark.parametrize("field", [*("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"), None])
def test_legacy_or_no_version_is_legacy(field: str | None) -> None:
    for message in (
        request(1, "initialize", {"protocolVersion": "2026-07-28"}),
        request(1, "tools/list"),
        request(1, "tools/list", {"_meta": {"progressToken": 1}}),
        notification("notifications/initialized"),
        response(1, {}),
    ):
        assert legacy.classify(field, message) == "legacy"


@pytest.mark.parametrize("field", ["2026-07-28", "2027-01-01", "1999-01-01", "", "2025-11-25 ", "draft"])
def test_modern_and_unknown_versions_never_fall_to_legacy(field: str) -> None:
    for message in (request(1, "initialize"), request(1, "tools/list", {"_meta": META}), response(1, {})):
        assert legacy.classify(field, message) == "modern"


@pytest.mark.parametrize("field", [None, "2025-11-25", "2025-06-18"])
@pytest.mark.parametrize("version", ["2026-07-28", "2025-11-25", None, 5])
def test_a_modern_body_under_a_legacy_header_is_refused(field: str | None, version: object) -> None:
    message = request(1, "tools/call", {"name": "x", "_meta": {modern.VERSION_KEY: version}})
    with pytest.raises(CallerError) as caught:
        legacy.classify(field, message)
    assert (caught.value.status, caught.value.rpc_code) == (400, -32020)


def test_the_envelope_is_read() -> None:
    full = {**META, modern.CLIENT_INFO_KEY: {"name": "c"}, modern.LOG_LEVEL_KEY: "info"}
    envelope = modern.envelope_of(request(1, "tools/list", {"_meta": full}))
    assert envelope == modern.Envelope("2026-07-28", {"roots": {}}, {"name": "c"}, "info")
    assert modern.envelope_of(request(1, "tools/list", {"_meta": META})).client_info is None


@pytest.mark.parametrize(
    "params",
    [
        None,
        {},
        {"_meta": None},
        {"_meta": []},
        {"_meta": {modern.VERSION_KEY: "2026-07-28"}},
        {"_meta": {modern.CAPABILITIES_KEY: {}}},
        {"_meta": {**META, modern.VERSION_KEY: 5}},
        {"_meta": {**META, modern.CAPABILITIES_KEY: []}},
        {"_meta": {**META, modern.CLIENT_INFO_KEY: "x"}},
        {"_meta": {**META, modern.LOG_LEVEL_KEY: 3}},
    ],
)
def test_a_missing_or_misshapen_envelope_is_refused(params: dict[str, Any] | None) -> None:
    with pytest.raises(CallerError) as caught:
        modern.envelope_of(request(1, "tools/list", params))
    assert (caught.value.status, caught.value.rpc_code) == (400, -32602)


def test_an_unsupported_version_is_answered_with_the_supported_ones() -> None:
    modern.check_version("2026-07-28")
    for version in ("2025-11-25", "2099-01-01", ""):
        with pytest.raises(CallerError) as caught:
            modern.check_version(version)
        assert (caught.value.status, caught.value.rpc_code) == (400, -32022)
        assert caught.value.data == {"supported": ["2026-07-28"], "requested": version}


def test_initialize_gets_its_version_or_the_latest() -> None:
    assert legacy.negotiate("2025-03-26") == "2025-03-26"
    others: list[object] = ["2026-07-28", "1.0", 5, None, []]
    for other in others:
        assert legacy.negotiate(other) == "2025-11-25"


def test_removed_methods_are_in_no_modern_table() -> None:
    tables = modern.CLIENT_REQUESTS | modern.CLIENT_NOTIFICATIONS | modern.SERVER_NOTIFICATIONS
    assert not modern.REMOVED & tables
    assert modern.REMOVED <= (
        legacy.CLIENT_REQUESTS | legacy.CLIENT_NOTIFICATIONS | legacy.SERVER_NOTIFICATIONS
    )
