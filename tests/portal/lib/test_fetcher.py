"""The ways by which an address that somebody typed leads where it must not, tried against real servers with TLS."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portal.lib.fetcher import Fetcher, FetchError, Limits, RefusedError, fetcher, is_public, target_of
from tests.support.outside import NAME, Asked, Handler, Outside, outside_world, say

LIMITS = Limits(max_bytes=1_000_000, total_s=20, connect_s=5, silence_s=5)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    with outside_world(tmp_path) as world:
        yield world


def fetch(fetcher: Fetcher, url: str, limits: Limits = LIMITS) -> bytes:
    with fetcher.get(url, limits=limits) as answer:
        return b"".join(answer.pieces)


def test_what_is_there_is_fetched_with_the_names_own_certificate_and_host(outside: Outside) -> None:
    server = outside.serve(say(b"hello"))
    url = f"https://{NAME}:{server.port}/a/b?c=d#e"
    with outside.fetcher().get(url, limits=LIMITS) as answer:
        assert (answer.status, answer.length, b"".join(answer.pieces)) == (200, 5, b"hello")
    (asked,) = server.asked
    assert (asked.method, asked.path, asked.headers["host"]) == ("GET", "/a/b?c=d", f"{NAME}:{server.port}")
    assert not {"cookie", "authorization"} & set(asked.headers)


# --- the address itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://files.example/", "not-https"),
        ("file:///etc/passwd", "not-https"),
        ("gopher://files.example/", "not-https"),
        ("//files.example/", "not-https"),
        ("", "not-https"),
        ("https://user:secret@files.example/", "credentials"),
        ("https://user@files.example/", "credentials"),
        ("https://@files.example/", "credentials"),
        ("https:///etc/passwd", "url"),
        ("https://files.example:0/", "url"),
        ("https://files.example:99999/", "url"),
        ("https://files.example\\@127.0.0.1/", "url"),
        ("https://files.example/\r\nHost: other", "url"),
        ("https://files.example/a b", "url"),
        ("https://127。0。0。1/", "url"),
        ("https://[::1", "url"),
        ("https://files.example/" + "a" * 2000, "url"),
    ],
)
def test_an_address_that_is_none_is_refused_before_anything_is_asked(url: str, code: str) -> None:
    def nobody(_host: str, _port: int) -> list[str]:
        raise AssertionError("it was looked up")

    with pytest.raises(RefusedError) as refused:
        fetch(Fetcher(resolve=nobody), url)
    assert refused.value.code == code


NOT_PUBLIC = [
    "0.0.0.0",  # noqa: S104 - an address that is refused
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.9.9.9",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_a_name_that_leads_to_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_public(ip_address(address))
    with pytest.raises(RefusedError) as refused:
        fetch(Fetcher(resolve=lambda _host, _port: [address]), "https://files.example/")
    assert refused.value.code == "private"
    with pytest.raises(RefusedError):
        fetch(Fetcher(resolve=lambda _host, _port: ["1.1.1.1", address]), "https://files.example/")


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"]
)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "0",
    ],
)
def test_this_machine_is_not_reached_however_it_is_written(outside: Outside, host: str) -> None:
    """By the system's own resolver, which knows all these spellings, with a server that would answer."""
    server = outside.serve(say(b"secret"), address="127.0.0.1")
    with pytest.raises(RefusedError) as refused:
        fetch(Fetcher(trust=outside.trust), f"https://{host}:{server.port}/")
    assert refused.value.code == "private"
    assert server.asked == []


SPELLINGS: dict[str, Callable[[IPv4Address], str]] = {
    "dotted": str,
    "decimal": lambda a: str(int(a)),
    "hexadecimal": lambda a: hex(int(a)),
    "octal": lambda a: ".".join(f"0{part:o}" for part in a.packed),
    "short": lambda a: f"{a.packed[0]}.{int(a) & 0xFFFFFF}",
    "mapped": lambda a: f"[::ffff:{a}]",
    "translated": lambda a: f"[64:ff9b::{a}]",
}
PRIVATE = ("10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")


