"""One watcher follows many hosts, brings what happens there to the rows, and lives through what it leans on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.db import InterfaceError, OperationalError, connections

from portal.hosts.models import Host
from portal.images.models import ImageVersion
from portal.machines import services
from portal.machines.models import Machine
from portal.machines.states import PowerState
from tests.support.product import wait_for
from tests.workers.support import GIB, fake_of, write_image
from workers import watch
from workers.hosts import driver_of
from workers.hypervisor.types import Firmware, MachineSpec, SeedSpec
from workers.watch import Watcher

pytestmark = pytest.mark.django_db(transaction=True)
SECONDS = 60
Make = Callable[[Host], Machine]


@pytest.fixture
def watcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watcher]:
    monkeypatch.setattr(watch, "LOOK_FOR_HOSTS_EVERY_S", 0.1)
    watcher = Watcher()

    def run() -> None:
        try:
            watcher.run()
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    yield watcher
    watcher.stop()
    thread.join(SECONDS)
    assert not thread.is_alive()


@pytest.fixture
def make_machine(machine: Machine, image_version: ImageVersion) -> Callable[[Host], Machine]:
    """A machine that runs, on its host and in its row."""

    def make(host: Host) -> Machine:
        pk = uuid4()
        row = Machine.objects.get(pk=machine.pk)
        row.pk, row.host, row.name, row.request_key = pk, host, f"m-{pk.hex[:8]}", uuid4()
        row.mac = f"52:54:00:00:{pk.hex[:2]}:{pk.hex[2:4]}"
        driver = driver_of(host)
        driver.put_image(image_version.pk, write_image(image_version), progress=lambda _percent: None)
        driver.create_disk(pk, image=image_version.pk, size_bytes=GIB)
        driver.write_seed(pk, SeedSpec("", "", ""))
        driver.define(MachineSpec(pk, row.domain_name, row.name, 1, 1024, Firmware.BIOS, row.genid, "secret12"))
        driver.start(pk)
        row.save(force_insert=True)
        return row

    return make


@pytest.fixture
def other(host: Host) -> Host:
    return _another(host, "other")


def _another(host: Host, name: str) -> Host:
    host = Host.objects.get(pk=host.pk)
    host.pk, host.name, host.uri = uuid4(), name, f"fake://{uuid4().hex}"
    host.save(force_insert=True)
    return host


def until_off(machine: Machine) -> None:
    off = Machine.objects.filter(pk=machine.pk, power_state=PowerState.SHUT_OFF)
    wait_for("the row says that it is off", off.exists, seconds=SECONDS, every=0.02)


def until_followed(watcher: Watcher, *hosts: Host) -> None:
    """Followed, and compared for the first time: what happens from now on is an event."""
    wait_for("hosts are followed", lambda: {host.pk for host in hosts} <= set(watcher.threads), seconds=SECONDS)
    for host in hosts:
        calls = fake_of(host).calls
        wait_for("it was compared", lambda calls=calls: calls["list"] > 0, seconds=SECONDS)  # type: ignore[misc]  # mypy knows no defaults of lambdas.


def test_one_watcher_follows_every_host(watcher: Watcher, host: Host, other: Host, make_machine: Make) -> None:
    machines = [make_machine(each) for each in (host, other)]
    until_followed(watcher, host, other)
    for machine in machines:
        fake_of(machine.host).guest_shuts_down(machine.pk)
    for machine in machines:
        until_off(machine)


def test_a_host_that_is_added_is_followed_at_once(watcher: Watcher, host: Host, make_machine: Make) -> None:
    until_followed(watcher, host)
    added = _another(host, "added")
    machine = make_machine(added)
    until_followed(watcher, added)
    fake_of(added).guest_shuts_down(machine.pk)
    until_off(machine)


def test_what_happened_while_a_host_was_away_is_found_when_it_is_back(
    watcher: Watcher, host: Host, make_machine: Make
) -> None:
    machine = make_machine(host)
    until_followed(watcher, host)
    fake_of(host).unreachable = True
    fake_of(host).guest_shuts_down(machine.pk)
    fake_of(host).unreachable = False
    until_off(machine)


@pytest.mark.parametrize("error", [OperationalError("the server closed the connection"), InterfaceError("closed")])
def test_an_event_that_could_not_be_written_down_is_found_again(
    watcher: Watcher, host: Host, make_machine: Make, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    machine = make_machine(host)
    until_followed(watcher, host)
    failed: list[object] = []

    def fails_once(*args: object, **values: Any) -> None:
        if not failed:
            failed.append(args)
            raise error
        record(*args, **values)  # type: ignore[arg-type]  # Whatever it was given.

    record = services.record_power_state
    monkeypatch.setattr(services, "record_power_state", fails_once)
    fake_of(host).guest_shuts_down(machine.pk)
    until_off(machine)
    assert failed


def test_a_database_that_is_away_does_not_end_the_watcher(
    host: Host, make_machine: Make, monkeypatch: pytest.MonkeyPatch, watcher: Watcher
) -> None:
    machine = make_machine(host)
    until_followed(watcher, host)
    away = [OperationalError("could not connect"), InterfaceError("closed")]

    def hosts() -> Any:
        if away:
            raise away.pop()
        return Host.objects.all()

    monkeypatch.setattr(watch, "hosts", hosts)
    wait_for("hosts were asked for", lambda: not away, seconds=SECONDS)
    fake_of(host).guest_shuts_down(machine.pk)
    until_off(machine)
