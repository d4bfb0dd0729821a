"""From a MachineSpec to libvirt's domain XML.

Elements only, never text glued together: whatever a title holds ends up as text. The first half decides (which devices,
which options, and why), `_element` and `to_text` serialise. The golden files in `tests/workers/hypervisor/golden/` show
the results; a test there holds the list of devices that may appear at all.
"""

from __future__ import annotations

import re
import string
import xml.etree.ElementTree as ET
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from workers.hypervisor.errors import InvalidSpecError
from workers.hypervisor.types import (
    RESCUED_SERIAL,
    DiskSpec,
    Firmware,
    IoLimits,
    MachineSpec,
    NetworkMode,
    NicSpec,
)

# The mark of a domain that Casement defined. It is a name, not an address: nothing is fetched from it.
NAMESPACE = "urn:casement:machine:1"
MARK = "machine"
PREFIX = "casement"
# libvirt's own, for options of QEMU that it has no element for.
QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"

# Empty root ports, so that disks and network cards can be plugged in while the machine runs. Each device below takes
# one of its own besides.
SPARE_ROOT_PORTS = 8

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
_SECRET = re.compile(r"[\x21-\x7e]{1,8}")
_SOFTWARE_CPU_EXTRAS = ("arat", "popcnt", "rdrand", "sse4.1", "sse4.2", "ssse3")
_MOST_VCPUS = 255
# The root disk and the seed come first.
ROOT_DEVICE, SEED_DEVICE = "vda", "vdb"
_VOLUME_DEVICES = [f"vd{letter}" for letter in string.ascii_lowercase[2:]]
_MOST_DRIVES = 4
_LEAST_MEMORY_MIB = 32
_FORK_CODE_MIB = 32

ET.register_namespace(PREFIX, NAMESPACE)
ET.register_namespace("qemu", QEMU_NAMESPACE)


@dataclass(frozen=True, slots=True)
class RescueFiles:
    """Of a rescue system. Its variables are its own, so that the machine's are as they were afterwards."""

    disk: Path
    bases: tuple[Path, ...]
    seed: Path
    nvram: Path


@dataclass(frozen=True, slots=True)
class DomainFiles:
    """The files of one machine on its host, named by the driver; and the folders where all volumes and discs are.

    `bases` are what its disk reads from, nearest first.
    """

    disk: Path
    bases: tuple[Path, ...]
    seed: Path
    serial_log: Path
    serial_socket: Path | None
    volumes: Path
    isos: Path = Path("/nonexistent")
    rescue: RescueFiles | None = None

    def volume(self, uuid: UUID) -> Path:
        return self.volumes / f"{UUID(str(uuid))}.qcow2"

    def iso(self, uuid: UUID) -> Path:
        return self.isos / f"{UUID(str(uuid))}.iso"


@dataclass(frozen=True, slots=True)
class HostTraits:
    """What the XML takes from the host: its accelerator, and the network's own DHCP server (the only one trusted)."""

    accelerator: str
    dhcp_server: str | None = None
    privileged: bool = True


@dataclass(frozen=True, slots=True)
class ParentMemory:
    """Memory of a template or a fork of one: a block that QEMU knows by a name of ours wherever it lies.

    A template has a `file`, `shared` with whoever maps it later. A fork maps it privately, and waits for the state of
    the devices (`incoming`); `sealed` QEMUs (8.2 and later) need no leave to write to the file for that, the others
    open it so all the same. Without a file the block is plain memory, into which a whole image is read.
    """

    size_bytes: int
    file: Path | None = None
    shared: bool = False
    incoming: bool = False
    sealed: bool = False


