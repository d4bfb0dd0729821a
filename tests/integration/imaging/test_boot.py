"""A disk that our packer made starts under QEMU, from BIOS and from UEFI, and does what a machine must do."""

from pathlib import Path

import pytest

from tests.support.microguest import READY, build_microguest
from tests.support.plain_qemu import running

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def microguest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_microguest(tmp_path_factory.mktemp("microguest"))


@pytest.mark.parametrize("uefi", [False, True], ids=["bios", "uefi"])
def test_a_packed_disk_boots_and_powers_off_on_its_button(microguest: Path, tmp_path: Path, uefi: bool) -> None:
    with running(microguest, tmp_path, uefi=uefi) as machine:
        machine.wait_for(READY, seconds=300)
        machine.qmp("system_powerdown")
        assert machine.process.wait(120) == 0


def test_the_screen_shows_what_the_serial_line_says(microguest: Path, tmp_path: Path) -> None:
    with running(microguest, tmp_path) as machine:
        machine.wait_for(READY, seconds=300)
        machine.screenshot(tmp_path / "screen.ppm")
        header = (tmp_path / "screen.ppm").read_bytes()
    assert header.startswith(b"P6")
    assert len(set(header[20:])) > 1
