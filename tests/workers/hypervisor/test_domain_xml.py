"""The XML of every kind of machine, held against golden files, libvirt's own schema, and a list of allowed devices.

After a wanted change run this file with `CASEMENT_WRITE_GOLDEN=1`, then read the diff.
"""

from __future__ import annotations

import itertools
import os
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from workers.hypervisor.errors import InvalidSpecError
from workers.hypervisor.kvm.domain_xml import (
    MARK,
    NAMESPACE,
    QEMU_NAMESPACE,
    DomainFiles,
    HostTraits,
    ParentMemory,
    RescueFiles,
    domain_xml,
    mapped_file,
    to_text,
    with_own_memory,
)
from workers.hypervisor.types import DiskSpec, Firmware, IoLimits, MachineSpec, NetworkMode, NicSpec

GOLDEN = Path(__file__).parent / "golden"
SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
FOLDER = Path("/pool/machines/0")
FILES = DomainFiles(
    FOLDER / "disk.qcow2",
    (Path("/pool/images/1.qcow2"),),
    FOLDER / "seed.iso",
    FOLDER / "serial.log",
    Path("/pool/serial/0"),
    Path("/pool/volumes"),
)
ALLOWED_DEVICES = frozenset(
    {"disk", "controller", "interface", "serial", "channel", "input"}
    | {"graphics", "sound", "audio", "video", "memballoon", "rng", "tpm"}
)
CASES = list(itertools.product(("desktop", "server"), Firmware, NetworkMode, ("kvm", "tcg")))


def spec_for(kind: str, firmware: Firmware, mode: NetworkMode) -> MachineSpec:
    network = "casement" if mode is NetworkMode.NAT else None
    return MachineSpec(
        uuid=UUID(int=0xCA5E),
        name="cm-ca5e",
        title="Alice's desktop",
        vcpus=2,
        memory_mib=2048,
        firmware=firmware,
        genid=UUID(int=0x6E1D),
        console_secret="s3cr3t!8",
        nics=(NicSpec("52:54:00:12:34:56", mode, network),),
        desktop=kind == "desktop",
    )


def traits(accelerator: str, mode: NetworkMode) -> HostTraits:
    privileged = mode is NetworkMode.NAT
    return HostTraits(accelerator, "10.213.0.1" if privileged else None, privileged=privileged)


PLAIN = spec_for("desktop", Firmware.BIOS, NetworkMode.NAT)
WITH_VOLUMES = replace(
    PLAIN,
    nics=(*PLAIN.nics, NicSpec("52:54:00:12:34:57", NetworkMode.NAT, "casement")),
    disks=(
        DiskSpec(None, IoLimits(iops=500), boot=2),
        DiskSpec(UUID(int=0xDA7A), IoLimits(iops=100, bytes_per_s=10 << 20), boot=1),
        DiskSpec(UUID(int=0x5AFE)),
    ),
)
TCG = traits("tcg", NetworkMode.NAT)
ISO_FILES = replace(FILES, bases=(), isos=Path("/pool/isos"))
TO_BE_INSTALLED = replace(
    spec_for("desktop", Firmware.UEFI_SECURE, NetworkMode.NAT),
    tpm=True,
    discs=(UUID(int=0x150), UUID(int=0xD81)),
    seeded=False,
)
IN_RESCUE = replace(WITH_VOLUMES, discs=(UUID(int=0x150), None), rescue=True, firmware=Firmware.UEFI)
RESCUE_FILES = replace(
    ISO_FILES,
    bases=FILES.bases,
    rescue=RescueFiles(
        FOLDER / "rescue.qcow2", (Path("/pool/images/2.qcow2"),), FOLDER / "rescue-seed.iso", FOLDER / "rescue.nvram"
    ),
)
FURTHER = {
    "desktop-with-volumes": (WITH_VOLUMES, FILES),
    "to-be-installed": (TO_BE_INSTALLED, ISO_FILES),
    "disc-before-volumes": (replace(WITH_VOLUMES, discs=(UUID(int=0x150), None), boot_disc=True), ISO_FILES),
    "in-rescue": (IN_RESCUE, RESCUE_FILES),
}
RAM = Path("/pool/parents/1/ram")
FORKED = replace(PLAIN, nics=())
WITH_A_PARENTS_MEMORY = {
    "template": ParentMemory(2048 << 20, RAM, shared=True),
    "fork": ParentMemory(2048 << 20, RAM, incoming=True),
    "fork-of-a-sealed-file": ParentMemory(2048 << 20, RAM, incoming=True, sealed=True),
    "restored": ParentMemory(2048 << 20),
}


