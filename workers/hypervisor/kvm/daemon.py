"""Run libvirtd in the foreground where no init system does: `python -m workers.hypervisor.kvm.daemon --run-dir DIR`.

A supervisor can start, stop and restart it at will: guests are not its children and go on running. If a libvirtd
already serves this machine, nothing is started and the command ends with 0. Without root there is nothing to do either:
`qemu:///session` starts its own daemon.

Debian packages that a host needs: libvirt-daemon-system (or libvirt-daemon + libvirt-daemon-driver-qemu +
libvirt-clients), qemu-system-x86, qemu-utils, ovmf, dnsmasq-base, iptables, ebtables, nftables, dmidecode.
"""

from __future__ import annotations

import argparse
import ctypes
import grp
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

SYSTEM_SOCKET = Path("/run/libvirt/libvirt-sock")
QEMU_CONF = Path("/etc/libvirt/qemu.conf")
KVM_DEVICE = Path("/dev/kvm")
MOUNTS = Path("/proc/self/mountinfo")
CLONE_NEWNS = 0x00020000


def is_running(sock: Path = SYSTEM_SOCKET) -> bool:
    """True if a libvirtd (or virtqemud's proxy) accepts connections on this machine."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        try:
            probe.connect(str(sock))
        except OSError:
            return False
    return True


def libvirtd_conf(run_dir: Path, *, group: str | None) -> str:
    """UNIX sockets only, and no polkit: it needs D-Bus, which containers and plain machines do not have.

    Who may talk to libvirt is root on its host, so the socket belongs to root and to libvirt's group alone.
    """
    lines = [
        'auth_unix_rw = "none"',
        'auth_unix_ro = "none"',
        'unix_sock_ro_perms = "0700"',
        f'unix_sock_rw_perms = "{"0770" if group else "0700"}"',
        "log_level = 3",
        f'log_outputs = "3:file:{run_dir / "libvirtd.log"}"',
    ]
    if group:
        lines.append(f'unix_sock_group = "{group}"')
    return "\n".join(lines) + "\n"


def qemu_conf(*, mandatory_access_control: bool, user: str | None) -> str:
    """`stdio_handler = "file"` spares virtlogd. QEMU's user is the distribution's unless one is named."""
    lines = ['stdio_handler = "file"']
    if not mandatory_access_control:
        lines.append('security_driver = "none"')
    if user:
        lines += [f'user = "{user}"', f'group = "{user}"']
    return "\n".join(lines) + "\n"


def has_mandatory_access_control(security_fs: Path = Path("/sys/kernel/security/lsm")) -> bool:
    """True where AppArmor or SELinux is on: libvirt must then confine each guest with it."""
    try:
        modules = security_fs.read_text(encoding="ascii").strip().split(",")
    except OSError:
        return Path("/sys/fs/selinux/enforce").exists() or Path("/sys/module/apparmor").exists()
    return bool({"apparmor", "selinux"} & set(modules))


def _libvirt_group() -> str | None:
    try:
        return grp.getgrnam("libvirt").gr_name
    except KeyError:
        return None


def write_config(run_dir: Path, *, user: str | None = None) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "libvirtd.conf").write_text(libvirtd_conf(run_dir, group=_libvirt_group()), encoding="utf-8")
    text = qemu_conf(mandatory_access_control=has_mandatory_access_control(), user=user)
    (run_dir / "qemu.conf").write_text(text, encoding="utf-8")


def open_kvm_to_qemu(device: Path = KVM_DEVICE) -> None:
    """Give /dev/kvm to the group kvm, as udev does; machines without udev leave it to root alone.

    It matters also where KVM does not work: libvirt's test run of QEMU sees KVM, its check of QEMU's user does not, and
    so it repeats its test runs (seconds each) at almost every call.
    """
    try:
        group = grp.getgrnam("kvm").gr_gid
        mode = stat.S_IMODE(device.stat().st_mode)
    except (KeyError, FileNotFoundError):
        return
    if mode & 0o006 != 0o006 and (device.stat().st_gid != group or mode & 0o060 != 0o060):
        os.chown(device, -1, group)
        device.chmod(mode | 0o060)


def _enter_private_mounts() -> None:
    """libvirtd reads qemu.conf from a fixed path only, so ours is laid over it for this process alone.

    A file system that is mounted later (a pool, say) must appear in here too: the host's mounts are shared, as systemd
    makes them at every boot, and ours follow them ("rslave").
    """
    if not root_is_shared(MOUNTS.read_text(encoding="utf-8", errors="replace")):
        subprocess.run(["mount", "--make-rshared", "/"], check=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rslave", "/"], check=True)


def root_is_shared(mountinfo: str) -> bool:
    """The optional fields between the mount options and the dash say "shared:N"."""
    for line in mountinfo.splitlines():
        fields = line.split(" - ")[0].split()
        if fields[4] == "/":
            return any(field.startswith("shared:") for field in fields[6:])
    return False


def _lay_over(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch()
    subprocess.run(["mount", "--bind", str(source), str(target)], check=True)


def main(argv: list[str] | None = None) -> int:
    """The exit code, if libvirtd does not take this process's place."""
    parser = argparse.ArgumentParser(prog="casement-libvirtd", description="Run libvirtd in the foreground.")
    parser.add_argument("--run-dir", type=Path, required=True, help="where its configuration and log are kept")
    parser.add_argument("--qemu-user", help="user (and group) of the guests' processes; default: the distribution's")
    options = parser.parse_args(argv)
    program = shutil.which("libvirtd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if os.geteuid() != 0:
        sys.stdout.write("Not root: qemu:///session starts its own libvirtd.\n")
        return 0
    if is_running():
        sys.stdout.write("A libvirtd runs on this machine already.\n")
        return 0
    if program is None:
        sys.stderr.write("libvirtd is not installed: install libvirt-daemon-system.\n")
        return 1
    run_dir: Path = options.run_dir.resolve()
    write_config(run_dir, user=options.qemu_user)
    return _become_libvirtd(program, run_dir)


def _become_libvirtd(program: str, run_dir: Path) -> NoReturn:
    open_kvm_to_qemu()
    _enter_private_mounts()
    _lay_over(run_dir / "qemu.conf", QEMU_CONF)
    # In this process's place, so that the supervisor's signals reach libvirtd itself; an argv list, no shell.
    os.execv(program, [program, "--config", str(run_dir / "libvirtd.conf")])  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())
