"""A project with a webhook, and somebody outside who gets what is sent."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from portal.accounts.models import Project, User
from portal.events.models import Webhook
from portal.events.services import add_webhook
from portal.machines.models import Machine
from tests.support.outside import NAME, Outside, Server, outside_world


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    with outside_world(tmp_path) as world:
        yield world


@pytest.fixture
def machine(machine: Machine) -> Machine:
    """It holds no quota, so that it can be recorded as deleted again and again."""
    Machine.objects.update(holds_quota=False)
    machine.refresh_from_db()
    return machine


@pytest.fixture
def webhook_at(project: Project, alice: User) -> Callable[[Server], Webhook]:
    def make(server: Server) -> Webhook:
        return add_webhook(project, actor=alice, name="CI", url=f"https://{NAME}:{server.port}/hook")

    return make
