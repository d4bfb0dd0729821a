"""The console's log: what a guest printed is text to whoever shows it, and comes from its host while somebody looks."""

from __future__ import annotations

import unicodedata
from uuid import UUID, uuid4

import pytest
from django.test import Client
from django.urls import reverse
from hypothesis import given
from hypothesis import strategies as st

from portal.accounts.models import User
from portal.console import serial_log
from portal.console.models import ConsoleSession
from portal.console.serial_log import SHOWN_CHARACTERS, SHOWN_LINES, as_text, excerpt, keep, keep_problem
from portal.lib import bus
from portal.machines.models import Machine
from portal.machines.states import Status
from tests.support.redis import redis_db, redis_url
from tests.workers.support import fake_of
from workers import console_log
from workers.hypervisor.errors import HostUnreachableError

__all__ = ["redis_db", "redis_url"]

SCRIPT = b"<script>alert(1)</script>"


# --- text and nothing else -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        (b"[  \x1b[0;32mOK\x1b[0m  ] Started.\r\n", "[  OK  ] Started.\n"),
        (b"\x1b[2J\x1b[1;1H\x1b[?25lHello\x1b(B\x1b=", "Hello"),
        (b"10%\r20%\r\r\nnext", "10%\n20%\nnext"),
        (b"\x1b]0;title\x07\x1b]52;c;aGk=\x1b\\", "\u241b]0;title\u2407\u241b]52;c;aGk=\u241b\\"),
        (b"a\0b\x08c\x7f\x9b31m\xc2\x9b31m", "a\u2400b\u2408c\u2421\ufffd31m\ufffd31m"),
        ("abc\u202edcba\u2066x\u2028y".encode(), "abc\ufffddcba\ufffdx\ufffdy"),
        ("Grüße, 世界\ttab".encode(), "Grüße, 世界\ttab"),
        (b"half \xe4\xb8", "half \ufffd"),
        (b"\x1b[" + b"9" * 100 + b"m", "\u241b[" + "9" * 100 + "m"),
    ],
)
def test_what_a_terminal_would_obey_is_left_out_or_shown_as_a_sign(printed: bytes, shown: str) -> None:
    assert as_text(printed) == shown


PIECES = [b"\x1b", b"[", b"]", b"\x1b[", b"3", b";", b"m", b"\r", b"\xc2\x9b"]


@given(st.binary(max_size=300) | st.lists(st.sampled_from(PIECES)).map(b"".join))
def test_nothing_that_is_obeyed_is_left_of_any_bytes(printed: bytes) -> None:
    """Also not by what is left out: taking one sequence away must not make another one."""
    text = as_text(printed)
    assert {letter for letter in text if unicodedata.category(letter) in ("Cc", "Zl", "Zp")} <= {"\t", "\n"}
    assert not {"\u202e", "\u2066", "\u200f"} & set(text)


def test_a_giant_line_and_a_giant_log_are_cut_in_the_page_alone() -> None:
    text = as_text(b"\0" * 3_000_000 + b"\n" + b"line\n" * (SHOWN_LINES + 5))
    found = excerpt(text)
    assert (len(found.lines), found.total, found.is_cut) == (SHOWN_LINES, SHOWN_LINES + 6, True)
    assert found.lines[-1].number == found.total
    found = excerpt(text, "\u2400")
    (giant,) = found.lines
    assert sum(len(piece) for piece, _matches in giant.pieces) == SHOWN_CHARACTERS
    assert giant.more == 3_000_000 - SHOWN_CHARACTERS


def test_words_are_found_as_they_stand_and_marked() -> None:
    found = excerpt("one.*\nTwo (x\nONE.* one.*\n", "one.*")
    assert [(line.number, line.pieces) for line in found.lines] == [
        (1, (("one.*", True),)),
        (3, (("ONE.*", True), (" ", False), ("one.*", True))),
    ]
    assert excerpt("a(b", "(").matching == 1
    assert excerpt("", "x").total == excerpt("").total == 0


# --- from the host to the page -------------------------------------------------------------------------------------


pytestmark = pytest.mark.django_db


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, redis_db: str) -> list[tuple[str, UUID, str]]:
    """What workers were asked for."""
    found: list[tuple[str, UUID, str]] = []
    monkeypatch.setattr(bus, "ask", lambda name, pk, *, queue, expires_s: found.append((name, pk, queue)))
    return found


@pytest.fixture
def viewer(client: Client, vera: User) -> Client:
    client.force_login(vera)
    return client


def url(machine: Machine, name: str = "serial-log") -> str:
    return reverse(f"console:{name}", args=[machine.pk])


