"""A file that is written on one desktop is there on the next, whatever became of the first."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from portal.accounts.models import Project, User
from portal.jobs.models import Job
from portal.jobs.names import JobName, JobStatus
from portal.machines.models import Attachment, Machine
from portal.machines.states import PowerState
from portal.profiles import services as profiles
from portal.profiles.selectors import files_on, profile_of
from portal.profiles.states import State
from portal.volumes.models import Volume
from tests.integration.profiles.conftest import Guest, done, work_on
from tests.support.libvirtd import wait_until
from workers import reconcile, runner
from workers.hypervisor import guest_files
from workers.hypervisor.guest_files import PLACE, Said
from workers.hypervisor.types import DiskSpec
from workers.hypervisor.types import PowerState as HostPowerState
from workers.workflows import profiles as work

pytestmark = [pytest.mark.real, pytest.mark.timeout(2700), pytest.mark.django_db]

Desk = Callable[[], Guest]
HOLD = "touch /run/held; while [ -e /run/held ]; do sleep 0.1; done"


def qemu_of(machine: UUID) -> int:
    """The process that is the machine."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            words = (folder / "cmdline").read_bytes().split(b"\0") if (folder / "cmdline").exists() else []
            if words and b"qemu" in words[0] and any(str(machine).encode() in word for word in words):
                return int(folder.name)
    raise AssertionError(f"no QEMU runs {machine}")


