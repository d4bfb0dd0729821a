"""The pages of machines: who gets which, what they show, and what their buttons do."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import pytest
import time_machine
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from portal.accounts.models import Membership, Project, User
from portal.accounts.permissions import Role
from portal.audit.models import Event
from portal.hosts.models import Host
from portal.images.models import Image, ImageVersion, Kind, Source, VersionStatus
from portal.jobs import services as jobs
from portal.jobs.models import Job
from portal.jobs.names import JobName, JobStatus, StepName, StepStatus
from portal.lib.secrets import seal
from portal.machines.models import Flavour, Machine
from portal.machines.services import new_mac
from portal.machines.states import PowerState, Status, Task

HTMX = {"HX-Request": "true"}
XSS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'-alert(1)-'",
    "</title><svg/onload=alert(1)>",
    "{{ 7|add:7 }}",
    "javascript:alert(1)",
]


@dataclass(frozen=True)
class Offer:
    """What it takes to launch a machine."""

    project: Project
    version: ImageVersion
    flavour: Flavour

    def form(self, **values: object) -> dict[str, object]:
        return {
            "project": self.project.pk,
            "image": self.version.image_id,
            "flavour": self.flavour.pk,
            "name": "lamp",
            "login_user": "alice",
            "ssh_key": "",
            "request_key": uuid4(),
            **values,
        }


@pytest.fixture
def offer(project: Project, image_version: ImageVersion, flavour: Flavour, host: Host) -> Offer:
    return Offer(project, image_version, flavour)


@pytest.fixture
def cast(alice: User, bob: User, vera: User, charlie: User, operator: User) -> dict[str, User]:
    return {"alice": alice, "bob": bob, "vera": vera, "charlie": charlie, "operator": operator}


def _text(response: Any) -> str:
    return str(response.content.decode())


def _url(name: str, machine: Machine) -> str:
    return reverse(f"machines:{name}", args=[machine.pk])


def _another(machine: Machine, name: str, **values: object) -> Machine:
    copy = Machine.objects.get(pk=machine.pk)
    copy.pk, copy.mac, copy.request_key, copy.genid = uuid4(), new_mac(), uuid4(), uuid4()
    copy.name = name
    for field, value in values.items():
        setattr(copy, field, value)
    copy._state.adding = True
    copy.save()
    return copy


# --- every address for every role -----------------------------------------------------------------------------------

READ = {"detail": 200, "row": 200}
# Who may press it, besides operators; the state that the machine must be in for it.
PRESS: dict[str, tuple[dict[str, Any], int]] = {
    "start": ({"power_state": PowerState.SHUT_OFF}, 302),
    "stop": ({}, 302),
    "reboot": ({}, 302),
    "reset": ({}, 302),
    "force-off": ({}, 302),
    "retry": ({"status": Status.ERROR, "holds_quota": False, "power_state": PowerState.SHUT_OFF}, 302),
    "delete": ({}, 302),
    "secret": ({}, 200),
}


@pytest.mark.parametrize("person", ["alice", "bob", "vera", "charlie", "operator"])
@pytest.mark.parametrize("name", READ)
def test_only_the_project_and_operators_see_a_machine(
    name: str, person: str, cast: dict[str, User], machine: Machine, as_user: Callable[[User], Client]
) -> None:
    answer = as_user(cast[person]).get(_url(name, machine))
    assert answer.status_code == (404 if person == "charlie" else 200)
    assert ("beacon" in _text(answer)) is (person != "charlie")


@pytest.mark.parametrize("person", ["alice", "bob", "vera", "charlie", "operator"])
@pytest.mark.parametrize("name", PRESS)
def test_only_those_who_may_can_press_a_button(
    name: str, person: str, cast: dict[str, User], machine: Machine, as_user: Callable[[User], Client]
) -> None:
    state, success = PRESS[name]
    Machine.objects.filter(pk=machine.pk).update(**state, login_password=seal("first-password"))
    answer = as_user(cast[person]).post(_url(name, machine))
    expected = {"charlie": 404, "vera": 403}.get(person, success)
    assert answer.status_code == expected
    if expected in {403, 404}:
        assert not Job.objects.exists()
        assert "first-password" not in _text(answer)
        machine.refresh_from_db()
        assert machine.task == Task.NONE


@pytest.mark.parametrize("person", ["alice", "bob", "vera", "charlie", "operator"])
def test_only_those_who_may_delete_are_asked_whether_they_want_to(
    person: str, cast: dict[str, User], machine: Machine, as_user: Callable[[User], Client]
) -> None:
    answer = as_user(cast[person]).get(_url("confirm-delete", machine))
    assert answer.status_code == {"vera": 403, "charlie": 404}.get(person, 200)


@pytest.mark.parametrize("name", [*READ, *PRESS, "confirm-delete"])
def test_a_stranger_cannot_tell_a_machine_of_others_from_none(
    name: str, charlie: User, machine: Machine, as_user: Callable[[User], Client]
) -> None:
    client = as_user(charlie)
    call = client.post if name in PRESS else client.get
    theirs, none = call(_url(name, machine)), call(reverse(f"machines:{name}", args=[uuid4()]))
    assert theirs.status_code == none.status_code == 404
    assert _without_tokens(_text(theirs)) == _without_tokens(_text(none))


def _without_tokens(page: str) -> str:
    return re.sub(r'csrfmiddlewaretoken" value="[^"]+"', "", page)


@pytest.mark.parametrize("name", ["list", "new"])
@pytest.mark.parametrize("person", ["alice", "bob", "vera", "charlie", "operator"])
def test_everybody_has_a_list_and_a_page_for_a_new_machine(
    name: str, person: str, cast: dict[str, User], machine: Machine, as_user: Callable[[User], Client]
) -> None:
    answer = as_user(cast[person]).get(reverse(f"machines:{name}"))
    assert answer.status_code == 200
    if name == "list":
        assert ("beacon" in _text(answer)) is (person != "charlie")


@pytest.mark.parametrize("name", [*READ, *PRESS, "confirm-delete", "list", "new"])
def test_without_signing_in_there_is_only_the_way_to_sign_in(name: str, machine: Machine, client: Client) -> None:
    url = reverse(f"machines:{name}") if name in {"list", "new"} else _url(name, machine)
    for answer in (client.get(url), client.post(url)):
        assert answer.status_code == 302
        assert answer.headers["Location"].startswith(reverse("accounts:login"))
    assert "casement_session" not in client.cookies  # Nobody fills the session store from outside.


@pytest.mark.parametrize("name", PRESS)
def test_buttons_are_post_only(name: str, alice: User, machine: Machine, as_user: Callable[[User], Client]) -> None:
    assert as_user(alice).get(_url(name, machine)).status_code == 405


@pytest.mark.parametrize("name", PRESS)
def test_buttons_need_the_csrf_token(name: str, alice: User, machine: Machine) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    assert client.post(_url(name, machine)).status_code == 403


def test_a_disabled_person_sees_nothing(alice: User, machine: Machine, as_user: Callable[[User], Client]) -> None:
    client = as_user(alice)
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert client.get(_url("detail", machine)).status_code == 302


def test_a_deleted_machine_is_gone(alice: User, machine: Machine, as_user: Callable[[User], Client]) -> None:
    Machine.objects.filter(pk=machine.pk).update(status=Status.DELETED)
    client = as_user(alice)
    assert client.get(_url("detail", machine)).status_code == 404
    assert "beacon" not in _text(client.get(reverse("machines:list")))


# --- the list -----------------------------------------------------------------------------------------------------


def test_the_list_takes_the_same_queries_for_one_machine_and_for_many(
    alice: User, machine: Machine, as_user: Callable[[User], Client], django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    client = as_user(alice)
    jobs.enqueue(JobName.MACHINE_STOP, machine, queue="q", actor=alice)
    with django_assert_num_queries(17):
        client.get(reverse("machines:list"))
    for number in range(12):
        other = _another(machine, f"other-{number}")
        jobs.enqueue(JobName.MACHINE_STOP, other, queue="q", actor=alice)
    with django_assert_num_queries(17):
        answer = client.get(reverse("machines:list"))
    assert _text(answer).count("machine-card") == 13


def test_a_live_refresh_of_the_list_takes_few_queries(
    alice: User, machine: Machine, as_user: Callable[[User], Client], django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    client = as_user(alice)
    with django_assert_num_queries(8):
        answer = client.get(reverse("machines:list"), headers=HTMX)
    assert "<html" not in _text(answer)
    assert 'id="machine-list"' in _text(answer)


def test_the_list_is_bounded(alice: User, machine: Machine, as_user: Callable[[User], Client]) -> None:
    for number in range(50):
        _another(machine, f"other-{number}")
    client = as_user(alice)
    first, second = client.get(reverse("machines:list")), client.get(reverse("machines:list"), {"page": 2})
    assert (_text(first).count("machine-card"), _text(second).count("machine-card")) == (36, 15)
    assert "Page 1 of 2" in _text(first)


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ({"q": "beac"}, True),
        ({"q": "alice"}, True),
        ({"q": "zzz"}, False),
        ({"status": "running"}, True),
        ({"status": "off"}, False),
        ({"status": "busy"}, False),
        ({"status": "nonsense"}, True),
        ({"kind": "server"}, True),
        ({"kind": "desktop"}, False),
        ({"project": "Lighthouse"}, True),
        ({"project": "Elsewhere"}, False),
        ({"q": "\x00"}, True),
        ({"page": "99999"}, True),
        ({"page": "x"}, True),
        ({"view": "table"}, True),
    ],
)
def test_filters_live_in_the_address(
    query: dict[str, str], shown: bool, alice: User, machine: Machine, as_user: Callable[[User], Client]
) -> None:
    page = _text(as_user(alice).get(reverse("machines:list"), query))
    assert ("beacon" in page) is shown
    assert ("No machine matches" in page) is not shown


def test_the_table_is_kept_as_the_wanted_view(alice: User, machine: Machine, as_user: Callable[[User], Client]) -> None:
    client = as_user(alice)
    assert "machine-card" in _text(client.get(reverse("machines:list")))
    client.get(reverse("machines:list"), {"view": "table"})
    assert "<table" in _text(client.get(reverse("machines:list")))
    assert "<tr" in _text(client.get(_url("row", machine)))


def test_an_empty_list_is_the_catalogue(
    bob: User, image_version: ImageVersion, flavour: Flavour, as_user: Callable[[User], Client]
) -> None:
    page = _text(as_user(bob).get(reverse("machines:list")))
    assert "Debian 12 server" in page
    assert f"?image={image_version.image_id}" in page


def test_an_empty_list_tells_a_viewer_and_a_newcomer_what_to_do(
    vera: User, make_user: Callable[..., User], as_user: Callable[[User], Client]
) -> None:
    assert "No machines yet" in _text(as_user(vera).get(reverse("machines:list")))
    assert "You are in no project yet" in _text(as_user(make_user("nina")).get(reverse("machines:list")))


def test_a_card_shows_the_step_that_runs(alice: User, machine: Machine, as_user: Callable[[User], Client]) -> None:
    Machine.objects.filter(pk=machine.pk).update(task=Task.STOPPING, task_since=timezone.now())
    job = jobs.enqueue(JobName.MACHINE_STOP, machine, queue="q", actor=alice)
    job.steps.filter(name=StepName.ASK_SHUT_DOWN).update(status=StepStatus.DONE, progress=100)
    job.steps.filter(name=StepName.WAIT_OFF).update(status=StepStatus.RUNNING)
    page = _text(as_user(alice).get(_url("row", machine)))
    assert "Shutting down" in page
    assert "Wait until it is off" in page
    assert re.search(r'<progress max="100" value="50"', page)


def test_a_viewer_gets_no_buttons(vera: User, machine: Machine, as_user: Callable[[User], Client]) -> None:
    page = _text(as_user(vera).get(_url("detail", machine)))
    for name in PRESS:
        assert f'action="{_url(name, machine)}"' not in page
    assert 'data-mode="view"' in page


# --- a new one ----------------------------------------------------------------------------------------------------


def test_the_page_for_a_new_machine_is_filled_in(
    alice: User, image_version: ImageVersion, flavour: Flavour, as_user: Callable[[User], Client]
) -> None:
    alice.ssh_keys.create(name="laptop", public_key="ssh-ed25519 AAAA alice@laptop", used_at=timezone.now())
    page = _text(as_user(alice).get(reverse("machines:new")))
    assert 'value="server-1"' in page
    assert 'value="alice"' in page
    assert "ssh-ed25519 AAAA alice@laptop" in page
    assert re.search(r"Launch server-1 · 1 vCPU, 1 GiB", page)
    assert re.search(rf'value="{image_version.image_id}"[^>]*checked', page)


def test_a_new_machine_is_made_and_shown(alice: User, offer: Offer, as_user: Callable[[User], Client]) -> None:
    answer = as_user(alice).post(reverse("machines:new"), offer.form())
    made = Machine.objects.get()
    assert answer.status_code == 302
    assert answer.headers["Location"] == _url("detail", made)
    assert (made.name, made.owner, made.project, made.image_version) == ("lamp", alice, offer.project, offer.version)


def test_a_double_click_makes_one_machine(alice: User, offer: Offer, as_user: Callable[[User], Client]) -> None:
    client, form = as_user(alice), offer.form()
    answers = [client.post(reverse("machines:new"), form) for _click in range(2)]
    assert Machine.objects.count() == 1
    assert {answer.headers["Location"] for answer in answers} == {_url("detail", Machine.objects.get())}


@pytest.mark.parametrize(
    "case",
    [
        ("name", "Not A Name", "Use lower-case letters"),
        ("name", "", "This field is required"),
        ("login_user", "root", "no system user"),
        ("ssh_key", "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n", "This is a private key"),
        ("image", uuid4(), "cannot be launched in this project"),
        ("flavour", 999_999, "no longer offered"),
        ("project", uuid4(), "Select a valid choice"),
    ],
)
def test_an_error_stands_at_its_field(
    case: tuple[str, object, str], alice: User, offer: Offer, as_user: Callable[[User], Client]
) -> None:
    field, value, words = case
    Membership.objects.create(user=alice, project=Project.objects.create(name="Second"), role=Role.MEMBER)
    form = offer.form(**{field: value})
    answer = as_user(alice).post(reverse("machines:new"), form)
    assert answer.status_code == 422
    errors = re.findall(rf'id="id_{field}_error">(.*?)</ul>', _text(answer), re.DOTALL)
    assert any(words in error for error in errors)
    assert not Machine.objects.exists()


def test_what_the_service_refuses_stands_at_its_field_too(
    alice: User, machine: Machine, offer: Offer, as_user: Callable[[User], Client]
) -> None:
    answer = as_user(alice).post(reverse("machines:new"), offer.form(name="beacon"))
    assert answer.status_code == 422
    assert re.search(r'id="id_name_error">.*There is a machine named beacon', _text(answer), re.DOTALL)


def test_a_full_quota_is_said_in_words(alice: User, offer: Offer, as_user: Callable[[User], Client]) -> None:
    Project.objects.filter(pk=offer.project.pk).update(used_vcpus=6)
    client = as_user(alice)
    assert "No size fits" in _text(client.get(reverse("machines:new")))
    answer = client.post(reverse("machines:new"), offer.form())
    assert answer.status_code == 422
    assert "has no room for this machine" in _text(answer)
    assert not Machine.objects.exists()


@pytest.mark.parametrize("person", ["vera", "charlie"])
def test_nobody_makes_a_machine_where_they_may_not(
    person: str, cast: dict[str, User], offer: Offer, as_user: Callable[[User], Client]
) -> None:
    answer = as_user(cast[person]).post(reverse("machines:new"), offer.form())
    assert answer.status_code in {403, 422}
    assert not Machine.objects.exists()


def test_an_image_of_another_project_cannot_be_launched(
    alice: User, charlie: User, offer: Offer, as_user: Callable[[User], Client]
) -> None:
    other = Project.objects.get(name="Elsewhere")
    secret = Image.objects.create(slug="secret", title="Secret", kind=Kind.SERVER, source=Source.UPLOAD, project=other)
    version = ImageVersion.objects.create(image=secret, number=1, status=VersionStatus.READY)
    client = as_user(alice)
    assert "Secret" not in _text(client.get(reverse("machines:new")))
    assert client.post(reverse("machines:new"), replace(offer, version=version).form()).status_code == 422
    assert not Machine.objects.exists()


def test_an_image_that_is_still_being_made_is_shown_and_cannot_be_chosen(
    alice: User, offer: Offer, as_user: Callable[[User], Client]
) -> None:
    ImageVersion.objects.filter(pk=offer.version.pk).update(status=VersionStatus.BUILDING)
    version = ImageVersion.objects.get()
    job = jobs.enqueue(JobName.IMAGE_BUILD, version, queue="images", actor=None)
    job.steps.filter(name=StepName.BUILD).update(status=StepStatus.RUNNING, progress=40, detail="Installing packages")
    client = as_user(alice)
    page = _text(client.get(reverse("machines:new")))
    assert "Installing packages" in page
    assert f"imageversion:{version.pk}" in page
    assert re.search(rf'value="{version.image_id}"[^>]*disabled', page)
    assert client.post(reverse("machines:new"), offer.form()).status_code == 422


def test_a_size_that_is_too_small_for_the_image_says_why(
    alice: User, image_version: ImageVersion, flavour: Flavour, as_user: Callable[[User], Client]
) -> None:
    tiny = Flavour.objects.create(name="tiny", title="Tiny", vcpus=1, memory_mib=256, disk_gib=2, position=0)
    page = _text(as_user(alice).get(reverse("machines:new")))
    assert "Needs at least 512 MiB of memory" in page
    assert re.search(rf'value="{tiny.pk}"[^>]*disabled', page)


@pytest.mark.parametrize(
    ("username", "login"),
    [("alice", "alice"), ("Alice.Smith@x.org", "alice-smith"), ("9lives", "u9lives"), ("root", "me")],
)
def test_the_user_in_the_machine_is_made_from_the_persons_name(
    username: str, login: str, make_user: Callable[..., User], offer: Offer, as_user: Callable[[User], Client]
) -> None:
    user = make_user(username)
    Membership.objects.create(user=user, project=offer.project, role=Role.MEMBER)
    assert f'name="login_user" value="{login}"' in _text(as_user(user).get(reverse("machines:new")))


# --- one machine --------------------------------------------------------------------------------------------------


def _build(machine: Machine, actor: User) -> Job:
    Machine.objects.filter(pk=machine.pk).update(
        status=Status.BUILDING,
        task=Task.BUILDING,
        task_since=timezone.now(),
        power_state=PowerState.SHUT_OFF,
        console_socket="",
    )
    machine.refresh_from_db()
    return jobs.enqueue(JobName.MACHINE_CREATE, machine, queue="q", actor=actor)


def test_while_it_is_built_the_steps_are_shown_with_their_usual_times(
    alice: User, machine: Machine, as_user: Callable[[User], Client]
) -> None:
    now = timezone.now()
    earlier = jobs.enqueue(JobName.MACHINE_CREATE, _another(machine, "earlier"), queue="q", actor=alice)
    earlier.steps.filter(name=StepName.BOOT).update(
        status=StepStatus.DONE, started_at=now - dt.timedelta(seconds=15), finished_at=now
    )
    Job.objects.filter(pk=earlier.pk).update(status=JobStatus.DONE, finished_at=now)
    job = _build(machine, alice)
    job.steps.filter(name=StepName.BOOT).update(
        status=StepStatus.RUNNING, started_at=now, detail="Waiting for the agent"
    )
    page = _text(as_user(alice).get(_url("detail", machine)))
    assert "usually 15 s" in page
    assert "Waiting for the agent" in page
    assert "Ask for its address" in page
    assert "data-console" not in page


def test_a_machine_with_a_screen_shows_it(alice: User, machine: Machine, as_user: Callable[[User], Client]) -> None:
    page = _text(as_user(alice).get(_url("detail", machine)))
    assert "data-console" in page
    assert 'data-mode="control"' in page


def test_a_screen_that_is_in_the_page_already_is_not_sent_again(
    alice: User, machine: Machine, as_user: Callable[[User], Client]
) -> None:
    client = as_user(alice)
    page = _text(client.get(_url("detail", machine)))
    found = re.search(r'data-keep="([0-9a-f]{16})"', page)
    assert found is not None
    again = _text(client.get(_url("detail", machine), {"stage": found[1]}, headers=HTMX))
    assert f'data-keep="{found[1]}"' in again
    assert "data-console" not in again
    # Switched off and on again it has another screen.
    Machine.objects.filter(pk=machine.pk).update(console_secret=seal("another"))
    assert "data-console" in _text(client.get(_url("detail", machine), {"stage": found[1]}, headers=HTMX))


def test_where_the_screen_is_and_its_secret_stay_in_the_portal(
    alice: User, machine: Machine, as_user: Callable[[User], Client]
) -> None:
    Machine.objects.filter(pk=machine.pk).update(console_secret=seal("vnc-secret"))
    page = _text(as_user(alice).get(_url("detail", machine)))
    assert "/nowhere/vnc.sock" not in page
    assert "vnc-secret" not in page


def test_a_machine_that_is_off_can_be_started_from_its_place(
    alice: User, machine: Machine, as_user: Callable[[User], Client]
) -> None:
    Machine.objects.filter(pk=machine.pk).update(power_state=PowerState.SHUT_OFF, console_socket="")
    page = _text(as_user(alice).get(_url("detail", machine)))
    assert "It is shut off" in page
    assert f'action="{_url("start", machine)}"' in page


def test_a_machine_that_could_not_be_built_says_why_and_can_be_tried_again(
    alice: User, machine: Machine, as_user: Callable[[User], Client]
) -> None:
    Machine.objects.filter(pk=machine.pk).update(
        status=Status.ERROR,
        holds_quota=False,
        power_state=PowerState.SHUT_OFF,
        console_socket="",
        error_message="No space left on the pool.",
    )
    page = _text(as_user(alice).get(_url("detail", machine)))
    assert "No space left on the pool." in page
    assert f'action="{_url("retry", machine)}"' in page


def test_forcing_off_is_offered_once_the_guest_had_its_time(
    alice: User, machine: Machine, as_user: Callable[[User], Client], settings: Any
) -> None:
    settings.GUEST_SHUTDOWN_TIMEOUT_S = 60
    client, now = as_user(alice), timezone.now()
    Machine.objects.filter(pk=machine.pk).update(task=Task.STOPPING, task_since=now - dt.timedelta(seconds=20))
    with time_machine.travel(now, tick=False):
        page = _text(client.get(_url("detail", machine)))
    assert "does not react" not in page
    assert re.search(r"load delay:(39|40)s", page)
    Machine.objects.filter(pk=machine.pk).update(task_since=now - dt.timedelta(seconds=61))
    assert "does not react" in _text(client.get(_url("detail", machine)))


def test_only_operators_see_the_host(
    alice: User, operator: User, machine: Machine, as_user: Callable[[User], Client]
) -> None:
    url = reverse("hosts:detail", args=[machine.host_id])
    assert url not in _text(as_user(alice).get(_url("detail", machine)))
    assert url in _text(as_user(operator).get(_url("detail", machine)))


def test_the_machine_page_takes_a_bounded_number_of_queries(
    alice: User,
    machine: Machine,
    as_user: Callable[[User], Client],
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    client = as_user(alice)
    for _number in range(15):
        job = jobs.enqueue(JobName.MACHINE_REBOOT, machine, queue="q", actor=alice)
        Job.objects.filter(pk=job.pk).update(status=JobStatus.DONE)
    _build(machine, alice)
    with django_assert_max_num_queries(15):
        client.get(_url("detail", machine))


# --- buttons ------------------------------------------------------------------------------------------------------


def test_pressing_a_button_by_htmx_says_what_to_look_at_again(
    alice: User, machine: Machine, as_user: Callable[[User], Client]
) -> None:
    answer = as_user(alice).post(_url("stop", machine), headers=HTMX)
    assert answer.status_code == 204
    assert f"machine:{machine.pk}" in answer.headers["HX-Trigger"]
    machine.refresh_from_db()
    assert machine.task == Task.STOPPING


def test_pressing_twice_is_one_job(alice: User, machine: Machine, as_user: Callable[[User], Client]) -> None:
    client = as_user(alice)
    answers = [client.post(_url("stop", machine)) for _click in range(2)]
    assert [answer.status_code for answer in answers] == [302, 302]
    assert Job.objects.count() == 1


def test_a_refusal_is_words_for_htmx_and_a_page_for_others(
    alice: User, machine: Machine, as_user: Callable[[User], Client]
) -> None:
    client = as_user(alice)
    partial, page = client.post(_url("start", machine), headers=HTMX), client.post(_url("start", machine))
    assert (partial.status_code, page.status_code) == (409, 409)
    assert "beacon is running already." in _text(partial)
    assert "<html" not in _text(partial)
    assert "<html" in _text(page)


def test_deleting_leads_to_the_list_as_it_was_filtered_and_nowhere_else(
    alice: User, machine: Machine, as_user: Callable[[User], Client]
) -> None:
    client, home = as_user(alice), reverse("machines:list")
    assert client.post(_url("delete", machine), {"next": f"{home}?q=be"}).headers["Location"] == f"{home}?q=be"
    for evil in (
        "https://evil.example/",
        "//evil.example/",
        "/admin/",
        f"{home}../admin/",
        "javascript:alert(1)",
        "\\\\evil",
    ):
        assert client.post(_url("delete", machine), {"next": evil}).headers["Location"] == home


def test_the_words_before_deleting_say_what_is_lost(
    alice: User, machine: Machine, as_user: Callable[[User], Client]
) -> None:
    client = as_user(alice)
    dialog, page = (
        client.get(_url("confirm-delete", machine), headers=HTMX),
        client.get(_url("confirm-delete", machine)),
    )
    for answer in (dialog, page):
        assert "The disk of beacon (10 GiB) and everything on it are lost for good." in _text(answer)
    assert "<dialog" in _text(dialog)


def test_looking_at_the_password_is_written_down_and_kept_nowhere(
    bob: User, machine: Machine, as_user: Callable[[User], Client]
) -> None:
    Machine.objects.filter(pk=machine.pk).update(login_password=seal("first-password"))
    client = as_user(bob)
    assert "first-password" not in _text(client.get(_url("detail", machine)))
    answer = client.post(_url("secret", machine), headers=HTMX)
    assert "first-password" in _text(answer)
    assert "no-store" in answer.headers["Cache-Control"]
    event = Event.objects.get(action="machine.secret")
    assert (event.actor, event.target_id) == (bob, str(machine.pk))
    assert "first-password" not in str(event.detail)


# --- hostile words ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("evil", XSS)
def test_hostile_names_are_shown_as_text(
    evil: str, alice: User, machine: Machine, offer: Offer, as_user: Callable[[User], Client]
) -> None:
    """Names are validated, but rows may come from elsewhere: an import, an older version, an operator's hand."""
    User.objects.filter(pk=alice.pk).update(username=evil)
    Project.objects.filter(pk=offer.project.pk).update(name=evil)
    Image.objects.filter(pk=offer.version.image_id).update(title=evil, description=evil)
    Flavour.objects.filter(pk=offer.flavour.pk).update(title=evil)
    Machine.objects.filter(pk=machine.pk).update(
        name=evil[:63],
        login_user=evil[:32],
        addresses=[evil],
        error_message=evil,
        task=Task.STOPPING,
        task_since=timezone.now(),
    )
    machine.refresh_from_db()
    job = jobs.enqueue(JobName.MACHINE_STOP, machine, queue="q", actor=alice)
    job.steps.update(status=StepStatus.RUNNING, detail=evil)
    Job.objects.filter(pk=job.pk).update(error_message=evil)
    client = as_user(User.objects.get(pk=alice.pk))
    answers: list[Any] = [
        client.get(reverse("machines:list"), {"q": "", "project": evil}),
        client.get(reverse("machines:list"), {"view": "table"}),
        client.get(reverse("machines:list"), {"q": evil}),
        client.get(reverse("machines:new")),
        client.post(reverse("machines:new"), {"name": evil, "login_user": evil, "ssh_key": evil}),
        client.get(_url("detail", machine)),
        client.get(_url("confirm-delete", machine)),
    ]
    for answer in answers:
        page = _text(answer)
        if "<" in evil:
            assert evil not in page
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert "<svg/onload" not in page
        assert "14" not in re.findall(r"<h1[^>]*>\s*(\S+)", page)
        assert not re.search(r'href="javascript:', page)
        assert not re.search(r"\son\w+=", re.sub(r'"[^"]*"|&[^;]*;[^<]*', "", page))


def test_every_page_carries_the_content_policy(
    alice: User, machine: Machine, as_user: Callable[[User], Client]
) -> None:
    client = as_user(alice)
    for url in (reverse("machines:list"), reverse("machines:new"), _url("detail", machine), "/nowhere/"):
        policy = client.get(url).headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
