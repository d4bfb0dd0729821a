"""What people ask for is validated, counted, recorded and enqueued, or refused with a reason and without a trace."""

import datetime as dt
import threading
from collections.abc import Callable
from uuid import uuid4

import pytest
from django.db import connection
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.audit.models import Event
from portal.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    NoCapacityError,
    NotFoundError,
    QuotaExceededError,
)
from portal.hosts.models import Host
from portal.hosts.services import register_host
from portal.images.models import ImageVersion, VersionStatus
from portal.jobs.models import Job
from portal.jobs.names import JobName, JobStatus, StepName
from portal.machines import services
from portal.machines.models import Flavour, Machine
from portal.machines.selectors import machines_for
from portal.machines.states import PowerState, Status, Task

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILxGQAbHPbAvX0BwOeT7sRzHmLqgR4VwKq1VhU9gWv5z alice@example"


@pytest.fixture
def ask(
    project: Project, alice: User, image_version: ImageVersion, flavour: Flavour, host: Host
) -> Callable[..., Machine]:
    """Alice asks for a small server."""

    def ask(**changes: object) -> Machine:
        values = {
            "actor": alice,
            "image_version": image_version,
            "flavour": flavour,
            "name": f"server-{uuid4().hex[:6]}",
            "login_user": "alice",
            **changes,
        }
        return services.request_machine(values.pop("project", project), **values)  # type: ignore[arg-type]

    return ask


def used(project: Project) -> tuple[int, int, int, int]:
    project.refresh_from_db()
    return (project.used_machines, project.used_vcpus, project.used_memory_mib, project.used_disk_gib)


def test_a_request_reserves_quota_and_host_and_enqueues_the_steps(
    ask: Callable[..., Machine], project: Project, host: Host
) -> None:
    machine = ask(ssh_key=KEY)
    assert (machine.status, machine.task) == (Status.REQUESTED, Task.BUILDING)
    assert used(project) == (1, 1, 1024, 10)
    host.refresh_from_db()
    assert (host.reserved_vcpus, host.reserved_memory_mib, host.reserved_disk_gib) == (1, 1024, 10)
    job = Job.objects.get(target_id=machine.pk)
    assert (job.name, job.status, job.queue) == (JobName.MACHINE_CREATE, JobStatus.QUEUED, "host.local")
    assert next(iter(job.steps.all())).name == StepName.FORK
    assert Event.objects.get(action="machine.requested").target_id == str(machine.pk)
    assert machine.ssh_key == KEY


def test_no_secret_is_stored_in_clear(ask: Callable[..., Machine]) -> None:
    machine = ask()
    assert machine.login_password.startswith("gAAAA")


def test_the_same_request_twice_makes_one_machine(ask: Callable[..., Machine], project: Project) -> None:
    key = uuid4()
    assert ask(request_key=key) == ask(request_key=key)
    assert used(project)[0] == 1


def test_a_taken_name_is_refused_at_the_field_and_costs_nothing(ask: Callable[..., Machine], project: Project) -> None:
    ask(name="beacon")
    with pytest.raises(ConflictError) as caught:
        ask(name="beacon")
    assert caught.value.field == "name"
    assert used(project)[0] == 1


@pytest.mark.parametrize(
    "name",
    ["", "Beacon", "a_b", "-a", "a-", "a" * 64, "a\nb", "a\x00b", "<script>", "a b", "ä", "a.b", "a\u202eb", "a\n"],
)
def test_a_name_that_is_no_host_name_is_refused_at_the_field(ask: Callable[..., Machine], name: str) -> None:
    with pytest.raises(InvalidError) as caught:
        ask(name=name)
    assert caught.value.field == "name"
    assert not Machine.objects.exists()


@pytest.mark.parametrize("name", ["1234", "on", "no", "null", "0x10", "2024-01-01"])
def test_a_name_that_yaml_would_misread_is_a_name(ask: Callable[..., Machine], name: str) -> None:
    assert ask(name=name).name == name


@pytest.mark.parametrize("user", ["root", "Alice", "a b", "", "1a", "a:b", "x" * 33, "a\n"])
def test_a_user_that_no_guest_takes_is_refused_at_the_field(ask: Callable[..., Machine], user: str) -> None:
    with pytest.raises(InvalidError) as caught:
        ask(login_user=user)
    assert caught.value.field == "login_user"


