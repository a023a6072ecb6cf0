"""Plain values and arrays as bytes, for processes that trust each other's code but run none of each other's data.

A message is a JSON head and the arrays it names, one after the other. Dicts with text keys, lists, tuples, text,
numbers, None and arrays of numbers survive; nothing else is taken.
"""

import json
import socket
import struct
import time
from typing import Any

import numpy as np

from spatia_env.errors import ActionError

MAX_BYTES = 4 << 30
_HEAD = struct.Struct("<QQ")
_KINDS = "biufc"


def pack(value: Any) -> bytes:
    """The bytes of a value.

    Raises:
        ActionError: If something in it is not plain.
    """
    arrays: list[np.ndarray] = []
    head = json.dumps(_flatten(value, arrays), ensure_ascii=False).encode()
    body = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    return _HEAD.pack(len(head), len(body)) + head + body


def unpack(data: bytes | bytearray | memoryview) -> Any:
    """The value of some bytes; arrays are the caller's own.

    Raises:
        ActionError: If they are not a message.
    """
    view = memoryview(data)
    try:
        head, body = _HEAD.unpack(view[: _HEAD.size])
        text = json.loads(bytes(view[_HEAD.size : _HEAD.size + head]))
    except (struct.error, ValueError) as cause:
        raise ActionError(f"message: not one of ours ({cause}).") from cause
    start = _HEAD.size + head
    if len(view) != start + body:
        raise ActionError(f"message: {len(view)} bytes where {start + body} were declared.")
    return _unflatten(text, _Reader(view[start:]))


def send(connection: socket.socket, value: Any, seconds: float | None = None) -> None:
    """Write one message.

    Raises:
        TimeoutError: The other end did not take it in so many seconds.
    """
    connection.settimeout(seconds)
    connection.sendall(pack(value))


def receive(connection: socket.socket, deadline: float | None = None) -> Any:
    """Read one message.

    Args:
        connection: Where from.
        deadline: `time.monotonic()` by which it must be complete; None waits for ever.

    Raises:
        EOFError: The other end is gone.
        TimeoutError: The deadline has passed.
    """
    head = _exactly(connection, _HEAD.size, deadline)
    sizes = _HEAD.unpack(head)
    if sum(sizes) > MAX_BYTES:
        raise EOFError("the other end sent what is no message")
    return unpack(head + _exactly(connection, sum(sizes), deadline))


def _exactly(connection: socket.socket, count: int, deadline: float | None) -> bytes:
    data = bytearray(count)
    view, got = memoryview(data), 0
    while got < count:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError("no answer in time")
        connection.settimeout(left)
        read = connection.recv_into(view[got:])
        if not read:
            raise EOFError("the other end is gone")
        got += read
    return bytes(data)


def _flatten(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in _KINDS:
        arrays.append(value)
        return {"@": [value.dtype.str, list(value.shape)]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"{": [[key, _flatten(item, arrays)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"[" if isinstance(value, list) else "(": [_flatten(item, arrays) for item in value]}
    raise ActionError(f"message: a {type(value).__name__} cannot be sent; use plain values and arrays.")


class _Reader:
    def __init__(self, body: memoryview) -> None:
        self.body, self.at = body, 0

    def array(self, dtype: str, shape: list[int]) -> np.ndarray:
        kind = np.dtype(dtype)
        if kind.kind not in _KINDS:
            raise ActionError(f"message: an array of {dtype!r}.")
        size = kind.itemsize * int(np.prod(shape, dtype=np.int64))
        piece, self.at = self.body[self.at : self.at + size], self.at + size
        return np.frombuffer(piece, kind).reshape(shape).copy()


def _unflatten(value: Any, reader: _Reader) -> Any:
    if not isinstance(value, dict):
        return value
    ((mark, inner),) = value.items()
    if mark == "@":
        return reader.array(*inner)
    if mark == "{":
        return {key: _unflatten(item, reader) for key, item in inner}
    items = [_unflatten(item, reader) for item in inner]
    return items if mark == "[" else tuple(items)