@pytest.mark.parametrize("spelling", SPELLINGS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_no_spelling_of_any_private_address_gets_through(spelling: str, data: st.DataObject) -> None:
    address = data.draw(st.sampled_from(PRIVATE).flatmap(lambda network: st.ip_addresses(v=4, network=network)))
    assert isinstance(address, IPv4Address)
    with pytest.raises(FetchError) as refused:
        fetch(Fetcher(), f"https://{SPELLINGS[spelling](address)}/")
    assert refused.value.code == "private"


@given(text=st.text() | st.from_regex(r"https://[^/]{0,40}/.{0,20}"))
def test_whatever_is_typed_is_refused_or_names_one_host(text: str) -> None:
    with contextlib.suppress(RefusedError):
        target = target_of(text)
        assert text.startswith("https://") or text[:8].lower() == "https://"
        assert "@" not in text.split("/")[2]
        assert target.host in text.lower()
        assert 0 < target.port < 65536
        assert not set(target.path) & set(" \r\n")


def test_the_one_for_use_lets_no_private_network_in() -> None:
    with pytest.raises(RefusedError) as refused:
        fetch(fetcher(), "https://127.0.0.1/")
    assert refused.value.code == "private"


def test_a_name_that_means_something_else_a_moment_later_leads_nowhere_else(outside: Outside) -> None:
    good = outside.serve(say(b"good"), address="127.0.0.2")
    evil = outside.serve(say(b"evil"), address="127.0.0.1", port=good.port)
    means = itertools.chain([["127.0.0.2"]], itertools.repeat(["127.0.0.1"]))
    asked: list[str] = []

    def rebinding(host: str, _port: int) -> list[str]:
        asked.append(host)
        return next(means)

    shifty = outside.fetcher(rebinding)
    url = f"https://{NAME}:{good.port}/"
    assert fetch(shifty, url) == b"good"
    assert asked == [NAME]
    with pytest.raises(RefusedError):
        fetch(shifty, url)
    assert evil.asked == []


def test_proxies_of_the_environment_are_not_asked(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    server, proxy = outside.serve(say(b"hello")), outside.serve(say(b"proxy"), address="127.0.0.3")
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"https://127.0.0.3:{proxy.port}")
    assert fetch(outside.fetcher(), f"https://{NAME}:{server.port}/") == b"hello"
    assert proxy.asked == []


# --- certificates --------------------------------------------------------------------------------------------------


def test_a_certificate_of_another_name_is_refused(outside: Outside) -> None:
    server = outside.serve(say(b"hello"), name="other.example")
    with pytest.raises(FetchError) as failed:
        fetch(outside.fetcher(), f"https://{NAME}:{server.port}/")
    assert failed.value.code == "tls"
    assert server.asked == []


def test_a_certificate_of_an_authority_that_nobody_knows_is_refused(outside: Outside) -> None:
    server = outside.serve(say(b"hello"))
    stranger = Fetcher(private=outside.fetcher()._private, resolve=lambda _host, _port: ["127.0.0.2"])
    with pytest.raises(FetchError) as failed:
        fetch(stranger, f"https://{NAME}:{server.port}/")
    assert failed.value.code == "tls"


# --- redirects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_to_where_one_may_go(outside: Outside, status: int) -> None:
    def respond(handler: Handler, asked: Asked) -> None:
        if asked.path == "/there":
            handler.answer(200, b"found")
        else:
            handler.answer(status, b"moved", Location="/there")

    server = outside.serve(respond)
    assert fetch(outside.fetcher(), f"https://{NAME}:{server.port}/here") == b"found"


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("https://127.0.0.1:{port}/", "private"),
        ("https://localhost:{port}/", "private"),
        ("//127.0.0.1:{port}/", "private"),
        ("http://files.example:{port}/", "not-https"),
        ("file:///etc/passwd", "not-https"),
        ("https://user:word@files.example:{port}/", "credentials"),
        ("https://[::1", "url"),
        ("https://[files.example]:{port}/", "url"),
    ],
)
def test_a_redirect_leads_nowhere_that_the_first_address_could_not(outside: Outside, location: str, code: str) -> None:
    inside = outside.serve(say(b"secret"), address="127.0.0.1", name="127.0.0.1")
    server = outside.serve(lambda handler, _asked: handler.answer(302, Location=location.format(port=inside.port)))

    def resolve(host: str, _port: int) -> list[str]:
        return ["127.0.0.2"] if host == NAME else ["127.0.0.1"]

    with pytest.raises(RefusedError) as refused:
        fetch(outside.fetcher(resolve), f"https://{NAME}:{server.port}/")
    assert refused.value.code == code
    assert inside.asked == []


