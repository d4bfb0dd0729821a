"""Guests of a host in memory that open and close people's files, and notice what must never happen.

guests = FilesGuests(fake)
guests.holds[machine.pk] = ["soffice"]    # these programs do not close them until they are ended
guests.clings.add(machine.pk)             # nothing makes it close them
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial
from uuid import UUID

from workers.hypervisor.fake import FakeHost, echo_guest
from workers.hypervisor.guest_files import SCRIPT, Said
from workers.hypervisor.types import CommandResult

_VERB, _SERIAL, _WORD = 5, 6, 7


class FilesGuests:
    def __init__(self, fake: FakeHost) -> None:
        self.fake = fake
        self.made: Counter[str] = Counter()
        self.has: dict[str, Said] = {}
        self.content: defaultdict[str, list[str]] = defaultdict(list)
        self.open_in: dict[str, UUID] = {}
        self.owners: dict[str, str] = {}
        self.unclean: set[str] = set()
        self.checked: Counter[str] = Counter()
        self.holds: defaultdict[UUID, list[str]] = defaultdict(list)
        self.clings: set[UUID] = set()
        self.damaged: set[str] = set()

    def be(self, machine: UUID) -> None:
        self.fake.guest(machine).run = partial(self.run, machine)

    def write(self, machine: UUID, text: str) -> None:
        [serial] = [serial for serial, where in self._open().items() if where == machine]
        self.content[serial].append(text)

    def read(self, machine: UUID) -> list[str]:
        [serial] = [serial for serial, where in self._open().items() if where == machine]
        return self.content[serial]

    def run(self, machine: UUID, argv: tuple[str, ...], stdin: bytes) -> CommandResult:
        if len(argv) <= _WORD or stdin != SCRIPT.encode():
            return echo_guest(argv, stdin)
        verb = {"format": self._format, "open": self._open_files, "close": self._close}[argv[_VERB]]
        if argv[_VERB] != "close" and argv[_SERIAL] not in self._serials(machine):
            return CommandResult(Said.NO_DEVICE, b"", b"")
        said, printed = verb(machine, argv[_SERIAL], argv[_WORD])
        return CommandResult(int(said), f"used 2048\n{printed}".encode(), b"")

    def _serials(self, machine: UUID) -> set[str]:
        live = self.fake.domains[machine].live
        return {disk.volume.hex[:20] for disk in live.disks if disk.volume is not None} if live else set()

    def _open(self) -> dict[str, UUID]:
        """A machine that went off, or lost the disk, has closed nothing, and has nothing open any more."""
        for serial, machine in list(self.open_in.items()):
            if machine not in self.fake.domains or serial not in self._serials(machine):
                del self.open_in[serial]
                self.unclean.add(serial)
        return self.open_in

    def _format(self, _machine: UUID, serial: str, word: str) -> tuple[Said, str]:
        if serial in self.has:
            return self.has[serial], ""
        if word != "new":
            return Said.LOST, ""
        self.made[serial] += 1
        self.has[serial] = Said.DONE
        return Said.DONE, ""

    def _open_files(self, machine: UUID, serial: str, user: str) -> tuple[Said, str]:
        other = self._open().get(serial)
        assert other in {None, machine}, "open in two guests at once: this is what corrupts a file system"
        if serial in self.unclean:
            self.checked[serial] += 1
            self.unclean.discard(serial)
        if serial in self.damaged:
            self.open_in[serial] = machine
            return Said.READ_ONLY, ""
        self.open_in[serial], self.owners[serial] = machine, user
        return Said.DONE, ""

    def _close(self, machine: UUID, serial: str, word: str) -> tuple[Said, str]:
        if self._open().get(serial) != machine:
            return Said.DONE, ""
        holding = self.holds[machine]
        if machine in self.clings or (holding and word != "force"):
            return Said.IN_USE, "\n".join(holding or ["something"])
        self.holds[machine] = []
        del self.open_in[serial]
        return Said.DONE, ""
