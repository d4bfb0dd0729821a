"""Changing what one step of a workflow does, for as long as a worker is to fail there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from portal.jobs.names import JobName, StepName
from workers.workflows import WORKFLOWS
from workers.workflows.base import Context


@contextmanager
def step_replaced(
    name: JobName, step_name: StepName, run: Callable[[Callable[..., None]], Callable[[Context[Any]], None]]
) -> Iterator[None]:
    """The workflow with another `run` in one step, made of the step's own."""
    workflow = WORKFLOWS[name]
    steps = tuple(replace(s, run=run(s.run)) if s.name == step_name else s for s in workflow.steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(WORKFLOWS, name, replace(workflow, steps=steps))
        yield
