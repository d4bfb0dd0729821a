"""The bin, and many machines at once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from uuid import uuid4

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.audit.models import Event
from portal.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError, QuotaExceededError
from portal.events import models as happened
from portal.hosts.models import Host
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.machines import binning, many, services
from portal.machines.models import Batch, BatchItem, Machine
from portal.machines.states import PowerState, Status, Task

pytestmark = pytest.mark.django_db
AsUser = Callable[[User], Client]


@pytest.fixture
def kept(machine: Machine) -> Machine:
    """Counted, in a project whose bin keeps things for a week."""
    Project.objects.filter(pk=machine.project_id).update(
        bin_days=7, used_machines=1, used_vcpus=1, used_memory_mib=1024, used_disk_gib=10
    )
    Host.objects.update(reserved_vcpus=1, reserved_memory_mib=1024, reserved_disk_gib=10)
    return Machine.objects.select_related("project", "host").get(pk=machine.pk)


def put_away(machine: Machine, actor: User) -> Machine:
    binning.request_removal(machine, actor=actor)
    binning.record_binned(machine)
    machine.refresh_from_db()
    return machine


def used() -> tuple[int, int, int, int]:
    project, host = Project.objects.get(name="Lighthouse"), Host.objects.get()
    found = (project.used_machines, project.used_vcpus, project.used_memory_mib, project.used_disk_gib)
    assert (host.reserved_vcpus, host.reserved_memory_mib, host.reserved_disk_gib) == found[1:]
    return found


def test_in_the_bin_only_the_disk_counts_and_for_as_many_days_as_the_project_says(kept: Machine, bob: User) -> None:
    put_away(kept, bob)
    binning.record_binned(kept)
    assert used() == (0, 0, 0, 10)
    assert (kept.status, kept.task, kept.power_state) == (Status.BINNED, Task.NONE, PowerState.SHUT_OFF)
    assert kept.purge_at is not None
    assert kept.binned_at is not None
    assert kept.purge_at - kept.binned_at == dt.timedelta(days=7)


def test_taken_back_it_is_what_it_was_and_asked_twice_it_is_taken_once(kept: Machine, bob: User) -> None:
    put_away(kept, bob)
    binning.request_restore(kept, actor=bob)
    assert used() == (1, 1, 1024, 10)
    assert (kept.status, kept.power_state, kept.purge_at) == (Status.READY, PowerState.SHUT_OFF, None)
    assert happened.Event.objects.get(kind="machine.changed").data == {"changed": ["restored"]}
    with pytest.raises(ConflictError):
        binning.request_restore(kept, actor=bob)
    assert used() == (1, 1, 1024, 10)


def test_without_room_it_stays_in_the_bin(kept: Machine, bob: User) -> None:
    put_away(kept, bob)
    Project.objects.update(max_memory_mib=512)
    with pytest.raises(QuotaExceededError):
        binning.request_restore(kept, actor=bob)
    assert Machine.objects.get().status == Status.BINNED
    assert used() == (0, 0, 0, 10)


def test_emptying_the_bin_is_for_those_who_may(kept: Machine, alice: User, bob: User, vera: User) -> None:
    with pytest.raises(ForbiddenError):
        services.request_delete(kept, actor=bob)  # Past the bin.
    put_away(kept, bob)
    for actor in (bob, vera):
        with pytest.raises(ForbiddenError):
            services.request_delete(kept, actor=actor)
    with pytest.raises(ForbiddenError):
        binning.request_restore(kept, actor=vera)
    assert services.request_delete(kept, actor=alice).name == JobName.MACHINE_DELETE


def test_the_clock_deletes_what_is_due_and_nothing_else(kept: Machine, alice: User) -> None:
    put_away(kept, alice)
    assert binning.purge_due() == 0
    Machine.objects.update(purge_at=timezone.now() - dt.timedelta(seconds=1), protected=True)
    assert binning.purge_due() == 0
    Machine.objects.update(protected=False)
    assert [binning.purge_due(), binning.purge_due()] == [1, 0]
    job = Job.objects.get(name=JobName.MACHINE_DELETE)
    assert job.actor is None
    assert Event.objects.get(action="machine.delete").actor is None


def test_what_was_never_built_has_no_place_in_the_bin(kept: Machine, bob: User) -> None:
    Machine.objects.update(status=Status.ERROR)
    job = binning.request_removal(Machine.objects.select_related("project", "host").get(), actor=bob)
    assert job.name == JobName.MACHINE_DELETE


def test_protected_it_goes_into_no_bin(kept: Machine, alice: User) -> None:
    Machine.objects.update(protected=True)
    with pytest.raises(ConflictError, match="protected"):
        binning.request_removal(kept, actor=alice)


def test_the_bin_as_a_page(kept: Machine, alice: User, bob: User, vera: User, charlie: User, as_user: AsUser) -> None:
    assert "The bin is empty" in as_user(alice).get(reverse("machines:bin")).content.decode()
    dialog = as_user(bob).get(reverse("machines:confirm-delete", args=[kept.pk])).content.decode()
    assert "7 days" in dialog
    assert "Past the bin" not in dialog
    assert as_user(bob).post(reverse("machines:delete", args=[kept.pk])).status_code == 302
    binning.record_binned(kept)
    detail = reverse("machines:detail", args=[kept.pk])
    assert as_user(vera).get(detail)["Location"] == reverse("machines:bin")
    assert as_user(vera).get(detail, headers={"HX-Request": "true"}).status_code == 404
    assert as_user(charlie).get(detail).status_code == 404
    restore, purge = (reverse(f"machines:bin-{what}", args=[kept.pk]) for what in ("restore", "purge"))
    shown = {person: as_user(person).get(reverse("machines:bin")).content.decode() for person in (alice, bob, vera)}
    assert [restore in page for page in shown.values()] == [True, True, False]
    assert [purge in page for page in shown.values()] == [True, False, False]
    assert kept.name not in as_user(charlie).get(reverse("machines:bin")).content.decode()
    assert "Bin (1)" in as_user(alice).get(reverse("machines:list"), {"q": "nothing"}).content.decode()
    assert as_user(bob).post(purge).status_code == 403
    assert as_user(alice).get(purge).status_code == 200
    assert as_user(alice).post(purge).status_code == 302
    assert Job.objects.filter(name=JobName.MACHINE_DELETE).count() == 1


def test_past_the_bin_by_the_owner_who_says_so(kept: Machine, alice: User, bob: User, as_user: AsUser) -> None:
    address = reverse("machines:delete", args=[kept.pk])
    assert as_user(bob).post(address, {"purge": "yes"}).status_code == 403
    assert as_user(alice).post(address, {"purge": "yes"}).status_code == 302
    assert list(Job.objects.values_list("name", flat=True)) == [JobName.MACHINE_DELETE]


def test_the_days_are_the_owners_to_set(kept: Machine, alice: User, bob: User, as_user: AsUser) -> None:
    address = reverse("accounts:project-bin", args=[kept.project_id])
    assert as_user(bob).post(address, {"bin_days": 0}).status_code == 403
    assert as_user(alice).post(address, {"bin_days": -1}).status_code == 422
    assert as_user(alice).post(address, {"bin_days": 3}).status_code == 302
    kept.project.refresh_from_db()
    assert kept.project.bin_days == 3


# --- many at once -----------------------------------------------------------------------------------------------------


def another(machine: Machine, name: str, **values: object) -> Machine:
    like = Machine.objects.get(pk=machine.pk)
    fresh = Machine()
    like.pk, like.request_key, like.name = fresh.pk, fresh.request_key, name
    like.mac = "52:54:00:aa:" + ":".join(f"{byte:02x}" for byte in fresh.pk.bytes[:2])
    for column, value in values.items():
        setattr(like, column, value)
    like.save(force_insert=True)
    return like


def test_each_is_asked_and_each_answers_for_itself(
    machine: Machine, alice: User, charlie: User, as_user: AsUser
) -> None:
    off = another(machine, "off", power_state=PowerState.SHUT_OFF)
    strange = another(machine, "strange", project=Project.objects.create(name="Far"))
    ids = [str(one.pk) for one in (machine, off, strange)]
    client, key = as_user(alice), str(uuid4())
    for _ in range(2):
        answer = client.post(reverse("machines:many"), {"machine": ids, "action": "stop", "request_key": key})
        assert answer.status_code == 302
    batch = Batch.objects.get()
    page = client.get(answer["Location"]).content.decode()
    assert "0 done, 1 under way, 1 not done." in page
    assert "off is shut off already" in page
    assert "strange" not in page
    assert Job.objects.count() == 1
    assert as_user(charlie).get(answer["Location"]).status_code == 404
    Job.objects.update(status="done")
    assert "1 done, 0 under way" in client.get(answer["Location"], headers={"HX-Request": "true"}).content.decode()
    assert batch.items.count() == 2


@pytest.mark.parametrize("word", [word for word, action in many.ACTIONS.items() if action.warns])
def test_what_loses_something_is_asked_for_once_more(machine: Machine, alice: User, word: str, as_user: AsUser) -> None:
    client, sent = as_user(alice), {"machine": [str(machine.pk)], "action": word, "request_key": str(uuid4())}
    asked = client.post(reverse("machines:many"), sent)
    assert asked.status_code == 200
    assert machine.name in asked.content.decode()
    assert not Job.objects.exists()
    assert client.post(reverse("machines:many"), {**sent, "sure": "yes"}).status_code == 302
    assert Job.objects.count() == 1


@pytest.mark.parametrize(
    "sent", [{"action": "stop"}, {"machine": ["x"], "action": "stop"}, {"machine": [str(uuid4())], "action": "stop"}]
)
def test_nothing_chosen_is_said_in_words(alice: User, sent: dict[str, object], as_user: AsUser) -> None:
    assert as_user(alice).post(reverse("machines:many"), sent).status_code == 422
    assert not Batch.objects.exists()


def test_no_action_or_a_broken_request_is_refused(machine: Machine, alice: User, as_user: AsUser) -> None:
    client, chosen = as_user(alice), {"machine": [str(machine.pk)]}
    assert client.post(reverse("machines:many"), {**chosen, "action": "explode"}).status_code == 422
    assert client.post(reverse("machines:many"), {**chosen, "action": "stop", "request_key": "x"}).status_code == 422
    assert not Job.objects.exists()


def test_a_viewer_is_refused_at_each_machine(machine: Machine, vera: User, as_user: AsUser) -> None:
    sent = {"machine": [str(machine.pk)], "action": "stop"}
    assert as_user(vera).post(reverse("machines:many"), sent).status_code == 302
    assert "role" in BatchItem.objects.get().refusal
    assert Machine.objects.get().task == Task.NONE


def test_so_many_and_no_more(machine: Machine, alice: User) -> None:
    with pytest.raises(InvalidError, match="At most"):
        many.chosen_of(alice, [str(uuid4()) for _ in range(many.MOST + 1)])
    with pytest.raises(NotFoundError):
        many.batch_for(alice, uuid4())


def test_requests_for_many_are_forgotten_after_a_month_and_their_jobs_stay(machine: Machine, alice: User) -> None:
    old, new = (many.request_many([machine], word, actor=alice, request_id=uuid4()) for word in ("stop", "force-off"))
    Batch.objects.filter(pk=old.pk).update(created_at=timezone.now() - many.KEPT - dt.timedelta(minutes=1))
    assert many.forget_old(piece=1) == 1
    assert Batch.objects.get() == new
    assert BatchItem.objects.filter(batch=new).exists() and Job.objects.exists()
    assert many.forget_old() == 0
