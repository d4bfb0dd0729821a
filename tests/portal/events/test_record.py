"""Every change leaves an event, in the same transaction, and a delivery for each webhook that wants it."""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import uuid4

import pytest
from django.db import transaction
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.console.relay import Ended, Step
from portal.console.selectors import Target
from portal.console.services import begin_session, end_session
from portal.console.tickets import Mode
from portal.events import delivery
from portal.events.kinds import Kind
from portal.events.models import Delivery, Event, Webhook
from portal.events.selectors import find_events
from portal.events.services import add_webhook
from portal.images import services as images
from portal.images.models import ImageVersion, VersionStatus
from portal.jobs import services as jobs
from portal.jobs.models import Job
from portal.jobs.names import JobName, JobStatus
from portal.lib import live
from portal.machines import disks, services
from portal.machines.models import Flavour, Machine
from portal.machines.states import PowerState, Status, Task
from portal.volumes import services as volumes


def kinds() -> list[str]:
    return list(Event.objects.order_by("pk").values_list("kind", flat=True))


def last() -> Event:
    event = Event.objects.first()
    assert event is not None
    return event


def test_a_machine_that_is_asked_for_and_built(
    project: Project, alice: User, image_version: ImageVersion, flavour: Flavour, host: object
) -> None:
    machine = services.request_machine(
        project, actor=alice, image_version=image_version, flavour=flavour, name="lamp", login_user="alice"
    )
    assert kinds() == ["machine.requested", "job.queued"]
    requested = Event.objects.get(kind="machine.requested")
    assert (requested.project, requested.subject_id, requested.actor_name) == (project, machine.pk, "alice")
    services.record_started(machine, console_socket="/nowhere")
    services.record_ready(machine)
    services.record_ready(machine)
    assert kinds()[2:] == ["machine.state", "machine.built"], "what is recorded twice has happened once"


def test_a_machine_whose_building_failed(machine: Machine) -> None:
    Machine.objects.update(status=Status.BUILDING, task=Task.BUILDING)
    machine.refresh_from_db()
    services.record_build_failed(machine, message="There is no room.")
    assert (last().kind, last().data) == ("machine.build_failed", {"error": "There is no room."})


def test_what_the_host_says_of_its_power(machine: Machine) -> None:
    now = timezone.now()
    services.record_power_state(machine.pk, PowerState.SHUT_OFF, at=now + dt.timedelta(seconds=1))
    services.record_power_state(machine.pk, PowerState.SHUT_OFF, at=now + dt.timedelta(seconds=2))
    services.record_host_silent(machine.host_id)
    assert [event.data["power_state"] for event in Event.objects.order_by("pk")] == ["shut_off", "unknown"]


def test_whoever_hears_of_a_start_first_tells_of_it(machine: Machine) -> None:
    Machine.objects.update(power_state=PowerState.SHUT_OFF)
    stale = Machine.objects.get()
    services.record_power_state(machine.pk, PowerState.RUNNING, at=timezone.now())
    services.record_started(stale, console_socket="/nowhere")
    assert kinds() == ["machine.state"]


def test_a_machine_that_is_deleted(machine: Machine) -> None:
    services.record_deleted(machine)
    services.record_deleted(machine)
    assert kinds() == ["machine.deleted"]


def test_the_life_of_a_volume(machine: Machine, project: Project, alice: User) -> None:
    volume = volumes.request_volume(project, actor=alice, name="data", size_gib=2, host=machine.host)
    volumes.record_created(volume)
    volumes.record_created(volume)
    volumes.request_grow(volume, actor=alice, size_gib=3)
    volumes.record_grown(volume)
    Job.objects.all().delete()
    disks.request_attach(machine, actor=alice, volume=volume)
    disks.record_attached(machine)
    disks.request_detach(machine, actor=alice, disk=str(volume.attachment.pk))
    disks.record_detached(machine)
    volumes.record_deleted(volume)
    volumes.record_deleted(volume)
    told = list(Event.objects.filter(kind__startswith="volume.").order_by("pk").values_list("kind", "data"))
    here = {"machine": {"id": str(machine.pk), "name": "beacon"}}
    assert told == [
        ("volume.ready", {"size_gib": 2}),
        ("volume.grown", {"size_gib": 3}),
        ("volume.attached", here),
        ("volume.detached", here),
        ("volume.deleted", {}),
    ]
    lost = volumes.request_volume(project, actor=alice, name="lost", size_gib=1, host=machine.host)
    volumes.record_create_failed(lost, message="No room.")
    assert (last().kind, last().data, last().subject_name) == ("volume.failed", {"error": "No room."}, "lost")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (JobStatus.DONE, "job.done"),
        (JobStatus.FAILED, "job.failed"),
        (JobStatus.CANCELLED, "job.cancelled"),
    ],
)
def test_a_job_that_comes_to_be_and_ends(machine: Machine, alice: User, status: JobStatus, kind: str) -> None:
    job = jobs.enqueue(JobName.MACHINE_STOP, machine, queue="q", actor=alice)
    held = jobs.take_lease(job.pk, owner="worker")
    assert held is not None
    if status == JobStatus.FAILED:
        jobs.decide(held, status, code="guest-ignores", message="It ignores that.")
    jobs.finish(held, status)
    assert kinds() == ["job.queued", kind]
    assert last().data["target"] == {"type": "machine", "id": str(machine.pk), "name": "beacon"}
    if status == JobStatus.FAILED:
        assert last().data["error"] == {"code": "guest-ignores", "message": "It ignores that."}


