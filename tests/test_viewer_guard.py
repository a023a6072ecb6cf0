"""Who may talk to the playground, tried with raw sockets: libraries tidy up what an attacker would send."""

import contextlib
import re
import socket
import struct
import time

import msgspec
import numpy as np
import pytest

from spatia_env.errors import ViewerError
from spatia_env.viewer.cli import TOKEN_VARIABLE, read_token
from spatia_env.viewer.guard import BURST, MAX_UPLOAD, MessageFilter, ProtocolViolationError, make_guard

viser = pytest.importorskip("viser", reason='the playground needs viser: pip install "spatia-env[viewer]"')
TOKEN = "a-token-of-enough-letters"


@pytest.fixture(scope="module")
def server():
    from spatia_env.viewer.server import open_server

    opened, url = open_server(port=0, token=TOKEN)
    opened.scene.add_point_cloud("/p", np.zeros((3, 3)), np.zeros((3, 3), np.uint8))
    port = int(re.search(r":(\d+)/", url).group(1))
    assert url == f"http://127.0.0.1:{port}/?token={TOKEN}"
    yield port
    opened.stop()


def cookie(port: int) -> str:
    return f"Cookie: spatia_{port}={TOKEN}\n"


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


def get(port: int, path: str = "/", host: str | None = None, more: str | None = None) -> bytes:
    more = cookie(port) if more is None else more
    return ask(port, f"GET {path} HTTP/1.1\nHost: {host or f'127.0.0.1:{port}'}\n{more}")


def upgrade(port: int, origin: str | None, host: str | None = None, more: str | None = None) -> str:
    lines = [
        "GET / HTTP/1.1",
        f"Host: {host or f'127.0.0.1:{port}'}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Protocol: viser-v{viser.__version__}",
    ]
    if origin is not None:
        lines.append(f"Origin: {origin}")
    return "\n".join(lines) + "\n" + (cookie(port) if more is None else more)


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


def test_the_token_opens_once_and_the_cookie_after(server):
    assert status(get(server, more="")) == 401
    assert status(get(server, f"/?token={TOKEN[:-1]}x", more="")) == 401
    welcome = get(server, f"/?token={TOKEN}", more="")
    head = welcome.decode()
    assert status(welcome) == 303 and "Location: /\r\n" in head
    assert "HttpOnly" in head and "SameSite=Strict" in head
    given = re.search(r"Set-Cookie: ([^;]+)", head).group(1)
    assert status(get(server, more=f"Cookie: other=1; {given}\n")) == 200
    origin = f"http://127.0.0.1:{server}"
    assert status(ask(server, upgrade(server, origin, more=""))) == 401
    assert status(ask(server, upgrade(server, origin, more=f"Cookie: {given[:-1]}x\n"))) == 401
    assert status(ask(server, upgrade(server, origin, more=f"Cookie: {given}\n"))) == 101


