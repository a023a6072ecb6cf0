"""Who may talk to the playground: decided on the request line and headers, before any WebSocket upgrade.

A page on another site can send a browser to this machine's loopback address (DNS rebinding, cross-site
WebSockets), so being bound to loopback is not enough: the `Host` header must be one of the server's own names,
and an upgrade must carry the `Origin` of the page that this server delivered. Nothing but the one page is ever
served, whatever the path says. It knows neither the session nor the messages; `limits` looks at those.
"""

import hmac
import http
import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qs

from websockets import Headers
from websockets.http11 import Request, Response

from spatia_env.errors import ViewerError

_PLAIN = "text/plain; charset=utf-8"
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
    "style-src 'unsafe-inline'; img-src 'self' data: blob:; media-src data: blob:; font-src data:; "
    "connect-src 'self' data: blob: {sockets}; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
"""The page may load nothing from anywhere else; its scripts are inside it."""


@dataclass(frozen=True)
class Guard:
    """The rules of one server.

    Attributes:
        hosts: Values that `Host` may have, `name:port`; `Origin` must be `http://` and the same.
        token: What the URL must carry; None on loopback.
        page: The page, UTF-8.
        cookie: Name of the cookie that keeps the token, after the URL has dropped it.
    """

    hosts: frozenset[str]
    token: str | None
    page: bytes
    cookie: str

    def answer(self, request: Request) -> Response | None:
        """The response to a request, or None where it may become a WebSocket."""
        headers = request.headers
        host = headers.get_all("Host")
        if len(host) != 1 or host[0].lower() not in self.hosts:
            return self._refuse(http.HTTPStatus.FORBIDDEN, "this server does not go by that name")
        upgrade = bool(headers.get_all("Upgrade"))
        origin = headers.get_all("Origin")
        if (origin or upgrade) and origin != [f"http://{host[0]}"]:
            return self._refuse(http.HTTPStatus.FORBIDDEN, "requests from other sites are refused")
        path, _, query = request.path.partition("?")
        if path != "/":
            return self._refuse(http.HTTPStatus.NOT_FOUND, "there is only one page, /")
        if not self._admits(headers):
            if not upgrade and self._is_token(parse_qs(query).get("token", [""])[0]):
                return self._welcome()
            return self._refuse(http.HTTPStatus.UNAUTHORIZED, "open the URL that `spatia view` printed")
        return None if upgrade else self._deliver()

    def _admits(self, headers: Headers) -> bool:
        if self.token is None:
            return True
        pairs = (
            part.strip().partition("=") for line in headers.get_all("Cookie") for part in line.split(";")
        )
        return any(name == self.cookie and self._is_token(value) for name, _, value in pairs)

    def _is_token(self, given: str) -> bool:
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())

    def _welcome(self) -> Response:
        """Keep the token in a cookie and go to the bare URL, so that it stays out of histories and pictures."""
        keep = f"{self.cookie}={self.token}; HttpOnly; SameSite=Strict; Path=/"
        return self._respond(http.HTTPStatus.SEE_OTHER, b"", _PLAIN, {"Location": "/", "Set-Cookie": keep})

    def _deliver(self) -> Response:
        return self._respond(http.HTTPStatus.OK, self.page, "text/html; charset=utf-8")

    def _refuse(self, status: http.HTTPStatus, why: str) -> Response:
        return self._respond(status, f"{status.value}: {why}\n".encode(), _PLAIN)

    def _respond(
        self, status: http.HTTPStatus, body: bytes, kind: str, more: dict[str, str] | None = None
    ) -> Response:
        sockets = " ".join(sorted(f"ws://{host}" for host in self.hosts))
        headers = Headers()
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": POLICY.format(sockets=sockets),
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            **(more or {}),
        }.items():
            headers[name] = value
        return Response(status.value, status.phrase, headers, body)


def make_guard(bind: str, port: int, token: str | None, allow_hosts: Iterable[str], page: bytes) -> Guard:
    """The guard of a server bound to the address `bind` at `port`.

    Args:
        bind: An IP address; loopback needs no token.
        port: The port it listens on.
        token: At least 16 printable characters without blanks, quotes or `;`; required unless on loopback.
        allow_hosts: Further names by which browsers may call it, `name` or `name:port`.
        page: What to deliver.

    Raises:
        ViewerError: The address is no IP address, or a token is missing or too weak.
    """
    address = as_address(bind)
    if token is None and not address.is_loopback:
        raise ViewerError(
            f"--bind {bind}: others could reach the playground; add --token {secrets.token_urlsafe(16)} "
            "(or another of at least 16 characters)."
        )
    if token is not None and not (16 <= len(token) <= 256 and all(c.isalnum() or c in "-_" for c in token)):
        raise ViewerError("--token: use 16 to 256 letters, digits, '-' and '_'.")
    names = {f"[{bind}]" if address.version == 6 else bind}
    if address.is_loopback:
        names |= {"localhost", "127.0.0.1" if address.version == 4 else "[::1]"}
    if address.is_unspecified:
        names = set()
        if not list(allow_hosts):
            raise ViewerError(
                f"--bind {bind}: every address of this machine; add --allow-host NAME for the name or "
                "address that browsers will use."
            )
    hosts = {f"{name}:{port}" for name in names} | {_with_port(name, port) for name in allow_hosts}
    return Guard(frozenset(host.lower() for host in hosts), token, page, f"spatia_{port}")


def as_address(bind: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IP address that `--bind` names.

    Raises:
        ViewerError: If it is none.
    """
    try:
        return ipaddress.ip_address("127.0.0.1" if bind == "localhost" else bind)
    except ValueError as cause:
        raise ViewerError(f"--bind {bind!r}: give an IP address, such as 127.0.0.1 or ::1.") from cause


def _with_port(name: str, port: int) -> str:
    has_port = name.rpartition(":")[2].isdigit() and not name.endswith("]")
    return name if has_port else f"{name}:{port}"
