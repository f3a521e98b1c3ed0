"""The one way in and out for JSON: strict reading, and writing that keeps every value (RFC 8259, RFC 7493)."""

from __future__ import annotations

import json
import re
from math import isinf
from typing import Any

import jiter
import msgspec

from doorward.base import limits
from doorward.base.errors import CallerError
from doorward.protocol import codes

# Numbers with a fraction or an exponent arrive as this type: ``float(x)`` is the value, ``str(x)`` the very digits.
Number = jiter.LosslessFloat

_INTEGER_BOUND = 10**limits.INTEGER_DIGITS
_CROWDED_BYTES = 4 * limits.KEYS_COUNT  # a member takes at least five bytes, so smaller texts have fewer
_NEGATIVE_ZERO = re.compile(rb"-0[,\]}\s]")


def parse_json(body: bytes) -> Any:
    """Parse one JSON text, refusing whatever two readers could understand differently.

    Refused: duplicate members (also when spelled with escapes), NaN and infinities, numbers beyond a double, integers
    of more than ``limits.INTEGER_DIGITS`` digits, lone surrogates, a byte order mark, anything but UTF-8, NUL in member
    names, nesting beyond ``limits.NESTING_DEPTH`` and objects of more than ``limits.KEYS_COUNT`` members.

    Raises CallerError with status 400 and the JSON-RPC code -32700.
    """
    try:
        value = jiter.from_json(
            body,
            float_mode="lossless-float",
            catch_duplicate_keys=True,
            allow_inf_nan=False,
            cache_mode="keys",
        )
    except ValueError as error:
        raise _unreadable(str(error)) from None
    try:
        # In C: integers beyond 64 bits overflow, other numbers come to _weigh_number. What is packed here is looked at for
        # one thing: without a zero byte in it there is no number 0 and no NUL in any text, so neither -0 nor a name with
        # NUL. That one search for a byte spares most texts two slow searches.
        packed = _check_numbers(value)
    except OverflowError:
        packed = b"\0"
        _inspect(value)
    if len(body) > _CROWDED_BYTES and body.count(b":") > limits.KEYS_COUNT:
        _inspect(value)
    if b"\0" not in packed:
        return value
    if (
        b"\\" in body and b"u0000" in body
    ):  # without the backslash, for CPython skips ahead on short needles only
        _inspect(value)
    if b"-" in body and b"-0" in body and _NEGATIVE_ZERO.search(body):
        # The fast reader turns -0 into 0; read such rare texts again, now that they are known to be sound.
        return json.loads(body, parse_int=_keep_sign, parse_float=_keep_lexeme)
    return value


def encode_json(value: Any) -> bytes:
    """Write a value compactly as UTF-8; numbers read by ``parse_json`` keep their digits (1.10 stays 1.10).

    No line separator of any kind is left unescaped, so that no reader can split the text into two lines
    (U+0085, U+2028 and U+2029 are line ends to ``str.splitlines`` and its like in other languages).
    """
    text = _encode(value)
    if not text.isascii() and _mentions_separator(text):
        text = text.replace(b"\xc2\x85", rb"\u0085")
        text = text.replace(b"\xe2\x80\xa8", rb"\u2028").replace(b"\xe2\x80\xa9", rb"\u2029")
    return text


def _mentions_separator(text: bytes) -> bool:
    return b"\xc2\x85" in text or b"\xe2\x80\xa8" in text or b"\xe2\x80\xa9" in text


def _write_number(value: object) -> msgspec.Raw:
    if isinstance(value, jiter.LosslessFloat):
        return msgspec.Raw(bytes(value))
    msg = f"a {type(value).__name__} is no JSON value"
    raise TypeError(msg)


def _weigh_number(value: object) -> None:
    if isinstance(value, jiter.LosslessFloat) and isinf(float(value)):
        raise _refused("json-number", "A number is beyond the range of a double.")


_check_numbers = msgspec.msgpack.Encoder(enc_hook=_weigh_number).encode
_encode = msgspec.json.Encoder(enc_hook=_write_number).encode


def _keep_sign(lexeme: str) -> int | jiter.LosslessFloat:
    return jiter.LosslessFloat(b"-0") if lexeme == "-0" else int(lexeme)


def _keep_lexeme(lexeme: str) -> jiter.LosslessFloat:
    return jiter.LosslessFloat(lexeme.encode("ascii"))


def _inspect(value: Any) -> None:
    """Look at every container: for what the fast checks can only suspect. Depth is bounded by then, and costs no stack."""
    pending: list[Any] = [[value]]
    while pending:
        container = pending.pop()
        if type(container) is dict:
            if len(container) > limits.KEYS_COUNT:
                raise _refused("json-members", "An object has too many members.")
            if "\0" in "".join(container):
                raise _refused("json-nul", "A member name contains NUL.")
            container = container.values()
        for item in container:
            kind = type(item)
            if kind is dict or kind is list:
                pending.append(item)
            elif kind is Number:
                _weigh_number(item)
            elif kind is int and not -_INTEGER_BOUND < item < _INTEGER_BOUND:
                raise _refused("json-integer", f"An integer has more than {limits.INTEGER_DIGITS} digits.")


def _unreadable(reason: str) -> CallerError:
    if "duplicate key" in reason.lower():
        return _refused("json-duplicate", "An object names a member twice.", reason)
    if "recursion limit" in reason:
        return _refused("json-depth", f"The JSON is nested deeper than {limits.NESTING_DEPTH} levels.")
    return CallerError(
        "json-syntax",
        "The body is not valid JSON in UTF-8.",
        status=400,
        rpc_code=codes.PARSE_ERROR,
        detail=reason,
    )


def _refused(code: str, tell: str, detail: str = "") -> CallerError:
    return CallerError(code, tell, status=400, rpc_code=codes.PARSE_ERROR, detail=detail)
