"""L23, DNS rebinding: a web page makes the visitor's browser talk to a server on their own machine, which trusts it."""

from __future__ import annotations

from typing import ClassVar

from doorward.range.gate import Tables
from doorward.range.lab import Attempt, Lab
from doorward.range.stage import Stage
from doorward.range.wire import Answer, Fields


def _refused(answer: Answer) -> bool:
    """403, before anything else is looked at (MCP basic/transports, security warning)."""
    return answer.status == 403


class DnsRebinding(Lab):
    """Identity is off, as on the machine of somebody who is alone there: the browser needs no token to be let in."""

    name: ClassVar[str] = "L23"
    settings: ClassVar[Tables] = {"identity": {"mode": "off"}}
    vulnerable: ClassVar[Tables] = {"controls.check-origin": {"mode": "off"}}
    fixed: ClassVar[Tables] = {"controls.check-origin": {"mode": "enforce"}}

    async def attack(self, stage: Stage, session: str) -> list[Attempt]:
        found = []
        for variant, origin, host in self._pages(stage):
            fields: Fields = [("Sec-Fetch-Mode", "cors"), *([("Origin", origin)] if origin else [])]
            if stage.era == "legacy":
                found.append(await self._open(stage, variant, fields, host))
            message = stage.call("read_record", id="1", marker=stage.fresh("page"))
            lines = [*stage.fields_of(message, session), *fields]
            found.append(await stage.attempt(variant, message, lines, _refused, host=host))
        return found

    @staticmethod
    async def _open(stage: Stage, variant: str, fields: Fields, host: str) -> Attempt:
        params = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "x", "version": "1"},
        }
        message = stage.message("initialize", params)
        return await stage.attempt(f"{variant}: open a session", message, fields, _refused, host=host)

    @staticmethod
    def _pages(stage: Stage) -> list[tuple[str, str, str]]:
        """Variant, Origin and Host. After rebinding a name of the attacker's resolves to this machine."""
        own, port = stage.gate.authority, stage.gate.port
        return [
            ("foreign Origin", "https://evil.example", ""),
            ("null Origin", "null", ""),
            ("Origin of another local port", "http://127.0.0.1:1", ""),
            ("Origin that begins like ours", f"http://{own}.evil.example", ""),
            ("Origin of ours over https", f"https://{own}", ""),
            ("foreign Host, rebound", f"http://evil.example:{port}", f"evil.example:{port}"),
            ("foreign Host, no Origin", "", f"evil.example:{port}"),
            ("foreign Host under our Origin", f"http://{own}", f"evil.example:{port}"),
            ("Host that begins like ours", "", f"127.0.0.1.evil.example:{port}"),
            ("Host without the port", "", "127.0.0.1"),
        ]


LAB = DnsRebinding()
