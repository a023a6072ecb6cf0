"""Who may talk to the playground, tried with raw sockets: libraries tidy up what an attacker would send."""

import re
import socket
import struct
import time

import msgspec
import numpy as np
import pytest

from spatia_env.errors import ViewerError
from spatia_env.viewer.guard import make_guard
from spatia_env.viewer.message_filter import BURST, MAX_UPLOAD, Ear, Refused

viser = pytest.importorskip("viser", reason='the playground needs viser: pip install "spatia-env[viewer]"')
TOKEN = "a-token-of-enough-letters"


@pytest.fixture(scope="module")
def server():
    from spatia_env.viewer.server import open_server

    opened, url = open_server(port=0)
    opened.scene.add_point_cloud("/p", np.zeros((3, 3)), np.zeros((3, 3), np.uint8))
    yield int(re.search(r":(\d+)/", url).group(1))
    opened.stop()


@pytest.fixture(scope="module")
def locked():
    from spatia_env.viewer.server import open_server

    opened, url = open_server(port=0, token=TOKEN)
    yield int(re.search(r":(\d+)/", url).group(1)), url
    opened.stop()


def ask(port: int, head: str, body: bytes = b"", wait: float = 10.0) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as link:
        link.sendall(head.replace("\n", "\r\n").encode() + b"\r\n" + body)
        link.settimeout(wait)
        answer = b""
        while b"\r\n\r\n" not in answer and (part := link.recv(65536)):
            answer += part
        return answer


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def get(port: int, path: str = "/", host: str | None = None, more: str = "") -> bytes:
    return ask(port, f"GET {path} HTTP/1.1\nHost: {host or f'127.0.0.1:{port}'}\n{more}")


def upgrade(port: int, origin: str | None, host: str | None = None, more: str = "", version: str = "") -> str:
    version = version or viser.__version__
    lines = [
        "GET / HTTP/1.1",
        f"Host: {host or f'127.0.0.1:{port}'}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Protocol: viser-v{version}",
    ]
    if origin is not None:
        lines.append(f"Origin: {origin}")
    return "\n".join(lines) + "\n" + more


def test_the_page_is_delivered_with_its_policy(server):
    answer = get(server)
    assert status(answer) == 200
    head = answer.split(b"\r\n\r\n")[0].decode()
    assert "default-src 'none'" in head and "nosniff" in head and "X-Frame-Options: DENY" in head
    assert "Access-Control" not in head


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{port}", ""]
)
def test_other_hosts_are_refused(server, host):
    name = host.format(port=server) or "x"
    assert status(get(server, host=name)) == 403
    assert status(ask(server, upgrade(server, f"http://{name}", host=name))) == 403


def test_two_hosts_or_none_are_refused(server):
    own = f"127.0.0.1:{server}"
    assert status(ask(server, f"GET / HTTP/1.1\nHost: {own}\nHost: evil.example\n")) == 403
    assert status(ask(server, "GET / HTTP/1.1\n")) == 403


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", None, "https://127.0.0.1:{port}", "http://localhost:{port}"]
)
def test_an_upgrade_needs_the_pages_own_origin(server, origin):
    given = origin.format(port=server) if origin else None
    assert status(ask(server, upgrade(server, given))) == 403


def test_the_own_page_may_upgrade(server):
    assert status(ask(server, upgrade(server, f"http://127.0.0.1:{server}"))) == 101
    name = f"localhost:{server}"
    assert status(ask(server, upgrade(server, f"http://{name}", host=name))) == 101


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..\\..\\etc\\passwd", "//etc/passwd", "/%00",
        "/index.html", "/....//etc/passwd", "/?/../../etc/passwd", "/worlds/a.spatia",
    ],
)  # fmt: skip
def test_no_path_leads_to_a_file(server, path):
    answer = get(server, path)
    assert status(answer) in (200, 400, 404) and b"root:" not in answer
    if not path.startswith("/?"):
        assert status(answer) != 200


def test_a_very_long_url_is_refused(server):
    assert status(get(server, "/" + "a" * 30_000)) in (0, 400, 414, 431)
    assert status(get(server)) == 200


def test_the_token_opens_once_and_the_cookie_after(locked):
    port, url = locked
    assert url.endswith(f"/?token={TOKEN}")
    assert status(get(port)) == 401
    assert status(get(port, f"/?token={TOKEN[:-1]}x")) == 401
    welcome = get(port, f"/?token={TOKEN}")
    head = welcome.decode()
    assert status(welcome) == 303 and "Location: /\r\n" in head
    assert "HttpOnly" in head and "SameSite=Strict" in head
    cookie = re.search(r"Set-Cookie: ([^;]+)", head).group(1)
    assert status(get(port, more=f"Cookie: other=1; {cookie}\n")) == 200
    origin = f"http://127.0.0.1:{port}"
    assert status(ask(port, upgrade(port, origin))) == 401
    assert status(ask(port, upgrade(port, origin, more=f"Cookie: {cookie[:-1]}x\n"))) == 401
    assert status(ask(port, upgrade(port, origin, more=f"Cookie: {cookie}\n"))) == 101


def test_a_taken_port_is_an_error(server):
    from spatia_env.viewer.server import open_server

    with pytest.raises(ViewerError, match="choose another port"):
        open_server(port=server)


def test_other_addresses_need_a_token_and_names():
    with pytest.raises(ViewerError, match="--token"):
        make_guard("192.168.0.7", 80, None, (), b"")
    with pytest.raises(ViewerError, match="--allow-host"):
        make_guard("0.0.0.0", 80, TOKEN, (), b"")
    with pytest.raises(ViewerError, match="IP address"):
        make_guard("example.org", 80, TOKEN, (), b"")
    with pytest.raises(ViewerError, match="letters"):
        make_guard("127.0.0.1", 80, "short", (), b"")
    guard = make_guard("0.0.0.0", 80, TOKEN, ("studio.local", "lab:99"), b"")
    assert guard.hosts == {"studio.local:80", "lab:99"}
    assert "[::1]:80" in make_guard("::1", 80, None, (), b"").hosts


