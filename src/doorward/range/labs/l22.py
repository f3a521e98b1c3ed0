"""L22, header and body split: headers announce a harmless call to whoever looks at headers only, the body runs another."""

from __future__ import annotations

from typing import ClassVar

from doorward.protocol import codes
from doorward.protocol.headers import encode_value
from doorward.range.gate import Tables
from doorward.range.lab import Attempt, Lab
from doorward.range.stage import MODERN, Stage
from doorward.range.wire import Answer, Fields, NoAnswerError

_VERSION = ("MCP-Protocol-Version", MODERN)
_WRAPPED = "=?base64?cmVhZF9yZWNvcmQ=?="  # read_record, in the wrapping that only values in need of it have


def _refused(answer: Answer) -> bool:
    """400 and -32020 (MCP 2026-07-28 basic/transports/streamable-http)."""
    return answer.status == 400 and answer.error.get("code") == codes.HEADER_MISMATCH


class HeaderBodySplit(Lab):
    """The body always deletes, or reads another region; the headers say otherwise, twice, in another case, or nothing."""

    name: ClassVar[str] = "L22"
    vulnerable: ClassVar[Tables] = {"controls.check-head": {"mode": "off"}}
    fixed: ClassVar[Tables] = {"controls.check-head": {"mode": "enforce"}}

    async def attack(self, stage: Stage, session: str) -> list[Attempt]:
        found = []
        for variant, lying in _LIES[stage.era]:
            message = stage.call("delete_record", id="7", marker=stage.fresh("split"))
            own = stage.fields_of(message, session) if stage.era == "legacy" else [_VERSION]
            fields = [*own, *lying, *stage.bearer(stage.visitor)]
            # What is sent twice is no HTTP request to Doorward, whatever its controls do.
            twice = len({name.lower() for name, _ in lying}) < len(lying)
            found.append(await stage.attempt(variant, message, fields, _refused, always_blocked=twice))
        if stage.era == "modern":
            found += await self._regions(stage)
        return found

    @staticmethod
    async def _regions(stage: Stage) -> list[Attempt]:
        """A mirrored argument, by which something before the server may route or allow."""
        found = []
        for variant, value in (("Mcp-Param of another value", "eu"), ("Mcp-Param left out", "")):
            message = stage.call("read_region", id="7", region="us", marker=stage.fresh("region"))
            fields = [*stage.fields_of(message), *([("Mcp-Param-Region", value)] if value else [])]
            fields += stage.bearer(stage.visitor)
            found.append(await stage.attempt(variant, message, fields, _refused))
        return found

    async def control(self, stage: Stage) -> bool:
        """Also an honest call with a mirrored argument is served, so that a refused one is refused for its lie."""
        if not await stage.ordinary_call(stage.visitor):
            return False
        if stage.era == "legacy":
            return True
        message = stage.call("read_region", id="7", region="us", marker=stage.fresh("honest"))
        fields = [*stage.fields_of(message), ("Mcp-Param-Region", "us"), *stage.bearer(stage.visitor)]
        try:
            return (await stage.post("ordinary use", message, fields)).is_result
        except NoAnswerError:
            return False


_CALL = ("Mcp-Method", "tools/call")
_LIES: dict[str, list[tuple[str, Fields]]] = {
    "modern": [
        ("Mcp-Name of another tool", [_CALL, ("Mcp-Name", "read_record")]),
        ("Mcp-Method of another method", [("Mcp-Method", "tools/list"), ("Mcp-Name", "delete_record")]),
        ("Mcp-Name twice", [_CALL, ("Mcp-Name", "read_record"), ("Mcp-Name", "delete_record")]),
        ("Mcp-Name in the Base64 wrapping", [_CALL, ("Mcp-Name", _WRAPPED)]),
        ("Mcp-Name in a broken wrapping", [_CALL, ("Mcp-Name", "=?base64?ZGVsZXRlX3JlY29yZA?=")]),
        ("Mcp-Name in another case", [_CALL, ("Mcp-Name", "DELETE_RECORD")]),
        ("Mcp-Method in another case", [("Mcp-Method", "Tools/Call"), ("Mcp-Name", "delete_record")]),
        ("Mcp-Name with a look-alike letter", [_CALL, ("Mcp-Name", encode_value("dеlete_record"))]),
        ("Mcp-Name left out", [_CALL]),
        ("Mcp-Method left out", [("Mcp-Name", "delete_record")]),
    ],
    # The older era has no such headers; something that knows them may still stand before or behind.
    "legacy": [
        ("Mcp-Method of another method", [("Mcp-Method", "tools/list")]),
        ("Mcp-Name of another tool", [_CALL, ("Mcp-Name", "read_record")]),
        ("Mcp-Name twice", [_CALL, ("Mcp-Name", "read_record"), ("Mcp-Name", "delete_record")]),
        ("Mcp-Name in the Base64 wrapping", [_CALL, ("Mcp-Name", _WRAPPED)]),
        ("Mcp-Name in another case", [_CALL, ("Mcp-Name", "DELETE_RECORD")]),
        ("Mcp-Method in another case", [("Mcp-Method", "TOOLS/CALL")]),
    ],
}

LAB = HeaderBodySplit()