def test_a_token_comes_from_a_file_or_the_environment_and_else_is_random(tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_token(None) is None
    first, second = (make_guard("127.0.0.1", 80, None, (), b"").token for _ in range(2))
    assert first != second and len(first) >= 32
    monkeypatch.setenv(TOKEN_VARIABLE, "of-the-environment")
    assert read_token(None) == "of-the-environment"
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert read_token(tmp_path / "token") == TOKEN
    with pytest.raises(ViewerError, match="--token-file"):
        read_token(tmp_path / "none")


@pytest.mark.parametrize("count", [64, 200])
def test_half_open_connections_do_not_keep_the_holder_of_the_token_out(server, count):
    idle = [socket.create_connection(("127.0.0.1", server), timeout=10) for _ in range(count)]
    try:
        for _ in range(5):
            began = time.monotonic()
            assert status(get(server)) == 200
            assert time.monotonic() - began < 5
        idle[0].settimeout(5)
        assert idle[0].recv(1) == b""  # the oldest had to go
    except ConnectionResetError:
        pass
    finally:
        for link in idle:
            link.close()


def test_what_says_nothing_or_does_not_know_the_token_is_cut_off(server, caplog):
    from spatia_env.viewer.server import STRANGER_SECONDS

    with socket.create_connection(("127.0.0.1", server)) as link:
        link.settimeout(STRANGER_SECONDS + 5)
        began = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert link.recv(1) == b""
        assert STRANGER_SECONDS - 1 < time.monotonic() - began < STRANGER_SECONDS + 3
    for junk in (b"\0" * 100, b"GET\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server), timeout=10) as link:
            link.sendall(junk)
    assert status(get(server)) == 200
    assert not caplog.records


def test_a_taken_port_is_an_error(server):
    from spatia_env.viewer.server import open_server

    with pytest.raises(ViewerError, match="choose another port"):
        open_server(port=server)


def test_an_address_is_an_address_and_all_of_them_need_a_name():
    with pytest.raises(ViewerError, match="--allow-host"):
        make_guard("0.0.0.0", 80, TOKEN, (), b"")
    with pytest.raises(ViewerError, match="IP address"):
        make_guard("example.org", 80, TOKEN, (), b"")
    for weak in ("short", "x" * 300, "a token with blanks", "ümlaut-ümlaut-ümlaut"):
        with pytest.raises(ViewerError, match="letters"):
            make_guard("127.0.0.1", 80, weak, (), b"")
    guard = make_guard("0.0.0.0", 80, TOKEN, ("studio.local", "lab:99"), b"")
    assert (
        guard.hosts == ("studio.local:80", "lab:99") and guard.url == f"http://studio.local:80/?token={TOKEN}"
    )
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


def say(rules: MessageFilter, **message) -> bool:
    return rules.accepts(msgspec.msgpack.encode(message))


def test_only_used_messages_are_passed_on():
    rules = MessageFilter()
    assert not say(rules, type="ShareUrlRequest")
    assert not say(rules, type="RunJavascriptMessage", source="alert(1)")
    assert not say(rules, type="GuiUpdateMessage", uuid="a", updates={"gui_api": None})
    assert not say(rules, type="GuiUpdateMessage", uuid="a", updates={"value": 1, "props": {}})
    assert not say(rules, type="CommandTriggerMessage", uuid="a", extra=1)
    assert say(rules, type="GuiUpdateMessage", uuid="a", updates={"value": "<b>"})


def test_values_must_be_plain():
    for value in (float("nan"), float("inf"), "x" * 20_000, [[[[[1]]]]], list(range(2000))):
        with pytest.raises(ProtocolViolationError) as refusal:
            say(MessageFilter(), type="GuiUpdateMessage", uuid="a", updates={"value": value})
        assert refusal.value.code == 1007


def test_rates_are_limited_and_recover():
    now = [0.0]
    rules = MessageFilter(lambda: now[0])
    for _ in range(int(BURST)):
        say(rules, type="x")
    with pytest.raises(ProtocolViolationError):
        say(rules, type="x")
    now[0] += 1.0
    assert not say(rules, type="x")


def begin(rules: MessageFilter, size: int, parts: int = 1) -> bool:
    return say(
        rules, type="FileTransferStartUpload", source_component_uuid="b", transfer_uuid="t", filename="f",
        mime_type="m", part_count=parts, size_bytes=size,
    )  # fmt: skip


def part(rules: MessageFilter, content: bytes, uuid: str = "t") -> bool:
    return say(
        rules,
        type="FileTransferPart",
        source_component_uuid="b",
        transfer_uuid=uuid,
        part_index=0,
        content=content,
    )


def test_uploads_keep_to_what_they_declared():
    rules = MessageFilter()
    assert begin(rules, 10) and part(rules, b"x" * 10) and rules.upload is None
    for size, parts in ((MAX_UPLOAD + 1, 1), (5, 10**9), (-1, 1)):
        with pytest.raises(ProtocolViolationError):
            begin(MessageFilter(), size, parts)
    begin(rules, 10)
    with pytest.raises(ProtocolViolationError, match="more bytes"):
        part(rules, b"x" * 11)
    with pytest.raises(ProtocolViolationError, match="one upload"):
        begin(rules, 10)
    with pytest.raises(ProtocolViolationError, match="no upload"):
        part(rules, b"x", uuid="other")


def test_an_upload_that_does_not_end_is_cut_off(server, monkeypatch):
    from spatia_env.viewer import server as module

    monkeypatch.setattr(module, "UPLOAD_SECONDS", 0.3)
    declared = msgspec.msgpack.encode(
        {
            "type": "FileTransferStartUpload", "source_component_uuid": "b", "transfer_uuid": "t",
            "filename": "f", "mime_type": "m", "part_count": 1, "size_bytes": 10,
        }
    )  # fmt: skip
    assert talk(server, [frame(declared)]) == 1006