def domain_xml(spec: MachineSpec, files: DomainFiles, host: HostTraits, memory: ParentMemory | None = None) -> str:
    """The whole domain. The same arguments always give the same text. `InvalidSpecError` for what must not get in."""
    check(spec)
    kvm = host.accelerator == "kvm"
    domain = _element(
        "domain",
        {"type": "kvm" if kvm else "qemu"},
        _text("name", spec.name),
        _text("uuid", str(spec.uuid)),
        _text("genid", str(spec.genid)),
        *([_text("title", spec.title)] if spec.title else []),
        _element("metadata", {}, _element(f"{{{NAMESPACE}}}{MARK}", {"uuid": str(spec.uuid)})),
        *_memory(spec),
        _vcpus(spec),
        _os(spec, files),
        _features(spec, small_cache=not kvm and memory is not None and not memory.shared),
        _cpu(spec, kvm=kvm),
        _clock(kvm=kvm),
        # A machine that is shut down stays down, one that reboots stays here, one that crashed is off.
        _text("on_poweroff", "destroy"),
        _text("on_reboot", "restart"),
        _text("on_crash", "destroy"),
        # The guest must not suspend itself: the portal would see a machine that is neither on nor off.
        _element("pm", {}, *(_element(kind, {"enabled": "no"}) for kind in ("suspend-to-mem", "suspend-to-disk"))),
        _element("devices", {}, *_devices(spec, files, host, memory)),
        _quick_to_start(),
        *([_parent_memory(memory)] if memory else []),
    )
    return to_text(domain)


def check(spec: MachineSpec) -> None:
    """Refuse what libvirt would misread or people could misuse."""
    if not _NAME.fullmatch(spec.name):
        raise InvalidSpecError(
            "The machine's name for tools may hold letters, digits, dots, dashes and underscores only."
        )
    if _CONTROL.search(spec.title):
        raise InvalidSpecError("The machine's title holds control characters.")
    if not _SECRET.fullmatch(spec.console_secret):
        # To libvirt an empty password is no password at all (CVE-2016-5008), and RFB ignores what follows 8 characters.
        raise InvalidSpecError("The console's password must have 1 to 8 printable characters.")
    if not 1 <= spec.vcpus <= _MOST_VCPUS or spec.memory_mib < _LEAST_MEMORY_MIB:
        raise InvalidSpecError("The machine's size is out of bounds.")
    if spec.most_vcpus > _MOST_VCPUS or 0 < spec.most_vcpus < spec.vcpus or 0 < spec.most_memory_mib < spec.memory_mib:
        raise InvalidSpecError("The machine's room to grow is out of bounds.")
    for nic in spec.nics:
        check_nic(nic)
    _check_disks(spec.disks)
    if len(spec.discs) > _MOST_DRIVES:
        raise InvalidSpecError("There are too many disc drives.")


def _check_disks(disks: tuple[DiskSpec, ...]) -> None:
    names = [disk.volume for disk in disks]
    if len(set(names)) != len(names) or len(names) > len(_VOLUME_DEVICES):
        raise InvalidSpecError("A volume is named twice, or there are too many.")
    turns = [disk.boot for disk in disks if disk.boot]
    if len(set(turns)) != len(turns) or any(turn < 0 for turn in turns):
        raise InvalidSpecError("Two disks have the same turn to boot.")
    if any(min(disk.limits.iops, disk.limits.bytes_per_s) < 0 for disk in disks):
        raise InvalidSpecError("A disk's limit is below zero.")


def check_nic(nic: NicSpec) -> None:
    if not _MAC.fullmatch(nic.mac) or int(nic.mac[:2], 16) & 1:
        raise InvalidSpecError("A network card's address is not a unicast MAC in lower case.")
    if nic.mode is NetworkMode.NAT and not (nic.network and _NAME.fullmatch(nic.network)):
        raise InvalidSpecError("A network card names no network.")


# --- policy -----------------------------------------------------------------------------------------------------


