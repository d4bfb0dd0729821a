"""Every workflow by the name of its job. A test holds them against `portal.jobs.names.STEPS`."""

from typing import Any

from portal.jobs.names import JobName
from workers.workflows import (
    access,
    copies,
    create,
    delete,
    devices,
    discs,
    drift,
    fetch,
    hibernate,
    images,
    isos,
    parents,
    power,
    profiles,
    rebuild,
    rescue,
    resize,
    snapshots,
    volumes,
)
from workers.workflows.base import Workflow

_ALL: tuple[Workflow[Any], ...] = (
    create.WORKFLOW,
    copies.CLONE,
    rebuild.WORKFLOW,
    *power.WORKFLOWS,
    *hibernate.WORKFLOWS,
    resize.WORKFLOW,
    *access.WORKFLOWS,
    delete.TO_BIN,
    delete.WORKFLOW,
    *devices.WORKFLOWS,
    *profiles.WORKFLOWS,
    *volumes.WORKFLOWS,
    *snapshots.WORKFLOWS,
    *drift.WORKFLOWS,
    *images.WORKFLOWS,
    fetch.WORKFLOW,
    copies.CAPTURE,
    *discs.WORKFLOWS,
    *rescue.WORKFLOWS,
    *isos.WORKFLOWS,
    *parents.WORKFLOWS,
)

WORKFLOWS: dict[JobName, Workflow[Any]] = {workflow.name: workflow for workflow in _ALL}
