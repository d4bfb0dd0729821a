"""Whether the portal can do its work: a word for each part that it needs."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Literal

import redis
from django.db import DatabaseError, InterfaceError, connection

from portal.hosts.models import Host
from portal.hosts.selectors import hosts, is_answering
from portal.lib import pulse

logger = logging.getLogger(__name__)

Status = Literal["ready", "degraded", "unavailable"]


@dataclass(slots=True)
class Readiness:
    """`database`, `redis`: "ok" or "away". `workers`, `watcher`: "ok", "none" or, without Redis, "unknown".

    `hosts` by name: "ok", "silent" (not heard of lately), "no-worker" (nobody takes its work), "off" (out of use, by an
    operator).
    """

    database: str = "away"
    redis: str = "away"
    workers: str = "unknown"
    watcher: str = "unknown"
    hosts: dict[str, str] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        """Without a database, Redis or workers nothing that people ask for gets done. One silent host is no reason."""
        if (self.database, self.redis, self.workers) != ("ok", "ok", "ok"):
            return "unavailable"
        if self.watcher != "ok" or any(word in {"silent", "no-worker"} for word in self.hosts.values()):
            return "degraded"
        return "ready"


def readiness() -> Readiness:
    """Ask every part, one query each. Never raises for a part that is away."""
    found = Readiness()
    rows = _hosts(found)
    living = _living(found)
    for host in rows:
        found.hosts[host.name] = _word(host, living)
    return found


def _hosts(found: Readiness) -> list[Host]:
    try:
        rows = list(hosts())
    except (DatabaseError, InterfaceError) as error:
        logger.warning("not ready, the database is away: %s", error)
        connection.close()
        return []
    found.database = "ok"
    return rows


def _living(found: Readiness) -> pulse.Living | None:
    try:
        living = pulse.living()
    except redis.RedisError as error:
        logger.warning("not ready, Redis is away: %s", error)
        return None
    found.redis = "ok"
    found.workers = "ok" if living.workers else "none"
    found.watcher = "ok" if living.watcher else "none"
    return living


def _word(host: Host, living: pulse.Living | None) -> str:
    if not host.enabled:
        return "off"
    if not is_answering(host):
        return "silent"
    return "ok" if living is None or host.queue in living.queues else "no-worker"
