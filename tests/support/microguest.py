"""A tiny guest that boots in seconds under software emulation, packed by the product's own disk packer.

Debian's cloud kernel, an initramfs with busybox and qemu-ga, nothing else. It prints `casement-micro ready` on the
serial line and on the screen, takes an address by DHCP, powers off on the ACPI button, reboots on Ctrl-Alt-Del, answers
the guest agent, and gives a root shell without a password on both consoles. There is a user alice, who cannot sign in.

On its disk lies what a Debian system has of its own: machine-id, host keys, people's keys, histories, logs. The guest
runs without it; `/etc/system` mounts it at /disk, and gives it an identity if it has none, as such a system does.
"""

import fcntl
import hashlib
import io
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from workers.imaging import bootloader, disk, qemu_img
from workers.imaging.disk import make_scratch, pack_disk

READY = "casement-micro ready"
ROOT_UUID = "0ca5e3e7-0000-4000-8000-00000000c0de"
SIZE_BYTES = 128 * 1024 * 1024
MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "sr_mod",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "virtio_balloon",
    "isofs",
    "crc32c_generic",
    "ext4",
    "button",
    "evdev",
    "virtio_input",
)
# What Debian's kernel does for the safety of its users costs a quarter of the boot under software emulation.
ARGUMENTS = (
    "console=tty0",
    "console=ttyS0,115200",
    "net.ifnames=0",
    "loglevel=4",
    "panic=-1",
    "audit=0",
    "init_on_alloc=0",
    "lsm=",
    "mitigations=off",
    "nokaslr",
)
# At a signed module's end: the signature, its 12 bytes of description (the last 4 are its length), and this.
SIGNED = b"~Module signature appended~\n"
PACKAGES = ("qemu-guest-agent", "busybox-static")
# Which busybox lacks. It is a host that packs file systems, so it has them.
OF_THE_HOST = ("mkfs.ext4", "e2fsck", "resize2fs", "blkid", "debugfs", "flock")
SYSTEM_PATH = "/sbin:/usr/sbin:/bin:/usr/bin"

