"""The official suite's authorization scenarios, with Doorward as the OAuth client of the suite's servers."""

from __future__ import annotations

import pytest

from tests.peers.suite import OAuthRun

pytestmark = pytest.mark.node

# Scenario -> revision, and how many checks succeed at least: a scenario that made fewer did not come to its point.
SCENARIOS = {
    "auth/metadata-default": ("2025-11-25", 22),
    "auth/metadata-var1": ("2025-11-25", 22),
    "auth/metadata-var2": ("2025-11-25", 22),
    "auth/metadata-var3": ("2025-11-25", 22),
    "auth/basic-cimd": ("2025-11-25", 17),
    "auth/scope-from-www-authenticate": ("2025-11-25", 18),
    "auth/scope-from-scopes-supported": ("2025-11-25", 18),
    "auth/scope-omitted-when-undefined": ("2025-11-25", 18),
    "auth/scope-step-up": ("2025-11-25", 22),
    "auth/scope-retry-limit": ("2025-11-25", 25),
    "auth/token-endpoint-auth-basic": ("2025-11-25", 22),
    "auth/token-endpoint-auth-post": ("2025-11-25", 22),
    "auth/token-endpoint-auth-none": ("2025-11-25", 22),
    "auth/pre-registration": ("2025-11-25", 17),
    "auth/resource-mismatch": ("2026-07-28", 2),
    "auth/offline-access-scope": ("2026-07-28", 19),
    "auth/offline-access-not-supported": ("2026-07-28", 18),
    "auth/authorization-server-migration": ("2026-07-28", 28),
    "auth/iss-supported": ("2026-07-28", 18),
    "auth/iss-not-advertised": ("2026-07-28", 18),
    "auth/iss-supported-missing": ("2026-07-28", 9),
    "auth/iss-wrong-issuer": ("2026-07-28", 9),
    "auth/iss-unexpected": ("2026-07-28", 9),
    "auth/iss-normalized": ("2026-07-28", 9),
    "auth/metadata-issuer-mismatch": ("2026-07-28", 3),
    "auth/client-credentials-basic": ("2026-07-28", 10),
    "auth/client-credentials-jwt": ("2026-07-28", 10),
}
# What no other test sees as well; the rest also passes and takes its time.
TOLD_APART = {
    "auth/metadata-var2",
    "auth/scope-retry-limit",
    "auth/authorization-server-migration",
    "auth/client-credentials-jwt",
}


@pytest.mark.parametrize(
    "scenario",
    [pytest.param(name, marks=[] if name in TOLD_APART else [pytest.mark.full]) for name in SCENARIOS],
)
def test_doorward_passes_as_an_oauth_client(scenario: str) -> None:
    version, least = SCENARIOS[scenario]
    # Scenarios of an extension stand outside the revisions.
    run = OAuthRun(scenario, version, *(["--force"] if "client-credentials" in scenario else []))
    assert not [row for row in run.rows if row.endswith((" FAILURE", " WARNING"))], run.said
    assert run.passed() >= least, (run.passed(), run.said)
