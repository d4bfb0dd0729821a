"""A display on another host, by a real QEMU: TLS with a certificate on both sides, and everything that must not pass.

Each case is tried by every way in which the portal may come: asyncio, uvloop, a blocking socket.
"""

import asyncio
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import uvloop

from portal.console.rfb import DisplayError, RemoteDisplay, open_display, open_display_blocking
from portal.console.rfb.handshake import ServerInit
from tests.support.certificates import Authority, Signed
from tests.support.product import free_port

pytestmark = pytest.mark.real

SECRET = "s3cr3tpw"
# The whole picture that is there, and of it only the first pixel.
ONE_PIXEL = b"\2\0\0\1\0\0\0\0" + b"\3\0\0\0\0\0\0\1\0\1"
PIXEL_SIZE = 4 + 12 + 4

DEADLINE = 60.0

Opens = Callable[[RemoteDisplay, str | None], tuple[ServerInit, bytes]]


async def _open(address: RemoteDisplay, secret: str | None) -> tuple[ServerInit, bytes]:
    display = await open_display(address, secret, deadline=DEADLINE)
    try:
        display.writer.write(ONE_PIXEL)
        return display.init, await asyncio.wait_for(display.reader.readexactly(PIXEL_SIZE), 60)
    finally:
        await display.close()


def _by_asyncio(address: RemoteDisplay, secret: str | None) -> tuple[ServerInit, bytes]:
    return asyncio.run(_open(address, secret))


def _by_uvloop(address: RemoteDisplay, secret: str | None) -> tuple[ServerInit, bytes]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_open(address, secret))


def _by_blocking(address: RemoteDisplay, secret: str | None) -> tuple[ServerInit, bytes]:
    connection, init, rest = open_display_blocking(address, secret, deadline=DEADLINE)
    with connection:
        connection.settimeout(60)
        connection.sendall(ONE_PIXEL)
        while len(rest) < PIXEL_SIZE:
            piece = connection.recv(PIXEL_SIZE - len(rest))
            assert piece
            rest += piece
        return init, rest


@pytest.fixture(params=[_by_asyncio, _by_uvloop, _by_blocking], ids=["asyncio", "uvloop", "blocking"])
def opens(request: pytest.FixtureRequest) -> Opens:
    way: Opens = request.param
    return way


@dataclass(frozen=True)
class Place:
    """QEMU's own certificates, and what the portal needs to reach it."""

    address: RemoteDisplay
    folder: Path
    authority: Authority


def _place(folder: Path, *, name: str = "127.0.0.1", days: int = 30) -> Place:
    authority = Authority(folder)
    authority.server(name, days=days)
    ours = authority.client()
    address = RemoteDisplay(
        "127.0.0.1", free_port(), "127.0.0.1", str(authority.ca), str(ours.certificate), str(ours.key)
    )
    return Place(address, folder, authority)


@contextmanager
def _qemu(place: Place, *, password: bool = True) -> Iterator[None]:
    port = place.address.port
    vnc = f"127.0.0.1:{port - 5900},tls-creds=tls"
    argv = ["qemu-system-x86_64", "-machine", "none", "-display", "none", "-nodefaults"]
    # QEMU looks at its own certificate when it starts; an expired one has to be offered all the same.
    argv += ["-object", f"tls-creds-x509,id=tls,endpoint=server,dir={place.folder},verify-peer=on,sanity-check=off"]
    argv += ["-object", f"secret,id=vnc,data={SECRET}", "-vnc", vnc + (",password-secret=vnc" if password else "")]
    process = subprocess.Popen(argv)
    try:
        deadline = time.monotonic() + 60
        while not _listens(port):
            assert process.poll() is None and time.monotonic() < deadline, "QEMU's VNC did not come up"
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    # Asked of the kernel: a visit would be one that QEMU begins to greet.
    wanted = f"0100007F:{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1] == wanted and row[3] == "0A" for row in rows)


def _refused(opens: Opens, address: RemoteDisplay, secret: str | None = SECRET) -> str:
    with pytest.raises(DisplayError) as caught:
        opens(address, secret)
    return caught.value.reason


def test_x509vnc_asks_for_the_password_inside_tls(tmp_path: Path, opens: Opens) -> None:
    place = _place(tmp_path)
    with _qemu(place):
        init, pixel = opens(place.address, SECRET)
        assert init.width > 0
        assert init.height > 0
        assert pixel[0] == 0, "a framebuffer update"
        assert _refused(opens, place.address, "wrong") == "password"
        # The display asks for a password; that it is expected to ask for none is no reason to be content with less.
        assert _refused(opens, place.address, None) == "security-type"


def test_x509none_goes_by_certificates_alone(tmp_path: Path, opens: Opens) -> None:
    place = _place(tmp_path)
    with _qemu(place, password=False):
        assert opens(place.address, None)[1][0] == 0
        assert _refused(opens, place.address, SECRET) == "security-type"


def test_another_authoritys_certificate_is_refused(tmp_path: Path, opens: Opens) -> None:
    place = _place(tmp_path / "real")
    other = Authority(tmp_path / "other")
    with _qemu(place):
        assert _refused(opens, replace(place.address, ca=str(other.ca))) == "certificate"