INIT = r"""#!/bin/sh
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/virtio-ports
mount -t devpts devpts /dev/pts
mount -t tmpfs run /run
# Before any module, so that a button pressed early is not lost.
modprobe -a $(cat /etc/modules) 2>/dev/null
for port in /sys/class/virtio-ports/*; do
    [ -e "$port/name" ] && ln -sf "/dev/${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
done
hostname casement-micro
for device in $(findfs LABEL=cidata 2>/dev/null) /dev/sr0; do
    mount -t iso9660 -o ro "$device" /mnt 2>/dev/null || continue
    name=$(tr -d "\"'" < /mnt/meta-data | sed -n 's/.*local-hostname *: *\([A-Za-z0-9.-]*\).*/\1/p' | head -n 1)
    [ -n "$name" ] && hostname "$name"
    umount /mnt
    break
done
ip link set lo up
for card in /sys/class/net/e*; do
    [ -e "$card" ] && ip link set "${card##*/}" up || continue
    udhcpc -b -q -t 3 -T 1 -i "${card##*/}" -s /etc/udhcpc >/dev/null 2>&1 &
done
echo 0 > /proc/sys/kernel/ctrl-alt-del
exec /bin/busybox init
"""
INITTAB = """::respawn:/bin/busybox acpid -f -l /dev/null -c /etc/acpi
::respawn:/usr/sbin/qemu-ga -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run
::once:/etc/ready
ttyS0::respawn:-/bin/sh
tty1::respawn:-/bin/sh
::ctrlaltdel:/etc/leave reboot
"""
# Ready means that a press of the power button is heard: acpid holds the button's device open.
ANNOUNCE = f"""#!/bin/sh
until ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q /dev/input/event; do sleep 0.1; done
for t in ttyS0 tty1; do echo "{READY}: $(hostname)" > /dev/$t; done
"""
UDHCPC = """#!/bin/sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip address replace "$ip/${mask:-24}" dev "$interface"
[ -n "$router" ] && ip route replace default via "${router%% *}"
echo "nameserver ${dns%% *}" > /etc/resolv.conf
"""
# Debian's busybox has none, and the guest agent sets passwords by it.
CHPASSWD = r"""#!/bin/sh
IFS=: read -r user word
grep -q "^$user:" /etc/shadow || exit 1
hash=$(printf '%s\n' "$word" | mkpasswd -m sha512 -P 0) && sed -i "s|^$user:[^:]*:|$user:$hash:|" /etc/shadow
"""
SYSTEM = """#!/bin/sh
mkdir -p /disk
mountpoint -q /disk || mount -t ext4 "$(findfs LABEL=root)" /disk || exit 1
[ -s /disk/etc/machine-id ] || tr -d - < /proc/sys/kernel/random/uuid > /disk/etc/machine-id
[ -s /disk/etc/ssh/ssh_host_ed25519_key ] || cat /proc/sys/kernel/random/uuid > /disk/etc/ssh/ssh_host_ed25519_key
sync
"""
# Whatever of this a copy may keep, and what not, is for the tests of copies to say.
ON_DISK = {
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n',
    "etc/debian_version": "12.5\n",
    "etc/fstab": f"UUID={ROOT_UUID} / ext4 errors=remount-ro 0 1\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n",
    "etc/shadow": "root:*:19000::::::\nalice:$6$kept:19000::::::\n",
    "etc/hostname": "built\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/ssh/ssh_host_ed25519_key": "the host key of the image\n",
    "etc/ssh/ssh_host_ed25519_key.pub": "the host key of the image, in public\n",
    "etc/ssh/sshd_config": "Port 22\n",
    "root/.ssh/authorized_keys": "ssh-ed25519 AAAA root@laptop\n",
    "root/.bash_history": "mysql -psecret\n",
    "home/alice/.ssh/authorized_keys": "ssh-ed25519 AAAA alice@laptop\n",
    "home/alice/.ssh/id_ed25519": "alice's own key\n",
    "home/alice/.bash_history": "export TOKEN=secret\n",
    "home/alice/.python_history": "token = 'secret'\n",
    "home/alice/.cache/browser/page": "secret\n",
    "home/alice/work.txt": "alice's work\n",
    "var/log/syslog": "alice signed in\n",
    "var/log/auth.log.1": "alice signed in\n",
    "var/log/journal/0123456789abcdef0123456789abcdef/system.journal": "alice signed in\n",
    "var/log/cloud-init-output.log": "secret\n",
    "var/lib/cloud/instances/first/user-data.txt": "passwd: $6$secret\n",
    "var/lib/dbus/machine-id": "0123456789abcdef0123456789abcdef\n",
    "var/lib/systemd/random-seed": "not random\n",
    "var/lib/dhcp/dhclient.eth0.leases": "lease\n",
    "usr/bin/true": "#!/bin/sh\n",
    "bin/true": "#!/bin/sh\n",
}
POWER = "#!/bin/sh\nexec /etc/leave poweroff\n"
# Once, on a busy host, a guest hung at its end: a CPU spun in a module, in the program that asks for an address. It
# looks like what others met: Linux 6.1.192 breaks the queues of virtio devices first, and may then wait for its card's
# for ever (virtnet_poll_cleantx, mended in the mainline of August 2026). Which module it was is not known.
LEAVE = """#!/bin/sh
for card in /sys/class/net/e*; do [ -e "$card" ] && ip link set "${card##*/}" down; done
exec /bin/busybox "$1" -f
"""


