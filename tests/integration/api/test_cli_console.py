"""`casement console` on a terminal of its own, against a real web process: what a person types and sees there."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from django.conf import settings

from portal.accounts.models import ApiToken, Membership
from portal.console.models import ConsoleSession
from portal.lib.secrets import seal
from portal.machines.models import Machine
from tests.integration.api.shell import COMMAND, LIMIT_S, Shell
from tests.integration.console.qemu import running_qemu
from tests.integration.console.serial_port import SerialPort, serial_port
from tests.portal.console.screens import SECRET
from tests.support.microguest import READY, build_microguest
from tests.support.product import wait_for

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(900)]

LEAVE = b"\x1d"
ASKS_WHERE = b"\x1b[6n"  # where the cursor is


def eventually(what: str, condition: Callable[[], object]) -> None:
    wait_for(what, lambda: bool(condition()), seconds=LIMIT_S, every=0.05)


@dataclass
class Terminal:
    """The other end of a terminal in which the command runs. `seen` is all that it was given to show."""

    master: int
    slave: int
    process: subprocess.Popen[bytes]
    seen: bytearray = field(default_factory=bytearray)
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.looking = threading.Thread(target=self._look)
        self.looking.start()

    def _look(self) -> None:
        """An end that somebody reads at just now would not be closed."""
        while not self.over.is_set():
            ready, _none, _none = select.select((self.master,), (), (), 0.1)
            if ready:
                data = os.read(self.master, 65536)
                self.seen += data
                if ASKS_WHERE in data:
                    os.write(self.master, b"\x1b[1;1R")

    def close(self) -> None:
        """Its window is closed."""
        self.over.set()
        self.looking.join()
        for end in (self.slave, self.master):
            with contextlib.suppress(OSError):
                os.close(end)

    def types(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def shows(self, words: bytes) -> None:
        eventually(f"{words!r} is shown, after {bytes(self.seen)!r}", lambda: words in self.seen)

    def ends(self) -> int:
        """The exit code; the terminal must be as it was."""
        return self.process.wait(LIMIT_S)

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON


@contextmanager
def terminal(shell: Shell, *arguments: str) -> Iterator[Terminal]:
    """`setsid -c` makes it the terminal that is closed under the command, as when a window is."""
    master, slave = pty.openpty()
    argv = ["setsid", "-c", *COMMAND, "console", *arguments]
    process = subprocess.Popen(
        argv, env=shell.environment(TERM="xterm"), cwd=shell.home, stdin=slave, stdout=slave, stderr=slave
    )
    found = Terminal(master, slave, process)
    try:
        yield found
    finally:
        process.kill()
        process.wait()
        found.close()


@pytest.fixture
def path(machine: Machine) -> Iterator[str]:
    """Of the machine's serial port, which is not there yet."""
    with TemporaryDirectory(prefix="casement-") as folder:
        found = f"{folder}/serial"
        Machine.objects.filter(pk=machine.pk).update(
            console_socket=f"{folder}/vnc", console_secret=seal(SECRET), serial_socket=found
        )
        yield found


@pytest.fixture
def port(path: str) -> Iterator[SerialPort]:
    with serial_port(path) as found:
        yield found


def session_has_ended() -> None:
    eventually("the session has ended", ConsoleSession.objects.exclude(ended_at=None).exists)
    assert not ConsoleSession.objects.filter(ended_at=None).exists()


def says(port: SerialPort, words: bytes) -> None:
    """Once somebody listens: what is said before is lost."""
    eventually("somebody listens", lambda: port.has_visitor)
    port.say(words)


def test_every_key_is_the_guests_but_the_one_that_leaves(shell: Shell, port: SerialPort, machine: Machine) -> None:
    shell.sign_in()
    with terminal(shell, "beacon") as here:
        assert not here.is_raw()
        here.shows(b"Ctrl-] leaves")
        assert here.is_raw()
        says(port, b"login: \x1b[31mred\x1b]0;owned\x07\xc2\x9d52;c;eA==\x07!")
        here.shows(b"login: \x1b[31mred!")
        here.types(b"root\r\x03\x1a\x11\x13\x04\xc5\x82")
        eventually("the guest hears them", lambda: bytes(port.heard) == b"root\r\x03\x1a\x11\x13\x04\xc5\x82")
        (session,) = ConsoleSession.objects.all()
        assert (session.user_name, session.kind, session.mode) == ("alice", "serial", "control")
        here.types(b"ls" + LEAVE)
        assert here.ends() == 0
        assert not here.is_raw()
        assert b"owned" not in here.seen and b"eA==" not in here.seen
        session_has_ended()
    with terminal(shell, "beacon", "--escape", "^q") as here:
        here.shows(b"login: ")  # What was printed before.
        here.types(LEAVE)
        eventually("it is a key as others then", lambda: port.heard.endswith(LEAVE))
        here.types(b"\x11")
        assert here.ends() == 0