def test_somebody_at_a_screen(machine: Machine, alice: User) -> None:
    number = uuid4()
    begin_session(Target(alice, machine, "", ""), number=number, mode=Mode.VIEW, request_ip=None)
    end_session(number, Ended(Step.ENDED, "closed"))
    end_session(number, Ended(Step.ENDED, "closed"))
    assert kinds() == ["console.began", "console.ended"]
    assert last().data["person"] == "alice"
    assert last().subject_id == machine.pk


def test_an_image_version_that_is_ready_and_one_that_failed(image_version: ImageVersion) -> None:
    for outcome in ("ready", "failed"):
        ImageVersion.objects.update(status=VersionStatus.BUILDING)
        if outcome == "ready":
            images.record_version_ready(image_version)
            images.record_version_ready(image_version)
        else:
            images.record_version_failed(image_version, message="It is damaged.")
    assert kinds() == ["image.ready", "image.failed"]
    assert last().project is None, "it is for everyone"


def test_what_is_rolled_back_has_not_happened(machine: Machine) -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        services.record_deleted(machine)
        raise RuntimeError
    assert kinds() == []


def test_followers_are_told_after_the_commit(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    told: list[tuple[str, list[str], bool]] = []
    monkeypatch.setattr(live, "_publish", told.extend)
    with django_capture_on_commit_callbacks(execute=True):
        services.record_deleted(machine)
        assert told == []
    groups = [group for group, topics, _now in told if f"events:{machine.project_id}" in topics]
    assert set(groups) == {live.OPERATORS, live.project_group(machine.project_id)}


# --- for webhooks ------------------------------------------------------------------------------------------------


@pytest.fixture
def webhook(project: Project, alice: User) -> Webhook:
    return add_webhook(project, actor=alice, name="CI", url="https://files.example/hook")


def test_a_webhook_gets_what_it_wants_of_its_project(webhook: Webhook, machine: Machine, charlie: User) -> None:
    services.record_deleted(machine)
    assert [d.event.kind for d in webhook.deliveries.all()] == ["machine.deleted"]
    Webhook.objects.update(kinds=["job.done"])
    Machine.objects.update(status=Status.READY)
    services.record_deleted(machine)
    assert webhook.deliveries.count() == 1, "it did not ask for that"
    Webhook.objects.update(kinds=[], enabled=False)
    Machine.objects.update(status=Status.READY)
    services.record_deleted(machine)
    assert webhook.deliveries.count() == 1, "it is off"
    Webhook.objects.update(enabled=True, project=charlie.memberships.get().project)
    Machine.objects.update(status=Status.READY)
    services.record_deleted(machine)
    assert Delivery.objects.count() == 1, "another project's"


def test_events_are_found_by_kind_area_and_words(machine: Machine, alice: User) -> None:
    services.record_deleted(machine)
    jobs.enqueue(JobName.MACHINE_STOP, machine, queue="q", actor=alice)
    project = machine.project
    assert [event.kind for event in find_events(project)] == ["job.queued", "machine.deleted"]
    assert find_events(project, kind="machine").count() == 1
    assert find_events(project, kind=Kind.JOB_QUEUED).count() == 1
    assert find_events(project, kind="nonsense").count() == 2
    assert find_events(project, search="BEACON").count() == 2
    assert find_events(project, search="lamp").count() == 0


def test_old_events_go_with_what_was_sent_of_them(webhook: Webhook, machine: Machine, settings: Any) -> None:
    settings.EVENTS_KEEP_DAYS = 30
    for number in range(5):
        Machine.objects.update(status=Status.READY, name=f"beacon-{number}")
        services.record_deleted(machine)
    old = Event.objects.order_by("pk").values_list("pk", flat=True)[:3]
    Event.objects.filter(pk__in=list(old)).update(at=timezone.now() - dt.timedelta(days=31))
    assert delivery.prune(piece=2) == 3
    assert (Event.objects.count(), Delivery.objects.count()) == (2, 2)
    assert delivery.prune() == 0
