"""When keys of an issuer are fetched, how long they count, and what changed settings take over."""

from __future__ import annotations

from typing import Any, cast

import pytest

from doorward.app.issuers import Issuers, _Known
from doorward.base.errors import UpstreamError
from doorward.settings import Settings
from doorward.settings_identity import IdentitySettings, IssuerSettings

ISSUER = "https://idp.test"
DOWN = UpstreamError("fetch-failed", "The URL's host cannot be reached.")


def known(**changes: Any) -> _Known:
    found = _Known(IssuerSettings(issuer=ISSUER, **changes), cast(Any, None))
    found.kept.keys, found.kept.fetched_at = [{"kid": "a"}, {"kty": "EC"}], 1_000.0
    return found


@pytest.mark.parametrize(("max_age", "due"), [(86_400, 4_600.0), (600, 1_200.0), (60, 1_020.0)])
def test_keys_are_fetched_anew_long_before_they_stop_counting(max_age: int, due: float) -> None:
    one = known(keys_max_age_seconds=max_age)
    assert one.due_at() == due < one.until == 1_000.0 + max_age
    assert one.kids() == ["a"]


def test_failures_are_repeated_ever_more_rarely_and_never_less_than_every_five_minutes() -> None:
    one = known()
    one.tried_at = 2_000.0
    waits = []
    for failures in range(1, 14):
        one.failures = failures
        waits.append(one.due_at() - one.tried_at)
    assert waits[:4] == [2.0, 4.0, 8.0, 16.0]
    assert waits == sorted(waits) and waits[-1] == 300.0


def test_a_state_says_whether_tokens_are_taken_and_whether_all_is_well() -> None:
    one = known(keys_max_age_seconds=600)
    assert one.state(1_599.0) == "ok"
    one.error = DOWN
    assert one.state(1_599.0) == "degraded"
    assert one.state(1_600.0) == "failed"
    one.error = None
    assert one.state(1_600.0) == "failed"


class Boss:
    """What of a supervisor the office needs to adopt settings."""

    def __init__(self, *issuers: IssuerSettings) -> None:
        self.adopt(*issuers)

    def adopt(self, *issuers: IssuerSettings) -> None:
        mode = "external" if issuers else "embedded"
        self.settings = Settings(identity=IdentitySettings(mode=mode, issuers=issuers))


def test_changed_settings_keep_what_is_known_unless_it_was_had_otherwise() -> None:
    boss = Boss(IssuerSettings(issuer=ISSUER))
    office = Issuers(cast(Any, boss))
    office.renew()
    one = office._known[ISSUER]
    one.kept.keys, one.kept.fetched_at, one.error, one.failures, one.tried_at = (
        [{"kid": "a"}],
        1_000.0,
        DOWN,
        3,
        990.0,
    )
    boss.adopt(IssuerSettings(issuer=ISSUER, clients=("x",)), IssuerSettings(issuer="https://other.test"))
    office.renew()
    two = office._known[ISSUER]
    assert two is not one and two.settings.clients == ("x",)
    assert (two.kids(), two.error, two.failures, two.tried_at) == (["a"], DOWN, 3, 990.0)
    assert office.paper() == {ISSUER: {"keys": [{"kid": "a"}], "until": 1_000.0 + 86_400}}
    boss.adopt(IssuerSettings(issuer=ISSUER, jwks_uri="https://idp.test/other"))
    office.renew()
    assert office._known[ISSUER].kids() == [] and set(office._known) == {ISSUER}
    boss.adopt()
    office.renew()
    assert office.paper() is None and office._http is not None
    office._http.close()
