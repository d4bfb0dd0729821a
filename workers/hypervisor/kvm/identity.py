"""Taking from a disk what makes a machine the one that it is, by virt-sysprep (Debian's guestfs-tools).

The disk may be hostile: nothing of the host ever looks into it but QEMU, which is asked to by its format. Its file
systems are mounted by a kernel inside an appliance, a small machine without a network, whose QEMU runs as the user that
machines' QEMUs run as, with its own limits of time and memory. Nothing of the disk is executed, in there or here.

The appliance is made once from the host's own packages and kernel, and anew when these change.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from workers.hypervisor.errors import HypervisorError
from workers.hypervisor.kvm.storage import Storage, storage_errors
from workers.imaging.commands import Limits, run
from workers.imaging.errors import CommandFailed

logger = logging.getLogger(__name__)

# By their names of virt-sysprep. Accounts stay, and so do the UUIDs of file systems and volume groups, by which a
# system finds its own disks. "customize" gives it another random seed, and does what is said below.
OF_THE_MACHINE = (
    "blkid-tab",
    "customize",
    "dhcp-client-state",
    "ipa-client",
    "kerberos-hostkeytab",
    "machine-id",
    "net-hostname",
    "net-hwaddr",
    "rh-subscription-manager",
    "rhn-systemid",
    "smolt-uuid",
    "ssh-hostkeys",
    "udev-persistent-net",
    "yum-uuid",
)
OF_PEOPLE = (
    "abrt-data",
    "bash-history",
    "crash-data",
    "cron-spool",
    "dhcp-server-state",
    "dovecot-data",
    "kerberos-data",
    "logfiles",
    "mail-spool",
    "net-nmconn",
    "package-manager-cache",
    "pacct-log",
    "pam-data",
    "passwd-backups",
    "puppet-data-log",
    "samba-db-log",
    "ssh-userdir",
    "sssd-db-log",
    "tmp-files",
    "utmp",
)
# What it does not know, or not everywhere.
FILES_OF_THE_MACHINE = (
    "/var/lib/dbus/machine-id",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret",
)
# cloud-init keeps what machines were told when they were made, hashes of passwords too; without it the next seed is
# that of a new machine. Histories are those of shells, databases, editors and pagers.
FILES_OF_PEOPLE = (
    "/var/lib/cloud/*",
    "/var/log/journal/*",
    "/var/log/cloud-init*",
    *(
        f"{home}/{name}"
        for home in ("/root", "/home/*")
        for name in (".*_history", ".*hist", ".viminfo", ".wget-hsts", ".local/share/fish/*", ".cache/*")
    ),
)
# A file that every system has of which virt-sysprep knows anything: where it is not, nothing has been removed.
SIGN_OF_A_KNOWN_SYSTEM = "0644:/etc/passwd"

MEMORY_MIB = 768
LIMITS = Limits(address_space=8 << 30, cpu_seconds=1200, timeout=1200)
BUILD_LIMITS = Limits(timeout=900)
PARTS = (Path("/usr/lib/x86_64-linux-gnu/guestfs/supermin.d"), Path("/usr/lib/guestfs/supermin.d"))
# supermin's own names: which kernel and modules to take where the host has none in its usual places.
KERNEL_VARIABLES = ("SUPERMIN_KERNEL", "SUPERMIN_KERNEL_VERSION", "SUPERMIN_MODULES")


@dataclass(frozen=True, slots=True)
class Sandbox:
    """`ids` are QEMU's user and group where the worker may become them. `software`: this host's KVM is not used."""

    pool_dir: Path
    ids: tuple[int, int] | None
    software: bool


def remove_identity(storage: Storage, disk: UUID, sandbox: Sandbox, *, personal: bool) -> None:
    if shutil.which("virt-sysprep") is None:
        raise no_tools("Its package guestfs-tools is not installed.")
    path, is_image = storage.own_file(disk)
    with storage_errors("change the disk"):
        appliance = _appliance(sandbox)
        with storage.lent(path, sandbox.ids, is_image=is_image), _scratch(sandbox) as scratch:
            _sysprep(path, appliance, scratch, sandbox, personal=personal)


def no_tools(why: str) -> HypervisorError:
    return HypervisorError(f"This host cannot remove the identity from a disk. {why}", code="no-tools")


# --- the appliance ------------------------------------------------------------------------------------------------


def _appliance(sandbox: Sandbox) -> Path:
    """Its folder, for QEMU's user to read. Made by one worker at a time: supermin has a lock for that."""
    pool_dir = sandbox.pool_dir
    parts = next((path for path in PARTS if path.is_dir()), None)
    if parts is None:
        raise no_tools("Its package libguestfs0 is not whole.")
    folder, lock = pool_dir / "appliance", pool_dir / ".appliance.lock"
    with storage_errors("make the appliance"):
        lock.touch()
        lock.chmod(0o600)
    argv = ["supermin", "--build", "--if-newer", "--lock", str(lock), "--copy-kernel"]
    argv += ["-f", "ext2", "--host-cpu", "x86_64", str(parts), "-o", str(folder)]
    try:
        run(argv, limits=BUILD_LIMITS, extra_env={**_kernel_chosen(), "TMPDIR": str(pool_dir)})
    except CommandFailed as error:
        logger.warning("the appliance could not be made: %s\n%s", error, error.log_tail)
        raise no_tools("Its appliance could not be made: has it a Linux kernel in /boot?") from error
    # By this file libguestfs knows that it need not be made.
    (folder / "README.fixed").write_text("Made by Casement.\n", encoding="ascii")
    for path in (folder, *folder.iterdir()):
        if sandbox.ids is not None and os.geteuid() == 0:
            os.chown(path, -1, sandbox.ids[1])
        path.chmod(0o750 if path.is_dir() else 0o640)
    return folder


