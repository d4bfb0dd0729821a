"""Every workflow by the name of its job. A test holds them against `portal.jobs.names.STEPS`."""

from typing import Any

from portal.jobs.names import JobName
from workers.workflows import (
    access,
    create,
    delete,
    devices,
    drift,
    fetch,
    hibernate,
    images,
    power,
    resize,
    snapshots,
    volumes,
)
from workers.workflows.base import Workflow

_ALL: tuple[Workflow[Any], ...] = (
    create.WORKFLOW,
    *power.WORKFLOWS,
    *hibernate.WORKFLOWS,
    resize.WORKFLOW,
    *access.WORKFLOWS,
    delete.TO_BIN,
    delete.WORKFLOW,
    *devices.WORKFLOWS,
    *volumes.WORKFLOWS,
    *snapshots.WORKFLOWS,
    *drift.WORKFLOWS,
    *images.WORKFLOWS,
    fetch.WORKFLOW,
)

WORKFLOWS: dict[JobName, Workflow[Any]] = {workflow.name: workflow for workflow in _ALL}