def _memory(spec: MachineSpec) -> list[ET.Element]:
    """With room to grow, the guest starts with a balloon that takes the room away; a guest need not play along."""
    most = _text("memory", str(spec.most_memory_mib or spec.memory_mib), unit="MiB")
    if spec.most_memory_mib <= spec.memory_mib:
        return [most]
    return [most, _text("currentMemory", str(spec.memory_mib), unit="MiB")]


def _vcpus(spec: MachineSpec) -> ET.Element:
    current = {"current": str(spec.vcpus)} if spec.most_vcpus > spec.vcpus else {}
    return _text("vcpu", str(spec.most_vcpus or spec.vcpus), placement="static", **current)


def _os(spec: MachineSpec, files: DomainFiles) -> ET.Element:
    """libvirt chooses among the host's UEFI firmware: with the keys that come with it and secure boot, or neither."""
    kind = _text("type", "hvm", arch="x86_64", machine="q35")
    if spec.firmware is Firmware.BIOS:
        return _element("os", {}, kind, *_kinds_to_start_from(spec))
    enabled = "yes" if spec.firmware is Firmware.UEFI_SECURE else "no"
    features = [_element("feature", {"enabled": enabled, "name": name}) for name in ("enrolled-keys", "secure-boot")]
    nvram = [_text("nvram", str(files.rescue.nvram))] if files.rescue else []
    firmware = _element("firmware", {}, *features)
    return _element("os", {"firmware": "efi"}, kind, firmware, *nvram, *_kinds_to_start_from(spec))


def _kinds_to_start_from(spec: MachineSpec) -> list[ET.Element]:
    """Where disks have their own turns, libvirt takes no order of kinds besides."""
    if _has_turns(spec):
        return []
    kinds = ["hd", "cdrom"] if spec.discs else ["hd"]
    return [_element("boot", {"dev": kind}) for kind in (reversed(kinds) if spec.boot_disc else kinds)]


def _has_turns(spec: MachineSpec) -> bool:
    """A rescue system comes first, whatever the machine's own disks are in the order of."""
    return not spec.rescue and any(disk.boot for disk in spec.disks)


def _features(spec: MachineSpec, *, small_cache: bool) -> ET.Element:
    """Secure boot is one only if the guest cannot write to the firmware's store past the firmware: SMM sees to that.

    A fork has a small cache for the code that QEMU translates: with its default of up to 1 GiB nothing is ever thrown
    away, and that alone was 120 MiB after the first minute of an idle desktop, more than all the rest together.
    """
    names = [_element("acpi"), _element("apic"), _element("vmport", {"state": "off"})]
    if spec.firmware is Firmware.UEFI_SECURE:
        names.append(_element("smm", {"state": "on"}))
    if small_cache:
        names.append(_element("tcg", {}, _text("tb-cache", str(_FORK_CODE_MIB), unit="MiB")))
    return _element("features", {}, *names)


def _cpu(spec: MachineSpec, *, kvm: bool) -> ET.Element:
    """With KVM the host's own CPU. In software `qemu64` with what x86-64-v2 asks for on top.

    A Debian server's boot costs 46 s of CPU with it, 56 s with `max` and 60 s with Intel's Nehalem: guests see an AMD
    processor and spare themselves the page table isolation that every system call of an Intel guest pays for. rdrand
    lets the random pool be ready at once, arat spares a slower timer; svm would offer nested guests.
    """
    cores = str(spec.most_vcpus or spec.vcpus)
    topology = _element("topology", {"sockets": "1", "dies": "1", "cores": cores, "threads": "1"})
    if kvm:
        return _element("cpu", {"mode": "host-passthrough", "check": "none", "migratable": "on"}, topology)
    extras = [_element("feature", {"policy": "require", "name": name}) for name in _SOFTWARE_CPU_EXTRAS]
    extras.append(_element("feature", {"policy": "disable", "name": "svm"}))
    model = _text("model", "qemu64", fallback="forbid")
    return _element("cpu", {"mode": "custom", "match": "exact", "check": "none"}, model, topology, *extras)


