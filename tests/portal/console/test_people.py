"""Who controls a screen, who is at it, who is removed from it, and who was let on to it by a link."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from portal.accounts.models import Membership, User
from portal.accounts.permissions import Role
from portal.audit.models import Event
from portal.console import control, services
from portal.console.errors import KickedError
from portal.console.models import ConsoleGrant, ConsoleLink, ConsoleSession, ScreenBan, ScreenControl
from portal.console.relay import Ended, Step
from portal.console.selectors import Target, mode_for, people_on, target_for
from portal.console.tickets import Mode, TicketScrubber
from portal.errors import ConflictError, ForbiddenError, NotFoundError
from portal.machines.models import Machine
from tests.support.xss import CORPUS, faults

HTMX = {"HX-Request": "true"}


def come(user: User, machine: Machine, mode: Mode = Mode.CONTROL) -> ConsoleSession:
    """A tab of this person at the screen."""
    return services.begin_session(
        Target(user, machine, machine.console_socket, ""), number=uuid4(), mode=mode, request_ip=None
    )


def go(session: ConsoleSession) -> None:
    services.end_session(session.pk, Ended(Step.ENDED, "browser-gone"))


def holder(machine: Machine) -> User | None:
    return ScreenControl.objects.select_related("user").get(machine=machine).user


def panel(client: Client, user: User, machine: Machine) -> str:
    client.force_login(user)
    answer = client.get(reverse("console:people", args=[machine.pk]), headers=HTMX)
    assert answer.status_code == 200
    return answer.content.decode()


# --- control -------------------------------------------------------------------------------------------------------


def test_who_comes_first_to_control_controls(alice: User, bob: User, vera: User, machine: Machine) -> None:
    come(vera, machine, Mode.VIEW)
    assert holder(machine) is None
    come(bob, machine)
    come(alice, machine)
    assert holder(machine) == bob


def test_control_stays_while_its_holder_has_a_tab_and_then_goes_to_who_asked_first(
    alice: User, bob: User, operator: User, machine: Machine
) -> None:
    first, second = come(bob, machine), come(bob, machine)
    come(alice, machine)
    come(operator, machine)
    control.ask(machine, actor=operator)
    go(first)
    assert holder(machine) == bob
    go(second)
    assert holder(machine) == operator
    assert not ConsoleSession.objects.exclude(asked_at=None).exists(), "who has it asks no more"
    passed = Event.objects.get(action="console.control")
    assert (passed.actor, passed.detail) == (None, {"to": "olga"})


def test_nobody_asked_so_control_goes_to_who_is_here_longest_or_to_nobody(
    alice: User, bob: User, vera: User, machine: Machine
) -> None:
    first = come(bob, machine)
    come(vera, machine, Mode.VIEW)
    second = come(alice, machine)
    go(first)
    assert holder(machine) == alice
    go(second)
    assert holder(machine) is None


def test_control_passes_on_when_the_holder_s_web_process_was_killed(
    redis_db: str, alice: User, bob: User, machine: Machine
) -> None:
    """No end was ever written for it; the clock finds it."""
    dead = come(bob, machine)
    come(alice, machine)
    ConsoleSession.objects.filter(pk=dead.pk).update(started_at=timezone.now() - dt.timedelta(minutes=9))
    assert services.end_lost_sessions() == 1
    assert holder(machine) == alice


def test_control_is_handed_over_by_its_holder_to_who_is_here(
    alice: User, bob: User, vera: User, machine: Machine
) -> None:
    come(bob, machine)
    with pytest.raises(ConflictError, match="alice is not here"):
        control.give(machine, actor=bob, person=alice)
    come(alice, machine)
    come(vera, machine, Mode.VIEW)
    with pytest.raises(ConflictError, match="vera is not here to control"):
        control.give(machine, actor=bob, person=vera)
    control.give(machine, actor=bob, person=alice)
    assert holder(machine) == alice
    with pytest.raises(ForbiddenError):
        control.give(machine, actor=bob, person=bob)


def test_a_member_asks_and_an_owner_or_operator_takes(alice: User, bob: User, operator: User, machine: Machine) -> None:
    come(alice, machine)
    come(bob, machine)
    with pytest.raises(ConflictError, match="alice controls the screen"):
        control.take(machine, actor=bob)
    control.ask(machine, actor=bob)
    asked = ConsoleSession.objects.get(user=bob).asked_at
    control.ask(machine, actor=bob)
    assert ConsoleSession.objects.get(user=bob).asked_at == asked is not None
    assert Event.objects.filter(action="console.ask").count() == 1
    control.give(machine, actor=alice, person=bob)
    control.take(machine, actor=alice)
    assert holder(machine) == alice
    with pytest.raises(ConflictError, match="Open the screen first"):
        control.take(machine, actor=operator)
    come(operator, machine)
    control.take(machine, actor=operator)
    assert holder(machine) == operator


def test_who_lets_go_gives_it_to_who_asked_or_to_nobody_and_then_anyone_takes_it(
    alice: User, bob: User, machine: Machine
) -> None:
    come(alice, machine)
    come(bob, machine)
    control.release(machine, actor=alice)
    assert holder(machine) is None
    control.take(machine, actor=bob)
    control.ask(machine, actor=alice)
    control.release(machine, actor=bob)
    assert holder(machine) == alice
    control.release(machine, actor=bob)
    assert holder(machine) == alice, "it was not bob's any more"


def test_asking_where_nobody_controls_is_taking(alice: User, bob: User, machine: Machine) -> None:
    come(alice, machine)
    come(bob, machine)
    control.release(machine, actor=alice)
    control.ask(machine, actor=bob)
    assert holder(machine) == bob


# --- the panel -----------------------------------------------------------------------------------------------------


def test_the_panel_shows_each_person_once_and_what_they_do(
    alice: User, bob: User, operator: User, machine: Machine
) -> None:
    come(bob, machine)
    come(alice, machine)
    come(alice, machine, Mode.VIEW)
    come(operator, machine, Mode.VIEW)
    control.ask(machine, actor=alice)
    here = people_on(machine, bob)
    assert [(one.name, one.controls, bool(one.asked_at), one.tabs, one.is_operator) for one in here.present] == [
        ("bob", True, False, 1, False),
        ("alice", False, True, 2, False),
        ("olga", False, False, 1, True),
    ]
    assert here.i_control
    assert [one.name for one in here.watching] == ["olga"]


def test_the_panel_tells_the_screen_who_controls(client: Client, alice: User, bob: User, machine: Machine) -> None:
    session = come(bob, machine)
    come(alice, machine)
    mine, theirs = panel(client, bob, machine), panel(client, alice, machine)
    assert 'data-controls="true"' in mine and 'data-holder="bob"' in mine
    assert 'data-controls="false"' in theirs and 'data-holder="bob"' in theirs
    assert str(session.pk) in theirs


def test_buttons_act_and_answer_with_the_panel(client: Client, alice: User, bob: User, machine: Machine) -> None:
    come(bob, machine)
    come(alice, machine)
    client.force_login(bob)
    url = reverse("console:give", args=[machine.pk])
    answer = client.post(url, {"person": alice.pk}, headers=HTMX)
    assert 'data-holder="alice"' in answer.content.decode()
    refused = client.post(url, {"person": alice.pk}, headers=HTMX)
    assert refused.status_code == 403
    assert "Only who controls" in refused.content.decode()
    assert client.post(reverse("console:ask", args=[machine.pk])).status_code == 302


@pytest.mark.parametrize("text", CORPUS)
def test_names_are_text(client: Client, operator: User, alice: User, machine: Machine, text: str) -> None:
    User.objects.filter(pk=alice.pk).update(username=text)
    alice.refresh_from_db()
    come(alice, machine)
    services.share(machine, actor=alice, mode=Mode.VIEW, lifetime=dt.timedelta(hours=1))
    ConsoleSession.objects.update(machine_name=text)
    assert faults(panel(client, operator, machine)) == []
    for page in ("/sessions/", f"/sessions/{ConsoleSession.objects.get().pk}/end/", f"/machines/{machine.pk}/screen/"):
        assert faults(client.get(page).content.decode()) == [], page


def test_a_ticket_names_its_session(client: Client, redis_db: str, alice: User, machine: Machine) -> None:
    client.force_login(alice)
    named = UUID(client.post(reverse("console:ticket", args=[machine.pk])).json()["session"])
    assert named.version == 4


# --- removing people -----------------------------------------------------------------------------------------------


def test_who_was_removed_is_told_by_whom_and_stays_out_until_let_in(
    client: Client, redis_db: str, alice: User, bob: User, machine: Machine
) -> None:
    come(bob, machine)
    services.remove_person(machine, actor=alice, person=bob)
    client.force_login(bob)
    answer = client.post(reverse("console:ticket", args=[machine.pk]))
    assert (answer.status_code, answer.json()["step"], answer.json()["code"]) == (409, "revoked", "kicked")
    assert "alice removed you" in answer.json()["message"] and "5 minutes" in answer.json()["message"]
    with pytest.raises(ForbiddenError):
        services.let_in(machine, actor=bob, person=bob)
    services.let_in(machine, actor=alice, person=bob)
    assert client.post(reverse("console:ticket", args=[machine.pk])).status_code == 200
    assert set(Event.objects.values_list("action", flat=True)) >= {"console.kick", "console.let_in"}


def test_a_removal_passes(alice: User, bob: User, machine: Machine) -> None:
    services.remove_person(machine, actor=alice, person=bob)
    with pytest.raises(KickedError):
        target_for(bob, machine.pk, Mode.CONTROL)
    ScreenBan.objects.update(until=timezone.now())
    assert target_for(bob, machine.pk, Mode.CONTROL).user == bob


@pytest.mark.parametrize(
    ("actor", "person", "may"),
    [
        ("alice", "bob", True),
        ("operator", "alice", True),
        ("alice", "operator", False),
        ("bob", "vera", False),
        ("vera", "bob", False),
        ("alice", "alice", False),
    ],
)
def test_who_may_remove_whom(
    request: pytest.FixtureRequest, machine: Machine, actor: str, person: str, may: bool
) -> None:
    by, who = request.getfixturevalue(actor), request.getfixturevalue(person)
    if may:
        services.remove_person(machine, actor=by, person=who)
    else:
        with pytest.raises(ForbiddenError):
            services.remove_person(machine, actor=by, person=who)
    assert ScreenBan.objects.exists() is may


def test_a_member_who_owns_the_machine_moderates_but_removes_no_owner_of_the_project(
    alice: User, bob: User, vera: User, machine: Machine
) -> None:
    Machine.objects.update(owner=bob)
    machine.refresh_from_db()
    services.remove_person(machine, actor=bob, person=vera)
    with pytest.raises(ForbiddenError):
        services.remove_person(machine, actor=bob, person=alice)


# --- share links ---------------------------------------------------------------------------------------------------


@pytest.fixture
def share(alice: User, machine: Machine) -> Callable[..., str]:
    def share(mode: Mode = Mode.CONTROL, **lifetime: float) -> str:
        """The link's address."""
        life = dt.timedelta(**(lifetime or {"hours": 1}))
        _link, token = services.share(machine, actor=alice, mode=mode, lifetime=life)
        return reverse("console:shared", args=[token])

    return share


