"""What a client may say: sizes, rates, and which messages; the rest never reaches the viewer's code.

viser trusts its clients: an update may name any attribute of a widget, an upload may declare any size, and a
message can ask the server to open a tunnel to the outside. So messages are read here first, against a list of
those that the playground uses. A client that breaks a rule is cut off; one that sends what is merely not used
is not heard.
"""

import asyncio
import math
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from websockets.asyncio.server import ServerConnection

MAX_MESSAGE = 2**20
"""Bytes of one message; larger frames are refused by their header (close code 1009)."""
MAX_TEXT = 10_000
"""Characters of one text in a message."""
MAX_UPLOAD = 64 * 2**20
"""Bytes of one upload."""
MAX_PARTS = 256
UPLOAD_SECONDS = 30.0
"""An upload that has not ended by then is dropped, with the connection that began it."""
MESSAGES_PER_SECOND, BURST = 120.0, 360.0
"""A browser sends at most 50 cameras a second while it moves, and an upload's parts as they are acknowledged."""
MAX_CLIENTS, MAX_CONNECTIONS = 16, 64
"""Upgraded connections, and connections in all (half-open ones end after 10 s)."""

ALLOWED = frozenset(
    {
        "ViewerCameraMessage",
        "GuiUpdateMessage",
        "GuiButtonHoldMessage",
        "ScenePointerMessage",
        "SceneNodeClickMessage",
        "TransformControlsUpdateMessage",
        "TransformControlsDragStartMessage",
        "TransformControlsDragEndMessage",
        "FileTransferStartUpload",
        "FileTransferPart",
        "FileTransferPartAck",
        "CommandTriggerMessage",
    }
)
"""Messages that are passed on."""


class Refused(Exception):
    """A client broke a rule; `code` is the WebSocket close code. It never leaves this module."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Ear:
    """The rules for one client's messages; `hears` is called with each in turn.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Any = time.monotonic) -> None:
        self._clock = clock
        self._allowance, self._last = BURST, clock()
        self.upload: tuple[str, int, int] | None = None  # uuid, bytes declared, bytes still to come
        self.upload_began = 0.0

    def hears(self, raw: Any) -> bool:
        """Whether a message is to be passed on.

        Raises:
            Refused: The client is to be cut off.
        """
        self._count()
        if not isinstance(raw, bytes):
            raise Refused(1003, "binary messages only")
        try:
            message = msgspec.msgpack.decode(raw)
        except msgspec.MsgspecError as cause:
            raise Refused(1007, "not a message") from cause
        except RecursionError as cause:
            raise Refused(1007, "nested too deeply") from cause
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            raise Refused(1007, "not a message")
        if not is_plain(message):
            raise Refused(1007, "a value is not finite, too long or nested too deeply")
        kind = message["type"]
        if kind not in ALLOWED or not _has_its_fields(kind, message):
            return False
        if kind == "GuiUpdateMessage":
            return _sets_a_value_only(message)
        if kind == "FileTransferStartUpload":
            self._begin_upload(message)
        elif kind == "FileTransferPart":
            self._take_part(message)
        return True

    def is_late(self) -> bool:
        """Whether an upload has been under way for too long."""
        return self.upload is not None and self._clock() - self.upload_began > UPLOAD_SECONDS

    def _count(self) -> None:
        now = self._clock()
        self._allowance = min(BURST, self._allowance + (now - self._last) * MESSAGES_PER_SECOND)
        self._last = now
        if self._allowance < 1:
            raise Refused(1008, "too many messages")
        self._allowance -= 1

    def _begin_upload(self, message: Mapping[str, Any]) -> None:
        size, parts = message["size_bytes"], message["part_count"]
        if not (isinstance(size, int) and isinstance(parts, int)) or size < 0:
            raise Refused(1007, "an upload's size is a number of bytes")
        if size > MAX_UPLOAD or not 0 <= parts <= MAX_PARTS:
            raise Refused(1009, f"uploads are limited to {MAX_UPLOAD >> 20} MB")
        if self.upload is not None:
            raise Refused(1008, "one upload at a time")
        if size:
            self.upload, self.upload_began = (str(message["transfer_uuid"]), size, size), self._clock()

    def _take_part(self, message: Mapping[str, Any]) -> None:
        content = message["content"]
        if (
            self.upload is None
            or message["transfer_uuid"] != self.upload[0]
            or not isinstance(content, bytes)
        ):
            raise Refused(1008, "a part of no upload")
        uuid, size, left = self.upload
        left -= len(content)
        if left < 0:
            raise Refused(1009, "more bytes than declared")
        self.upload = (uuid, size, left) if left else None


class GuardedConnection(ServerConnection):
    """A connection whose messages pass an `Ear` first."""

    _open: set["GuardedConnection"]

    def __init__(self, *args: Any, everyone: set["GuardedConnection"], **options: Any) -> None:
        super().__init__(*args, **options)
        self._open = everyone
        self._ear = Ear()
        self._reaper: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Count the connection; one too many is dropped before it has said anything."""
        super().connection_made(transport)
        self._open.add(self)
        if len(self._open) > MAX_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it out."""
        self._open.discard(self)
        if self._reaper is not None:
            self._reaper.cancel()
        super().connection_lost(exc)

    async def recv(self, decode: bool | None = None) -> Any:
        """The next message that may be heard."""
        while True:
            raw = await super().recv(decode)
            try:
                heard = self._ear.hears(raw)
            except Refused as refusal:
                await self.close(refusal.code, str(refusal))
                continue  # receiving from it now raises ConnectionClosed, as for any other end
            if self._ear.upload is not None and self._reaper is None:
                loop = asyncio.get_running_loop()
                self._reaper = loop.call_later(UPLOAD_SECONDS + 1, self._reap)
            if heard:
                return raw

    def _reap(self) -> None:
        self._reaper = None
        if self._ear.is_late():
            self.transport.abort()
        elif self._ear.upload is not None:
            self._reaper = asyncio.get_running_loop().call_later(UPLOAD_SECONDS, self._reap)


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a decoded message holds only finite numbers, short texts, bytes, and shallow lists of them."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    if isinstance(value, list | tuple):
        return depth < 4 and len(value) <= 1000 and all(is_plain(inner, depth + 1) for inner in value)
    if isinstance(value, dict):
        return (
            depth < 4
            and len(value) <= 100
            and all(isinstance(key, str) and is_plain(inner, depth + 1) for key, inner in value.items())
        )
    return value is None or isinstance(value, bool | int | bytes)


def _has_its_fields(kind: str, message: Mapping[str, Any]) -> bool:
    from viser import _messages
    from viser.infra._messages import wire_field_names

    return set(message) - {"type"} <= set(wire_field_names(getattr(_messages, kind)))


def _sets_a_value_only(message: Mapping[str, Any]) -> bool:
    updates = message.get("updates")
    return isinstance(updates, dict) and set(updates) == {"value"}