def _clock(*, kvm: bool) -> ET.Element:
    timers = [
        _element("timer", {"name": "rtc", "tickpolicy": "catchup"}),
        _element("timer", {"name": "pit", "tickpolicy": "delay"}),
        _element("timer", {"name": "hpet", "present": "no"}),
    ]
    if kvm:
        timers.append(_element("timer", {"name": "kvmclock", "present": "yes"}))
    return _element("clock", {"offset": "utc"}, *timers)


def _devices(spec: MachineSpec, files: DomainFiles, host: HostTraits, memory: ParentMemory | None) -> list[ET.Element]:
    # Disks, seed, network cards, USB, serial controller, balloon and random numbers sit on a root port each.
    own = _system_disks(spec, files, privileged=host.privileged)
    volumes = _volumes(spec, files, taken=len(own))
    ports = SPARE_ROOT_PORTS + 4 + len(own) + len(spec.nics) + len(volumes)
    return [
        *own,
        *volumes,
        *_drives(spec, files, host),
        _element("controller", {"type": "usb", "model": "qemu-xhci"}),
        _element("controller", {"type": "pci", "model": "pcie-root"}),
        *(_element("controller", {"type": "pci", "model": "pcie-root-port"}) for _ in range(ports)),
        *(nic_xml(nic, host) for nic in spec.nics),
        _serial(files),
        _agent_channel(),
        # An absolute pointer: with a mouse the browser's pointer and the guest's drift apart.
        _element("input", {"type": "tablet", "bus": "usb"}),
        *_tpm(spec),
        _graphics(spec),
        *_sound(desktop=spec.desktop),
        _element("video", {}, _element("model", {"type": "virtio", "heads": "1", "primary": "yes"})),
        _balloon(gives_back=memory is None),
        _element("rng", {"model": "virtio"}, _text("backend", "/dev/urandom", model="random")),
    ]


_DISK_DRIVER = {"name": "qemu", "type": "qcow2", "cache": "writeback", "discard": "unmap", "detect_zeroes": "unmap"}


def _system_disks(spec: MachineSpec, files: DomainFiles, *, privileged: bool) -> list[ET.Element]:
    """What it starts from, its seed, and of a machine in rescue its own disk after these."""
    root = _turns_of(spec, next((disk for disk in spec.disks if disk.volume is None), DiskSpec(None)))
    if files.rescue:
        rescue = files.rescue
        return [
            _disk(rescue.disk, rescue.bases, DiskSpec(None), ROOT_DEVICE, privileged=privileged),
            _seed(rescue.seed),
            _disk(files.disk, files.bases, root, _VOLUME_DEVICES[0], privileged=privileged, serial=RESCUED_SERIAL),
        ]
    disk = _disk(files.disk, files.bases, root, ROOT_DEVICE, privileged=privileged)
    return [disk, _seed(files.seed)] if spec.seeded else [disk]


def _turns_of(spec: MachineSpec, disk: DiskSpec) -> DiskSpec:
    """The disk with its turn in the whole order, which a disc that is to be first is in front of."""
    if not disk.boot or not _has_turns(spec):
        return replace(disk, boot=0)
    return replace(disk, boot=disk.boot + 1) if spec.discs and spec.boot_disc else disk


def _disk(
    path: Path, bases: tuple[Path, ...], disk: DiskSpec, device: str, *, privileged: bool, serial: str = ""
) -> ET.Element:
    """A machine's disk with its whole chain spelled out.

    The format is always named, never probed, and so is the base: a guest that broke out into its own disk's header
    must not make libvirt open another file at the next start. "writeback" keeps the page cache, which holds a base
    image once for all of its clones, and honours the guest's flushes; it also works where O_DIRECT does not (tmpfs).
    """
    return _element(
        "disk",
        {"type": "file", "device": "disk"},
        _element("driver", _DISK_DRIVER),
        _element("source", {"file": str(path)}),
        _backing_chain(bases, privileged=privileged),
        _element("target", {"dev": device, "bus": "virtio"}),
        *_limits_and_turn(disk),
        *([_text("serial", serial)] if serial else []),
    )