def test_a_link_lets_a_viewer_control_this_screen_and_nothing_else(
    client: Client, vera: User, machine: Machine, share: Callable[..., str]
) -> None:
    client.force_login(vera)
    assert mode_for(vera, machine.pk, Mode.CONTROL) is Mode.VIEW
    answer = client.get(share())
    assert (answer.status_code, answer["Location"]) == (302, f"/machines/{machine.pk}/screen/")
    assert answer["Referrer-Policy"] == "no-referrer"
    assert mode_for(vera, machine.pk, Mode.CONTROL) is Mode.CONTROL
    assert target_for(vera, machine.pk, Mode.CONTROL).by_grant
    assert client.post(reverse("machines:force-off", args=[machine.pk])).status_code == 403
    assert (
        client.post(reverse("console:link-new", args=[machine.pk]), {"mode": "view", "lifetime": "1h"}).status_code
        == 403
    )
    other = Machine.objects.get(pk=machine.pk)
    other.pk, other.name, other.mac, other.request_key = uuid4(), "other", "52:54:00:00:00:02", uuid4()
    other.save(force_insert=True)
    assert mode_for(vera, other.pk, Mode.CONTROL) is Mode.VIEW
    assert Event.objects.filter(action="console.link_opened", actor=vera).count() == 1


