"""Pools as operators see them: the list, a new one, one live with its buttons, and its settings. All by requests."""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Group
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.audit.models import Event
from portal.images.models import ImageVersion, VersionStatus
from portal.machines.models import Flavour, Machine
from portal.pools import broker
from portal.pools.models import Desktop, Entitlement, Pool, Session
from portal.pools.states import DesktopState, EndReason, SessionState
from tests.support.pool_rows import pool_of

pytestmark = pytest.mark.django_db
LIVE = {"HX-Request": "true"}


@pytest.fixture
def pool(machine: Machine, charlie: User) -> Pool:
    return pool_of(machine, entitled=(charlie,))


@pytest.fixture
def olga(operator: User) -> Client:
    client = Client()
    client.force_login(operator)
    return client


def text(answer: Any) -> str:
    return " ".join(answer.content.decode().split())


def at(name: str, *args: object) -> str:
    return reverse(f"pools:{name}", args=args)


def page_of(client: Client, pool: Pool) -> str:
    return text(client.get(at("detail", pool.pk)))


@pytest.fixture
def newer(image_version: ImageVersion) -> ImageVersion:
    return ImageVersion.objects.create(image=image_version.image, number=2, status=VersionStatus.READY)


def new_values(project: Project, version: ImageVersion, size: Flavour, **values: object) -> dict[str, object]:
    return {
        "title": "Lab desktop",
        "name": "lab",
        "kind": "floating",
        "project": project.pk,
        "image_version": version.pk,
        "flavour": size.pk,
        "name_pattern": "",
        "minimum": "1",
        "maximum": "10",
        "spare": "2",
        "desktops_per_person": "1",
        "time_zone": "Europe/Berlin",
        "idle_warn_min": "15",
        "idle_disconnect_min": "2",
        "idle_sign_out_min": "30",
        "limit_min": "0",
        "enabled": "on",
        "request_key": uuid4(),
        **values,
    }


# --- a new one ------------------------------------------------------------------------------------------------------


def test_a_pool_is_made_and_its_page_says_that_nobody_may_use_it_yet(
    olga: Client, project: Project, image_version: ImageVersion, flavour: Flavour
) -> None:
    assert "No pool yet" in text(olga.get(at("list")))
    answer = olga.post(at("new"), new_values(project, image_version, flavour), follow=True)
    pool = Pool.objects.get()
    assert (pool.title, pool.name, pool.name_pattern) == ("Lab desktop", "lab", "lab-{n}")
    assert (pool.minimum, pool.maximum, pool.spare, pool.idle_warn_s, pool.limit_s) == (1, 10, 2, 900, 0)
    page = text(answer)
    assert "Nobody may use it yet." in page and "1 to 10, 2 spare" in page and "15 min" in page
    assert "Lab desktop" in text(olga.get(at("list")))
    assert Event.objects.filter(action="pool.created").count() == 1


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"title": ""}, "This field is required."),
        ({"name": "Lab 1"}, "consisting of letters, numbers, underscores or hyphens"),
        ({"name": "LAB"}, "Use lower-case letters, digits and hyphens"),
        ({"minimum": "11"}, "It cannot be more than “At most”."),
        ({"spare": "11"}, "as many as it is to keep ready"),
        ({"maximum": "0"}, "greater than or equal to 1"),
        ({"maximum": "many"}, "Enter a whole number."),
        ({"name_pattern": "lab"}, "Put {n} where the number is to be"),
        ({"name_pattern": "LAB {n}"}, "name_pattern_error"),
        ({"time_zone": "Mars/Olympus"}, "is not one of the available choices"),
        ({"idle_warn_min": "-1"}, "greater than or equal to 0"),
        ({"kind": "flying"}, "is not one of the available choices"),
        ({"image_version": str(uuid4())}, "is not one of the available choices"),
        ({"flavour": "0"}, "is not one of the available choices"),
    ],
)
def test_what_cannot_be_is_said_at_its_field_and_nothing_is_made(
    olga: Client,
    project: Project,
    image_version: ImageVersion,
    flavour: Flavour,
    values: dict[str, object],
    told: str,
) -> None:
    answer = olga.post(at("new"), new_values(project, image_version, flavour, **values))
    assert answer.status_code == 422
    assert told in text(answer), text(answer)
    assert not Pool.objects.exists()
    if "title" not in values:
        assert 'value="Lab desktop"' in text(answer), "what was typed stays"


def test_the_same_short_name_twice_and_another_ones_image_are_refused(
    olga: Client, pool: Pool, project: Project, image_version: ImageVersion, flavour: Flavour
) -> None:
    answer = olga.post(at("new"), new_values(project, image_version, flavour))
    assert answer.status_code == 422 and "There is a pool of this name already." in text(answer)
    image_version.image.project = Project.objects.create(name="Another")
    image_version.image.save()
    answer = olga.post(at("new"), new_values(project, image_version, flavour, name="other"))
    assert answer.status_code == 422 and "This image is another project" in text(answer)