def test_redirects_that_never_end_do(outside: Outside) -> None:
    server = outside.serve(lambda handler, asked: handler.answer(302, Location=asked.path + "x"))
    with pytest.raises(RefusedError) as refused:
        fetch(outside.fetcher(), f"https://{NAME}:{server.port}/")
    assert refused.value.code == "redirects"
    assert len(server.asked) == LIMITS.redirects + 1


def test_what_is_posted_follows_no_redirect(outside: Outside) -> None:
    server = outside.serve(lambda handler, _asked: handler.answer(307, b"there", Location="/there"))
    status, body = outside.fetcher().post(
        f"https://{NAME}:{server.port}/", b"{}", limits=LIMITS, headers={"Content-Type": "application/json"}
    )
    assert (status, body) == (307, b"there")
    assert [(asked.method, asked.body) for asked in server.asked] == [("POST", b"{}")]


# --- sizes and times -----------------------------------------------------------------------------------------------


def _endless(handler: Handler, _asked: Asked) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/octet-stream")
    handler.end_headers()
    while True:
        handler.wfile.write(b"x" * 65536)


def test_a_body_without_an_end_is_cut_at_the_limit(outside: Outside) -> None:
    server = outside.serve(_endless)
    found = 0
    with (
        pytest.raises(RefusedError) as refused,
        outside.fetcher().get(f"https://{NAME}:{server.port}/", limits=LIMITS) as answer,
    ):
        for piece in answer.pieces:
            found += len(piece)
    assert refused.value.code == "too-large"
    assert found == LIMITS.max_bytes


def test_the_answer_to_a_post_is_read_to_the_limit_only(outside: Outside) -> None:
    server = outside.serve(_endless)
    limits = Limits(max_bytes=1000, total_s=20)
    status, body = outside.fetcher().post(f"https://{NAME}:{server.port}/", b"{}", limits=limits, headers={})
    assert (status, len(body)) == (200, 1000)


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "5, 5", "0x5", "five"])
def test_a_length_that_is_none_is_not_believed(outside: Outside, length: str) -> None:
    def respond(handler: Handler, _asked: Asked) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", length)
        handler.end_headers()
        handler.wfile.write(b"hello")

    server = outside.serve(respond)
    with (
        contextlib.suppress(FetchError),
        outside.fetcher().get(f"https://{NAME}:{server.port}/", limits=LIMITS) as answer,
    ):
        assert answer.length is None
        assert b"".join(answer.pieces) == b"hello"


def test_a_packed_body_is_not_unpacked(outside: Outside) -> None:
    bomb = b"\x1f\x8b\x08\x00" + b"\0" * 100
    server = outside.serve(lambda handler, _asked: handler.answer(200, bomb, Content_Encoding="gzip"))
    assert fetch(outside.fetcher(), f"https://{NAME}:{server.port}/") == bomb


def test_a_body_that_ends_too_early_is_told(outside: Outside) -> None:
    def half(handler: Handler, _asked: Asked) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"x" * 500)

    server = outside.serve(half)
    with pytest.raises(FetchError) as failed:
        fetch(outside.fetcher(), f"https://{NAME}:{server.port}/")
    assert failed.value.retryable