def test_a_link_to_watch_lets_nobody_control(
    client: Client, vera: User, machine: Machine, share: Callable[..., str]
) -> None:
    client.force_login(vera)
    assert client.get(share(Mode.VIEW))["Location"].endswith("?watch=1")
    assert mode_for(vera, machine.pk, Mode.CONTROL) is Mode.VIEW
    with pytest.raises(ForbiddenError):
        target_for(vera, machine.pk, Mode.CONTROL)


def test_for_others_a_link_is_like_one_that_never_was(
    client: Client, alice: User, charlie: User, share: Callable[..., str]
) -> None:
    real, made_up = share(), reverse("console:shared", args=["x" * 43])
    client.force_login(charlie)
    foreign, unknown = client.get(real), client.get(made_up)
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.content.replace(real.encode(), b"") == unknown.content.replace(made_up.encode(), b"")
    assert not ConsoleGrant.objects.exists()
    assert ConsoleLink.objects.get().token_hash not in real
    client.logout()
    assert client.get(real)["Location"].startswith("/login/")


@pytest.mark.parametrize("end", ["expired", "revoked", "left and came back", "maker left", "maker disabled"])
def test_what_a_link_gave_ends_with_it(
    client: Client, alice: User, vera: User, machine: Machine, share: Callable[..., str], end: str
) -> None:
    url = share()
    client.force_login(vera)
    client.get(url)
    if end == "expired":
        ConsoleLink.objects.update(expires_at=timezone.now())
    elif end == "revoked":
        services.revoke_link(machine, ConsoleLink.objects.get().pk, actor=alice)
    elif end == "maker left":
        Membership.objects.filter(user=alice).update(role=Role.VIEWER)
    elif end == "maker disabled":
        User.objects.filter(pk=alice.pk).update(is_active=False)
    else:
        membership = Membership.objects.get(user=vera)
        membership.delete()
        Membership.objects.create(user=vera, project=machine.project, role=Role.VIEWER)
    assert mode_for(vera, machine.pk, Mode.CONTROL) is Mode.VIEW
    if end != "left and came back":
        assert client.get(url).status_code == 404