def test_without_an_image_the_page_says_what_is_missing(olga: Client, project: Project) -> None:
    assert "There is no image yet that is ready." in text(olga.get(at("new")))


# --- live -----------------------------------------------------------------------------------------------------------


def test_the_page_shows_desktops_sessions_who_waits_the_times_and_what_failed(
    olga: Client, pool: Pool, machine: Machine, charlie: User, alice: User
) -> None:
    session = broker.ask(pool, charlie).session
    assert session is not None
    asked = timezone.now() - dt.timedelta(minutes=1)
    Session.objects.update(asked_at=asked, on_screen_at=asked + dt.timedelta(seconds=1.5))
    Desktop.objects.exclude(pk=session.desktop_id).update(
        state=DesktopState.FAILED, error="The host <is> full.", retry_at=timezone.now()
    )
    Entitlement.objects.create(pool=pool, user=alice)
    assert broker.ask(pool, alice).place is not None
    page = page_of(olga, pool)
    assert "charlie" in page and "lab-1" in page and "1. <b>alice</b>" in page
    assert page.count("1.5 s") == 2
    assert "The host &lt;is&gt; full." in page and "It is tried again" in page
    assert "2 of 5" in page and "alice, charlie" in page.replace("charlie, alice", "alice, charlie")
    row = text(olga.get(at("list")))
    assert "1 of 5" in row and "1 desktop failed" in row and "<b>1</b>" in row


def test_one_is_signed_off_or_all_are(olga: Client, pool: Pool, charlie: User, alice: User) -> None:
    Entitlement.objects.create(pool=pool, user=alice)
    first, second = broker.ask(pool, charlie).session, broker.ask(pool, alice).session
    assert first is not None and second is not None
    answer = olga.post(at("session-sign-off", first.pk), headers=LIVE)
    assert answer.status_code == 204 and str(pool.pk) in answer["HX-Trigger"]
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.end_reason, second.state) == (EndReason.OPERATOR, SessionState.ACTIVE)
    asked = text(olga.get(at("sign-off", pool.pk), headers=LIVE))
    assert "1 person is on a desktop of this pool." in asked and "everything on the desktops" in asked
    told = text(olga.post(at("sign-off", pool.pk), follow=True))
    assert "1 person is signed off." in told
    second.refresh_from_db()
    assert second.end_reason == EndReason.OPERATOR


def test_maintenance_and_a_message(olga: Client, pool: Pool) -> None:
    olga.post(at("maintenance", pool.pk), {"on": "yes"})
    assert "Nobody gets a desktop of it until the maintenance ends." in page_of(olga, pool)
    olga.post(at("maintenance", pool.pk), {"on": "no"})
    assert "Nobody gets a desktop of it" not in page_of(olga, pool)
    wrong = olga.post(at("message", pool.pk), {"text": " "})
    assert wrong.status_code == 422 and "This field is required." in text(wrong)
    assert olga.post(at("message", pool.pk), {"text": "x" * 501}).status_code == 422
    olga.post(at("message", pool.pk), {"text": "Save your work."})
    assert "Save your work." in page_of(olga, pool) and "Take it away" in page_of(olga, pool)
    olga.post(at("message", pool.pk), {"away": "yes", "text": "Save your work."})
    pool.refresh_from_db()
    assert pool.message == ""


def test_a_desktop_that_failed_is_made_new_and_one_in_use_has_no_button(
    olga: Client, pool: Pool, charlie: User
) -> None:
    session = broker.ask(pool, charlie).session
    assert session is not None
    failed = Desktop.objects.exclude(pk=session.desktop_id).get()
    Desktop.objects.filter(pk=failed.pk).update(state=DesktopState.FAILED, error="No.")
    page = page_of(olga, pool)
    assert at("desktop-recycle", failed.pk) in page and at("desktop-recycle", session.desktop_id) not in page
    olga.post(at("desktop-recycle", failed.pk))
    failed.refresh_from_db()
    assert (failed.state, failed.error) == (DesktopState.RECYCLING, "")


def test_a_new_version_comes_and_goes_back_in_one_step(olga: Client, pool: Pool, newer: ImageVersion) -> None:
    first = pool.image_version
    answer = olga.post(at("recompose", pool.pk), {"version": newer.pk, "how": "rolling", "at": ""}, follow=True)
    assert "2 desktops have another version still" in text(answer)
    pool.refresh_from_db()
    assert (pool.image_version, pool.previous_version) == (newer, first)
    olga.post(at("back", pool.pk), {"version": first.pk})
    pool.refresh_from_db()
    assert (pool.image_version, pool.previous_version) == (first, newer)
    olga.post(at("back", pool.pk), {"version": first.pk})
    pool.refresh_from_db()
    assert pool.image_version == first, "the same click again changes nothing"


