"""One revision of the settings, checked so far that putting it in force cannot fail any more."""

from __future__ import annotations

import glob
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from doorward.app.secrets import SecretReader
from doorward.base.errors import OperatorError
from doorward.settings import Loaded, Settings


class Prepared(msgspec.Struct, frozen=True):
    """Settings and all that they refer to, as they were when they were judged."""

    loaded: Loaded
    policies: dict[str, str]  # path -> text
    credentials: dict[str, bytes]  # server -> what is presented to it

    @property
    def settings(self) -> Settings:
        """The settings themselves."""
        return self.loaded.settings


def prepare(loaded: Loaded, secrets: SecretReader) -> Prepared:
    """Read what the settings refer to. Raises: OperatorError for a policy or secret that cannot be used."""
    secrets.check(loaded.settings)
    credentials = secrets.credentials(loaded.settings)
    return Prepared(loaded, read_policies(loaded.settings.policy.files), credentials)


def judge(revision: Prepared, jwks: dict[str, Any], counters: Any) -> None:
    """Build what the workers will build, and throw it away: what they cannot use is found here, before it is in force.

    Raises:
        OperatorError: ``policy-invalid`` and what the parts raise.
    """
    from doorward.app.controls import build_controls, build_policy
    from doorward.app.documents import documents_of
    from doorward.base.clock import SystemClock
    from doorward.gateway.pinned import PinDesk

    settings = revision.settings
    policy = build_policy(settings, revision.policies)
    clock = SystemClock()
    pins = PinDesk(lambda _, then: then(None), clock)
    build_controls(settings, {"jwks": jwks, "revoked": []}, policy, counters, clock, pins)
    documents_of(settings, jwks)


def try_whole(work: Callable[[], None]) -> None:
    """Run a judgement; what nobody foresaw refuses the revision as well. Raises: OperatorError."""
    try:
        work()
    except OperatorError:
        raise
    except Exception as error:
        raise OperatorError(
            "settings-unusable",
            "Nothing can be built from these settings.",
            f"{type(error).__name__}: {error}",
        ) from error


def read_policies(files: tuple[str, ...]) -> dict[str, str]:
    """The texts of the policy files, globs expanded. Raises: OperatorError ``policy-unreadable``."""
    texts: dict[str, str] = {}
    for pattern in files:
        names = sorted(glob.glob(pattern))
        if not names:
            raise OperatorError("policy-unreadable", f"policy.files: nothing matches {Path(pattern).name}.")
        for name in names:
            try:
                texts[name] = Path(name).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise OperatorError(
                    "policy-unreadable", f"policy.files: {Path(name).name} cannot be read."
                ) from error
    return texts
