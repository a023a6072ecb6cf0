"""What the playground accepts from the network: requests by their headers, then messages by their content.

Guarded against: pages of other sites in the same browser (DNS rebinding, cross-site WebSockets), other users of the
machine or the network, and clients that abuse what viser trusts: an update may name any attribute of a widget, an
upload any size, and a message can ask for a tunnel to the outside. The sockets are in `server`.
"""

import hmac
import http
import ipaddress
import math
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import msgspec
from websockets import Headers
from websockets.http11 import Request, Response

from spatia_env.errors import ViewerError

POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
    "style-src 'unsafe-inline'; img-src 'self' data: blob:; media-src data: blob:; font-src data:; "
    "connect-src 'self' data: blob: {sockets}; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
"""Content security policy: the page loads nothing from elsewhere; its scripts are inside it."""
HEADERS = {
    "Cache-Control": "no-store", "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin", "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
}  # fmt: skip
MAX_MESSAGE = 2**20
"""Bytes of one message."""
MAX_TEXT = 10_000
"""Characters of one text in a message."""
MAX_UPLOAD, MAX_PARTS = 64 * 2**20, 256
"""Bytes and messages of one upload."""
MESSAGES_PER_SECOND, BURST = 120.0, 360.0
"""A browser sends at most 50 cameras a second while it moves, and an upload's parts as they are acknowledged."""
PASSED_ON = (
    "ViewerCameraMessage", "GuiUpdateMessage", "GuiButtonHoldMessage", "ScenePointerMessage",
    "SceneNodeClickMessage", "TransformControlsUpdateMessage", "TransformControlsDragStartMessage",
    "TransformControlsDragEndMessage", "FileTransferStartUpload", "FileTransferPart", "FileTransferPartAck",
    "CommandTriggerMessage",
)  # fmt: skip
"""viser's messages that the playground uses; others are dropped."""


@dataclass(frozen=True)
class RequestGuard:
    """Answers HTTP requests; only those of the server's own page, with the token, become WebSockets.

    Attributes:
        hosts: Accepted values of `Host`, `name:port`, the one to print first; `Origin` is `http://` and the same.
        token: What the URL must carry once, and the cookie afterwards.
        page: The only page, UTF-8.
        cookie: Name of the cookie that keeps the token.
    """

    hosts: tuple[str, ...]
    token: str
    page: bytes
    cookie: str

    @property
    def url(self) -> str:
        """What to open in a browser."""
        return f"http://{self.hosts[0]}/?token={self.token}"

    def answer(self, request: Request) -> Response | None:
        """The response to a request, or None where it may become a WebSocket."""
        headers, (path, _, query) = request.headers, request.path.partition("?")
        host, origin = headers.get_all("Host"), headers.get_all("Origin")
        upgrade = bool(headers.get_all("Upgrade"))
        if len(host) != 1 or host[0].lower() not in self.hosts:
            return self.refuse(http.HTTPStatus.FORBIDDEN, "this server does not go by that name")
        if (origin or upgrade) and origin != [f"http://{host[0]}"]:
            return self.refuse(http.HTTPStatus.FORBIDDEN, "requests from other sites are refused")
        if path != "/":
            return self.refuse(http.HTTPStatus.NOT_FOUND, "there is only one page, /")
        if self._has_cookie(headers):
            return None if upgrade else self._respond(http.HTTPStatus.OK, self.page, "text/html")
        if not upgrade and self._is_token(parse_qs(query).get("token", [""])[0]):
            # The bare URL keeps the token out of histories and pictures of the screen.
            keep = f"{self.cookie}={self.token}; HttpOnly; SameSite=Strict; Path=/"
            return self._respond(http.HTTPStatus.SEE_OTHER, b"", **{"Location": "/", "Set-Cookie": keep})
        return self.refuse(http.HTTPStatus.UNAUTHORIZED, "open the URL that `spatia view` printed")

    def refuse(self, status: http.HTTPStatus, why: str) -> Response:
        """A response that says why there is no page."""
        return self._respond(status, f"{status.value}: {why}\n".encode())

    def _has_cookie(self, headers: Headers) -> bool:
        parts = (part.strip() for line in headers.get_all("Cookie") for part in line.split(";"))
        pairs = (part.partition("=") for part in parts)
        return any(name == self.cookie and self._is_token(value) for name, _, value in pairs)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())

    def _respond(
        self, status: http.HTTPStatus, body: bytes, kind: str = "text/plain", **more: str
    ) -> Response:
        sockets = " ".join(f"ws://{host}" for host in self.hosts)
        headers = Headers(**HEADERS, **more)
        headers["Content-Type"] = f"{kind}; charset=utf-8"
        headers["Content-Length"] = str(len(body))
        headers["Content-Security-Policy"] = POLICY.format(sockets=sockets)
        return Response(status.value, status.phrase, headers, body)


