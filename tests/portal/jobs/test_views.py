"""Jobs as pages, and cancelling them."""

import datetime as dt

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.audit.models import Event
from portal.errors import ConflictError, ForbiddenError
from portal.images.models import ImageVersion
from portal.jobs import services
from portal.jobs.models import Job, JobStep
from portal.jobs.names import JobName, JobStatus, StepStatus
from portal.machines.models import Machine
from tests.support.xss import CORPUS, faults

LIVE = {"HX-Request": "true"}


@pytest.fixture
def job(machine: Machine, bob: User) -> Job:
    """Bob has a machine built in Alice's project."""
    return services.enqueue(JobName.MACHINE_CREATE, machine, queue="host.local", actor=bob)


@pytest.fixture
def build(image_version: ImageVersion, operator: User) -> Job:
    return services.enqueue(JobName.IMAGE_BUILD, image_version, queue="images", actor=operator)


@pytest.mark.parametrize(
    ("cast", "kinds"),
    [
        ("alice", {"machine.create"}),
        ("bob", {"machine.create"}),
        ("vera", {"machine.create"}),
        ("charlie", set()),
        ("operator", {"machine.create", "image.build"}),
    ],
)
def test_people_see_the_jobs_of_their_projects(
    client: Client, request: pytest.FixtureRequest, job: Job, build: Job, cast: str, kinds: set[str]
) -> None:
    client.force_login(request.getfixturevalue(cast))
    assert {line.job.name for line in client.get("/jobs/").context["lines"]} == kinds
    for one in (job, build):
        assert client.get(f"/jobs/{one.pk}/").status_code == (200 if one.name in kinds else 404)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("", 2),
        ("?state=active", 1),
        ("?state=failed", 1),
        ("?state=nonsense", 2),
        ("?kind=machine.create", 1),
        ("?kind=nonsense", 2),
        ("?q=beacon", 2),
        ("?q=bob", 1),
        ("?q=full&state=failed", 1),
        ("?q=nobody", 0),
        ("?page=77", 2),
        ("?q=%00", 2),
    ],
)
def test_filters_stand_in_the_address(
    client: Client, operator: User, job: Job, machine: Machine, query: str, count: int
) -> None:
    other = services.enqueue(JobName.MACHINE_STOP, machine, queue="host.local", actor=None)
    Job.objects.filter(pk=other.pk).update(
        status=JobStatus.FAILED, finished_at=timezone.now(), error_message="The disk is full."
    )
    client.force_login(operator)
    assert len(client.get(f"/jobs/{query}").context["lines"]) == count


def test_the_page_shows_steps_progress_and_errors(client: Client, alice: User, job: Job) -> None:
    first, second, *_ = JobStep.objects.filter(job=job).order_by("position")
    now = timezone.now()
    JobStep.objects.filter(pk=first.pk).update(
        status=StepStatus.DONE, started_at=now - dt.timedelta(seconds=7), finished_at=now - dt.timedelta(seconds=4)
    )
    JobStep.objects.filter(pk=second.pk).update(
        status=StepStatus.RUNNING, progress=37, detail="copying", started_at=now - dt.timedelta(seconds=4)
    )
    Job.objects.filter(pk=job.pk).update(status=JobStatus.RUNNING, retries=2)
    client.force_login(alice)
    page = client.get(f"/jobs/{job.pk}/").content.decode()
    for words in ("Put the image on the host", "3 s", 'value="37"', "copying", "2 after errors", "bob"):
        assert words in page
    assert "host.local" not in page  # How the work is spread is the operators' business.


def test_operators_see_the_raw_detail(client: Client, operator: User, job: Job) -> None:
    Job.objects.filter(pk=job.pk).update(lease_owner="worker-7", error_code="storage-full")
    client.force_login(operator)
    page = client.get(f"/jobs/{job.pk}/").content.decode()
    assert all(words in page for words in ("host.local", "worker-7", "storage-full"))


def test_a_step_says_how_long_it_usually_takes(client: Client, alice: User, job: Job, machine: Machine) -> None:
    earlier = services.enqueue(JobName.MACHINE_CREATE, machine, queue="host.local", actor=alice)
    now = timezone.now()
    JobStep.objects.filter(job=earlier).update(
        status=StepStatus.DONE, started_at=now - dt.timedelta(seconds=95), finished_at=now
    )
    Job.objects.filter(pk=earlier.pk).update(status=JobStatus.DONE, finished_at=now)
    client.force_login(alice)
    assert "usually 1 min 35 s" in client.get(f"/jobs/{job.pk}/").content.decode()


def test_the_live_answer_is_the_part_that_changed(client: Client, alice: User, job: Job) -> None:
    client.force_login(alice)
    for page in ("/jobs/", f"/jobs/{job.pk}/"):
        text = client.get(page, headers=LIVE).content.decode().strip()
        assert text.startswith(("<section id=", "<div id="))
        assert "<html" not in text


