"""What guests on real QEMU see of discs, firmware, TPM and rescue."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import libvirt
import libvirt_qemu
import pytest

from tests.integration.hypervisor.harness import BOOT_S, GIB, GUEST_S, Bench, make_seed
from tests.support.libvirtd import wait_until
from tests.support.tiny_iso import IS_IN, IS_OUT, build_signed_iso, build_tiny_iso
from workers.hypervisor.types import RESCUED_SERIAL, Firmware, MachineSpec

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]

_IMAGES = Path(__file__).parents[3] / "var" / "images-dev"
NVRAM = Path("/var/lib/libvirt/qemu/nvram")
TPM = Path("/var/lib/libvirt/swtpm")
MARKER = b"written by the machine itself"
MENDED = b"written in rescue"
# In MiB; past the end of the guest's partitions, where nobody else writes.
PLACE = 512


@pytest.fixture
def bench(real_bench: Bench) -> Iterator[Bench]:
    yield real_bench
    real_bench.clean()


@pytest.fixture(scope="module")
def disc(real_bench: Bench) -> Iterator[UUID]:
    iso = uuid4()
    real_bench.driver.put_iso(iso, build_tiny_iso(_IMAGES), progress=lambda _percent: None)
    yield iso
    real_bench.driver.delete_iso(iso)


def started_from(bench: Bench, disc: UUID, firmware: Firmware) -> MachineSpec:
    """Nothing on its disk, the disc in its drive."""
    spec = bench.spec(firmware=firmware, discs=(disc, None), seeded=False)
    bench.driver.create_empty_disk(spec.uuid, size_bytes=GIB)
    bench.driver.define(spec)
    bench.driver.start(spec.uuid)
    return spec


def said(bench: Bench, spec: MachineSpec, words: bytes, *, seconds: float = BOOT_S) -> None:
    log = bench.driver.console_log
    wait_until(lambda: words in log(spec.uuid), seconds, lambda: log(spec.uuid)[-2000:])


@pytest.mark.parametrize("firmware", [Firmware.BIOS, Firmware.UEFI])
def test_a_disc_starts_an_empty_machine_and_is_seen_to_go(bench: Bench, disc: UUID, firmware: Firmware) -> None:
    spec = started_from(bench, disc, firmware)
    said(bench, spec, IS_IN)
    assert bench.driver.insert_disc(spec.uuid, 0, None)
    said(bench, spec, IS_OUT)


def test_what_begins_like_another_format_is_plain_bytes_to_qemu_and_cannot_be_written(
    bench: Bench, tmp_path: Path
) -> None:
    file, iso = tmp_path / "trojan.iso", uuid4()
    file.write_bytes(b"QFI\xfb\0\0\0\3" + (1024).to_bytes(8, "big") + b"\0\0\0\x0b" + b"/etc/passwd" + bytes(64 * 1024))
    bench.driver.put_iso(iso, file, progress=lambda _percent: None)
    spec = bench.started(discs=(None, None))
    assert bench.driver.insert_disc(spec.uuid, 0, iso)
    conn = libvirt.open("qemu:///system")
    try:
        domain = conn.lookupByUUIDString(str(spec.uuid))
        told = json.loads(libvirt_qemu.qemuMonitorCommand(domain, '{"execute": "query-block"}', 0))["return"]
    finally:
        conn.close()
    (drive,) = [one["inserted"] for one in told if str(iso) in json.dumps(one.get("inserted", {}))]
    assert (drive["drv"], drive["ro"], drive["backing_file_depth"]) == ("raw", True, 0)
    assert drive["image"]["virtual-size"] == -(-file.stat().st_size // 512) * 512
    owner = file.stat().st_uid
    bench.clean()
    (kept,) = Path(drive["file"]).parent.glob(f"{iso}*")
    assert (kept.stat().st_uid, kept.stat().st_mode & 0o777) == (owner, 0o440), "QEMU's user got it"
    bench.driver.delete_iso(iso)


def test_secure_boot_starts_nothing_that_is_not_signed_and_a_tpm_is_there(bench: Bench, disc: UUID) -> None:
    spec = bench.spec(firmware=Firmware.UEFI_SECURE, tpm=True, discs=(disc, None), seeded=False)
    bench.driver.create_empty_disk(spec.uuid, size_bytes=GIB)
    bench.driver.define(spec)
    bench.driver.start(spec.uuid)
    said(bench, spec, b"Access Denied")
    assert IS_IN not in bench.driver.console_log(spec.uuid)
    assert list(NVRAM.glob(f"{spec.name}*")) and (TPM / str(spec.uuid)).is_dir()
    bench.driver.undefine(spec.uuid)
    assert not list(NVRAM.glob(f"{spec.name}*")) and not (TPM / str(spec.uuid)).exists()


def test_secure_boot_starts_what_is_signed(bench: Bench) -> None:
    signed = uuid4()
    bench.driver.put_iso(signed, build_signed_iso(_IMAGES), progress=lambda _percent: None)
    spec = started_from(bench, signed, Firmware.UEFI_SECURE)
    said(bench, spec, IS_IN)
    bench.clean()
    bench.driver.delete_iso(signed)


def guest(bench: Bench, spec: MachineSpec, script: str) -> bytes:
    wait_until(lambda: bench.driver.agent_ready(spec.uuid), BOOT_S)
    result = bench.driver.run_in_guest(spec.uuid, ("/bin/sh", "-c", script), timeout_s=GUEST_S)
    assert result.exit_code == 0, (script, result)
    return result.stdout.strip()


def reading(device: str, size: int) -> str:
    return f"dd if=/dev/{device} bs=1M skip={PLACE} count=1 2>/dev/null | head -c {size}"


def test_rescue_reads_and_mends_the_machines_own_disk(bench: Bench) -> None:
    """The guest has a TPM, too, which it keeps through all of this."""
    system = uuid4()
    bench.driver.put_image(system, bench.image_file, progress=lambda _percent: None)
    spec = bench.started(tpm=True, discs=(None, None))
    at = f"bs=1M seek={PLACE} conv=notrunc"
    guest(bench, spec, f"printf '{MARKER.decode()}' | dd of=/dev/vda {at} 2>/dev/null && sync")
    assert guest(bench, spec, "hostname") == b"alice-1"
    assert guest(bench, spec, "head -c 4 /sys/firmware/acpi/tables/TPM2") == b"TPM2"

    bench.driver.force_off(spec.uuid)
    bench.driver.prepare_rescue(spec.uuid, image=system, seed=make_seed(spec, "alice-rescue"))
    bench.driver.define(replace(spec, rescue=True))
    bench.driver.start(spec.uuid)
    assert guest(bench, spec, "hostname") == b"alice-rescue"
    own = guest(bench, spec, f"cd /sys/block; grep -l {RESCUED_SERIAL} */serial").decode().partition("/")[0]
    assert own != "vda"
    assert (
        guest(bench, spec, f"dd if=/dev/{own} bs=1M skip={PLACE} count=1 2>/dev/null | head -c {len(MARKER)}") == MARKER
    )
    guest(bench, spec, f"printf '{MENDED.decode()}' | dd of=/dev/{own} {at} 2>/dev/null && sync")

    bench.driver.force_off(spec.uuid)
    bench.driver.define(spec)
    bench.driver.end_rescue(spec.uuid)
    bench.driver.start(spec.uuid)
    assert guest(bench, spec, "hostname") == b"alice-1"
    assert (
        guest(bench, spec, f"dd if=/dev/vda bs=1M skip={PLACE} count=1 2>/dev/null | head -c {len(MENDED)}") == MENDED
    )
    bench.clean()
    bench.driver.delete_image(system)