def test_the_host_is_asked_once_for_everybody_who_looks(
    viewer: Client, machine: Machine, asked: list[tuple[str, UUID, str]]
) -> None:
    for _ in range(3):
        assert "The host is being asked" in viewer.get(url(machine)).content.decode()
    assert asked == [("console.read_log", machine.pk, machine.host.queue)]


def test_a_viewer_reads_searches_and_saves_it(
    viewer: Client, machine: Machine, asked: list[tuple[str, UUID, str]]
) -> None:
    """Row 13: whatever it holds, it is text in the page and text in the file."""
    keep(machine.pk, b"boot\r\n" + SCRIPT + b"\x1b]0;x\x07\n")
    page = viewer.get(url(machine)).content.decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\u241b]0;x\u2407" in page
    assert SCRIPT.decode() not in page
    found = viewer.get(url(machine), {"q": "BOOT"}).content.decode()
    assert "<mark>boot</mark>" in found
    assert "alert(1)" not in found
    assert "No line matches" in viewer.get(url(machine), {"q": "<script>x"}).content.decode()
    saved = viewer.get(url(machine, "serial-log-download"))
    assert saved.content.decode() == "boot\n" + SCRIPT.decode() + "\u241b]0;x\u2407\n"
    assert saved["Content-Type"] == "text/plain; charset=utf-8"
    assert saved["X-Content-Type-Options"] == "nosniff"
    assert saved["Content-Disposition"] == f'attachment; filename="{machine.name}-console.txt"'
    assert "no-store" in saved["Cache-Control"]


def test_a_page_that_has_the_newest_copy_gets_nothing(
    viewer: Client, machine: Machine, asked: list[tuple[str, UUID, str]]
) -> None:
    keep(machine.pk, b"one\n")
    etag = serial_log.look_at(machine).etag
    again = {"have": etag, "q": ""}
    live = {"HX-Request": "true"}
    assert viewer.get(url(machine), again, headers=live).status_code == 204
    keep(machine.pk, b"one\ntwo\n")
    answer = viewer.get(url(machine), again, headers=live)
    assert answer.status_code == 200
    assert "two" in answer.content.decode()


def test_a_log_that_is_not_there_yet_cannot_be_saved_and_says_so(
    viewer: Client, machine: Machine, asked: list[tuple[str, UUID, str]]
) -> None:
    answer = viewer.get(url(machine, "serial-log-download"), follow=True)
    assert "still on its way" in answer.content.decode()


@pytest.mark.parametrize("name", ["serial", "serial-log", "serial-log-download"])
def test_strangers_see_nothing_of_it(
    client: Client, charlie: User, machine: Machine, asked: list[tuple[str, UUID, str]], name: str
) -> None:
    keep(machine.pk, b"secret")
    client.force_login(charlie)
    assert client.get(url(machine, name)).status_code == 404
    client.force_login(machine.owner or charlie)
    Machine.objects.update(status=Status.DELETED)
    assert client.get(url(machine, name)).status_code == 404
    assert asked == []


def test_a_worker_brings_it_and_says_when_its_host_does_not(
    viewer: Client, machine: Machine, asked: list[tuple[str, UUID, str]]
) -> None:
    fake = fake_of(machine.host)
    fake.serial_logs[machine.pk] = b"hello\n"
    console_log.read_log(machine.pk)
    assert "hello" in viewer.get(url(machine)).content.decode()
    fake.fail_next("console_log", HostUnreachableError("The host's libvirt cannot be reached."))
    console_log.read_log(machine.pk)
    page = viewer.get(url(machine)).content.decode()
    assert "cannot be reached" in page
    assert "hello" in page
    console_log.read_log(machine.pk)
    assert "cannot be reached" not in viewer.get(url(machine)).content.decode()
    console_log.read_log(uuid4())


def test_a_problem_alone_is_told(viewer: Client, machine: Machine, asked: list[tuple[str, UUID, str]]) -> None:
    keep_problem(machine.pk, "The host is away.")
    page = viewer.get(url(machine)).content.decode()
    assert "The host is away." in page
    assert "The host is being asked" not in page


def test_operators_see_which_console_a_session_is_and_watch_that_one(
    client: Client, operator: User, alice: User, machine: Machine
) -> None:
    session = ConsoleSession.objects.create(
        user=alice, user_name="alice", machine=machine, machine_name="beacon", mode="control", kind="serial"
    )
    client.force_login(operator)
    assert "serial console" in client.get(reverse("sessions:list")).content.decode()
    answer = client.post(reverse("sessions:watch", args=[session.pk]))
    assert answer["Location"] == url(machine, "serial") + "?watch=1"