def frame(payload: bytes, declared: int | None = None, opcode: int = 2) -> bytes:
    size = len(payload) if declared is None else declared
    return bytes([0x80 | opcode, 0x80 | 127]) + struct.pack("!Q", size) + b"\0\0\0\0" + payload


def talk(port: int, frames: list[bytes]) -> int:
    """Send frames after an upgrade; the close code that comes back, 0 if it stays open for a second."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        link.sendall(upgrade(port, f"http://127.0.0.1:{port}").replace("\n", "\r\n").encode() + b"\r\n")
        link.settimeout(10)
        data = b""
        while b"\r\n\r\n" not in data:
            data += link.recv(65536)
        data = data.split(b"\r\n\r\n", 1)[1]
        try:
            for each in frames:
                link.sendall(each)
        except OSError:
            pass  # cut off in the middle: the code is in what has arrived
        end = time.monotonic() + 10
        link.settimeout(1.5)
        while time.monotonic() < end:
            code = close_code(data)
            if code:
                return code
            try:
                part = link.recv(65536)
            except TimeoutError:
                return 0
            if not part:
                return 1006
            data += part
    return 0


def close_code(data: bytes) -> int:
    """The code of a close frame among whole server frames; 0 if there is none."""
    at = 0
    while len(data) - at >= 2:
        opcode, size = data[at] & 0xF, data[at + 1] & 0x7F
        head = 2
        if size in (126, 127):
            width = 2 if size == 126 else 8
            size, head = int.from_bytes(data[at + 2 : at + 2 + width], "big"), 2 + width
        if len(data) - at < head + size:
            return 0
        if opcode == 8:
            return int.from_bytes(data[at + head : at + head + 2], "big")
        at += head + size
    return 0


def test_a_frame_of_60_mb_is_refused_by_its_header(server):
    assert talk(server, [frame(b"x" * 1000, declared=60 * 2**20)]) == 1009
    assert status(get(server)) == 200


@pytest.mark.parametrize("payload", [b"\xc1", b"junk" * 10, b"", msgspec.msgpack.encode([1]), b"\x91" * 5000])
def test_malformed_messages_end_that_client_only(server, payload):
    assert talk(server, [frame(payload)]) == 1007
    assert status(get(server)) == 200


def test_text_frames_and_floods_are_cut_off(server):
    assert talk(server, [frame(b"{}", opcode=1)]) == 1003
    unheard = frame(msgspec.msgpack.encode({"type": "ShareUrlRequest"}))
    assert talk(server, [unheard]) == 0
    assert talk(server, [unheard * 2000]) == 1008


# -- the rules themselves ------------------------------------------------------------------------------------


def say(ear: Ear, **message) -> bool:
    return ear.hears(msgspec.msgpack.encode(message))


def test_only_used_messages_are_passed_on():
    ear = Ear()
    assert not say(ear, type="ShareUrlRequest")
    assert not say(ear, type="RunJavascriptMessage", source="alert(1)")
    assert not say(ear, type="GuiUpdateMessage", uuid="a", updates={"gui_api": None})
    assert not say(ear, type="GuiUpdateMessage", uuid="a", updates={"value": 1, "props": {}})
    assert not say(ear, type="CommandTriggerMessage", uuid="a", extra=1)
    assert say(ear, type="GuiUpdateMessage", uuid="a", updates={"value": "<b>"})


def test_values_must_be_plain():
    for value in (float("nan"), float("inf"), "x" * 20_000, [[[[[1]]]]], list(range(2000))):
        with pytest.raises(Refused) as refusal:
            say(Ear(), type="GuiUpdateMessage", uuid="a", updates={"value": value})
        assert refusal.value.code == 1007


def test_rates_are_limited_and_recover():
    now = [0.0]
    ear = Ear(lambda: now[0])
    for _ in range(int(BURST)):
        say(ear, type="x")
    with pytest.raises(Refused):
        say(ear, type="x")
    now[0] += 1.0
    assert not say(ear, type="x")


def begin(ear: Ear, size: int, parts: int = 1) -> bool:
    return say(
        ear, type="FileTransferStartUpload", source_component_uuid="b", transfer_uuid="t", filename="f",
        mime_type="m", part_count=parts, size_bytes=size,
    )  # fmt: skip


def part(ear: Ear, content: bytes, uuid: str = "t") -> bool:
    return say(
        ear,
        type="FileTransferPart",
        source_component_uuid="b",
        transfer_uuid=uuid,
        part_index=0,
        content=content,
    )


def test_uploads_keep_to_what_they_declared():
    ear = Ear()
    assert begin(ear, 10) and part(ear, b"x" * 10) and ear.upload is None
    for size, parts in ((MAX_UPLOAD + 1, 1), (5, 10**9), (-1, 1)):
        with pytest.raises(Refused):
            begin(Ear(), size, parts)
    begin(ear, 10)
    with pytest.raises(Refused, match="more bytes"):
        part(ear, b"x" * 11)
    with pytest.raises(Refused, match="one upload"):
        begin(ear, 10)
    with pytest.raises(Refused, match="no upload"):
        part(ear, b"x", uuid="other")


def test_an_unfinished_upload_is_late_after_its_time():
    now = [0.0]
    ear = Ear(lambda: now[0])
    begin(ear, 10)
    assert not ear.is_late()
    now[0] = 31.0
    assert ear.is_late()
