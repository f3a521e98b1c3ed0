"""The frames of the bus: cutting a byte stream, and errors as they cross from one process to another."""

from __future__ import annotations

from typing import Any

from doorward.base import errors

FRAME_BYTES = 67_108_864  # a frame announced longer than this is a fault of the other end
LENGTH_BYTES = 4

_ERRORS: dict[str, type[errors.DoorwardError]] = {
    kind.__name__: kind
    for kind in (
        errors.CallerError,
        errors.OperatorError,
        errors.StoreError,
        errors.TamperError,
        errors.UpstreamError,
    )
}


def pack_error(error: BaseException) -> list[Any]:
    """An error as it crosses the bus; anything that is not ours becomes a plain ``StoreError`` without its text."""
    if not isinstance(error, errors.DoorwardError) or type(error).__name__ not in _ERRORS:
        return [
            "StoreError",
            "bus-fault",
            "The supervisor and a worker disagree.",
            type(error).__name__,
            None,
        ]
    more: list[Any] | None = None
    if isinstance(error, errors.CallerError):
        more = [error.status, error.rpc_code, error.data]
    return [type(error).__name__, error.code, error.tell, error.detail, more]


def unpack_error(packed: Any) -> errors.DoorwardError:
    """The error that ``pack_error`` described; a ``StoreError`` for anything else."""
    match packed:
        case ["CallerError", str(code), str(tell), str(detail), [int(status), int(rpc_code), data]]:
            return errors.CallerError(
                code,
                tell,
                status=status,
                rpc_code=rpc_code,
                detail=detail,
                data=data if isinstance(data, dict) else None,
            )
        case [str(name), str(code), str(tell), str(detail), _] if name in _ERRORS and name != "CallerError":
            return _ERRORS[name](code, tell, detail)
        case _:
            return errors.StoreError("bus-fault", "The supervisor and a worker disagree.")


class FrameReader:
    """Cut a byte stream into frames."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take what arrived; return the frames that are complete.

        Raises: StoreError ``bus-frame`` when a frame is longer than ``FRAME_BYTES``.
        """
        buffer = self._buffer
        buffer += chunk
        frames: list[bytes] = []
        start = 0
        while len(buffer) - start >= LENGTH_BYTES:
            length = int.from_bytes(buffer[start : start + LENGTH_BYTES], "big")
            if length > FRAME_BYTES:
                raise errors.StoreError("bus-frame", "A frame on the bus is too long.", str(length))
            end = start + LENGTH_BYTES + length
            if len(buffer) < end:
                break
            frames.append(bytes(buffer[start + LENGTH_BYTES : end]))
            start = end
        if start:
            del buffer[:start]
        return frames
