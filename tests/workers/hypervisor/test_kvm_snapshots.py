"""What QEMU's monitor says of its disks, and what lies beside a machine's disk of its snapshots."""

from __future__ import annotations

import json
from pathlib import Path

import libvirt_qemu
import pytest

from workers.hypervisor.errors import HypervisorError, StorageFullError, VolumeNotFoundError
from workers.hypervisor.kvm import monitor
from workers.hypervisor.kvm.snapshots import Note, _read_note, _read_small, _write_over

DISK, BASE = Path("/pool/machines/m/disk.qcow2"), Path("/pool/images/i.qcow2")
NODES = [
    {"node-name": "libvirt-2-format", "drv": "qcow2", "file": str(DISK), "ro": False, "image": {"snapshots": []}},
    {"node-name": "libvirt-2-storage", "drv": "file", "file": str(DISK), "ro": False, "image": {}},
    {"node-name": "libvirt-3-format", "drv": "qcow2", "file": str(BASE), "ro": True, "image": {}},
    {"node-name": "libvirt-1-format", "drv": "raw", "file": "/pool/machines/m/seed.iso", "ro": True, "image": {}},
]


class Qemu:
    """Answers one command after another, and keeps what it was asked."""

    def __init__(self, patch: pytest.MonkeyPatch, *answers: object) -> None:
        self.asked: list[dict[str, object]] = []
        self._answers = list(answers)
        patch.setattr(libvirt_qemu, "qemuMonitorCommand", self.answer)

    def answer(self, _domain: object, request: str, _flags: int) -> str:
        self.asked.append(json.loads(request))
        return json.dumps(self._answers.pop(0))


def test_of_all_that_it_has_open_only_what_is_written_to_is_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose header names another base than QEMU was given is spelled out."""
    spelled = {"driver": "qcow2", "backing": {}, "file": {"driver": "file", "filename": "/pool/volumes/v.qcow2"}}
    volume = {
        "node-name": "libvirt-4-format",
        "drv": "qcow2",
        "file": "json:" + json.dumps(spelled),
        "ro": False,
        "image": {"snapshots": [{"name": "one"}, {"name": "two"}]},
    }
    Qemu(monkeypatch, {"return": [*NODES, volume]})
    nodes = monitor.open_nodes(None)
    assert {path: node.name for path, node in nodes.items()} == {
        DISK: "libvirt-2-format",
        Path("/pool/volumes/v.qcow2"): "libvirt-4-format",
    }
    assert nodes[Path("/pool/volumes/v.qcow2")].snapshots == {"one", "two"}


def test_all_disks_are_taken_in_one_transaction_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    qemu = Qemu(monkeypatch, {"return": NODES}, {"return": {}})
    monitor.create_snapshots(None, [DISK], "one")
    assert qemu.asked[-1]["execute"] == "transaction"
    qemu = Qemu(monkeypatch, {"return": NODES})
    with pytest.raises(VolumeNotFoundError):
        monitor.create_snapshots(None, [DISK, BASE], "one")
    assert len(qemu.asked) == 1


@pytest.mark.parametrize(
    ("said", "kind"), [("No space left on device", StorageFullError), ("Device /secret is locked", HypervisorError)]
)
def test_what_it_says_stays_in_the_log(monkeypatch: pytest.MonkeyPatch, said: str, kind: type[HypervisorError]) -> None:
    Qemu(monkeypatch, {"return": NODES}, {"error": {"class": "GenericError", "desc": said}})
    with pytest.raises(kind) as refused:
        monitor.create_snapshots(None, [DISK], "one")
    assert said not in refused.value.message
    assert said in str(refused.value.__cause__)


def test_what_is_not_in_a_disk_is_not_asked_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    qemu = Qemu(monkeypatch, {"return": NODES})
    monitor.delete_snapshot(None, DISK, "one")
    assert [asked["execute"] for asked in qemu.asked] == ["query-named-block-nodes"]


def test_a_note_is_read_as_it_was_written(tmp_path: Path) -> None:
    note = Note(volumes=("a", "b"), memory=True, ran=True, memory_bytes=7)
    path = tmp_path / "note.json"
    assert _read_note(path) is None
    path.write_text(json.dumps({**{name: getattr(note, name) for name in Note.__slots__}, "volumes": ["a", "b"]}))
    assert _read_note(path) == note


def test_no_link_is_followed_where_the_firmware_keeps_its_variables(tmp_path: Path) -> None:
    canary, link = tmp_path / "canary", tmp_path / "vars"
    canary.write_bytes(b"secret")
    link.symlink_to(canary)
    for touch in (_read_small, lambda path: _write_over(path, b"other")):
        with pytest.raises(OSError):
            touch(link)
    assert canary.read_bytes() == b"secret"
    shorter = tmp_path / "file"
    _write_over(shorter, b"longer than that")
    _write_over(shorter, b"that")
    assert _read_small(shorter) == b"that"
