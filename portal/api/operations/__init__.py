"""The operations, a module for each app that they call or for a part of it. Importing this registers all of them."""

from portal.api.core import OPERATIONS
from portal.api.operations import (
    audit,
    bins,
    console,
    disks,
    events,
    figures,
    hosts,
    images,
    jobs,
    life,
    machines,
    many,
    people,
    projects,
    sessions,
    volumes,
    webhooks,
)

__all__ = [
    "OPERATIONS",
    "audit",
    "bins",
    "console",
    "disks",
    "events",
    "figures",
    "hosts",
    "images",
    "jobs",
    "life",
    "machines",
    "many",
    "people",
    "projects",
    "sessions",
    "volumes",
    "webhooks",
]
