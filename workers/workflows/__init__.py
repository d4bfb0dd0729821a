"""Every workflow by the name of its job. A test holds them against `portal.jobs.names.STEPS`."""

from typing import Any

from portal.jobs.names import JobName
from workers.workflows import (
    access,
    create,
    delete,
    devices,
    discs,
    drift,
    fetch,
    hibernate,
    images,
    isos,
    power,
    rescue,
    resize,
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
    *drift.WORKFLOWS,
    *images.WORKFLOWS,
    fetch.WORKFLOW,
    *discs.WORKFLOWS,
    *rescue.WORKFLOWS,
    *isos.WORKFLOWS,
)

WORKFLOWS: dict[JobName, Workflow[Any]] = {workflow.name: workflow for workflow in _ALL}