def _volumes(spec: MachineSpec, files: DomainFiles, *, taken: int) -> list[ET.Element]:
    """`taken`: how many names of disks come before theirs; a machine without a seed leaves its name free."""
    named = [(_turns_of(spec, disk), disk.volume) for disk in spec.disks if disk.volume is not None]
    devices = _VOLUME_DEVICES[max(taken, 2) - 2 :]
    if len(named) > len(devices):
        raise InvalidSpecError("There are too many volumes for a machine in rescue.")
    places = zip(named, devices, strict=False)
    return [volume_xml(disk, files.volume(volume), device) for (disk, volume), device in places]


def volume_xml(disk: DiskSpec, path: Path, device: str) -> ET.Element:
    """A volume stands alone: its chain ends with it. The guest finds it by its serial number, whatever its turn."""
    return _element(
        "disk",
        {"type": "file", "device": "disk"},
        _element("driver", _DISK_DRIVER),
        _element("source", {"file": str(path)}),
        _element("backingStore"),
        _element("target", {"dev": device, "bus": "virtio"}),
        *_limits_and_turn(disk),
        _text("serial", serial_of(UUID(path.stem))),
    )


def serial_of(volume: UUID) -> str:
    """What virtio has room for: 20 characters."""
    return volume.hex[:20]


def free_device(taken: Collection[str]) -> str | None:
    """The first name for a disk that no other has; None if all are taken."""
    return next((device for device in _VOLUME_DEVICES if device not in taken), None)


def _limits_and_turn(disk: DiskSpec) -> list[ET.Element]:
    limits = [_text(name, str(value)) for name, value in tune_of(disk.limits).items() if value]
    tune = [_element("iotune", {}, *limits)] if limits else []
    return [*tune, *([_element("boot", {"order": str(disk.boot)})] if disk.boot else [])]


def tune_of(limits: IoLimits) -> dict[str, int]:
    """By libvirt's names, for its XML and its calls alike."""
    return {"total_bytes_sec": limits.bytes_per_s, "total_iops_sec": limits.iops}


def _backing_chain(bases: tuple[Path, ...], *, privileged: bool) -> ET.Element:
    """Bases are shared: libvirt must not give them to QEMU's user, for whom the driver made them readable already."""
    if not bases:
        return _element("backingStore")
    keep_owner = [_element("seclabel", {"model": "dac", "relabel": "no"})] if privileged else []
    source = _element("source", {"file": str(bases[0])}, *keep_owner)
    qcow2, rest = _element("format", {"type": "qcow2"}), _backing_chain(bases[1:], privileged=privileged)
    return _element("backingStore", {"type": "file"}, qcow2, source, rest)


def _seed(path: Path) -> ET.Element:
    """A read-only virtio disk, no CD-ROM: cloud kernels have no SATA driver, and cloud-init goes by the label alone."""
    return _element(
        "disk",
        {"type": "file", "device": "disk"},
        _element("driver", {"name": "qemu", "type": "raw"}),
        _element("source", {"file": str(path)}),
        _element("target", {"dev": SEED_DEVICE, "bus": "virtio"}),
        _element("readonly"),
    )


def _drives(spec: MachineSpec, files: DomainFiles, host: HostTraits) -> list[ET.Element]:
    """The first drive has its turn before or after the disks that have one."""
    turn = 0
    if spec.discs and _has_turns(spec):
        turn = 1 if spec.boot_disc else 1 + max(disk.boot for disk in spec.disks)
    return [
        drive_xml(slot, files.iso(iso) if iso else None, host, boot=0 if slot else turn)
        for slot, iso in enumerate(spec.discs)
    ]