def test_it_comes_back_with_the_machine_and_says_nothing_twice(shell: Shell, path: str, machine: Machine) -> None:
    shell.sign_in()
    with terminal(shell, "beacon") as here:
        with serial_port(path) as port:
            here.shows(b"leaves")
            says(port, b"first boot\r\n")
            here.shows(b"first boot")
        here.shows(b"stopped or restarted. Connecting again")
        Path(path).unlink()  # As QEMU does.
        with serial_port(path) as port:
            says(port, b"second boot\r\n")
            here.shows(b"second boot")
            here.types(b"x")
            eventually("it hears again", lambda: port.heard.endswith(b"x"))
            here.types(LEAVE)
            assert here.ends() == 0
        assert here.seen.count(b"first boot") == 1 and here.seen.count(b"leaves") == 1


def test_it_waits_for_a_machine_that_is_off_only_once_it_was_there(shell: Shell, path: str, machine: Machine) -> None:
    shell.sign_in()
    with terminal(shell, "beacon") as here:
        with serial_port(path) as port:
            says(port, b"up\r\n")
            here.shows(b"up")
            Machine.objects.filter(pk=machine.pk).update(power_state="shut_off", console_socket="")
        here.shows(b"The machine is off.")
        assert here.is_raw()
        here.types(LEAVE)
        assert here.ends() == 0
    code, _out, said = shell.run("console", "beacon")
    assert (code, "is off" in said) == (5, True), said
    assert shell.run("console", "nothing")[0] == 4
    assert shell.run("console", "beacon", "--escape", "~.")[0] == 2


def test_who_loses_the_right_loses_the_console(shell: Shell, port: SerialPort, machine: Machine) -> None:
    shell.sign_in()
    with terminal(shell, "beacon") as here:
        here.shows(b"leaves")
        says(port, b"still")
        here.shows(b"still")
        ApiToken.objects.all().delete()
        assert here.ends() == 1
        here.shows(b"your token ended")
        assert not here.is_raw()
        session_has_ended()


def test_who_may_only_watch_types_nothing(shell: Shell, port: SerialPort, machine: Machine) -> None:
    shell.sign_in()
    with terminal(shell, "beacon", "--watch") as here:
        here.shows(b"leaves")
        here.types(b"rm -rf /\r")
        says(port, b"alive")
        here.shows(b"alive")
        here.types(LEAVE)
        assert here.ends() == 0
    Membership.objects.filter(user__username="alice").update(role="viewer")
    with terminal(shell, "beacon") as here:
        here.shows(b"You may only watch")
        here.types(b"reboot\r")

        def is_seen() -> bool:
            """The port's visitor may still be the last one."""
            port.say(b"and well")
            return b"and well" in here.seen

        eventually("it is seen", is_seen)
        here.types(LEAVE)
        assert here.ends() == 0
    assert not port.heard


@pytest.mark.parametrize("how", ["told to end", "window closed"])
def test_however_the_command_ends_the_line_ends(shell: Shell, port: SerialPort, machine: Machine, how: str) -> None:
    shell.sign_in()
    with terminal(shell, "beacon") as here:
        says(port, b"\x1b[?1049h\x1b[?1000heditor")
        here.shows(b"editor")
        if how == "told to end":
            here.process.send_signal(signal.SIGTERM)
            assert here.ends() == 0
            assert not here.is_raw()
            eventually("its screen is left", lambda: b"\x1b[?1049l" in here.seen and b"\x1b[?1000l" in here.seen)
        else:
            here.close()
            here.ends()
        session_has_ended()


def test_a_pipe_types_too(shell: Shell, port: SerialPort, machine: Machine) -> None:
    shell.sign_in()
    process = shell.start("-q", "console", "beacon")
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("uptime\n")
    process.stdin.flush()
    eventually("the guest hears it", lambda: bytes(port.heard) == b"uptime\n")
    process.stdin.close()
    process.stdin = None  # Nothing is left to be written at the end.
    port.say(b"up 3 days\r\n")
    assert process.stdout.readline() == "up 3 days\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 0
    session_has_ended()


@pytest.mark.real
def test_a_real_guest_is_worked_on(shell: Shell, path: str, machine: Machine) -> None:
    """What was printed while it started is there, its shell answers, and Ctrl-C ends a program in it."""
    images = settings.BASE_DIR / "var" / "images-dev"
    guest = ["-m", "256", "-boot", "menu=off,splash-time=0"]
    guest += ["-drive", f"file={build_microguest(images)},format=qcow2,if=virtio,snapshot=on"]
    guest += ["-device", "virtio-serial", "-chardev", "null,id=agent"]
    guest += ["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
    guest += ["-chardev", f"socket,id=line,path={path},server=on,wait=off", "-serial", "chardev:line"]
    shell.sign_in()
    with (
        running_qemu(str(Path(path).with_name("vnc")), SECRET, *guest),
        terminal(shell, "beacon") as here,
    ):
        wait_for("the guest is up", lambda: READY.encode() in here.seen, seconds=3 * LIMIT_S, every=0.05)
        here.types(b"echo $((6*7))-is-it\r")
        here.shows(b"42-is-it")
        here.types(b"echo for-$((20+22)) && sleep 1000\r")
        here.shows(b"for-42")

        def is_back() -> bool:
            """Between the words and the program there is nothing yet that Ctrl-C would end."""
            here.types(b"\x03echo again-$((2+3))\r")
            return b"again-5" in here.seen

        wait_for("its shell is back", is_back, seconds=LIMIT_S, every=2)
        here.types(LEAVE)
        assert here.ends() == 0