def test_another_hosts_certificate_is_refused(tmp_path: Path, opens: Opens) -> None:
    place = _place(tmp_path, name="somewhere.else.example")
    with _qemu(place):
        assert _refused(opens, place.address) == "certificate"
        assert opens(replace(place.address, name="somewhere.else.example"), SECRET)[1][0] == 0


def test_a_certificate_that_has_run_out_is_refused(tmp_path: Path, opens: Opens) -> None:
    place = _place(tmp_path, days=-1)
    with _qemu(place):
        assert _refused(opens, place.address) == "certificate"


def test_qemu_turns_away_who_is_no_client_of_its_authority(tmp_path: Path, opens: Opens) -> None:
    place = _place(tmp_path / "real")
    stranger = Authority(tmp_path / "other").client()
    with _qemu(place):
        unknown = replace(place.address, certificate=str(stranger.certificate), key=str(stranger.key))
        assert _refused(opens, unknown) in {"tls", "closed-early"}
        assert opens(place.address, SECRET)[1][0] == 0


def test_qemu_turns_away_a_client_without_a_certificate(
    tmp_path: Path, opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = _place(tmp_path)
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", lambda *_arguments: None)
    with _qemu(place):
        assert _refused(opens, place.address) in {"tls", "closed-early"}


def test_files_that_are_not_there_are_told_before_anything_is_opened(tmp_path: Path, opens: Opens) -> None:
    place = _place(tmp_path)
    assert _refused(opens, replace(place.address, ca=str(tmp_path / "none.pem"))) == "tls-files"


GREETING = b"RFB 003.008\n"
IN_BETWEEN = {
    "offers None": (GREETING + b"\1\1", "security-type"),
    "offers VNC's password": (GREETING + b"\1\2", "security-type"),
    "offers None in the old way": (b"RFB 003.003\n\0\0\0\1", "version"),
    "offers TLSNone": (GREETING + b"\1\x13" + b"\0\2\0" + b"\1\0\0\1\1", "security-type"),
    "offers TLSNone, TLSVnc, Plain": (GREETING + b"\1\x13\0\2\0\3\0\0\1\1\0\0\1\2\0\0\1\0", "security-type"),
    "speaks VeNCrypt 0.1": (GREETING + b"\1\x13\0\1\0", "vencrypt-version"),
    "takes no version": (GREETING + b"\1\x13\0\2\1", "vencrypt-version"),
    "goes on without TLS": (GREETING + b"\1\x13\0\2\0\1\0\0\1\5\1\0\0\0\0", "tls-injected"),
    "refuses in the end": (GREETING + b"\1\x13\0\2\0\1\0\0\1\5\0", "refused"),
    "speaks no TLS": (GREETING + b"\1\x13\0\2\0\1\0\0\1\5\1", "tls"),
}


@pytest.mark.parametrize("attack", IN_BETWEEN)
def test_a_man_in_the_middle_gets_neither_the_password_nor_a_session(tmp_path: Path, opens: Opens, attack: str) -> None:
    place = _place(tmp_path)
    said, reason = IN_BETWEEN[attack]
    with _impostor(place.address.port, said, then=b"\x15\x03\x03\0\2\2\x28" if reason == "tls" else b"") as heard:
        assert _refused(opens, place.address) == reason
    # A password's answer is 16 bytes after what was chosen; nothing of the kind was ever said.
    assert len(heard.split(b"\x16\x03")[0]) <= len(GREETING) + 1 + 2 + 4


def test_a_display_that_falls_silent_where_tls_begins_has_the_same_deadline(
    tmp_path: Path, opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.DEADLINE", 0.3)
    place = _place(tmp_path)
    with _impostor(place.address.port, IN_BETWEEN["speaks no TLS"][0]):
        assert _refused(opens, place.address) == "timeout"


def test_a_man_in_the_middle_with_a_certificate_of_his_own_hears_no_password(tmp_path: Path, opens: Opens) -> None:
    place = _place(tmp_path / "real")
    mallory = Authority(tmp_path / "mallory")
    with _impostor(place.address.port, IN_BETWEEN["speaks no TLS"][0], secure=mallory.server("127.0.0.1")) as heard:
        assert _refused(opens, place.address) == "certificate"
    assert len(heard) <= len(GREETING) + 1 + 2 + 4


@contextmanager
def _impostor(port: int, said: bytes, *, then: bytes = b"", secure: Signed | None = None) -> Iterator[bytearray]:
    """Says what it has to say at once (and `then` when spoken to after that); gives what it hears meanwhile."""
    heard = bytearray()
    with socket.create_server(("127.0.0.1", port)) as server:
        thread = threading.Thread(target=_play, args=(server, said, then, secure, heard))
        thread.start()
        try:
            yield heard
        finally:
            thread.join(60)
            assert not thread.is_alive()


def _play(server: socket.socket, said: bytes, then: bytes, secure: Signed | None, heard: bytearray) -> None:
    server.settimeout(60)
    connection, _ = server.accept()
    with connection, suppress(OSError):
        connection.settimeout(60)
        connection.sendall(said)
        if secure is not None:
            while len(heard) < len(GREETING) + 1 + 2 + 4:
                heard += connection.recv(len(GREETING) + 1 + 2 + 4 - len(heard))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(secure.certificate, secure.key)
            connection = context.wrap_socket(connection, server_side=True)
        while piece := connection.recv(4096):
            heard += piece
            if then and b"\x16\x03" in heard:
                connection.sendall(then)
        connection.close()