def drive_xml(slot: int, disc: Path | None, host: HostTraits, *, boot: int = 0) -> ET.Element:
    """A disc drive that every system knows without drivers. An ISO is always raw, whatever it begins with; it is
    shared, so that libvirt must not give it to QEMU's user, for whom the driver made it readable already.
    """
    source = []
    if disc is not None:
        keep_owner = [_element("seclabel", {"model": "dac", "relabel": "no"})] if host.privileged else []
        source = [_element("source", {"file": str(disc)}, *keep_owner)]
    return _element(
        "disk",
        {"type": "file", "device": "cdrom"},
        _element("driver", {"name": "qemu", "type": "raw"}),
        *source,
        _element("target", {"dev": drive_device(slot), "bus": "sata"}),
        _element("readonly"),
        *([_element("boot", {"order": str(boot)})] if boot else []),
    )


def drive_device(slot: int) -> str:
    return f"sd{string.ascii_lowercase[slot]}"


def nic_xml(nic: NicSpec, host: HostTraits) -> ET.Element:
    mac, model = _element("mac", {"address": nic.mac}), _element("model", {"type": "virtio"})
    if nic.mode is NetworkMode.USER:
        return _element("interface", {"type": "user"}, mac, model)
    source = _element("source", {"network": str(nic.network)})
    return _element("interface", {"type": "network"}, mac, source, model, _anti_spoofing(host))


def _anti_spoofing(host: HostTraits) -> ET.Element:
    """The guest may speak with its own MAC only, and with the address that the network's DHCP server gave it."""
    parameters = [_element("parameter", {"name": "CTRL_IP_LEARNING", "value": "dhcp"})]
    if host.dhcp_server:
        parameters.append(_element("parameter", {"name": "DHCPSERVER", "value": host.dhcp_server}))
    return _element("filterref", {"filter": "clean-traffic"}, *parameters)


def _serial(files: DomainFiles) -> ET.Element:
    """The boot's messages are kept; the driver keeps the file small.

    QEMU listens and never waits: what the guest prints goes to the log alone while nobody listens.
    """
    log = _element("log", {"file": str(files.serial_log), "append": "on"})
    target = _element("target", {"type": "isa-serial", "port": "0"})
    if files.serial_socket is None:
        return _element("serial", {"type": "pty"}, log, target)
    source = _element("source", {"mode": "bind", "path": str(files.serial_socket)})
    return _element("serial", {"type": "unix"}, source, log, target)


def _agent_channel() -> ET.Element:
    target = _element("target", {"type": "virtio", "name": "org.qemu.guest_agent.0"})
    return _element("channel", {"type": "unix"}, target)


def _tpm(spec: MachineSpec) -> list[ET.Element]:
    """swtpm, a process of libvirt's beside QEMU; what it holds lies on the host and goes with the definition."""
    if not spec.tpm:
        return []
    backend = _element("backend", {"type": "emulator", "version": "2.0"})
    return [_element("tpm", {"model": "tpm-crb"}, backend)]


def _graphics(spec: MachineSpec) -> ET.Element:
    """VNC on a UNIX socket in the domain's own folder, and with a password all the same."""
    audio = [_element("audio", {"id": "1"})] if spec.desktop else []
    attributes = {"type": "vnc", "passwd": spec.console_secret, "sharePolicy": "force-shared"}
    return _element("graphics", attributes, _element("listen", {"type": "socket"}), *audio)


def _sound(*, desktop: bool) -> list[ET.Element]:
    """A sound card whose sound goes to VNC's audio extension and not to the host. Servers have none."""
    none = _element("audio", {"id": "1", "type": "none"})
    if not desktop:
        return [none]
    card = _element("sound", {"model": "ich9"}, _element("codec", {"type": "duplex"}), _element("audio", {"id": "1"}))
    return [card, none]