@pytest.mark.parametrize(
    "key",
    [
        "hello",
        "ssh-ed25519 notbase64!",
        f"{KEY}\n{KEY}",
        f'command="x" {KEY}',
        "-----BEGIN OPENSSH PRIVATE KEY-----\nx",
    ],
)
def test_a_key_that_is_no_public_key_is_refused_at_the_field(ask: Callable[..., Machine], key: str) -> None:
    with pytest.raises(InvalidError) as caught:
        ask(ssh_key=key)
    assert caught.value.field == "ssh_key"


@pytest.mark.parametrize("key", [f"{KEY}\r\n", f"\ufeff{KEY}", f"\n  {KEY}  "])
def test_line_ends_and_byte_order_mark_around_a_key_are_taken_off(ask: Callable[..., Machine], key: str) -> None:
    assert ask(ssh_key=key).ssh_key == KEY


def test_above_the_quota_the_request_says_what_is_missing_and_leaves_nothing(
    ask: Callable[..., Machine], project: Project, host: Host
) -> None:
    for _ in range(3):
        ask()
    with pytest.raises(QuotaExceededError, match="machines: 1 needed, 0 of 3 free"):
        ask()
    assert used(project)[0] == 3
    host.refresh_from_db()
    assert host.reserved_vcpus == 3
    assert Machine.objects.count() == Job.objects.count() == 3


def test_without_room_on_a_host_nothing_is_taken_from_the_quota(
    ask: Callable[..., Machine], project: Project, host: Host
) -> None:
    Host.objects.update(reserved_memory_mib=16000)
    with pytest.raises(NoCapacityError):
        ask()
    assert used(project) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"enabled": False}, "No host takes new machines"),
        ({"last_error": "away"}, "The host does not answer just now"),
        ({"storage_free_bytes": 1024**3}, "their storage is full"),
    ],
)
def test_a_host_that_is_off_away_or_full_gets_no_machine_and_that_is_said(
    ask: Callable[..., Machine], host: Host, change: dict[str, object], words: str
) -> None:
    Host.objects.update(**change)
    with pytest.raises(NoCapacityError, match=words):
        ask()


def test_a_host_that_is_reached_in_another_way_is_asked_before_anything_is_put_there(
    ask: Callable[..., Machine], host: Host
) -> None:
    register_host(host.name, uri="qemu:///session", pool_dir=host.pool_dir)
    with pytest.raises(NoCapacityError):
        ask()
    host.refresh_from_db()
    assert host.network_mode == ""


def test_viewers_are_told_no_and_strangers_nothing(
    ask: Callable[..., Machine], vera: User, charlie: User, machine: Machine
) -> None:
    with pytest.raises(ForbiddenError):
        ask(actor=vera)
    with pytest.raises(ForbiddenError):
        ask(actor=charlie)
    with pytest.raises(ForbiddenError):
        services.request_stop(machine, actor=vera)
    with pytest.raises(ForbiddenError):
        services.request_delete(machine, actor=vera)


def test_an_image_of_another_project_or_not_ready_or_too_large_is_refused(
    ask: Callable[..., Machine], charlie: User, image_version: ImageVersion, flavour: Flavour
) -> None:
    image_version.image.project = Project.objects.get(name="Elsewhere")
    with pytest.raises(NotFoundError):
        ask(image_version=image_version)
    image_version.image.project = None
    image_version.status = VersionStatus.BUILDING
    with pytest.raises(ConflictError):
        ask(image_version=image_version)
    image_version.status = VersionStatus.READY
    image_version.image.min_memory_mib = 2048
    with pytest.raises(InvalidError, match="at least 2048 MiB"):
        ask(image_version=image_version)
    image_version.image.min_memory_mib = 512
    image_version.virtual_size_bytes = 11 * 1024**3
    with pytest.raises(InvalidError, match="at least 11 GiB"):
        ask(image_version=image_version)


def test_a_power_request_claims_the_machine_and_a_second_one_gets_the_same_job(machine: Machine, alice: User) -> None:
    job = services.request_stop(machine, actor=alice)
    assert services.request_stop(machine, actor=alice) == job
    machine.refresh_from_db()
    assert machine.task == Task.STOPPING


