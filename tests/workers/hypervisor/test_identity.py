"""How virt-sysprep is asked, what its words mean, and who may write to the disk meanwhile."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from uuid import uuid4

import pytest

from workers.hypervisor.errors import HypervisorError, InvalidOperationError, VolumeNotFoundError
from workers.hypervisor.kvm import identity
from workers.hypervisor.kvm.identity import Sandbox
from workers.hypervisor.kvm.storage import Storage
from workers.imaging import qemu_img

MIB = 1 << 20
# Programs in the place of the real ones: they write down how they were called.
SUPERMIN = """#!/bin/sh
for last; do :; done
mkdir -p "$last" && touch "$last/kernel"
"""
SYSPREP = """#!/bin/sh
echo "$@" > {told}
id -u >> {told}
env >> {told}
stat -c %u:%g:%a {disk} >> {told}
echo {words}
exit {code}
"""


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    storage = Storage(tmp_path / "pool", qemu_gid=os.getgid())
    storage.prepare()
    programs = tmp_path / "programs"
    programs.mkdir()
    put(programs / "supermin", SUPERMIN)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(identity, "PARTS", (tmp_path,))
    return storage


def put(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def told(storage: Storage, tmp_path: Path, *, personal: bool, words: str = "", code: int = 0) -> list[str]:
    """What virt-sysprep was told, of a machine's disk; HypervisorError as it fails."""
    machine, file = uuid4(), tmp_path / "told"
    storage.fill_disk(machine, None, lambda path: qemu_img.create_empty(path, size_bytes=MIB))
    script = SYSPREP.format(told=file, disk=storage.disk(machine), words=words, code=code)
    put(tmp_path / "programs" / "virt-sysprep", script)
    sandbox = Sandbox(tmp_path / "pool", None, software=True)
    identity.remove_identity(storage, machine, sandbox, personal=personal)
    return file.read_text().splitlines()


def test_it_is_told_the_format_has_no_network_and_removes_what_is_the_machines(
    storage: Storage, tmp_path: Path
) -> None:
    (words, *rest) = told(storage, tmp_path, personal=False)
    arguments = words.split()
    assert arguments[arguments.index("--format") + 1] == "qcow2"
    assert arguments.index("--format") < arguments.index("-a"), "the format is of the disk that follows"
    assert "--no-network" in arguments
    operations = set(arguments[arguments.index("--operations") + 1].split(","))
    assert {"machine-id", "ssh-hostkeys", "dhcp-client-state"} <= operations
    assert not operations & {"ssh-userdir", "logfiles", "bash-history", "user-account", "fs-uuids", "lvm-uuids"}
    assert "/var/lib/cloud/*" not in arguments
    assert "LIBGUESTFS_BACKEND=direct" in rest and "LIBGUESTFS_BACKEND_SETTINGS=force_tcg" in rest
    assert not any(line.startswith("SECRET_KEY") for line in rest)


def test_of_an_image_what_people_left_goes_too_and_accounts_stay(storage: Storage, tmp_path: Path) -> None:
    arguments = told(storage, tmp_path, personal=True)[0].split()
    operations = set(arguments[arguments.index("--operations") + 1].split(","))
    assert {"machine-id", "ssh-hostkeys", "ssh-userdir", "logfiles", "bash-history", "tmp-files"} <= operations
    assert "user-account" not in operations
    assert {"/var/lib/cloud/*", "/root/.*_history", "/home/*/.*_history"} <= set(arguments)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("virt-sysprep: error: no operating systems were found in the guest image", "unknown-system"),
        ("chmod: /sysroot/etc/passwd: No such file or directory", "unknown-system"),
        ("virt-sysprep: error: libguestfs error: appliance closed the connection", "identity-failed"),
    ],
)
def test_what_it_says_when_it_fails_is_understood(storage: Storage, tmp_path: Path, words: str, code: str) -> None:
    with pytest.raises(HypervisorError) as caught:
        told(storage, tmp_path, personal=False, words=f"'{words}'", code=1)
    assert caught.value.code == code


def test_a_host_without_it_says_so(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, sandbox = uuid4(), Sandbox(tmp_path / "pool", None, software=True)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(HypervisorError) as caught:
        identity.remove_identity(storage, machine, sandbox, personal=False)
    assert caught.value.code == "no-tools"
    monkeypatch.undo()


def test_a_kernel_that_is_missing_is_told_of(storage: Storage, tmp_path: Path) -> None:
    put(tmp_path / "programs" / "supermin", "#!/bin/sh\necho supermin: no kernel found\nexit 1\n")
    with pytest.raises(HypervisorError, match="kernel in /boot") as caught:
        told(storage, tmp_path, personal=False)
    assert caught.value.code == "no-tools"


def test_a_base_is_lent_alone_and_can_only_be_read_again_afterwards(storage: Storage) -> None:
    base, child = uuid4(), uuid4()
    storage.make_base(base, None, lambda path: qemu_img.create_empty(path, size_bytes=MIB))
    with pytest.raises(VolumeNotFoundError):
        storage.own_file(uuid4())
    path, is_image = storage.own_file(base)
    with pytest.raises(KeyboardInterrupt), storage.lent(path, None, is_image=is_image):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        raise KeyboardInterrupt
    assert stat.S_IMODE(path.stat().st_mode) == 0o440
    storage.create_disk(child, base, MIB)
    with pytest.raises(InvalidOperationError):
        storage.own_file(base)
