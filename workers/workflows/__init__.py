"""Every workflow by the name of its job. A test holds them against `portal.jobs.names.STEPS`."""

from typing import Any

from portal.jobs.names import JobName
from workers.workflows import create, delete, devices, drift, images, power, volumes
from workers.workflows.base import Workflow

_ALL: tuple[Workflow[Any], ...] = (
    create.WORKFLOW,
    *power.WORKFLOWS,
    delete.WORKFLOW,
    *devices.WORKFLOWS,
    *volumes.WORKFLOWS,
    *drift.WORKFLOWS,
    *images.WORKFLOWS,
)

WORKFLOWS: dict[JobName, Workflow[Any]] = {workflow.name: workflow for workflow in _ALL}