@pytest.mark.parametrize(("kind", "firmware", "mode", "accelerator"), CASES)
def test_the_xml_is_the_golden_one(kind: str, firmware: Firmware, mode: NetworkMode, accelerator: str) -> None:
    text = domain_xml(spec_for(kind, firmware, mode), FILES, traits(accelerator, mode))
    golden = GOLDEN / f"{kind}-{firmware}-{mode}-{accelerator}.xml"
    if os.environ.get("CASEMENT_WRITE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FURTHER)
def test_volumes_further_cards_discs_and_rescue_have_golden_files_too(name: str) -> None:
    text = domain_xml(*FURTHER[name], TCG)
    golden = GOLDEN / f"{name}.xml"
    if os.environ.get("CASEMENT_WRITE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", WITH_A_PARENTS_MEMORY)
def test_templates_and_forks_have_golden_files_too(name: str) -> None:
    text = domain_xml(FORKED, FILES, TCG, WITH_A_PARENTS_MEMORY[name])
    golden = GOLDEN / f"{name}.xml"
    if os.environ.get("CASEMENT_WRITE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_what_maps_a_parents_memory_is_told_and_freed_of_it() -> None:
    """Also after libvirt has read and written it, with other names for the same namespace."""
    fork = etree_of(domain_xml(FORKED, FILES, TCG, WITH_A_PARENTS_MEMORY["fork"]))
    restored = domain_xml(FORKED, FILES, TCG, WITH_A_PARENTS_MEMORY["restored"])
    assert mapped_file(fork) == RAM
    assert to_text(with_own_memory(fork)) == restored
    assert mapped_file(fork) is None
    for text in (restored, domain_xml(FORKED, FILES, TCG)):
        assert mapped_file(etree_of(text)) is None
        assert to_text(with_own_memory(etree_of(text))) == text


def etree_of(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 - it is ours.


def test_no_page_of_a_parents_memory_is_ever_given_back() -> None:
    for memory in WITH_A_PARENTS_MEMORY.values():
        balloon = etree_of(domain_xml(FORKED, FILES, TCG, memory)).find("devices/memballoon")
        assert balloon is not None
        assert dict(balloon.attrib) == {"model": "virtio"}


def test_a_path_that_qemu_would_misread_is_refused() -> None:
    with pytest.raises(InvalidSpecError):
        domain_xml(FORKED, FILES, TCG, ParentMemory(1 << 20, Path("/pool/a,b/ram")))


@pytest.mark.skipif(not SCHEMA.exists(), reason="libvirt's schemas are not installed")
def test_the_golden_files_keep_libvirts_schema() -> None:
    schema = etree.RelaxNG(etree.parse(SCHEMA))
    files = sorted(GOLDEN.glob("*.xml"))
    assert len(files) == len(CASES) + len(FURTHER) + len(WITH_A_PARENTS_MEMORY)
    for golden in files:
        assert schema.validate(etree.parse(golden)), f"{golden.name}: {schema.error_log}"


@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("*.xml")), ids=lambda path: path.stem)
def test_only_allowed_devices_appear(golden: Path) -> None:
    root = etree.parse(golden).getroot()
    devices = root.find("devices")
    assert devices is not None
    assert {device.tag for device in devices} <= ALLOWED_DEVICES
    assert {graphics.get("type") for graphics in devices.iter("graphics")} == {"vnc"}
    # No port, no address, no websocket: the screen is a UNIX socket whose place libvirt chooses, with a password.
    assert [set(graphics.keys()) for graphics in devices.iter("graphics")] == [{"type", "passwd", "sharePolicy"}]
    assert [dict(listen.attrib) for listen in devices.iter("listen")] == [{"type": "socket"}]
    # QEMU's own options are for a parent's memory alone.
    options = [argument.get("value") for argument in root.iter(f"{{{QEMU_NAMESPACE}}}arg")]
    names = [option for option in options if option and option.startswith("-")]
    assert names in (["-object", "-machine", "-incoming"], ["-object", "-machine"], [])
    assert bool(names) == (golden.stem in WITH_A_PARENTS_MEMORY)
    # Of what libvirt knows of its QEMU, one thing is held back, and nothing added.
    told = [(element.tag, dict(element.attrib)) for element in root.iterfind(f"{{{QEMU_NAMESPACE}}}capabilities/*")]
    assert told == [(f"{{{QEMU_NAMESPACE}}}del", {"capability": "cpu-unavailable-features"})]


def test_every_disk_names_its_format_and_ends_its_chain() -> None:
    root = etree.fromstring(domain_xml(PLAIN, FILES, TCG))
    assert [driver.get("type") for driver in root.findall("devices/disk/driver")] == ["qcow2", "raw"]
    assert root.find("devices/disk/backingStore/backingStore") is not None
    without_base = etree.fromstring(domain_xml(PLAIN, replace(FILES, bases=()), TCG))
    assert len(without_base.findall("devices/disk/backingStore")) == 1


def test_every_base_that_a_linked_clone_reads_from_is_spelled_out_and_keeps_its_owner() -> None:
    bases = tuple(Path(f"/pool/images/{number}.qcow2") for number in (3, 2, 1))
    root = etree.fromstring(domain_xml(PLAIN, replace(FILES, bases=bases), TCG))
    found, level = [], root.find("devices/disk/backingStore")
    while level is not None and (source := level.find("source")) is not None:
        formats = [element.get("type") for element in level.findall("format")]
        found.append((source.get("file"), formats, [label.get("relabel") for label in source.findall("seclabel")]))
        level = level.find("backingStore")
    assert found == [(str(base), ["qcow2"], ["no"]) for base in bases]
    assert level is not None and len(level) == 0, "the last one would be asked what it reads from"


def test_there_are_eight_ports_to_spare() -> None:
    root = etree.fromstring(domain_xml(PLAIN, FILES, TCG))
    ports = len(root.findall("devices/controller[@model='pcie-root-port']"))
    users = (
        len(root.findall("devices/disk"))
        + len(root.findall("devices/interface"))
        + len(["usb", "serial", "balloon", "rng"])
    )
    assert ports - users == 8


def test_the_mark_says_whose_it_is() -> None:
    mark = etree.fromstring(domain_xml(PLAIN, FILES, TCG)).find(f"metadata/{{{NAMESPACE}}}{MARK}")
    assert mark is not None
    assert mark.get("uuid") == str(PLAIN.uuid)


def test_room_to_grow_is_there_and_not_used() -> None:
    root = etree.fromstring(domain_xml(replace(PLAIN, most_vcpus=6, most_memory_mib=3072), FILES, TCG))
    assert dict(root.find("vcpu").attrib) == {"placement": "static", "current": "2"}  # type: ignore[union-attr]
    assert (root.findtext("vcpu"), root.find("cpu/topology").get("cores")) == ("6", "6")  # type: ignore[union-attr]
    assert (root.findtext("memory"), root.findtext("currentMemory")) == ("3072", "2048")
    assert etree.RelaxNG(etree.parse(SCHEMA)).validate(root)
    exact = domain_xml(replace(PLAIN, most_vcpus=2, most_memory_mib=2048), FILES, TCG)
    assert exact == domain_xml(PLAIN, FILES, TCG)


@pytest.mark.parametrize(
    "title",
    [
        "</title><devices><hostdev/></devices><title>",
        "]]><!--<?xml?>&lt;&#x0;",
        "\"'><script>alert(1)</script>",
        "日本語 🖥 é",
        "",
    ],
)
def test_a_title_stays_text(title: str) -> None:
    root = etree.fromstring(domain_xml(replace(PLAIN, title=title), FILES, TCG))
    assert (root.findtext("title") or "") == title
    assert [child.tag for child in root] == [
        child.tag for child in etree.fromstring(domain_xml(PLAIN, FILES, TCG)) if title or child.tag != "title"
    ]


@given(st.text(max_size=80))
def test_any_title_is_kept_or_refused(title: str) -> None:
    try:
        text = domain_xml(replace(PLAIN, title=title), FILES, TCG)
    except InvalidSpecError:
        return
    assert (etree.fromstring(text).findtext("title") or "") == title


@pytest.mark.parametrize(
    "changes",
    [
        {"title": "two\nlines"},
        {"title": "nul\0"},
        {"title": "escape\x1b[2J"},
        {"title": "\ud800"},
        {"title": "line\u2028"},
        {"name": "../../etc"},
        {"name": "a/b"},
        {"name": ""},
        {"name": "-rf"},
        {"name": "x" * 64},
        {"name": "a\n"},
        {"console_secret": ""},
        {"console_secret": "123456789"},
        {"console_secret": "a b"},
        {"console_secret": "tab\t"},
        {"vcpus": 0},
        {"vcpus": 256},
        {"memory_mib": 0},
        {"most_vcpus": 1},
        {"most_vcpus": 256},
        {"most_memory_mib": 1024},
        {"nics": (NicSpec("52:54:00:12:34:5", NetworkMode.USER),)},
        {"nics": (NicSpec("53:54:00:12:34:56", NetworkMode.USER),)},
        {"nics": (NicSpec("52:54:00:12:34:AB", NetworkMode.USER),)},
        {"nics": (NicSpec("52:54:00:12:34:56", NetworkMode.NAT, None),)},
        {"nics": (NicSpec("52:54:00:12:34:56", NetworkMode.NAT, "a b"),)},
        {"disks": (DiskSpec(UUID(int=1)), DiskSpec(UUID(int=1)))},
        {"disks": tuple(DiskSpec(UUID(int=number)) for number in range(25))},
        {"disks": (DiskSpec(None, boot=1), DiskSpec(UUID(int=1), boot=1))},
        {"disks": (DiskSpec(None, boot=-1),)},
        {"disks": (DiskSpec(None, IoLimits(iops=-1)),)},
    ],
)
def test_what_must_not_get_in_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidSpecError):
        domain_xml(replace(PLAIN, **changes), FILES, TCG)  # type: ignore[arg-type]  # Wrong on purpose.


def test_the_secret_is_in_no_error_and_no_repr() -> None:
    with pytest.raises(InvalidSpecError) as caught:
        domain_xml(replace(PLAIN, console_secret="much-too-long-secret"), FILES, TCG)
    assert "much-too-long" not in str(caught.value)
    assert "s3cr3t" not in repr(PLAIN)