def test_files_stay_when_a_desktop_is_killed_and_are_never_in_two(
    desk: Desk, alice: User, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = desk(), desk()

    # At first use they are an empty folder of the user's own, with a link to it at home.
    done(profiles.attach(alice, first.machine))
    assert first.says("ls -A /home/alice/Files") == ""
    assert first.says(f"stat -c '%U %a' {PLACE}") == "alice 700"
    first.says("su alice -c 'echo dear > /home/alice/Files/letter' && sync")

    # In a second session they are refused, while the first one goes on with them.
    refused = work_on(profiles.attach(alice, second.machine))
    assert (refused.status, refused.error_code) == (JobStatus.FAILED, "profile-in-use")
    assert first.machine.name in refused.error_message
    told = files_on(second.machine)
    assert told is not None
    assert told.message == refused.error_message
    assert first.says("cat /home/alice/Files/letter") == "dear"

    # Killed while it writes: nobody has told the portal, whose row says that it runs.
    first.says("su alice -c 'echo more >> /home/alice/Files/letter' && sync")
    first.says("(while true; do echo noise >> /home/alice/Files/noise; done) >/dev/null 2>&1 </dev/null &")
    os.kill(qemu_of(first.machine.pk), signal.SIGKILL)
    coming = profiles.attach(alice, second.machine)
    assert coming is not None
    wait_until(lambda: first.driver.power_state(first.machine.pk) == HostPowerState.SHUT_OFF, 120)
    assert Machine.objects.get(pk=first.machine.pk).power_state == PowerState.RUNNING
    runner.run(coming.pk)
    done(Job.objects.get(name=JobName.PROFILE_DETACH))
    done(coming)
    assert second.says("cat /home/alice/Files/letter").split() == ["dear", "more"]
    assert second.says(f"awk '$2 == \"{PLACE}\" {{ print $4 }}' /proc/mounts").startswith("rw")
    assert Attachment.objects.get(volume__personal=True).machine_id == second.machine.pk
    volume = Volume.objects.get(personal=True)
    assert volume.pk not in first.driver.devices(first.machine.pk).volumes

    # Put away cleanly, with a program that has a file open: it is told, then ended; the desktop runs on.
    second.says("cd /home/alice/Files && (exec 3<letter; exec sleep 600) >/dev/null 2>&1 </dev/null &")
    second.says("trap '' TERM; cd /home/alice/Files && (sleep 600) >/dev/null 2>&1 </dev/null &")
    done(profiles.release(second.machine))
    assert second.driver.power_state(second.machine.pk) == HostPowerState.RUNNING
    assert second.says(f"grep -c {PLACE} /proc/mounts || true") == "0"
    profile = profile_of(alice, project)
    assert profile is not None
    assert (profile.state, profile.machine) == (State.FREE, None)
    assert profile.used_bytes

    # And again, on the same one.
    done(profiles.attach(alice, second.machine))
    assert second.says("cat /home/alice/Files/letter").split() == ["dear", "more"]

    # A guest that hangs is switched off, and its files are free all the same.
    monkeypatch.setattr(work, "CLOSE_WAIT_S", 2)
    second.driver.suspend(second.machine.pk)
    done(profiles.release(second.machine))
    assert second.driver.power_state(second.machine.pk) == HostPowerState.SHUT_OFF
    reconcile.reconcile_host(second.machine.host_id)


def test_what_the_script_does_in_a_guest(desk: Desk) -> None:
    """Verb by verb, each of them twice, and on disks that are not as they should be."""
    guest = desk()
    volume = _plug(guest, Volume(size_gib=1))

    def run(program: guest_files.Program) -> guest_files.Answer:
        result = guest.driver.run_in_guest(guest.machine.pk, program.argv, stdin=program.stdin, timeout_s=240)
        return guest_files.answer_of(result)

    def device() -> str:
        return "/dev/" + guest.says(f"grep -l {volume.serial} /sys/block/vd*/serial | cut -d/ -f4")

    assert run(guest_files.open_files("0" * 20, "alice")).said == Said.NO_DEVICE
    wait_until(lambda: bool(guest.says(f"grep -l {volume.serial} /sys/block/vd*/serial || true")), 120)
    assert run(guest_files.format_disk(volume.serial, may_make=False)).said == Said.LOST
    for _ in range(2):
        assert run(guest_files.format_disk(volume.serial, may_make=True)).said == Said.DONE
    made = guest.says(f"blkid {device()}")
    assert run(guest_files.format_disk(volume.serial, may_make=True)).said == Said.DONE
    assert guest.says(f"blkid {device()}") == made

    # Opened for whoever it is; another user's files are given to this one, links are not followed.
    for _ in range(2):
        opened = run(guest_files.open_files(volume.serial, "nobody-here"))
        assert opened.said == Said.DONE
        assert opened.used_bytes is not None
    assert guest.says("readlink /home/alice/Files") == PLACE
    assert guest.says(f"grep -c ' {PLACE} ' /etc/fstab") == "1"
    guest.says(f"cd {PLACE} && echo one > one && echo two > two && ln -s /etc/passwd link && chown -hR 1234:1234 .")
    assert run(guest_files.open_files(volume.serial, "alice")).said == Said.DONE
    assert guest.says(f"stat -c %u {PLACE} {PLACE}/one {PLACE}/link /etc/passwd").split() == ["1000"] * 3 + ["0"]
    assert guest.says(f"touch {PLACE}/suid && awk '$2 == \"{PLACE}\" {{ print $4 }}' /proc/mounts").count("nosuid")

    # What is at work on it already is not disturbed.
    guest.says(f"(flock /run/casement-files.lock sh -c '{HOLD}') >/dev/null 2>&1 </dev/null &")
    wait_until(lambda: guest.says("ls /run/held 2>/dev/null || true") != "", 120)
    assert run(guest_files.close_files(volume.serial, force=True)).said == Said.BUSY
    guest.says("rm /run/held")
    wait_until(lambda: run(guest_files.close_files(volume.serial, force=True)).said == Said.DONE, 120)
    assert run(guest_files.close_files(volume.serial, force=False)).said == Said.DONE
    assert guest.says(f"grep -c {PLACE} /proc/mounts /etc/fstab || true").split() == ["/proc/mounts:0", "/etc/fstab:0"]

    # Damaged beyond what mends itself: the rest is read, and nothing is written.
    for change in ("set_inode_field /one block[0] 0", "set_super_value state 0"):
        guest.says(f"debugfs -w -R '{change}' {device()} 2>/dev/null; sync")
    assert run(guest_files.open_files(volume.serial, "alice")).said == Said.READ_ONLY
    assert guest.says(f"awk '$2 == \"{PLACE}\" {{ print $4 }}' /proc/mounts").startswith("ro")
    assert guest.says("cat /home/alice/Files/two") == "two"
    assert run(guest_files.close_files(volume.serial, force=True)).said == Said.DONE

    # Somebody else's.
    guest.says(f"dd if=/dev/zero of={device()} bs=1M count=16 2>/dev/null; mkswap {device()} >/dev/null")
    assert run(guest_files.format_disk(volume.serial, may_make=True)).said == Said.OTHER_DATA
    assert guest.says(f"blkid {device()}").count('TYPE="swap"') == 1


def _plug(guest: Guest, volume: Volume) -> Volume:
    guest.driver.create_volume(volume.pk, size_bytes=volume.size_gib << 30)
    guest.driver.attach_disk(guest.machine.pk, DiskSpec(volume.pk))
    return volume