def _kernel_chosen() -> dict[str, str]:
    return {name: os.environ[name] for name in KERNEL_VARIABLES if name in os.environ}


# --- the work -----------------------------------------------------------------------------------------------------


def _sysprep(path: Path, appliance: Path, scratch: Path, sandbox: Sandbox, *, personal: bool) -> None:
    operations = sorted({*OF_THE_MACHINE, *(OF_PEOPLE if personal else ())})
    files = [*FILES_OF_THE_MACHINE, *(FILES_OF_PEOPLE if personal else ())]
    argv = ["virt-sysprep", "--quiet", "--no-network", "--format", "qcow2", "-a", str(path)]
    argv += ["--operations", ",".join(operations), "--chmod", SIGN_OF_A_KNOWN_SYSTEM]
    argv += [word for name in files for word in ("--delete", name)]
    # "customize" gives it a machine-id, which all clones of a base would have: empty, each system makes its own.
    argv += ["--truncate", "/etc/machine-id"]
    try:
        run([*_confined(sandbox), *argv], limits=LIMITS, extra_env=_environment(appliance, scratch, sandbox))
    except CommandFailed as error:
        logger.warning("virt-sysprep: %s\n%s", error, error.log_tail)
        raise _told(error) from error


def _told(error: CommandFailed) -> HypervisorError:
    if any(sign in error.log_tail for sign in SIGNS_OF_UNKNOWN_SYSTEMS):
        return HypervisorError("No system is known on this disk.", code="unknown-system")
    return HypervisorError("The identity could not be removed from the disk.", code="identity-failed")


SIGNS_OF_UNKNOWN_SYSTEMS = ("no operating systems were found", "multi-boot", "/etc/passwd", "passphrase", "LUKS")


def _confined(sandbox: Sandbox) -> Sequence[str]:
    """The death signal is set anew, for it does not outlive becoming somebody else."""
    if sandbox.ids is None or os.geteuid() != 0:
        return ["setpriv", "--no-new-privs", "--"]
    uid, gid = sandbox.ids
    somebody = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--inh-caps=-all"]
    alone = ["unshare", "--net", "--ipc", "--"]
    return [*alone, *somebody, "--no-new-privs", "--", "setpriv", "--pdeathsig", "TERM", "--"]


def _environment(appliance: Path, scratch: Path, sandbox: Sandbox) -> Mapping[str, str]:
    software = {"LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"} if sandbox.software else {}
    return {
        "LIBGUESTFS_BACKEND": "direct",
        "LIBGUESTFS_PATH": str(appliance),
        "LIBGUESTFS_MEMSIZE": str(MEMORY_MIB),
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "LIBGUESTFS_CACHEDIR": str(scratch),
        "XDG_RUNTIME_DIR": str(scratch),
        **software,
    }


@contextmanager
def _scratch(sandbox: Sandbox) -> Iterator[Path]:
    """For its sockets: a short path, and whoever it runs as owns it."""
    with tempfile.TemporaryDirectory(prefix="casement-", dir="/tmp") as name:
        if sandbox.ids is not None and os.geteuid() == 0:
            os.chown(name, *sandbox.ids)
        yield Path(name)