def build_microguest(cache_dir: Path) -> Path:
    """The guest's qcow2, built once per `cache_dir` and per text of this file and of the packer. Has its own lock."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    image = cache_dir / f"microguest-{_key()}.qcow2"
    with (cache_dir / "microguest.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists():
            _build(image, cache_dir)
    return image


def _key() -> str:
    digest = hashlib.sha256()
    for source in (__file__, disk.__file__, bootloader.__file__):
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()[:12]


def _build(image: Path, cache_dir: Path) -> None:
    scratch = make_scratch(cache_dir / "microguest-build")
    packages = scratch / "packages"
    kernel, version = _unpack_packages(packages)
    root = scratch / "root"
    (root / "boot/grub").mkdir(parents=True)
    shutil.copy(kernel, root / "vmlinuz")
    # The smaller the less GRUB has to read, and this is the quickest to unpack.
    packed = subprocess.run(["zstd", "-19", "-q", "-c"], input=_initramfs(packages, version), stdout=-1, check=True)
    (root / "initrd.img").write_bytes(packed.stdout)
    for name, text in ON_DISK.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    (root / "boot/grub/grub.cfg").write_text(bootloader.menu(ROOT_UUID, ARGUMENTS), encoding="ascii")
    raw, partial = scratch / "disk.raw", scratch / "disk.qcow2"
    pack_disk(root, raw, size_bytes=SIZE_BYTES, root_uuid=ROOT_UUID, scratch=scratch)
    qemu_img.convert(raw, partial, source_format="raw")
    partial.rename(image)
    disk.clean_scratch(scratch)


def _unpack_packages(target: Path) -> tuple[Path, str]:
    """Download and unpack, without installing, the kernel and the tools; returns the kernel's file and its version."""
    target.mkdir()
    depends = _output("apt-cache", "depends", "linux-image-cloud-amd64")
    found = re.search(r"Depends: (linux-image-(\S+-cloud-amd64))", depends)
    assert found is not None, "the kernel's package is not in the host's package lists"
    with tempfile.TemporaryDirectory() as name:
        downloads = Path(name)
        downloads.chmod(0o777)  # apt's own download user has to write here.
        subprocess.run(["apt-get", "-qq", "download", found[1], *PACKAGES], cwd=downloads, check=True)
        for package in sorted(downloads.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", str(package), str(target)], check=True)
    return target / f"boot/vmlinuz-{found[2]}", found[2]


def _output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@dataclass
class Archive:
    """A cpio archive in the kernel's `newc` form."""

    stream: io.BytesIO = field(default_factory=io.BytesIO)
    names: set[str] = field(default_factory=set)

    def add(
        self, name: str, data: bytes = b"", mode: int = stat.S_IFREG | 0o644, device: tuple[int, int] = (0, 0)
    ) -> None:
        if name in self.names:
            return
        if "/" in name:
            self.add(name.rpartition("/")[0], mode=stat.S_IFDIR | 0o755)
        self.names.add(name)
        self._entry(name, data, mode, device)

    def _entry(self, name: str, data: bytes, mode: int, device: tuple[int, int]) -> None:
        encoded = name.encode() + b"\0"
        numbers = (len(self.names), mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
        self.stream.write(b"070701" + b"".join(b"%08X" % number for number in numbers) + encoded)
        self._pad()
        self.stream.write(data)
        self._pad()

    def _pad(self) -> None:
        self.stream.write(b"\0" * (-self.stream.tell() % 4))

    def close(self) -> bytes:
        self._entry("TRAILER!!!", b"", 0, (0, 0))
        return self.stream.getvalue()


def _initramfs(packages: Path, version: str) -> bytes:
    archive = Archive()
    for directory in ("proc", "sys", "dev", "run", "mnt", "tmp", "root", "var/run"):
        archive.add(directory, mode=stat.S_IFDIR | 0o755)
    archive.add("dev/console", mode=stat.S_IFCHR | 0o600, device=(5, 1))
    scripts = {"init": INIT, "etc/udhcpc": UDHCPC, "etc/ready": ANNOUNCE}
    scripts |= {"etc/leave": LEAVE, "etc/acpi/PWRF/00000080": POWER}
    scripts["usr/sbin/chpasswd"] = CHPASSWD
    scripts["etc/system"] = SYSTEM
    for name, text in scripts.items():
        archive.add(name, text.encode(), stat.S_IFREG | 0o755)
    archive.add("etc/inittab", INITTAB.encode())
    archive.add("etc/passwd", b"root::0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n")
    archive.add("etc/shadow", b"root::19000::::::\nalice:!:19000::::::\n", stat.S_IFREG | 0o600)
    archive.add("home/alice", mode=stat.S_IFDIR | 0o755)
    archive.add("etc/group", b"root:x:0:\nalice:x:1000:\n")
    archive.add("etc/modules", "\n".join([*MODULES, ""]).encode())
    _add_modules(archive, packages, version)
    _add_programs(archive, packages)
    return archive.close()


def _add_modules(archive: Archive, packages: Path, version: str) -> None:
    subprocess.run([packages / "bin/busybox", "depmod", "-b", packages, version], check=True)
    tree = packages / "lib/modules" / version
    needs = _dependencies(tree)
    wanted = _with_dependencies(needs, MODULES)
    for path in wanted:
        archive.add(f"lib/modules/{version}/{path}", _unsigned((tree / path).read_bytes()))
    lines = (f"{path}: {' '.join(needs[path])}\n" for path in sorted(wanted))
    archive.add(f"lib/modules/{version}/modules.dep", "".join(lines).encode())


def _dependencies(tree: Path) -> dict[str, list[str]]:
    lines = (line.partition(":") for line in (tree / "modules.dep").read_text(encoding="ascii").splitlines())
    return {path: rest.split() for path, _, rest in lines}


def _with_dependencies(needs: dict[str, list[str]], modules: Iterable[str]) -> set[str]:
    by_name = {Path(path).name.partition(".ko")[0].replace("-", "_"): path for path in needs}
    wanted = {by_name[name] for name in modules if name in by_name}
    return wanted | {dependency for path in wanted for dependency in needs[path]}


def _unsigned(module: bytes) -> bytes:
    """The kernel would check each signature, and takes a module without one."""
    if not module.endswith(SIGNED):
        return module
    end = len(module) - len(SIGNED)
    return module[: end - 12 - int.from_bytes(module[end - 4 : end], "big")]


def _add_programs(archive: Archive, packages: Path) -> None:
    archive.add("bin/busybox", (packages / "bin/busybox").read_bytes(), stat.S_IFREG | 0o755)
    archive.add("bin/sh", b"busybox", stat.S_IFLNK | 0o777)
    programs = {"usr/sbin/qemu-ga": packages / "usr/sbin/qemu-ga"}
    programs |= {f"usr/sbin/{name}": Path(shutil.which(name, path=SYSTEM_PATH) or name) for name in OF_THE_HOST}
    for directory in ("sbin", "usr/bin"):
        archive.add(directory, mode=stat.S_IFDIR | 0o755)
    for name, program in programs.items():
        archive.add(name, program.read_bytes(), stat.S_IFREG | 0o755)
        for library in _libraries(program):
            # Under the name that the loader asks for, whatever the file behind it is called.
            archive.add(str(library).lstrip("/"), library.read_bytes(), stat.S_IFREG | 0o755)


def _libraries(program: Path) -> Iterator[Path]:
    """The host's libraries for `program`: these need few, and every host with QEMU has them."""
    for line in _output("ldd", os.fspath(program)).splitlines():
        if found := re.search(r"(/\S+) \(0x", line):
            yield Path(found[1])


def kernel_for_appliances(cache_dir: Path) -> dict[str, str]:
    """The guest's own kernel and modules, as supermin takes them from its environment; nothing where the host has some.

    A machine without a kernel of its own, such as a container, has none for libguestfs either.
    """
    if any(Path("/boot").glob("vmlinuz-*")):
        return {}
    folder = cache_dir / f"kernel-{_key()}"
    with (cache_dir / "microguest.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            part = make_scratch(cache_dir / "kernel-part")
            kernel, version = _unpack_packages(part / "packages")
            shutil.copy(kernel, part / "vmlinuz")
            # kmod's own, whose index is the one that the appliance's modprobe reads; it comes with libguestfs.
            subprocess.run(["/sbin/depmod", "-b", part / "packages", version], check=True)
            (part / "packages/lib/modules" / version).rename(part / version)
            shutil.rmtree(part / "packages")
            part.rename(folder)
    (version,) = (path.name for path in folder.iterdir() if path.is_dir())
    Path("/lib/modules").mkdir(exist_ok=True)  # supermin takes the folder's mode, also where its modules are elsewhere.
    return {
        "SUPERMIN_KERNEL": str(folder / "vmlinuz"),
        "SUPERMIN_KERNEL_VERSION": version,
        "SUPERMIN_MODULES": str(folder / version),
    }