def test_a_request_that_does_not_fit_the_state_says_which_state(machine: Machine, alice: User) -> None:
    with pytest.raises(ConflictError, match="beacon is running already"):
        services.request_start(machine, actor=alice)
    services.request_stop(machine, actor=alice)
    with pytest.raises(ConflictError, match="busy: shutting down"):
        services.request_reboot(machine, actor=alice)


def test_forcing_off_replaces_a_shutdown_that_the_guest_ignores(machine: Machine, alice: User) -> None:
    gentle = services.request_stop(machine, actor=alice)
    services.request_force_off(machine, actor=alice)
    machine.refresh_from_db()
    gentle.refresh_from_db()
    assert machine.task == Task.FORCING_OFF
    assert gentle.cancel_requested
    services.record_task_ended(machine, Task.STOPPING)  # What the gentle job says when it ends.
    machine.refresh_from_db()
    assert machine.task == Task.FORCING_OFF


def test_deleting_while_building_stops_the_building(ask: Callable[..., Machine], alice: User) -> None:
    machine = ask()
    services.request_delete(machine, actor=alice)
    assert Job.objects.get(name=JobName.MACHINE_CREATE).cancel_requested
    services.record_ready(machine)  # Too late: the machine is being deleted.
    machine.refresh_from_db()
    assert (machine.status, machine.task) == (Status.REQUESTED, Task.DELETING)


def test_quota_is_given_back_exactly_once(ask: Callable[..., Machine], project: Project) -> None:
    machine = ask()
    services.record_build_failed(machine, message="no")
    services.release_resources(machine)
    services.record_deleted(machine)
    assert used(project) == (0, 0, 0, 0)
    machine.refresh_from_db()
    assert machine.status == Status.DELETED
    assert machine.login_password == ""


def test_a_failed_machine_can_be_tried_again(ask: Callable[..., Machine], alice: User, project: Project) -> None:
    machine = ask()
    services.record_build_failed(machine, message="no")
    services.request_retry(machine, actor=alice)
    machine.refresh_from_db()
    assert (machine.status, machine.task, machine.error_message) == (Status.REQUESTED, Task.BUILDING, "")
    assert used(project)[0] == 1


def test_older_news_about_power_is_dropped(machine: Machine) -> None:
    now = timezone.now()
    assert services.record_power_state(machine.pk, PowerState.SHUT_OFF, at=now)
    assert not services.record_power_state(machine.pk, PowerState.RUNNING, at=now - dt.timedelta(seconds=1))
    machine.refresh_from_db()
    assert machine.power_state == PowerState.SHUT_OFF
    assert machine.console_socket == ""


def test_a_suggested_name_is_free(machine: Machine, project: Project) -> None:
    assert services.suggest_name(project, kind="server") == "server-1"
    Machine.objects.update(name="server-1")
    assert services.suggest_name(project, kind="server") == "server-2"


@pytest.mark.django_db(transaction=True)
def test_twenty_requests_at_once_get_exactly_what_the_quota_allows(
    ask: Callable[..., Machine], project: Project
) -> None:
    outcomes: list[str] = []

    def one(number: int) -> None:
        try:
            ask(name=f"racer-{number}")
            outcomes.append("made")
        except QuotaExceededError:
            outcomes.append("refused")
        finally:
            connection.close()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=150)
    assert sorted(outcomes) == ["made"] * 3 + ["refused"] * 17
    assert used(project)[0] == Machine.objects.count() == 3


def test_no_two_machines_share_an_address(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """By lot it would happen to every three-hundredth of fifty thousand, and was told as a name that is taken."""
    machine.mac = "52:54:00:01:02:03"
    machine.save()
    drawn = iter([b"\1\2\3", b"\1\2\3", b"\1\2\4"])
    monkeypatch.setattr("portal.machines.services.secrets.token_bytes", lambda _count: next(drawn))
    assert services.new_mac() == "52:54:00:01:02:04"


@pytest.mark.parametrize("search", ["beacon", "BEAC", "Eaco", "alice", "ALI"])
def test_a_machine_is_found_by_its_name_and_its_owner_whatever_the_capitals(machine: Machine, search: str) -> None:
    assert machine.owner is not None
    assert [found.pk for found in machines_for(machine.owner, search=search)] == [machine.pk]
    assert not machines_for(machine.owner, search=f"{search}-2")
