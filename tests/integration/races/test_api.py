"""The same request of a program five times at the same moment; and more of them than the quota has room for."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from typing import Any

import pytest
from django.test import Client

from portal.accounts.models import ApiToken, Project, User
from portal.accounts.tokens import make_token
from portal.api.models import Answered
from portal.hosts.models import Host
from portal.images.models import ImageVersion
from portal.jobs.models import Job
from portal.machines.models import Flavour, Machine
from tests.support.together import at_once

pytestmark = pytest.mark.django_db(transaction=True)

ROUNDS = range(3)


@pytest.fixture
def secret(alice: User) -> str:
    day = dt.timedelta(days=1)
    return make_token(alice, actor=alice, name="t", scope=ApiToken.Scope.WRITE, lifetime=day)[1]


@pytest.fixture
def wanted(project: Project, image_version: ImageVersion, flavour: Flavour, host: Host) -> dict[str, str]:
    return {"project": str(project.pk), "image": str(image_version.image_id), "flavour": flavour.name}


def _launch(secret: str, body: dict[str, str], key: str) -> Any:
    headers = {"Authorization": f"Bearer {secret}", "Idempotency-Key": key}
    return Client().post("/api/v1/machines", json.dumps(body), content_type="application/json", headers=headers)


@pytest.mark.parametrize("round_", ROUNDS)
def test_five_of_the_same_key_make_one_machine(secret: str, wanted: dict[str, str], round_: int) -> None:
    body = wanted | {"name": "lamp"}
    answers = at_once([lambda: _launch(secret, body, "one") for _number in range(5)])
    assert {answer.status_code for answer in answers} == {202}, [answer.content for answer in answers]
    assert len({answer.content for answer in answers}) == 1
    assert Counter(answer.get("Idempotency-Replayed") for answer in answers) == {"true": 4, None: 1}
    assert Machine.objects.count() == Job.objects.count() == Answered.objects.count() == 1
    assert Project.objects.get().used_machines == 1


def test_of_twenty_launches_exactly_as_many_succeed_as_there_is_room(
    secret: str, wanted: dict[str, str], project: Project
) -> None:
    works = [lambda n=n: _launch(secret, wanted | {"name": f"lamp-{n}"}, f"key-{n}") for n in range(20)]
    answers = at_once(works)
    codes = Counter(answer.status_code for answer in answers)
    assert codes == {202: 3, 409: 17}, codes
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"quota-exceeded"}
    project.refresh_from_db()
    assert (project.used_machines, Machine.objects.count(), Answered.objects.count()) == (3, 3, 3)
