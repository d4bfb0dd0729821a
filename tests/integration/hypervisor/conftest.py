from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.integration.hypervisor.harness import Bench, FakeBackstage, RealBackstage
from tests.support.libvirtd import Libvirtd, alone, run_name, running_libvirtd, temporary_pool, unavailable
from tests.support.microguest import build_microguest
from workers.hypervisor.fake import FakeDriver, FakeHost
from workers.hypervisor.kvm.driver import KvmDriver
from workers.hypervisor.types import HostConfig

_IMAGES = Path(__file__).parents[3] / "var" / "images-dev"


@pytest.fixture(scope="session")
def libvirtd() -> Iterator[Libvirtd]:
    reason = unavailable()
    if reason:
        pytest.skip(reason)
    with running_libvirtd() as daemon:
        yield daemon


@pytest.fixture(scope="session")
def microguest() -> Path:
    return build_microguest(_IMAGES)


@pytest.fixture(scope="session")
def real_bench(libvirtd: Libvirtd, microguest: Path) -> Iterator[Bench]:
    with temporary_pool() as pool:
        config = HostConfig(libvirtd.uri, pool, network=run_name())
        driver = KvmDriver(config)
        with alone():
            driver.prepare_host()
        image = uuid4()
        driver.put_image(image, microguest, progress=lambda _percent: None)
        yield Bench("real", driver, image, microguest, config.network, RealBackstage(libvirtd.uri))
        driver.close()


@pytest.fixture
def fake_bench(tmp_path: Path) -> Bench:
    host = FakeHost("fake")
    driver = FakeDriver(host)
    source = tmp_path / "image.qcow2"
    source.write_bytes(b"QFI\xfb\0\0\0\x03" + bytes(16) + (1 << 26).to_bytes(8, "big") + bytes(4096))
    image = uuid4()
    driver.put_image(image, source, progress=lambda _percent: None)
    return Bench("fake", driver, image, source, "casement", FakeBackstage(host))


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.real)])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The same tests on both drivers."""
    chosen: Bench = request.getfixturevalue(f"{request.param}_bench")
    yield chosen
    chosen.clean()