def test_a_version_comes_at_a_time_and_is_called_off(olga: Client, pool: Pool, newer: ImageVersion) -> None:
    path = at("recompose", pool.pk)
    for when, told in (("", "Say when."), ("2020-01-01T10:00", "Choose a time to come."), ("soon", "valid date")):
        answer = olga.post(path, {"version": newer.pk, "how": "at_time", "at": when})
        assert answer.status_code == 422 and told in text(answer), text(answer)
    olga.post(path, {"version": newer.pk, "how": "at_time", "at": "2030-01-01T10:00"})
    assert "Version 2 comes" in page_of(olga, pool)
    olga.post(at("recompose-cancel", pool.pk))
    pool.refresh_from_db()
    assert (pool.next_version, pool.recompose_at) == (None, None)


# --- settings -------------------------------------------------------------------------------------------------------


def test_settings_are_shown_and_changed(
    olga: Client, pool: Pool, project: Project, image_version: ImageVersion, flavour: Flavour
) -> None:
    Pool.objects.update(idle_warn_s=600)
    page = text(olga.get(at("edit", pool.pk)))
    assert 'value="Lab desktop"' in page and 'name="idle_warn_min" value="10"' in page
    assert 'name="kind"' not in page and 'name="project"' not in page
    values = new_values(project, image_version, flavour, title="Reading room", maximum="7")
    olga.post(at("edit", pool.pk), values)
    pool.refresh_from_db()
    assert (pool.title, pool.maximum, pool.name, pool.time_zone) == ("Reading room", 7, "lab", "Europe/Berlin")
    wrong = olga.post(at("edit", pool.pk), values | {"maximum": "1", "spare": "3"})
    assert wrong.status_code == 422 and "as many as it is to keep ready" in text(wrong)


def test_people_projects_and_groups_are_let_in_and_put_out(olga: Client, pool: Pool, charlie: User, bob: User) -> None:
    session = broker.ask(pool, charlie).session
    assert session is not None
    Group.objects.create(name="Class 7b")
    path = at("people-add", pool.pk)
    for what, who in (("user", "BOB@example.org"), ("project", "lighthouse"), ("group", "class 7b")):
        assert olga.post(path, {"what": what, "who": who}).status_code == 302
    page = text(olga.get(at("edit", pool.pk)))
    for words in ("bob", "everybody in the project Lighthouse", "everybody in the group Class 7b"):
        assert words in page
    for what, told in (
        ("user", "Nobody here has this user name"),
        ("group", "There is nobody and nothing of this name"),
    ):
        wrong = olga.post(path, {"what": what, "who": "nobody"})
        assert wrong.status_code == 422 and told in text(wrong)
    mine = Entitlement.objects.get(user=charlie)
    olga.post(at("people-remove", pool.pk), {"entitlement": mine.pk})
    session.refresh_from_db()
    assert session.end_reason == EndReason.NOT_ENTITLED
    assert Entitlement.objects.count() == 3


def test_spare_desktops_by_the_hour(olga: Client, pool: Pool) -> None:
    path = at("hours-add", pool.pk)
    values = {"weekdays": ["0", "1"], "from_time": "07:00", "to_time": "18:00", "spare": "20"}
    assert olga.post(path, values).status_code == 302
    assert (
        olga.post(path, {"weekdays": ["6"], "from_time": "22:00", "to_time": "00:00", "spare": "1"}).status_code == 302
    )
    page = text(olga.get(at("edit", pool.pk)))
    dash = "\N{EN DASH}"
    assert f"<b>Monday</b> 07:00{dash}18:00: 20 spare" in page
    assert f"<b>Sunday</b> 22:00{dash}24:00: 1 spare" in page
    for changed, told in (
        ({"weekdays": []}, "This field is required."),
        ({"to_time": "06:00"}, "It must be later than “From”."),
        ({"from_time": "17:00", "to_time": "19:00"}, "Two of the hours overlap."),
        ({"spare": "-1"}, "greater than or equal to 0"),
        ({"from_time": "25:00"}, "Enter a valid time."),
    ):
        wrong = olga.post(path, values | changed)
        assert wrong.status_code == 422 and told in text(wrong), changed
    first = pool.hours.order_by("weekday").first()
    assert first is not None
    olga.post(at("hours-remove", pool.pk), {"hours": first.pk})
    assert list(pool.hours.order_by("weekday").values_list("weekday", flat=True)) == [1, 6]


def test_a_pool_is_emptied_and_then_deleted(olga: Client, pool: Pool, charlie: User) -> None:
    session = broker.ask(pool, charlie).session
    assert session is not None
    assert "Empty this pool" in text(olga.get(at("edit", pool.pk)))
    refused = olga.post(at("delete", pool.pk))
    assert refused.status_code == 409 and "Empty it first." in text(refused)
    olga.post(at("empty", pool.pk))
    session.refresh_from_db()
    pool.refresh_from_db()
    assert (session.state, pool.enabled, pool.maximum) == (SessionState.ENDED, False, 0)
    Desktop.objects.update(state=DesktopState.RETIRED)
    assert "Delete this pool" in text(olga.get(at("edit", pool.pk)))
    assert olga.post(at("delete", pool.pk))["Location"] == at("list")
    assert not Pool.objects.exists()
