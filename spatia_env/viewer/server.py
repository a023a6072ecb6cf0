"""A viser server behind the guard: bound to one address, one port, one page.

viser binds every interface by default, looks for another port when one is taken, and checks neither `Host` nor
`Origin`. Its WebSocket server is made by `websockets.asyncio.server.serve`; here that call is handed a bound socket,
the guard's answer to requests, and connections with limits. The name is replaced only while the server starts.
"""

import contextlib
import http
import io
import logging
import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from spatia_env.errors import DependencyError, ViewerError
from spatia_env.viewer.guard import (
    MAX_MESSAGE,
    MessageFilter,
    ProtocolViolationError,
    RequestGuard,
    make_guard,
    parse_address,
)

MAX_CLIENTS = 16
"""WebSockets at a time."""
MAX_STRANGERS, MAX_STRANGERS_OF_ADDRESS = 64, 16
"""Connections, in all and of one address, that have not shown the token yet; one more ends the oldest."""
STRANGER_SECONDS, PAGE_SECONDS = 5.0, 60.0
"""Within which a connection must show the token, and a slow one that did must have taken the page."""
UPLOAD_SECONDS = 30.0
"""An upload that has not ended by then ends its connection."""
TITLE = "spatia: the playground"
# viser orbits with the arrows, which near the point it looks at turns the wrong way: left and right change places.
_HEAD = """<style>
body{background:#14161b}
div:has(> p > label:empty){display:none}
</style>
<script>
addEventListener("keydown", swap, true); addEventListener("keyup", swap, true);
function swap(event) {
  const other = {ArrowLeft: "ArrowRight", ArrowRight: "ArrowLeft"}[event.code];
  if (!other || !event.isTrusted || event.target.closest?.("input,textarea,select,[role=slider]")) return;
  event.stopImmediatePropagation(); event.preventDefault();
  event.target.dispatchEvent(new KeyboardEvent(event.type, {code: other, key: other, bubbles: true}));
}
</script>
"""
_STARTING = threading.Lock()


def open_server(
    bind: str = "127.0.0.1", port: int = 8080, token: str | None = None, allow_hosts: Iterable[str] = ()
) -> tuple[Any, str]:
    """Start a guarded viser server; it and the URL to open, which carries the token.

    Args:
        bind: IP address to listen on.
        port: Port; 0 takes a free one.
        token: See `guard.make_guard`; a random one by default.
        allow_hosts: See `guard.make_guard`.

    Raises:
        ViewerError: The port is taken, or the address or the token is none.
        DependencyError: viser is not installed.
    """
    try:
        import viser
    except ImportError as cause:
        raise DependencyError('the playground needs viser: pip install "spatia-env[viewer]"') from cause
    listener = _listen(bind, port)
    try:
        bound = listener.getsockname()[1]
        page = (Path(viser.__file__).parent / "client/build/index.html").read_text(encoding="utf-8")
        page = page.replace("<title>Viser</title>", f"<title>{TITLE}</title>{_HEAD}", 1)
        guard = make_guard(bind, bound, token, allow_hosts, page.encode())
        # Its banner would be a second URL on the screen.
        with _STARTING, _guarded(guard, listener), contextlib.redirect_stdout(io.StringIO()):
            server = viser.ViserServer(host=bind, port=bound, verbose=False)
    except BaseException:
        listener.close()
        raise
    return server, guard.url


def _listen(bind: str, port: int) -> socket.socket:
    address = parse_address(bind)
    listener = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(address), port))
        listener.listen(128)
    except (OSError, OverflowError) as cause:
        listener.close()
        raise ViewerError(f"--port {port} on {bind}: {cause}; choose another port.") from cause
    return listener


@contextlib.contextmanager
def _guarded(guard: RequestGuard, listener: socket.socket) -> Iterator[None]:
    import websockets.asyncio.server as asyncio_server

    plain = asyncio_server.serve
    everyone: dict[GuardedConnection, None] = {}
    log = logging.getLogger("spatia_env.viewer.connections")
    # What strangers send must not fill the terminal with tracebacks; failures of handlers are still shown.
    log.addFilter(_is_no_failed_handshake)

    def answer(connection: Any, request: Request) -> Response | None:
        response = guard.answer(request)
        connection.is_stranger = response is not None and response.status_code >= 400
        clients = sum(other.protocol.state.name == "OPEN" for other in everyone)
        if response is None and clients >= MAX_CLIENTS:
            return guard.refuse(
                http.HTTPStatus.SERVICE_UNAVAILABLE, f"{MAX_CLIENTS} clients are here already"
            )
        return response

    def connect(*args: Any, **options: Any) -> GuardedConnection:
        return GuardedConnection(*args, everyone=everyone, **options)

    def serve(handler: Any, host: Any, port: Any, **options: Any) -> Any:
        del host, port  # the listener has them
        options |= {"process_request": answer, "create_connection": connect, "max_size": MAX_MESSAGE}
        options |= {"open_timeout": PAGE_SECONDS, "ping_interval": 20, "ping_timeout": 20, "logger": log}
        return plain(handler, sock=listener, **options)

    asyncio_server.serve = serve  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        asyncio_server.serve = plain  # type: ignore[misc]


def _is_no_failed_handshake(record: logging.LogRecord) -> bool:
    return record.msg != "opening handshake failed"


class GuardedConnection(ServerConnection):
    """A connection that must show the token soon, and whose messages pass a `MessageFilter`.

    Args:
        args: As `ServerConnection` takes them.
        everyone: The server's connections, in the order in which they came; this one adds and removes itself.
        options: As `ServerConnection` takes them.
    """

    def __init__(self, *args: Any, everyone: dict["GuardedConnection", None], **options: Any) -> None:
        super().__init__(*args, **options)
        self._everyone = everyone
        self._filter = MessageFilter()
        self.is_stranger = True
        self.address = ""

    def connection_made(self, transport: Any) -> None:
        """Join the others; where there are too many strangers, the oldest is dropped."""
        super().connection_made(transport)
        self.address = str((transport.get_extra_info("peername") or ("",))[0])
        self._everyone[self] = None
        self.loop.call_later(STRANGER_SECONDS, self._drop_if, lambda: self.is_stranger)
        strangers = [other for other in self._everyone if other.is_stranger]
        neighbours = [other for other in strangers if other.address == self.address]
        for group, limit in ((neighbours, MAX_STRANGERS_OF_ADDRESS), (strangers, MAX_STRANGERS)):
            if len(group) > limit and group[0] in self._everyone:
                del self._everyone[group[0]]
                group[0].transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the others."""
        self._everyone.pop(self, None)
        super().connection_lost(exc)

    async def recv(self, decode: bool | None = None) -> Any:
        """The next message that the filter accepts."""
        while True:
            raw = await super().recv(decode)
            before = self._filter.upload
            try:
                accepted = self._filter.accepts(raw)
            except ProtocolViolationError as violation:
                await self.close(violation.code, str(violation))
                continue  # receiving from it now raises ConnectionClosed, as for any other end
            upload = self._filter.upload
            if upload is not None and before is None:
                self.loop.call_later(UPLOAD_SECONDS, self._drop_if, lambda uuid=upload[0]: self._takes(uuid))
            if accepted:
                return raw

    def _takes(self, uuid: str) -> bool:
        return self._filter.upload is not None and self._filter.upload[0] == uuid

    def _drop_if(self, condition: Any) -> None:
        if condition():
            self.transport.abort()
