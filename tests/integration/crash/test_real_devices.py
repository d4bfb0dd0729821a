"""Killed at any line, on real QEMU: what is done to disks, cards, volumes, snapshots, images and discs."""

from __future__ import annotations

import pytest

from portal.jobs.names import JobName, StepName
from tests.integration.crash.real import (
    RealStage,
    is_of_machines,
    killed_around,
    libvirtd,
    other_uri,
    own_folders,
    played,
    stage,
    watched_shortly,
)
from tests.integration.crash.scenes import Scene

__all__ = ["libvirtd", "other_uri", "own_folders", "stage", "watched_shortly"]

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]


@pytest.mark.by_turns
@pytest.mark.parametrize(("name", "scene", "step", "after"), played(lambda name: not is_of_machines(name)))
def test_killed_around_a_step_the_work_is_done_all_the_same(
    stage: RealStage, name: JobName, scene: Scene, step: StepName, after: bool
) -> None:
    killed_around(stage, name, scene, step, after=after)
