"""Two hundred requests at the same moment: quota and capacity are never exceeded, and all that fits is placed."""

from __future__ import annotations

import http.client
from collections import Counter
from pathlib import Path
from uuid import uuid4

import pytest
from django.db import transaction
from django.db.models import Sum
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.accounts.quota import Amount
from portal.errors import NoCapacityError, QuotaExceededError
from portal.hosts import services as hosts
from portal.hosts.models import Host
from portal.images.models import ImageVersion
from portal.jobs.models import Job
from portal.machines.models import Flavour, Machine
from portal.machines.services import request_machine
from tests.support.together import at_once
from tests.support.web import HOST, cookie_of, request, web_processes

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(900)]

GIB = 1024**3
REQUESTS = 200
SMALL = Amount(machines=1, vcpus=1, memory_mib=1024, disk_gib=10)


def make_hosts(count: int, *, each: int) -> None:
    """Hosts with room for exactly `each` machines of `SMALL`, by memory."""
    Host.objects.bulk_create(
        Host(
            name=f"host-{number}",
            uri=f"fake://{uuid4().hex}",
            pool_dir="/x",
            cpus=1000,
            memory_mib=each * 1024,
            memory_kept_mib=0,
            storage_total_bytes=10_000 * GIB,
            storage_free_bytes=9000 * GIB,
            last_seen_at=timezone.now(),
        )
        for number in range(count)
    )


def _place() -> str:
    """As a request does it: in a transaction that goes on for a while after."""
    with transaction.atomic():
        try:
            return hosts.reserve_capacity(SMALL).name
        except NoCapacityError:
            return "refused"


@pytest.mark.parametrize(("count", "each"), [(20, 10), (1, REQUESTS), (50, 3), (7, 20)])
def test_all_that_fits_is_placed_and_no_more(count: int, each: int) -> None:
    make_hosts(count, each=each)
    placed = Counter(at_once([_place] * REQUESTS))
    fit = min(count * each, REQUESTS)
    assert placed.pop("refused", 0) == REQUESTS - fit
    assert placed.total() == fit
    assert max(placed.values()) <= each
    reserved = dict(Host.objects.exclude(reserved_memory_mib=0).values_list("name", "reserved_memory_mib"))
    assert reserved == {name: number * 1024 for name, number in placed.items()}


def test_requests_at_once_spread_over_equal_hosts() -> None:
    make_hosts(50, each=REQUESTS)
    placed = Counter(at_once([_place] * REQUESTS))
    assert len(placed) > 10


# --- whole launches -----------------------------------------------------------------------------------------------


@pytest.fixture
def roomy(project: Project, image_version: ImageVersion, flavour: Flavour, alice: User) -> Project:
    """A project with quota for 30 small machines, on hosts with room for more than are asked for."""
    limits = {"max_machines": 30, "max_vcpus": 1000, "max_memory_mib": 10**6, "max_disk_gib": 10**5}
    Project.objects.filter(pk=project.pk).update(**limits)
    make_hosts(10, each=REQUESTS)
    project.refresh_from_db()
    return project


def assert_exactly(number: int, project: Project) -> None:
    """So many machines, each with its job, and every counter agrees with them."""
    project.refresh_from_db()
    used = (project.used_machines, project.used_vcpus, project.used_memory_mib, project.used_disk_gib)
    assert used == (number, number, number * 1024, number * 10)
    assert Machine.objects.count() == Job.objects.count() == number
    promised = Host.objects.aggregate(cpus=Sum("reserved_vcpus"), memory=Sum("reserved_memory_mib"))
    assert promised == {"cpus": number, "memory": number * 1024}
    for host in Host.objects.all():
        assert host.reserved_vcpus == Machine.objects.filter(host=host).count()


def test_two_hundred_launches_at_once_make_as_many_as_the_quota_has(
    roomy: Project, alice: User, image_version: ImageVersion, flavour: Flavour
) -> None:
    def launch(number: int) -> str:
        try:
            request_machine(
                roomy,
                actor=alice,
                image_version=image_version,
                flavour=flavour,
                name=f"server-{number}",
                login_user="alice",
                request_key=uuid4(),
            )
        except QuotaExceededError:
            return "quota"
        return "made"

    told = Counter(at_once([lambda number=number: launch(number) for number in range(REQUESTS)]))  # type: ignore[misc]  # the default binds the loop's value
    assert told == {"made": 30, "quota": REQUESTS - 30}
    assert_exactly(30, roomy)


def test_the_same_through_several_web_processes(
    roomy: Project, alice: User, image_version: ImageVersion, flavour: Flavour, tmp_path: Path
) -> None:
    """Forms are posted over HTTP; who comes too late reads that the quota is full."""
    cookie = cookie_of(alice)
    common = {"project": roomy.pk, "image": image_version.image_id, "flavour": flavour.pk, "login_user": "alice"}

    with web_processes(3, {}, tmp_path) as webs:

        def launch(number: int) -> str:
            connected = http.client.HTTPConnection(HOST, webs[number % len(webs)].port, timeout=240)
            form = {**common, "name": f"server-{number}", "request_key": uuid4()}
            answer = request(connected, "/machines/new/", cookie=cookie, form=form)
            connected.close()
            if answer.status == 302:
                return "made"
            assert answer.status == 422, (answer.status, answer.text[:500])
            return "quota" if "has no room for this machine" in answer.text else "no reason"

        told = Counter(at_once([lambda number=number: launch(number) for number in range(REQUESTS)]))  # type: ignore[misc]  # as above
    assert told == {"made": 30, "quota": REQUESTS - 30}
    assert_exactly(30, roomy)


def test_one_form_sent_by_many_clicks_at_once_makes_one_machine(
    roomy: Project, alice: User, image_version: ImageVersion, flavour: Flavour
) -> None:
    key = uuid4()

    def launch() -> object:
        machine = request_machine(
            roomy,
            actor=alice,
            image_version=image_version,
            flavour=flavour,
            name="only",
            login_user="alice",
            request_key=key,
        )
        return machine.pk

    assert len(set(at_once([launch] * 30))) == 1
    assert_exactly(1, roomy)
