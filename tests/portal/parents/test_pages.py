"""The operators' page of running copies, and what a machine's page says of how it was made."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from portal.accounts.models import User
from portal.hosts.models import Host
from portal.images.models import Image, ImageVersion
from portal.jobs import services as jobs
from portal.jobs.models import Job, JobStep
from portal.jobs.names import JobName, StepName
from portal.machines.models import Flavour, Machine
from portal.parents import services
from portal.parents.models import Parent, ParentWish
from portal.parents.states import State

pytestmark = pytest.mark.django_db

SIZE = {"vcpus": 1, "memory_mib": 1024, "disk_gib": 10}
PAGE = "hosts:copies"


@pytest.fixture
def olga(client: Client, operator: User) -> Client:
    client.force_login(operator)
    return client


def text(client: Client, address: str | None = None) -> str:
    answer = client.get(address or reverse(PAGE))
    assert answer.status_code == 200
    return " ".join(answer.content.decode().split())


def test_without_any_it_says_what_they_are_for(olga: Client, image_version: ImageVersion, flavour: Flavour) -> None:
    shown = text(olga)
    assert "No running copy is kept" in shown
    assert "Keep a running copy ready" in shown


def test_without_an_image_that_could_be_kept_there_is_no_form(olga: Client) -> None:
    shown = text(olga)
    assert "No image that could be kept running is ready" in shown
    assert reverse("hosts:copy-keep") not in shown


def test_one_is_kept_and_no_longer(olga: Client, image: Image, image_version: ImageVersion, flavour: Flavour) -> None:
    answer = olga.post(reverse("hosts:copy-keep"), {"image": image.pk, "flavour": flavour.pk}, follow=True)
    assert answer.redirect_chain[0][0] == reverse(PAGE)
    wish = ParentWish.objects.get()
    assert (wish.image, wish.vcpus, wish.memory_mib, wish.disk_gib) == (image, 1, 1024, 10)
    assert "Small" in text(olga)
    olga.post(reverse("hosts:copy-no-longer", args=[wish.pk]))
    assert not ParentWish.objects.exists()


@pytest.mark.parametrize("what", ["image", "flavour"])
def test_what_is_not_there_is_refused_in_words(
    olga: Client, image: Image, image_version: ImageVersion, flavour: Flavour, what: str
) -> None:
    form = {"image": str(image.pk), "flavour": str(flavour.pk), what: "0"}
    answer = olga.post(reverse("hosts:copy-keep"), form)
    assert (answer.status_code, ParentWish.objects.count()) == (422, 0)
    Image.objects.update(has_agent=False)
    assert olga.post(reverse("hosts:copy-keep"), {"image": image.pk, "flavour": flavour.pk}).status_code == 422


def test_each_is_shown_with_state_host_forks_and_reason(
    olga: Client, image_version: ImageVersion, host: Host, machine: Machine
) -> None:
    parent = services.want(image_version, host, **SIZE)
    assert parent is not None
    job = Job.objects.get(name=JobName.PARENT_BUILD)
    JobStep.objects.filter(job=job, name=StepName.PARENT_SETTLE).update(status="running", detail="It is busy.")
    shown = text(olga)
    assert "Asked for" in shown
    assert "Wait until it is idle: It is busy." in shown
    assert f"parent:{parent.pk}" in shown  # It is told of its job's steps.
    Job.objects.filter(pk=job.pk).update(status="done", finished_at=timezone.now())
    Parent.objects.update(state=State.READY)
    Machine.objects.update(parent=parent)
    shown = text(olga)
    assert "Ready" in shown
    assert "local" in shown
    assert '<td class="number nowrap">1<' in shown
    Parent.objects.update(state=State.RETIRING, reason="It was captured by another QEMU.")
    assert "It was captured by another QEMU." in text(olga)
    Parent.objects.update(state=State.DELETED)
    assert "It was captured by another QEMU." not in text(olga)


def test_one_that_failed_says_when_it_is_tried_again_and_can_be_at_once(
    olga: Client, image_version: ImageVersion, host: Host
) -> None:
    parent = services.want(image_version, host, **SIZE)
    assert parent is not None
    services.record_failed(parent, message="The guest did not come up.")
    Job.objects.update(status="failed")
    shown = text(olga)
    assert "The guest did not come up." in shown
    assert "It is tried again" in shown
    Parent.objects.update(failures=3)
    assert "tried three times and given up" in text(olga)
    olga.post(reverse("hosts:copy-again", args=[parent.pk]))
    assert Parent.objects.get().state == State.WANTED
    answer = olga.post(reverse("hosts:copy-again", args=[parent.pk]), follow=True)
    assert answer.status_code == 200  # Asked twice.


def test_the_image_page_leads_there_for_operators_only(
    olga: Client, image: Image, image_version: ImageVersion, alice: User
) -> None:
    there = f"{reverse(PAGE)}?image={image.pk}"
    page = reverse("images:detail", args=[image.pk])
    assert there in text(olga, page)
    ImageVersion.objects.update(firmware="uefi")
    assert there not in text(olga, page)
    ImageVersion.objects.update(firmware="bios")
    olga.force_login(alice)
    assert there not in text(olga, page)
    assert olga.get(reverse(PAGE)).status_code == 404


@pytest.mark.parametrize(
    ("made_by", "reason", "words"),
    [
        ("fork", "", "Forked from a running one"),
        ("restore", "QEMU refused its memory.", "because: QEMU refused its memory."),
        ("boot", "the running copy is being made", "because: the running copy is being made"),
    ],
)
def test_a_machine_says_how_it_was_made(
    client: Client, alice: User, machine: Machine, made_by: str, reason: str, words: str
) -> None:
    client.force_login(alice)
    page = reverse("machines:detail", args=[machine.pk])
    assert "Forked from a running one" not in text(client, page)
    Machine.objects.update(made_by=made_by, made_by_reason=reason)
    assert words in text(client, page)


def test_steps_that_were_not_needed_are_not_shown(client: Client, operator: User, machine: Machine) -> None:

    job = jobs.enqueue(JobName.MACHINE_CREATE, machine, queue="host.local", actor=operator)
    Machine.objects.update(task="building", status="building")
    JobStep.objects.filter(job=job, name=StepName.SEED).update(status="skipped", progress=100)
    client.force_login(operator)
    for page in (reverse("jobs:detail", args=[job.pk]), reverse("machines:detail", args=[machine.pk])):
        shown = text(client, page)
        assert "Fork it from a running one" in shown
        assert "Write name, user and keys" not in shown