def test_who_may_revoke_a_link(alice: User, bob: User, vera: User, machine: Machine, share: Callable[..., str]) -> None:
    share()
    link = ConsoleLink.objects.get()
    for other in (bob, vera):
        with pytest.raises(ForbiddenError):
            services.revoke_link(machine, link.pk, actor=other)
    with pytest.raises(NotFoundError):
        services.revoke_link(machine, uuid4(), actor=alice)
    services.revoke_link(machine, link.pk, actor=alice)
    services.revoke_link(machine, link.pk, actor=alice)
    assert Event.objects.filter(action="console.unshare").count() == 1


def test_the_address_of_a_link_is_shown_once(client: Client, alice: User, machine: Machine) -> None:
    client.force_login(alice)
    url = reverse("console:link-new", args=[machine.pk])
    page = client.post(url, {"mode": "control", "lifetime": "1d"}, headers=HTMX).content.decode()
    assert "http://testserver/machines/shared/" in page
    again = panel(client, alice, machine)
    assert "/machines/shared/" not in again
    assert "by alice" in again
    assert client.post(url, {"mode": "control", "lifetime": "1y"}, headers=HTMX).status_code == 422


@pytest.mark.parametrize(
    "line",
    [
        'GET /machines/shared/TOKEN-0123456789_abc/ HTTP/1.1" 302',
        "GET /login/?next=/machines/shared/TOKEN-0123456789_abc/ 200",
        "GET /login/?next=%2Fmachines%2Fshared%2FTOKEN-0123456789_abc%2F 200",
        "next=%252Fshared%252fTOKEN-0123456789_abc",
    ],
)
def test_no_log_holds_the_token_of_a_link(line: str) -> None:
    record = logging.LogRecord("uvicorn.access", logging.INFO, "", 0, "%s", (line,), None)
    assert TicketScrubber().filter(record)
    assert "TOKEN" not in record.getMessage() and "***" in record.getMessage()


# --- the operators' list -------------------------------------------------------------------------------------------


def test_operators_see_who_is_where_and_how_it_ended(
    client: Client, operator: User, alice: User, bob: User, machine: Machine
) -> None:
    come(bob, machine)
    go(come(alice, machine))
    client.force_login(operator)
    live = client.get("/sessions/").content.decode()
    assert "bob" in live and "<b>controls</b>" in live and "alice" not in live
    ended = client.get("/sessions/?state=ended").content.decode()
    assert "alice" in ended and "The tab was closed" in ended
    for query, found in (
        ("q=bob", 1),
        ("q=beac", 1),
        ("q=lighthouse", 1),
        ("q=none", 0),
        ("mode=view", 0),
        ("q=%00", 1),
    ):
        assert len(client.get(f"/sessions/?{query}").context["lines"]) == found, query


def test_an_operator_ends_one_session_and_it_is_written_down(
    client: Client, operator: User, bob: User, machine: Machine
) -> None:
    session = come(bob, machine)
    client.force_login(operator)
    url = reverse("sessions:end", args=[session.pk])
    assert "bob" in client.get(url).content.decode()
    assert "<dialog" in client.get(url, headers=HTMX).content.decode()
    for _twice in range(2):
        assert client.post(url).status_code == 302
    session.refresh_from_db()
    assert (session.end_ordered_by, session.ended_at) == ("olga", None)
    assert Event.objects.filter(action="console.end").count() == 1
    assert holder(machine) is None
    services.end_session(session.pk, Ended(Step.REVOKED, "ended-by-operator"))
    assert "olga ended it." in client.get("/sessions/?state=ended").content.decode()


def test_watching_somebody_is_written_down_and_only_watches(
    client: Client, operator: User, bob: User, machine: Machine
) -> None:
    session = come(bob, machine)
    client.force_login(operator)
    answer = client.post(reverse("sessions:watch", args=[session.pk]), follow=True)
    assert 'data-mode="view"' in answer.content.decode()
    event = Event.objects.get(action="console.watch")
    assert (event.actor, event.detail, event.target_id) == (operator, {"person": "bob"}, str(machine.pk))
    come(operator, machine, Mode.VIEW)
    assert 'data-watching="olga (operator)"' in panel(client, bob, machine)