@pytest.mark.parametrize("text", CORPUS)
def test_what_people_typed_is_text_never_markup(client: Client, operator: User, job: Job, text: str) -> None:
    Job.objects.update(target_name=text, error_message=text, status=JobStatus.FAILED, finished_at=timezone.now())
    JobStep.objects.update(detail=text)
    client.force_login(operator)
    for page in ("/jobs/", f"/jobs/{job.pk}/", f"/jobs/?q={text}"):
        assert faults(client.get(page).content.decode()) == []


def test_the_number_of_queries_does_not_grow(client: Client, operator: User, machine: Machine) -> None:
    client.force_login(operator)

    def cost(count: int) -> int:
        for _number in range(count):
            services.enqueue(JobName.MACHINE_START, machine, queue="host.local", actor=machine.owner)
        with CaptureQueriesContext(connection) as queries:
            client.get("/jobs/")
        return len(queries)

    assert cost(5) == cost(40)


def test_the_list_leads_to_the_machine(client: Client, alice: User, job: Job, machine: Machine) -> None:
    client.force_login(alice)
    for page in ("/jobs/", f"/jobs/{job.pk}/"):
        assert f'href="/machines/{machine.pk}/"' in client.get(page).content.decode()


def test_no_link_leads_to_a_machine_that_was_deleted(client: Client, alice: User, job: Job, machine: Machine) -> None:
    services.enqueue(JobName.MACHINE_DELETE, machine, queue="host.local", actor=alice)
    Job.objects.filter(name=JobName.MACHINE_DELETE).update(status=JobStatus.DONE, finished_at=timezone.now())
    client.force_login(alice)
    for page in ("/jobs/", f"/jobs/{job.pk}/"):
        text = client.get(page).content.decode()
        assert "beacon" in text
        assert f'href="/machines/{machine.pk}/"' not in text


def test_a_machine_that_is_still_being_deleted_has_its_link(client: Client, alice: User, machine: Machine) -> None:
    services.enqueue(JobName.MACHINE_DELETE, machine, queue="host.local", actor=alice)
    client.force_login(alice)
    assert f'href="/machines/{machine.pk}/"' in client.get("/jobs/").content.decode()


# --- cancelling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cast", "answer"), [("alice", 302), ("bob", 302), ("operator", 302), ("vera", 403)])
def test_owners_operators_and_who_asked_cancel(
    client: Client, request: pytest.FixtureRequest, job: Job, cast: str, answer: int
) -> None:
    client.force_login(request.getfixturevalue(cast))
    assert client.post(f"/jobs/{job.pk}/cancel").status_code == answer
    job.refresh_from_db()
    assert job.cancel_requested is (answer == 302)
    assert Event.objects.filter(action="job.cancelled").count() == (1 if answer == 302 else 0)


def test_a_member_does_not_cancel_what_another_asked_for(
    client: Client, bob: User, alice: User, machine: Machine
) -> None:
    job = services.enqueue(JobName.MACHINE_CREATE, machine, queue="host.local", actor=alice)
    client.force_login(bob)
    assert client.post(f"/jobs/{job.pk}/cancel").status_code == 403
    assert "Cancel…" not in client.get(f"/jobs/{job.pk}/").content.decode()


def test_who_asked_and_only_watches_now_cancels_nothing(client: Client, bob: User, job: Job) -> None:
    bob.memberships.update(role="viewer")
    client.force_login(bob)
    assert client.post(f"/jobs/{job.pk}/cancel").status_code == 403


def test_a_job_that_is_being_taken_back_says_so_and_has_nothing_to_cancel(
    client: Client, alice: User, job: Job
) -> None:
    Job.objects.filter(pk=job.pk).update(status=JobStatus.RUNNING, outcome=JobStatus.FAILED)
    client.force_login(alice)
    page = client.get(f"/jobs/{job.pk}/").content.decode()
    assert "being taken back" in page
    assert "Cancel…" not in page
    assert client.post(f"/jobs/{job.pk}/cancel").status_code == 403


def test_asking_twice_is_no_fault_and_one_event(client: Client, alice: User, job: Job) -> None:
    client.force_login(alice)
    for _time in range(2):
        assert client.post(f"/jobs/{job.pk}/cancel").status_code == 302
    assert Event.objects.filter(action="job.cancelled").count() == 1


def test_what_has_ended_is_not_cancelled(job: Job, alice: User) -> None:
    Job.objects.update(status=JobStatus.DONE)
    with pytest.raises(ConflictError):
        services.cancel_job(job, actor=alice)


def test_what_cannot_be_taken_back_is_not_cancelled(machine: Machine, operator: User) -> None:
    job = services.enqueue(JobName.MACHINE_STOP, machine, queue="host.local", actor=operator)
    with pytest.raises(ForbiddenError):
        services.cancel_job(job, actor=operator)


def test_only_operators_cancel_the_building_of_an_image(
    build: Job, project: Project, alice: User, operator: User
) -> None:
    with pytest.raises(ForbiddenError):
        services.cancel_job(build, actor=alice)
    services.cancel_job(build, actor=operator)
    build.refresh_from_db()
    assert build.cancel_requested


def test_a_job_is_not_cancelled_by_a_link(client: Client, alice: User, job: Job) -> None:
    client.force_login(alice)
    assert client.get(f"/jobs/{job.pk}/cancel").status_code == 405
