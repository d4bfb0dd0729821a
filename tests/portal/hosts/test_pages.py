"""The operator's overview and the pages of hosts."""

import datetime as dt
from collections.abc import Callable
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.audit.models import Event
from portal.console.models import ConsoleSession
from portal.hosts.models import Host
from portal.jobs import services as jobs
from portal.jobs.models import Job
from portal.jobs.names import JobName, JobStatus
from portal.machines.models import Machine
from portal.machines.states import Status
from tests.support.xss import CORPUS, faults

OVERVIEW = "/hosts/overview/"
LIVE = {"HX-Request": "true"}


def old_job(machine: Machine, **values: object) -> Job:
    job = jobs.enqueue(JobName.MACHINE_START, machine, queue="host.local", actor=machine.owner)
    Job.objects.filter(pk=job.pk).update(**values)
    return job


@pytest.mark.parametrize("cast", ["alice", "bob", "vera", "charlie"])
@pytest.mark.parametrize("page", [OVERVIEW, "/hosts/", "/hosts/{host}/"])
def test_there_are_no_hosts_for_others(
    client: Client, request: pytest.FixtureRequest, host: Host, cast: str, page: str
) -> None:
    client.force_login(request.getfixturevalue(cast))
    assert client.get(page.format(host=host.pk)).status_code == 404


def test_when_all_is_well_it_says_so_quietly(client: Client, operator: User, host: Host) -> None:
    client.force_login(operator)
    page = client.get(OVERVIEW)
    assert page.context["trouble_count"] == 0
    assert "All is well" in page.content.decode()
    assert 'class="card troubles"' not in page.content.decode()


def test_without_a_host_it_says_how_to_get_one(client: Client, operator: User) -> None:
    client.force_login(operator)
    page = client.get(OVERVIEW).content.decode()
    assert "Register a host" in page
    assert "All is well" not in page


def test_what_is_wrong_comes_first_with_its_reason_and_a_link(client: Client, operator: User, machine: Machine) -> None:
    now = timezone.now()
    Host.objects.update(last_error="Connection refused", last_seen_at=now - dt.timedelta(minutes=9))
    failed = old_job(
        machine, status=JobStatus.FAILED, finished_at=now - dt.timedelta(hours=2), error_message="The disk is full."
    )
    stuck = old_job(machine, created_at=now - dt.timedelta(hours=1))
    other = Machine.objects.create(
        **{
            field: getattr(machine, field)
            for field in ("project", "kind", "image_version", "flavour", "vcpus", "memory_mib", "disk_gib", "host")
        },
        name="wreck",
        mac="52:54:00:00:00:02",
        login_user="me",
        status=Status.ERROR,
        error_message="It did not start.",
    )
    client.force_login(operator)
    page = client.get(OVERVIEW)
    text = page.content.decode()
    assert page.context["trouble_count"] == 4
    for words in ("does not answer", "systemctl start libvirtd", "The disk is full.", "It did not start.", "is stuck"):
        assert words in text
    for link in (f"/jobs/{failed.pk}/", f"/jobs/{stuck.pk}/", f"/machines/{other.pk}/", f"/hosts/{machine.host_id}/"):
        assert f'href="{link}"' in text
    assert text.index("does not answer") < text.index('class="card counts"')


def test_what_failed_before_yesterday_is_no_news(client: Client, operator: User, machine: Machine) -> None:
    old_job(machine, status=JobStatus.FAILED, finished_at=timezone.now() - dt.timedelta(hours=25))
    client.force_login(operator)
    assert client.get(OVERVIEW).context["trouble_count"] == 0


def test_a_failure_is_told_once(client: Client, operator: User, machine: Machine) -> None:
    Machine.objects.update(status=Status.ERROR, error_message="No room.")
    old_job(machine, status=JobStatus.FAILED, finished_at=timezone.now(), error_message="No room.")
    client.force_login(operator)
    assert client.get(OVERVIEW).context["trouble_count"] == 1


def test_work_and_screens_of_now_are_shown(client: Client, operator: User, machine: Machine, alice: User) -> None:
    old_job(machine)
    ConsoleSession.objects.create(
        user=alice, user_name="alice", machine=machine, machine_name="beacon", mode="view", request_ip="192.0.2.9"
    )
    ConsoleSession.objects.create(
        user_name="long-gone", machine_name="beacon", mode="view", ended_at=timezone.now(), user=None, machine=None
    )
    client.force_login(operator)
    page = client.get(OVERVIEW).content.decode()
    assert "192.0.2.9" in page
    assert "watches" in page
    assert "long-gone" not in page
    assert "Waiting for a worker to begin" in page


def test_the_live_answer_is_the_part_that_changed(client: Client, operator: User, host: Host) -> None:
    client.force_login(operator)
    for page in (OVERVIEW, "/hosts/", f"/hosts/{host.pk}/"):
        text = client.get(page, headers=LIVE).content.decode().strip()
        assert text.startswith(("<div id=", "<section id="))
        assert "<html" not in text


