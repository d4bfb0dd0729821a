"""Has somebody signed out inside their desktop? Asked of the guests' agents, while people are on them.

systemd-logind keeps a file for each session; one `grep` in them costs a guest next to nothing. What counts is whose
session is at the screen: none any more, or another one than before (a desktop that signs in by itself does so again),
means that the person signed out.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from typing import Final
from uuid import UUID

from portal.hosts.models import Host
from portal.pools import inside
from workers.hosts import driver_of
from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.errors import HostUnreachableError, HypervisorError

logger = logging.getLogger(__name__)

ASK: Final = ("grep", "-rE", "^(CLASS=user|SEAT=seat[0-9]+)$", "/run/systemd/sessions")
LIMIT_S: Final = 5
_LINE: Final = re.compile(r"/([A-Za-z0-9_-]+):(CLASS|SEAT)=", re.ASCII)


def look_on_host(host_id: UUID) -> None:
    """Ask in each desktop on the host that somebody is on. A guest that does not answer has said nothing."""
    host = Host.objects.filter(pk=host_id).first()
    if host is None:
        return
    driver = driver_of(host)
    for session in inside.to_ask_on(host):
        if session.machine_id is None:
            continue
        try:
            at_screen = _at_screen(driver, session.machine_id)
        except HostUnreachableError as error:
            logger.info("host %s: %s", host.name, error)
            return
        except HypervisorError as error:
            logger.info("machine %s: %s", session.machine_id, error)
            continue
        if at_screen is not None:
            inside.record_seen(session, at_screen)


def _at_screen(driver: HypervisorDriver, machine_id: UUID) -> str | None:
    """Names of the sessions at the guest's screen; None where there is no telling."""
    result = driver.run_in_guest(machine_id, ASK, timeout_s=LIMIT_S)
    if result.exit_code not in {0, 1}:  # 1: nothing was found.
        return None
    return sessions_in(result.stdout.decode(errors="replace"))


def sessions_in(text: str) -> str:
    """From what `ASK` prints: those that are a user's and at a seat."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, key in _LINE.findall(text):
        found[name].add(key)
    return " ".join(sorted(name for name, keys in found.items() if keys == {"CLASS", "SEAT"}))[:100]
