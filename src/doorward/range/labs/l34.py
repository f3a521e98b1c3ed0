"""L34, cache leak: a cache between callers and Doorward keeps what one of them may see, and hands it to another."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from doorward.range.gate import Tables
from doorward.range.lab import Attempt, Lab
from doorward.range.stage import PAUSE_SECONDS, Stage
from doorward.range.wire import Answer, NoAnswerError

_FEW = {"owner": "user", "clerk": "clerk", "outsider": "outsider"}  # role by user
_VARIANTS: list[tuple[str, str, dict[str, Any], str]] = [
    ("a filtered list", "tools/list", {}, "clerk"),
    ("its second page", "tools/list", {"cursor": "2"}, "clerk"),
    ("the second page of a private list", "resources/list", {"cursor": "2"}, "outsider"),
    ("a resource", "resources/read", {"uri": "record://2"}, "outsider"),
]


class SharedCache:
    """A cache as the protocol allows it: private results for their caller only, public ones for everybody."""

    def __init__(self) -> None:
        self._kept: dict[str, Answer] = {}

    @staticmethod
    def _key(method: str, params: dict[str, Any], user: str) -> str:
        return json.dumps([method, params, user], sort_keys=True)

    def find(self, method: str, params: dict[str, Any], user: str) -> Answer | None:
        """What is kept for this caller, or for everybody."""
        own = self._kept.get(self._key(method, params, user))
        return own or self._kept.get(self._key(method, params, ""))

    def keep(self, method: str, params: dict[str, Any], user: str, answer: Answer) -> None:
        """Keep a result as its hints say (2026-07-28 server/utilities/caching)."""
        result = answer.last.get("result")
        if not isinstance(result, dict) or not isinstance(result.get("ttlMs"), int) or result["ttlMs"] <= 0:
            return
        owner = "" if result.get("cacheScope") == "public" else user
        self._kept[self._key(method, params, owner)] = answer


class CacheLeak(Lab):
    """The owner may see everything, a clerk one tool, an outsider nothing; all of them come through one cache."""

    name: ClassVar[str] = "L34"
    settings: ClassVar[Tables] = {
        "roles.user": {"servers": ["*"], "tools": ["*"]},
        "roles.clerk": {"servers": ["*"], "tools": ["read_record"]},
        "roles.outsider": {"servers": ["records-nowhere"], "tools": []},
    }
    vulnerable: ClassVar[Tables] = {"controls.scope-cache": {"mode": "off"}}
    fixed: ClassVar[Tables] = {"controls.scope-cache": {"mode": "enforce"}}
    upstream_allowed: ClassVar[int] = 16  # every caller's own fetches

    async def attack(self, stage: Stage, session: str) -> list[Attempt]:
        cache = SharedCache()
        found = []
        for variant, method, params, user in _VARIANTS:
            try:
                found.append(await self._try(stage, cache, variant, method, params, user))
            except NoAnswerError as trouble:
                found.append(Attempt(variant, "inconclusive", str(trouble)))
        return found

    async def _try(
        self, stage: Stage, cache: SharedCache, variant: str, method: str, params: dict[str, Any], user: str
    ) -> Attempt:
        seen, _ = await self._fetch(stage, cache, variant, method, params, "owner")
        if not self._shows(stage, seen):
            return Attempt(variant, "inconclusive", "the owner does not see what only the owner may see")
        got, event = await self._fetch(stage, cache, variant, method, params, user)
        if self._shows(stage, got):
            how = "the cache" if got is seen else "Doorward"
            return Attempt(
                variant, "exploited", f"{how} shows {user} what only the owner may see", leaked=True
            )
        if got is seen or not event:
            return Attempt(variant, "inconclusive", "no fetch of their own is on record")
        return Attempt(variant, "blocked", "a fetch of their own, without what only the owner may see", event)

    @staticmethod
    def _shows(stage: Stage, answer: Answer) -> bool:
        return stage.upstream.secret.encode() in answer.body

    async def _fetch(
        self, stage: Stage, cache: SharedCache, variant: str, method: str, params: dict[str, Any], user: str
    ) -> tuple[Answer, str]:
        """What a caller gets, and the event of their own request where the cache had nothing. Raises: NoAnswerError."""
        kept = cache.find(method, params, user)
        if kept is not None:
            return kept, ""
        message = stage.message(method, params)
        mark = len(stage.records)
        fields = [*stage.fields_of(message), *stage.bearer(user, role=_FEW[user])]
        answer = await stage.post(f"{variant}: {user}", message, fields)
        cache.keep(method, params, user, answer)
        return answer, await stage.recorded(mark, method, user, PAUSE_SECONDS)


LAB = CacheLeak()