@pytest.mark.parametrize("text", CORPUS)
def test_what_people_typed_is_text_never_markup(client: Client, operator: User, machine: Machine, text: str) -> None:
    Project.objects.update(name=text)
    Machine.objects.update(status=Status.ERROR, error_message=text)
    Host.objects.update(last_error=text, accelerator_reason=text)
    old_job(machine, target_name=text, target_id=uuid4(), status=JobStatus.FAILED, finished_at=timezone.now())
    client.force_login(operator)
    for page in (OVERVIEW, "/hosts/", f"/hosts/{machine.host_id}/"):
        assert faults(client.get(page).content.decode()) == []


def test_the_number_of_queries_does_not_grow(
    client: Client, operator: User, machine: Machine, make_user: Callable[..., User]
) -> None:
    client.force_login(operator)

    def fill(count: int) -> None:
        for number in range(count):
            word = f"n{count}-{number}"
            Host.objects.create(name=word, uri="fake://x", pool_dir="/x", last_error="Connection refused")
            old_job(machine, target_id=uuid4())
            old_job(machine, target_id=uuid4(), status=JobStatus.FAILED, finished_at=timezone.now())
            old_job(machine, target_id=uuid4(), created_at=timezone.now() - dt.timedelta(hours=2))
            ConsoleSession.objects.create(
                user=make_user(word), user_name=word, machine=machine, machine_name=word, mode="view"
            )

    def cost(page: str) -> int:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert client.get(page).status_code == 200
        return len(queries)

    pages = (OVERVIEW, "/hosts/", f"/hosts/{machine.host_id}/")
    fill(5)
    few = [cost(page) for page in pages]
    fill(45)
    assert [cost(page) for page in pages] == few


def test_an_operator_takes_a_host_out_and_back_and_it_is_written_down(
    client: Client, operator: User, host: Host
) -> None:
    client.force_login(operator)
    for word, enabled in (("no", False), ("no", False), ("yes", True)):
        assert client.post(f"/hosts/{host.pk}/enable", {"enabled": word}).status_code == 302
        host.refresh_from_db()
        assert host.enabled is enabled
    assert list(Event.objects.order_by("pk").values_list("action", flat=True)) == ["host.disabled", "host.enabled"]


def test_a_host_is_not_switched_by_a_link(client: Client, operator: User, host: Host) -> None:
    client.force_login(operator)
    assert client.get(f"/hosts/{host.pk}/enable?enabled=no").status_code == 405


def test_nonsense_switches_nothing(client: Client, operator: User, host: Host) -> None:
    client.force_login(operator)
    client.post(f"/hosts/{host.pk}/enable", {"enabled": "maybe"})
    host.refresh_from_db()
    assert host.enabled


def test_the_host_page_says_what_it_is(client: Client, operator: User, machine: Machine) -> None:
    Host.objects.update(accelerator_reason="The probe machine hung.", hypervisor_version="QEMU 7.2")
    client.force_login(operator)
    page = client.get(f"/hosts/{machine.host_id}/").content.decode()
    for words in ("The probe machine hung.", "many times slower", "QEMU 7.2", "beacon", "Lighthouse"):
        assert words in page


def test_a_host_that_has_not_reported_shows_no_empty_bars(client: Client, operator: User, host: Host) -> None:
    new = Host.objects.create(name="new", uri="fake://new", pool_dir="/x")
    client.force_login(operator)
    page = client.get(f"/hosts/{new.pk}/").content.decode()
    assert "once it has reported" in page
    assert "<progress" not in page
    assert "<progress" in client.get(f"/hosts/{host.pk}/").content.decode()
    assert client.get("/hosts/").content.decode().count("once it has reported") == 1


def test_many_hosts_are_pages_and_the_overview_shows_those_in_trouble_first(client: Client, operator: User) -> None:
    now = timezone.now()
    for number in range(60):
        error = "Connection refused" if number in {30, 55} else ""
        Host.objects.create(name=f"rack-{number:02}", uri="fake://x", pool_dir="/x", last_seen_at=now, last_error=error)
    client.force_login(operator)
    page = client.get(OVERVIEW)
    assert [row.host.name for row in page.context["hosts"]][:3] == ["rack-30", "rack-55", "rack-00"]
    assert len(page.context["hosts"]) == 10
    assert "All 60, with figures" in page.content.decode()
    assert client.get("/hosts/").context["page"].paginator.num_pages == 3
    assert [row.host.name for row in client.get("/hosts/?page=3").context["hosts"]][-1] == "rack-59"
    assert [row.host.name for row in client.get("/hosts/?state=trouble").context["hosts"]] == ["rack-30", "rack-55"]
    assert [row.host.name for row in client.get("/hosts/?q=CK-07").context["hosts"]] == ["rack-07"]
    nothing = client.get("/hosts/?q=nowhere").content.decode()
    assert "No host matches" in nothing
    assert 'value="nowhere"' in nothing


def test_more_problems_than_an_overview_shows_are_counted(client: Client, operator: User) -> None:
    for number in range(15):
        Host.objects.create(name=f"h{number}", uri="fake://x", pool_dir="/x", last_error="Connection refused")
    client.force_login(operator)
    page = client.get(OVERVIEW)
    assert page.context["trouble_count"] == 15
    assert page.content.decode().count("does not answer") == 10
    assert "All 15 problems of hosts" in page.content.decode()
