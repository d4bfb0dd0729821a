"""`python -m workers.watch`: follow every host's events and bring them to the database, and so to the page, at once."""

from __future__ import annotations

import logging
import signal
import threading
from uuid import UUID

import django

django.setup()

from django.db import close_old_connections, connection

from portal.hosts.models import Host
from portal.hosts.selectors import hosts
from portal.lib import pulse
from portal.machines import services
from portal.machines.models import Machine
from portal.machines.states import LIVE, PowerState
from workers import let_go, reconcile
from workers.hosts import driver_of
from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.errors import HypervisorError
from workers.hypervisor.types import EventKind, MachineEvent
from workers.runner import DATABASE_IS_AWAY

logger = logging.getLogger(__name__)

LOOK_FOR_HOSTS_EVERY_S = 5.0


class Watcher:
    """One thread a host. A host that is added is followed within seconds; one that is removed is let go."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.threads: dict[UUID, threading.Thread] = {}

    def run(self) -> None:
        while not self.stopping.wait(0 if not self.threads else LOOK_FOR_HOSTS_EVERY_S):
            pulse.beat(pulse.WATCHER)
            try:
                close_old_connections()
                for host in hosts():
                    self._follow(host)
            except DATABASE_IS_AWAY as error:
                logger.warning("no look for hosts, the database is away: %s", error)
                connection.close()
            if not self.threads:
                self.stopping.wait(LOOK_FOR_HOSTS_EVERY_S)
        for thread in self.threads.values():
            thread.join(timeout=10)

    def stop(self, *_signal: object) -> None:
        self.stopping.set()

    def _follow(self, host: Host) -> None:
        thread = self.threads.get(host.pk)
        if thread is None or not thread.is_alive():
            self.threads[host.pk] = thread = threading.Thread(
                target=self._watch_host, args=(host,), name=f"watch-{host.name}", daemon=True
            )
            thread.start()

    def _watch_host(self, host: Host) -> None:
        try:
            driver = driver_of(host)
            for event in driver.events(self.stopping.is_set):
                close_old_connections()
                handle(host, driver, event)
                if event.uuid is not None:  # Comparing everything takes its time, and is no event's lateness.
                    pulse.record_event(host.pk, event.at)
        except HypervisorError as error:
            # The thread ends; the next look for hosts starts it again.
            logger.warning("host %s: %s", host.name, error)
        except DATABASE_IS_AWAY as error:
            # So it does here: whoever follows a host begins by comparing all of it, and finds what was missed.
            logger.warning("host %s: an event is not written down, the database is away: %s", host.name, error)
        finally:
            connection.close()


def handle(host: Host, driver: HypervisorDriver, event: MachineEvent) -> None:
    """Bring one event to the database."""
    if event.kind == EventKind.RESYNC:
        reconcile.reconcile_host(host.pk)
    elif event.uuid is not None:
        _handle_machine(driver, event, event.uuid)


def _handle_machine(driver: HypervisorDriver, event: MachineEvent, uuid: UUID) -> None:
    machine = Machine.objects.filter(pk=uuid, status__in=LIVE).first()
    if machine is None:
        return
    if event.kind == EventKind.CHANGED and event.power_state is not None:
        services.record_power_state(uuid, PowerState(event.power_state.value), at=event.at)
    if event.kind == EventKind.DEVICE and not machine.task:
        let_go.observe(machine, driver)
        return
    running = event.kind == EventKind.AGENT or event.power_state == PowerState.RUNNING.value
    if running and not machine.task:
        try:
            reconcile.observe_running(machine, driver)
        except HypervisorError as error:
            logger.info("machine %s: %s", uuid, error)


def main() -> None:
    watcher = Watcher()
    signal.signal(signal.SIGTERM, watcher.stop)
    signal.signal(signal.SIGINT, watcher.stop)
    watcher.run()


if __name__ == "__main__":
    main()
