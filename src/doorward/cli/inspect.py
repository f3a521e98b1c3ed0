"""``doorward inspect``: look for injected instructions in texts from standard input, one text or a stream of JSON lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import IO, Annotated, Any, Literal

from cyclopts import Parameter

from doorward.base.errors import CallerError, OperatorError

LINE_BYTES = 16_777_216  # one line of the stream
_KINDS = ("prompt", "argument", "tool", "result")
_USAGE = 2


def _lines(stream: IO[bytes]) -> Iterator[bytes | None]:
    """Lines without their ends; None for one that is too long, which is read past without being kept."""
    while line := stream.readline(LINE_BYTES + 1):
        if len(line) <= LINE_BYTES or line.endswith(b"\n"):
            yield line.rstrip(b"\r\n")
            continue
        while not line.endswith(b"\n") and (line := stream.readline(LINE_BYTES)):
            pass
        yield None


def _answer(line: bytes | None) -> tuple[dict[str, Any], int]:
    """What to say about one line, and the exit code that it asks for."""
    from doorward.detect.text import inspect as inspect_text
    from doorward.protocol.json_door import parse_json

    def bad(tell: str, name: Any = None) -> tuple[dict[str, Any], int]:
        return {"id": name, "error": {"code": "inspect-line", "tell": tell}}, _USAGE

    if line is None:
        return bad(f"The line is longer than {LINE_BYTES} bytes.")
    try:
        value = parse_json(line)
    except CallerError as error:
        return bad(f"The line is no JSON. {error.tell}")
    if not isinstance(value, dict):
        return bad("The line is no JSON object.")
    name = value.get("id")
    if not isinstance(name, str | int | None) or isinstance(name, bool):
        return bad("The id is neither a string nor an integer.")
    if not isinstance(value.get("text"), str):
        return bad("There is no text.", name)
    kind = value.get("kind", "prompt")
    if not isinstance(kind, str) or kind not in _KINDS:
        return bad("The kind is none of prompt, argument, tool and result.", name)
    report = inspect_text(value["text"], kind)
    row = {"id": name, "verdict": report.verdict, "score": report.score, "findings": report.findings}
    return row, 0 if report.verdict == "allow" else 1


def inspect(
    *,
    jsonl: Annotated[
        bool,
        Parameter(name="--jsonl", help='Read lines {"id","text","kind"}, answer each in order.', negative=""),
    ] = False,
    kind: Annotated[
        Literal["prompt", "argument", "tool", "result"],
        Parameter(help="Where the text comes from, without --jsonl."),
    ] = "prompt",
    as_json: Annotated[bool, Parameter(name="--json", help="One JSON document.", negative="")] = False,
) -> int:
    """Inspect texts from standard input. Exit code 1 when any is not allowed, 2 when a line could not be read."""
    import msgspec

    from doorward.cli.output import paint, print_json, printable
    from doorward.detect.text import inspect as inspect_text

    if jsonl:
        code = 0
        for line in _lines(sys.stdin.buffer):
            if line is not None and not line.strip():
                continue
            row, asked = _answer(line)
            code = max(code, asked)
            sys.stdout.write(msgspec.json.encode(row).decode() + "\n")
            sys.stdout.flush()
        return code
    data = sys.stdin.buffer.read(LINE_BYTES + 1)
    if len(data) > LINE_BYTES:
        raise OperatorError("inspect-text", f"The text is longer than {LINE_BYTES} bytes.")
    report = inspect_text(data.decode("utf-8", "replace"), kind)
    if as_json:
        print_json({"verdict": report.verdict, "score": report.score, "findings": report.findings})
    else:
        colour = {"block": "red", "flag": "yellow", "allow": "green"}[report.verdict]
        sys.stdout.write(f"{paint(report.verdict, colour)}  score {report.score:.2f}\n")
        for finding in report.findings:
            sys.stdout.write(
                f"  {finding.severity:<8}  {finding.rule:<22}  {finding.start}-{finding.end}  {printable(finding.message)}\n"
            )
    return 0 if report.verdict == "allow" else 1