def make_guard(
    bind: str, port: int, token: str | None, allow_hosts: Iterable[str], page: bytes
) -> RequestGuard:
    """The guard of a server bound to the address `bind` at `port`.

    Args:
        bind: An IP address.
        port: The port it listens on.
        token: 16 to 256 letters, digits, '-' and '_'; None makes a random one.
        allow_hosts: Further names by which browsers may call it, `name` or `name:port`.
        page: What to deliver.

    Raises:
        ViewerError: The address is no IP address, stands for all addresses without a name, or the token is too weak.
    """
    address, further = parse_address(bind), list(allow_hosts)
    token = secrets.token_urlsafe(24) if token is None else token
    if not (16 <= len(token) <= 256 and token.isascii() and all(c.isalnum() or c in "-_" for c in token)):
        raise ViewerError("token: use 16 to 256 letters, digits, '-' and '_'.")
    if address.is_unspecified and not further:
        raise ViewerError(
            f"--bind {bind}: every address of this machine; add --allow-host NAME for the name or address that "
            "browsers will use."
        )
    own = [f"[{address}]" if address.version == 6 else str(address)]
    own = [] if address.is_unspecified else [*own, "localhost"] if address.is_loopback else own
    hosts = [name if _has_port(name) else f"{name}:{port}" for name in [*own, *further]]
    return RequestGuard(tuple(map(str.lower, hosts)), token, page, f"spatia_{port}")


def parse_address(bind: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IP address that `--bind` names.

    Raises:
        ViewerError: If it is none.
    """
    try:
        return ipaddress.ip_address("127.0.0.1" if bind == "localhost" else bind)
    except ValueError as cause:
        raise ViewerError(f"--bind {bind!r}: give an IP address, such as 127.0.0.1 or ::1.") from cause


def _has_port(name: str) -> bool:
    return name.rpartition(":")[2].isdigit() and ":" in name


class ProtocolViolationError(Exception):
    """A client is to be cut off; `code` is the WebSocket close code. It never leaves the viewer."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class MessageFilter:
    """Decides which of one client's messages viser may see.

    Args:
        clock: Seconds, monotonic.

    Attributes:
        upload: Id of the upload under way and the bytes still to come; None without one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._allowance, self._last = BURST, clock()
        self.upload: tuple[str, int] | None = None

    def accepts(self, raw: Any) -> bool:
        """Whether a message is to be passed on; others are dropped.

        Raises:
            ProtocolViolationError: The client floods, sends no messages of viser, or more than it declared.
        """
        self._count()
        message = decode(raw)
        kind = message["type"]
        if kind not in PASSED_ON or not _has_only_its_fields(kind, message):
            return False
        if kind == "GuiUpdateMessage":
            updates = message.get("updates")
            return isinstance(updates, dict) and set(updates) == {"value"}
        if kind == "FileTransferStartUpload":
            self._begin_upload(message)
        elif kind == "FileTransferPart":
            self._take_part(message)
        return True

    def _count(self) -> None:
        now = self._clock()
        self._allowance = min(BURST, self._allowance + (now - self._last) * MESSAGES_PER_SECOND) - 1
        self._last = now
        require(self._allowance >= 0, 1008, "too many messages")

    def _begin_upload(self, message: Mapping[str, Any]) -> None:
        size, parts = message.get("size_bytes"), message.get("part_count")
        if not (isinstance(size, int) and isinstance(parts, int) and size >= 0 and parts >= 0):
            raise ProtocolViolationError(1007, "an upload's size is a number of bytes")
        fits = size <= MAX_UPLOAD and parts <= MAX_PARTS
        require(fits, 1009, f"uploads are limited to {MAX_UPLOAD >> 20} MB")
        require(self.upload is None, 1008, "one upload at a time")
        self.upload = (str(message.get("transfer_uuid")), size) if size else None

    def _take_part(self, message: Mapping[str, Any]) -> None:
        uuid, left = self.upload or (None, 0)
        content = message.get("content")
        size = len(content) if isinstance(content, bytes) else -1
        require(
            uuid is not None and message.get("transfer_uuid") == uuid and size >= 0,
            1008,
            "a part of no upload",
        )
        require(size <= left, 1009, "more bytes than declared")
        self.upload = (str(uuid), left - size) if size < left else None


def require(condition: bool, code: int, reason: str) -> None:
    """Raise `ProtocolViolationError` unless a condition holds."""
    if not condition:
        raise ProtocolViolationError(code, reason)


def decode(raw: Any) -> dict[str, Any]:
    """A message of plain values with a `type`.

    Raises:
        ProtocolViolationError: If it is none.
    """
    require(isinstance(raw, bytes), 1003, "binary messages only")
    try:
        message = msgspec.msgpack.decode(raw)
    except (msgspec.MsgspecError, RecursionError) as cause:
        raise ProtocolViolationError(1007, "not a message") from cause
    typed = isinstance(message, dict) and isinstance(message.get("type"), str)
    require(
        typed and is_plain(message), 1007, "not a message, or a value is not finite, too long or too deep"
    )
    return message


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a decoded value holds only finite numbers, short texts, bytes, and shallow collections of them."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and is_plain(list(value.values()), depth)
    if isinstance(value, list):
        return depth < 4 and len(value) <= 1000 and all(is_plain(inner, depth + 1) for inner in value)
    return value is None or isinstance(value, bool | int | bytes)


def _has_only_its_fields(kind: str, message: Mapping[str, Any]) -> bool:
    from viser import _messages
    from viser.infra._messages import wire_field_names

    return set(message) - {"type"} <= set(wire_field_names(getattr(_messages, kind)))