def _balloon(*, gives_back: bool) -> ET.Element:
    """Pages that the guest freed go back to the host by themselves.

    Not where memory is a parent's: QEMU 7.2 gives pages back by punching holes into the file that they are mapped
    from, privately or not, and other forks would read zeros there.
    """
    reporting = {"freePageReporting": "on"} if gives_back else {}
    return _element("memballoon", {"model": "virtio", **reporting}, _element("stats", {"period": "10"}))


def _quick_to_start() -> ET.Element:
    """Once QEMU runs, libvirt asks it for the CPU's features one by one: some 400 questions for two CPUs, half a
    second, most of a start. Without this capability it asks for all of them at once, as it did of older QEMUs. What
    it learns is for a definition that is checked against it, which ours is not (`check="none"`).
    """
    names = {"capability": "cpu-unavailable-features"}
    return _element(f"{{{QEMU_NAMESPACE}}}capabilities", {}, _element(f"{{{QEMU_NAMESPACE}}}del", names))


# --- memory of templates and forks ------------------------------------------------------------------------------

MEMORY_BLOCK = "ram0"
_FROM_FILE = f"memory-backend-file,id={MEMORY_BLOCK},"


def _parent_memory(memory: ParentMemory) -> ET.Element:
    """The later of two memory backends is the one that QEMU takes; libvirt's own is never touched and costs nothing."""
    incoming = ["-incoming", "defer"] if memory.incoming else []
    machine = ["-machine", f"memory-backend={MEMORY_BLOCK}"]
    options = ["-object", _memory_object(memory), *machine, *incoming]
    arguments = [_element(f"{{{QEMU_NAMESPACE}}}arg", {"value": option}) for option in options]
    return _element(f"{{{QEMU_NAMESPACE}}}commandline", {}, *arguments)


def _memory_object(memory: ParentMemory) -> str:
    if memory.file is None:
        return f"memory-backend-ram,id={MEMORY_BLOCK},size={memory.size_bytes}"
    path = str(memory.file)
    if "," in path:
        raise InvalidSpecError("The pool's path holds a comma, which QEMU would misread.")
    sealed = ",readonly=on,rom=off" if memory.sealed else ""
    share = "on" if memory.shared else "off"
    return f"{_FROM_FILE}size={memory.size_bytes},share={share}{sealed},mem-path={path}"


def mapped_file(domain: ET.Element) -> Path | None:
    """Of a domain that maps a parent's memory: its file."""
    for argument in domain.iterfind(f"{{{QEMU_NAMESPACE}}}commandline/{{{QEMU_NAMESPACE}}}arg"):
        value = argument.get("value", "")
        if value.startswith(_FROM_FILE):
            return Path(value.partition(",mem-path=")[2])
    return None


def with_own_memory(domain: ET.Element) -> ET.Element:
    """The same domain, changed: what it is to read from a whole image, it reads into memory of its own."""
    if mapped_file(domain) is None:
        return domain
    old = domain.find(f"{{{QEMU_NAMESPACE}}}commandline")
    assert old is not None  # noqa: S101 - for the type checker: it names the file.
    options = [argument.get("value", "") for argument in old]
    size = next(option for option in options if option.startswith(_FROM_FILE)).removeprefix(_FROM_FILE)
    place = list(domain).index(old)
    domain.remove(old)
    domain.insert(place, _parent_memory(ParentMemory(int(size.partition(",")[0].removeprefix("size=")))))
    return domain


# --- serialisation ----------------------------------------------------------------------------------------------


def _element(tag: str, attributes: dict[str, str] | None = None, *children: ET.Element) -> ET.Element:
    element = ET.Element(tag, attributes or {})
    element.extend(children)
    return element


def _text(tag: str, text: str, **attributes: str) -> ET.Element:
    element = ET.Element(tag, attributes)
    element.text = text
    return element


def to_text(element: ET.Element) -> str:
    ET.indent(element)
    return ET.tostring(element, encoding="unicode") + "\n"