def _drip(handler: Handler, text: bytes) -> None:
    for byte in text:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.2)


DRIPPED = {
    "headers": lambda handler, _asked: _drip(handler, b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 1000),
    "body": lambda handler, _asked: _drip(handler, b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 1000),
    "chunks": lambda handler, _asked: _drip(
        handler, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 1000
    ),
}


@pytest.mark.parametrize("what", DRIPPED)
def test_one_byte_after_the_other_ends_when_its_time_is_over(outside: Outside, what: str) -> None:
    """No silence is long enough to be one; all of it together takes too long."""
    server = outside.serve(DRIPPED[what])
    limits = Limits(max_bytes=1_000_000, total_s=1.5, silence_s=5)
    began = time.monotonic()
    with pytest.raises(FetchError) as failed:
        fetch(outside.fetcher(), f"https://{NAME}:{server.port}/", limits)
    assert failed.value.code == "timeout"
    assert time.monotonic() - began < 10


def test_a_handshake_that_never_comes_ends_in_time(outside: Outside) -> None:
    with socket.create_server(("127.0.0.2", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(FetchError) as failed:
            fetch(
                outside.fetcher(),
                f"https://{NAME}:{silent.getsockname()[1]}/",
                Limits(max_bytes=1, total_s=1.0, silence_s=30),
            )
    assert failed.value.code == "timeout"
    assert time.monotonic() - began < 10


def test_less_than_the_least_speed_is_too_slow(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portal.lib.fetcher._SPEED_OVER_S", 0.5)
    server = outside.serve(DRIPPED["body"])
    with pytest.raises(FetchError) as failed:
        fetch(outside.fetcher(), f"https://{NAME}:{server.port}/", Limits(max_bytes=1_000_000, total_s=60))
    assert failed.value.code == "timeout"


def test_a_resolver_that_hangs_holds_nobody() -> None:
    stop = threading.Event()

    def hang(_host: str, _port: int) -> list[str]:
        stop.wait(30)
        return []

    try:
        with pytest.raises(FetchError) as failed:
            fetch(Fetcher(resolve=hang), "https://files.example/", Limits(max_bytes=1, total_s=0.5))
    finally:
        stop.set()
    assert failed.value.code == "timeout"


def _nowhere(_host: str, _port: int) -> list[str]:
    return []


def test_a_name_that_nobody_knows_is_told() -> None:
    def unknown(_host: str, _port: int) -> list[str]:
        raise socket.gaierror("Name or service not known")

    for resolve in (unknown, _nowhere):
        with pytest.raises(FetchError) as failed:
            fetch(Fetcher(resolve=resolve), "https://files.example/")
        assert failed.value.code == "unknown-host"


def test_a_port_that_nobody_listens_on_is_told(outside: Outside) -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(FetchError) as failed:
        fetch(outside.fetcher(), f"https://{NAME}:{port}/")
    assert failed.value.code == "unreachable"


def test_something_that_is_no_http_is_told(outside: Outside) -> None:
    def greet(handler: Handler, _asked: Asked) -> None:
        handler.wfile.write(b"SSH-2.0-x\r\n\r\n")

    server = outside.serve(greet)
    with pytest.raises(FetchError) as failed:
        fetch(outside.fetcher(), f"https://{NAME}:{server.port}/")
    assert failed.value.code == "bad-answer"


def test_no_error_tells_an_address_or_what_a_library_says(outside: Outside) -> None:
    with pytest.raises(RefusedError) as refused:
        fetch(Fetcher(resolve=lambda _host, _port: ["10.11.12.13"]), "https://files.example/")
    assert "10.11.12.13" not in refused.value.message


def test_the_target_of_an_address_is_what_it_says() -> None:
    found = target_of("https://Files.Example:8443/a?b=c")
    assert (found.host, found.port, found.path) == ("files.example", 8443, "/a?b=c")
    assert target_of("https://[2606:4700::1111]").host == "2606:4700::1111"
