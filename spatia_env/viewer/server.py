"""A viser server behind the guard: bound to one address, one port, one page.

viser binds every interface by default, looks for another port when one is taken, and checks neither `Host` nor
`Origin`. Its WebSocket server is made by `websockets.asyncio.server.serve`; here that call is handed a socket
which is bound already, the guard's answer to requests, and connections with limits. The name is replaced only
while the server starts.
"""

import contextlib
import http
import io
import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from websockets.http11 import Request, Response

from spatia_env.errors import DependencyError, ViewerError
from spatia_env.viewer.guard import Guard, as_address, make_guard
from spatia_env.viewer.message_filter import MAX_CLIENTS, MAX_MESSAGE, GuardedConnection

_STARTING = threading.Lock()
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


def open_server(
    bind: str = "127.0.0.1", port: int = 8080, token: str | None = None, allow_hosts: Iterable[str] = ()
) -> tuple[Any, str]:
    """Start a guarded viser server; it and the URL to open.

    Args:
        bind: IP address to listen on.
        port: Port; 0 takes a free one.
        token: See `guard.make_guard`.
        allow_hosts: See `guard.make_guard`.

    Raises:
        ViewerError: The port is taken, or the address needs a token.
        DependencyError: viser is not installed.
    """
    viser = import_viser()
    listener = _listen(bind, port)
    try:
        bound = listener.getsockname()[1]
        page = _page(Path(viser.__file__).parent / "client" / "build" / "index.html")
        guard = make_guard(bind, bound, token, tuple(allow_hosts), page)
        # Its banner would be a second URL on the screen.
        with _STARTING, _guarded(guard, listener), contextlib.redirect_stdout(io.StringIO()):
            server = viser.ViserServer(host=bind, port=bound, verbose=False)
    except BaseException:
        listener.close()
        raise
    _never_share(server)
    return server, _url(guard, bind, bound, tuple(allow_hosts))


def import_viser() -> Any:
    """The package `viser`.

    Raises:
        DependencyError: If it is not installed.
    """
    try:
        import viser
    except ImportError as cause:
        raise DependencyError('the playground needs viser: pip install "spatia-env[viewer]"') from cause
    return viser


def _listen(bind: str, port: int) -> socket.socket:
    address = as_address(bind)
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(address), port))
        listener.listen(128)
    except (OSError, OverflowError) as cause:
        listener.close()
        raise ViewerError(f"--port {port} on {bind}: {cause}; choose another port.") from cause
    return listener


@contextlib.contextmanager
def _guarded(guard: Guard, listener: socket.socket) -> Iterator[None]:
    import websockets.asyncio.server as asyncio_server

    plain = asyncio_server.serve
    everyone: set[GuardedConnection] = set()

    def answer(connection: Any, request: Request) -> Response | None:
        response = guard.answer(request)
        upgraded = sum(other.protocol.state.name == "OPEN" for other in everyone)
        if response is None and upgraded >= MAX_CLIENTS:
            return guard._refuse(
                http.HTTPStatus.SERVICE_UNAVAILABLE, f"{MAX_CLIENTS} clients are here already"
            )
        return response

    def connect(*args: Any, **options: Any) -> GuardedConnection:
        return GuardedConnection(*args, everyone=everyone, **options)

    def serve(handler: Any, host: Any, port: Any, **options: Any) -> Any:
        del host, port  # the listener has them
        options |= {"process_request": answer, "create_connection": connect, "max_size": MAX_MESSAGE}
        return plain(handler, sock=listener, ping_interval=20, ping_timeout=20, **options)

    asyncio_server.serve = serve  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        asyncio_server.serve = plain  # type: ignore[misc]


def _page(path: Path) -> bytes:
    text = path.read_text(encoding="utf-8")
    return text.replace("<title>Viser</title>", f"<title>{TITLE}</title>{_HEAD}", 1).encode()


def _never_share(server: Any) -> None:
    """No client may make this machine open a tunnel to the outside; the guard does not pass such messages on
    either.
    """
    from viser import _messages

    for kind in (_messages.ShareUrlRequest, _messages.ShareUrlDisconnect):
        if kind in server._websock_server._incoming_handlers:
            server._websock_server.unregister_handler(kind)


def _url(guard: Guard, bind: str, port: int, allow_hosts: tuple[str, ...]) -> str:
    address = as_address(bind)
    if address.is_unspecified:
        host = next(host for host in sorted(guard.hosts) if host.startswith(allow_hosts[0].lower()))
    else:
        host = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    return f"http://{host}/" + (f"?token={guard.token}" if guard.token else "")
