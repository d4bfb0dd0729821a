"""Differences on the host's page: words, a button for each, and nobody but operators."""

from typing import Any
from uuid import uuid4

import pytest
from django.test import Client

from portal.accounts.models import Project, User
from portal.audit.models import Event
from portal.hosts.differences import Finding, record_differences
from portal.hosts.models import Difference, DifferenceKind, Host
from portal.hosts.problems import problems_of
from portal.hosts.selectors import hosts_with_counts
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.machines.models import Machine
from portal.machines.states import Task
from tests.support.xss import CORPUS, faults

FOREIGN: dict[str, Any] = {"vcpus": 2, "memory_mib": 512, "power_state": "running", "owned": False}


def difference(on: Host, kind: DifferenceKind, machine: Machine | None = None, **detail: Any) -> Difference:
    name = machine.name if machine else "old-server"
    return Difference.objects.create(
        host=on, kind=kind, object_id=machine.pk if machine else uuid4(), name=name, detail=detail
    )


def test_every_kind_is_told_in_words(client: Client, operator: User, host: Host, machine: Machine) -> None:
    client.force_login(operator)
    for kind in DifferenceKind:
        row = difference(host, kind, None if kind in {"foreign", "stray", "image"} else machine, **FOREIGN)
        page = client.get(f"/hosts/{host.pk}/").content.decode()
        assert f'id="difference-{row.pk}"' in page
        row.delete()


def test_a_strange_machine_is_taken_over_by_the_form(
    client: Client, operator: User, host: Host, project: Project
) -> None:
    client.force_login(operator)
    row = difference(host, DifferenceKind.FOREIGN, **FOREIGN)
    page = client.get(f"/hosts/{host.pk}/").content.decode()
    assert 'value="old-server"' in page
    answer = client.post(f"/hosts/differences/{row.pk}/adopt", {"project": str(project.pk), "name": "old-server"})
    machine = Machine.objects.get()
    assert answer["Location"] == f"/machines/{machine.pk}/"
    assert (machine.pk, machine.task, machine.keeps_definition) == (row.object_id, Task.ADOPTING, True)
    assert Job.objects.get().name == JobName.MACHINE_ADOPT
    assert client.get(f"/machines/{machine.pk}/").status_code == 200
    assert client.get("/machines/").status_code == 200


def test_a_missing_machine_is_defined_again_by_a_button(
    client: Client, operator: User, host: Host, machine: Machine
) -> None:
    client.force_login(operator)
    row = difference(host, DifferenceKind.MISSING, machine, has_disk=True)
    assert f"/hosts/differences/{row.pk}/repair" in client.get(f"/hosts/{host.pk}/").content.decode()
    client.post(f"/hosts/differences/{row.pk}/repair")
    client.post(f"/hosts/differences/{row.pk}/repair")
    assert Job.objects.get().name == JobName.MACHINE_REPAIR


def test_without_a_disk_there_is_no_such_button(client: Client, operator: User, host: Host, machine: Machine) -> None:
    client.force_login(operator)
    row = difference(host, DifferenceKind.MISSING, machine, has_disk=False)
    assert f"/hosts/differences/{row.pk}/repair" not in client.get(f"/hosts/{host.pk}/").content.decode()


def test_a_copy_is_removed_by_a_button(client: Client, operator: User, host: Host, machine: Machine) -> None:
    client.force_login(operator)
    row = difference(host, DifferenceKind.ELSEWHERE, machine, host="rack-2")
    assert "belongs on rack-2" in client.get(f"/hosts/{host.pk}/").content.decode()
    client.post(f"/hosts/differences/{row.pk}/remove-copy")
    assert (Job.objects.get().name, Job.objects.get().target_id) == (JobName.COPY_REMOVE, row.pk)


@pytest.mark.parametrize("cast", ["alice", "bob", "vera", "charlie"])
@pytest.mark.parametrize("act", ["adopt", "repair", "remove-copy"])
@pytest.mark.parametrize("kind", list(DifferenceKind))
def test_for_others_there_is_no_difference(
    client: Client, request: pytest.FixtureRequest, machine: Machine, cast: str, act: str, kind: DifferenceKind
) -> None:
    client.force_login(request.getfixturevalue(cast))
    row = difference(machine.host, kind, machine, has_disk=True)
    answer = client.post(
        f"/hosts/differences/{row.pk}/{act}", {"project": str(machine.project_id), "name": "taken-over"}
    )
    assert answer.status_code == 404
    assert not Job.objects.exists()
    assert not Event.objects.exists()


@pytest.mark.parametrize("kind", list(DifferenceKind))
@pytest.mark.parametrize("act", ["adopt", "repair", "remove-copy"])
def test_a_button_does_only_what_fits_the_difference(
    client: Client, operator: User, machine: Machine, act: str, kind: DifferenceKind
) -> None:
    everything = {kind.value for kind in DifferenceKind}
    fitting = {"adopt": {"foreign", "stray"}, "repair": everything, "remove-copy": {"elsewhere"}}[act]
    row = difference(machine.host, kind, None if act == "adopt" else machine, has_disk=True)
    client.force_login(operator)
    client.post(f"/hosts/differences/{row.pk}/{act}", {"project": str(machine.project_id), "name": "taken-over"})
    assert Job.objects.exists() == (kind in fitting)


@pytest.mark.parametrize("text", CORPUS)
def test_a_name_on_the_host_is_text_and_nothing_else(client: Client, operator: User, host: Host, text: str) -> None:
    client.force_login(operator)
    record_differences(host, [Finding(DifferenceKind.FOREIGN, uuid4(), text, FOREIGN)])
    assert faults(client.get(f"/hosts/{host.pk}/").content.decode()) == []


def test_the_overview_counts_them(client: Client, operator: User, host: Host) -> None:
    client.force_login(operator)
    for _ in range(2):
        difference(host, DifferenceKind.STRAY)
    assert "2 things on local do not agree" in client.get("/hosts/overview/").content.decode()
    (counted,) = hosts_with_counts()
    assert [problem.is_grave for problem in problems_of(counted)] == [False]


def test_what_is_over_is_forgotten_and_what_stays_keeps_its_day(host: Host) -> None:
    first, second = uuid4(), uuid4()
    record_differences(host, [Finding(DifferenceKind.STRAY, first), Finding(DifferenceKind.STRAY, second)])
    kept = Difference.objects.get(object_id=second)
    record_differences(host, [Finding(DifferenceKind.STRAY, second, "", {"disk_gib": 3})])
    assert not Difference.objects.filter(object_id=first).exists()
    row = Difference.objects.get()
    assert (row.pk, row.found_at, row.detail) == (kept.pk, kept.found_at, {"disk_gib": 3})
