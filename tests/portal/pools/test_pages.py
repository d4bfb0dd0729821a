"""Where people land, how they come to a screen, the waiting room, a second device, and the end of a session."""

from __future__ import annotations

import datetime as dt
import html
import json
import re
from typing import Any
from uuid import uuid4

import pytest
import time_machine
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from portal.accounts.models import User
from portal.console import tickets
from portal.console.models import ConsoleSession
from portal.console.relay import Ended, Step
from portal.console.selectors import Target
from portal.console.services import begin_session, end_session
from portal.console.tickets import Mode, session_hash
from portal.machines.models import Machine
from portal.pools import broker, services, words
from portal.pools.models import Desktop, Entitlement, Place, Pool, Session
from portal.pools.states import DesktopState, EndReason, PlaceState, SessionState
from tests.conftest import PASSWORD
from tests.support.pool_rows import pool_of

pytestmark = pytest.mark.django_db
LIVE = {"HX-Request": "true"}


@pytest.fixture
def pool(machine: Machine, charlie: User) -> Pool:
    """Charlie may use it; he is in no project of its."""
    return pool_of(machine, entitled=(charlie,))


def signed_in(user: User) -> Client:
    """A browser of its own."""
    client = Client()
    client.force_login(user)
    return client


def enter(client: Client, pool: Pool, **query: str) -> Any:
    return client.get(reverse("desktops:enter", args=[pool.name]), query)


def text(answer: Any) -> str:
    return " ".join(answer.content.decode().split())


def own_address(answer: Any) -> str:
    """Of a desktop's page, whatever it was the answer to: what it tells the browser."""
    return str(re.findall('<link rel="canonical" href="([^"]*)">', answer.content.decode())[0])


def screen_in(client: Client, session: Session) -> ConsoleSession:
    """The browser has the screen open."""
    machine = session.machine
    assert machine is not None
    browser = session_hash(client.session.session_key)
    return begin_session(
        Target(session.person, machine, "", ""),
        number=uuid4(),
        mode=Mode.CONTROL,
        request_ip="192.0.2.7",
        browser=browser,
    )


# --- where people land ----------------------------------------------------------------------------------------------


def test_who_has_one_desktop_is_on_its_screen_with_no_click_after_signing_in(pool: Pool, charlie: User) -> None:
    client = Client()
    answer = client.post(reverse("accounts:login"), {"username": "charlie", "password": PASSWORD}, follow=True)
    session = Session.objects.get()
    assert answer.redirect_chain == [("/", 302)], "one round from the form to the screen"
    assert own_address(answer) == reverse("desktops:session", args=[session.pk])
    assert session.person == charlie
    page = text(answer)
    assert "data-console" in page and str(session.machine_id) in page
    assert "Sign out" in page and "My desktops" in page
    assert answer.headers["Cache-Control"].startswith("max-age=0")


@pytest.mark.usefixtures("redis_db")
def test_the_page_of_a_desktop_brings_the_ticket_to_its_screen(pool: Pool, charlie: User) -> None:
    page = enter(signed_in(charlie), pool)
    grant = json.loads(html.unescape(page.content.decode().split('name="casement-door" content="')[1].split('"')[0]))
    claim = tickets.redeem(grant["ticket"])
    assert claim is not None
    assert (claim.user_id, claim.machine_id) == (charlie.pk, Session.objects.get().machine_id)


def test_who_has_several_desktops_gets_a_tile_each(pool: Pool, machine: Machine, charlie: User) -> None:
    other = pool_of(machine, name="office", title="Office", desktops=1, entitled=(charlie,))
    client = signed_in(charlie)
    answer = client.get("/", follow=True)
    assert answer.redirect_chain[-1][0] == reverse("desktops:list")
    for one in (pool, other):
        assert one.title in text(answer) and reverse("desktops:enter", args=[one.name]) in text(answer)
    assert not Session.objects.exists(), "nothing is handed out before it is asked for"
    enter(client, other)
    session = Session.objects.get()
    page = text(client.get(reverse("desktops:list")))
    assert reverse("desktops:session", args=[session.pk]) in page and "Running" in page
    assert reverse("console:thumbnail", args=[session.machine_id]) in page, "a live thumbnail of what runs"


def test_who_has_machines_too_keeps_their_list_with_the_tiles_above(
    pool: Pool, machine: Machine, charlie: User
) -> None:
    Machine.objects.filter(pk=machine.pk).update(owner=charlie, project=charlie.memberships.get().project)
    answer = signed_in(charlie).get("/", follow=True)
    assert answer.redirect_chain[-1][0] == reverse("machines:list")
    page = text(answer)
    assert page.index(pool.title) < page.index("beacon")
    assert "above=1" in page


def test_a_desktop_that_was_handed_out_is_no_machine_of_ones_own(pool: Pool, charlie: User) -> None:
    client = signed_in(charlie)
    enter(client, pool)
    answer = client.get("/", follow=True)
    assert own_address(answer) == reverse("desktops:session", args=[Session.objects.get().pk])


def test_who_has_no_desktop_lands_at_the_machines_and_sees_no_word_of_desktops(pool: Pool, alice: User) -> None:
    answer = signed_in(alice).get("/", follow=True)
    assert answer.redirect_chain[-1][0] == reverse("machines:list")
    assert "desktop-tiles" not in text(answer) and reverse("desktops:list") not in text(answer)
    assert "No desktop is meant for you yet" in text(signed_in(alice).get(reverse("desktops:list")))


def test_a_browser_that_only_looks_ahead_is_handed_nothing(pool: Pool, charlie: User) -> None:
    answer = signed_in(charlie).get(reverse("desktops:enter", args=[pool.name]), headers={"Sec-Purpose": "prefetch"})
    assert answer.status_code == 503 and not Session.objects.exists()


def test_what_nobody_meant_for_one_is_not_there(pool: Pool, alice: User, charlie: User) -> None:
    assert enter(signed_in(alice), pool).status_code == 404
    Pool.objects.update(enabled=False)
    assert enter(signed_in(charlie), pool).status_code == 404
    assert not Session.objects.exists()


# --- the waiting room -----------------------------------------------------------------------------------------------


@pytest.fixture
def full(machine: Machine, alice: User, bob: User, charlie: User) -> Pool:
    """One desktop; Alice has it."""
    pool = pool_of(machine, desktops=1, maximum=1, entitled=(alice, bob, charlie))
    assert broker.ask(pool, alice).session is not None
    return pool


def test_people_wait_in_order_and_come_to_the_desktop_by_themselves(
    full: Pool, machine: Machine, alice: User, bob: User, charlie: User
) -> None:
    bobs, charlies = signed_in(bob), signed_in(charlie)
    first, second = enter(bobs, full), enter(charlies, full)
    assert (first.status_code, second.status_code) == (200, 200), "a busy pool is no error"
    assert "You are next." in text(first) and "1 person is before you." in text(second)
    assert "cannot be said yet" in text(second), "nothing is promised that is not known"
    assert "All desktops are in use just now." in text(second)
    place = reverse("desktops:place", args=[full.name])
    assert "1 person is before you." in text(charlies.get(place, headers=LIVE))
    broker.sign_out(Session.objects.get(), EndReason.SIGNED_OUT, actor=alice)
    assert "1 desktop is being made." in text(charlies.get(reverse("desktops:place", args=[full.name]), headers=LIVE))
    Desktop.objects.update(state=DesktopState.SPARE)
    broker.serve(full)
    session = Session.objects.live().get()
    assert session.person == bob
    led = bobs.get(place, headers=LIVE)
    assert (led.status_code, led["HX-Redirect"]) == (204, reverse("desktops:session", args=[session.pk]))
    assert "You are next." in text(charlies.get(place, headers=LIVE))
    assert bobs.get(place).status_code == 302, "without a script the page is loaded again"


def test_a_closed_tab_frees_its_place_and_a_reload_keeps_it(full: Pool, bob: User, charlie: User) -> None:
    bobs, charlies = signed_in(bob), signed_in(charlie)
    enter(bobs, full)
    enter(charlies, full)
    leave = reverse("desktops:leave", args=[full.name])
    assert bobs.post(leave).status_code == 204
    assert "You are next." in text(enter(bobs, full)), "it was a reload"
    bobs.post(leave)
    Place.objects.filter(person=bob).update(seen_at=timezone.now() - dt.timedelta(minutes=5))
    broker.drop_lost(full)
    assert "You are next." in text(charlies.get(reverse("desktops:place", args=[full.name]), headers=LIVE))
    assert charlies.post(leave, {"for_good": "yes"})["Location"] == reverse("desktops:list")
    assert Place.objects.get(person=charlie).state == PlaceState.GONE
    assert "You are in line" not in text(charlies.get(reverse("desktops:list")))


def test_the_waiting_room_says_how_long_it_usually_takes(full: Pool, bob: User, operator: User) -> None:
    Pool.objects.update(created_at=timezone.now() - dt.timedelta(hours=2))
    ended = Session.objects.get()
    for _ in range(10):
        Session.objects.create(
            pool=full,
            desktop=ended.desktop,
            person=operator,
            state=SessionState.ENDED,
            asked_at=timezone.now(),
            started_at=timezone.now(),
            last_active_at=timezone.now(),
            ended_at=timezone.now(),
        )
    assert "About 6 minutes." in text(enter(signed_in(bob), full))


def test_in_maintenance_people_are_told_and_keep_their_place(full: Pool, bob: User, operator: User) -> None:
    services.set_maintenance(full, actor=operator, on=True)
    services.send_message(full, actor=operator, text="Back at <b>noon</b>")
    page = text(enter(signed_in(bob), full))
    assert "It is closed for maintenance." in page and "You keep your place" in page
    assert "Back at &lt;b&gt;noon&lt;/b&gt;" in page


# --- the same session everywhere ------------------------------------------------------------------------------------


def test_coming_back_from_another_browser_finds_the_same_session(pool: Pool, charlie: User) -> None:
    first = enter(signed_in(charlie), pool)
    again = enter(signed_in(charlie), pool)
    assert own_address(first) == own_address(again)
    assert Session.objects.count() == 1


def test_a_second_device_is_asked_and_takes_it_over(pool: Pool, charlie: User) -> None:
    home, office = signed_in(charlie), signed_in(charlie)
    address = own_address(enter(home, pool))
    session = Session.objects.get()
    at_home = screen_in(home, session)
    asked = text(office.get(address))
    assert "is open on another device" in asked and "192.0.2.7" in asked and "data-console" not in asked
    taken = office.post(reverse("desktops:session-open", args=[session.pk]), {"choice": "take"})
    assert taken["Location"] == address
    at_home.refresh_from_db()
    assert at_home.end_ordered_by == "charlie"
    end_session(at_home.pk, Ended(Step.REVOKED, "taken-over"))
    assert "data-console" in text(office.get(address))
    screen_in(office, session)
    desk = text(home.get(reverse("desktops:session-desk", args=[session.pk]), headers=LIVE))
    assert 'data-state="taken"' in desk and "Take it back" in desk
    assert "is open on another device" in text(home.get(address)), "the first one is asked, too"
    assert Session.objects.count() == 1


@pytest.mark.parametrize("choice", ["take", "share"])
def test_the_first_device_takes_it_back_or_shares_it(pool: Pool, charlie: User, choice: str) -> None:
    """What it is told afterwards is not still that the other one has it: its page would have no screen."""
    home, office = signed_in(charlie), signed_in(charlie)
    enter(home, pool)
    session = Session.objects.get()
    at_home = screen_in(home, session)
    form = reverse("desktops:session-open", args=[session.pk])
    office.post(form, {"choice": "take"})
    end_session(at_home.pk, Ended(Step.REVOKED, "taken-over"))
    screen_in(office, session)
    page = text(home.get(home.post(form, {"choice": choice})["Location"]))
    assert "data-console" in page and 'data-state="active"' in page


def test_a_second_device_shares_it(pool: Pool, charlie: User) -> None:
    home, office = signed_in(charlie), signed_in(charlie)
    address = own_address(enter(home, pool))
    session = Session.objects.get()
    at_home = screen_in(home, session)
    shared = office.post(reverse("desktops:session-open", args=[session.pk]), {"choice": "share"})
    assert "data-console" in text(office.get(shared["Location"]))
    screen_in(office, session)
    at_home.refresh_from_db()
    assert at_home.end_ordered_by == ""
    for client in (home, office):
        assert "data-console" in text(client.get(address)), "who is let in is not asked again"


def test_a_reload_in_the_same_browser_is_not_asked(pool: Pool, charlie: User) -> None:
    home = signed_in(charlie)
    address = own_address(enter(home, pool))
    screen_in(home, Session.objects.get())
    assert "data-console" in text(home.get(address))


def test_nobody_comes_to_another_ones_session(pool: Pool, charlie: User, alice: User, operator: User) -> None:
    enter(signed_in(charlie), pool)
    session = Session.objects.get()
    for who in (alice, operator):
        client = signed_in(who)
        for name in ("session", "session-desk"):
            assert client.get(reverse(f"desktops:{name}", args=[session.pk])).status_code == 404
        for name in ("session-open", "session-here", "session-shown", "session-sign-out"):
            assert client.post(reverse(f"desktops:{name}", args=[session.pk])).status_code == 404
    session.refresh_from_db()
    assert session.is_live


# --- what stands over the screen ------------------------------------------------------------------------------------


@pytest.fixture
def mine(pool: Pool, charlie: User) -> Session:
    session = broker.ask(pool, charlie).session
    assert session is not None
    return session


def desk(client: Client, session: Session) -> str:
    return text(client.get(reverse("desktops:session-desk", args=[session.pk]), headers=LIVE))


def test_an_idle_person_is_warned_with_a_countdown_and_says_i_am_here(mine: Session, charlie: User) -> None:
    client = signed_in(charlie)
    Pool.objects.update(idle_warn_s=600, idle_disconnect_s=120, idle_sign_out_s=600)
    assert "Are you still there?" not in desk(client, mine)
    now = timezone.now()
    Session.objects.update(warned_at=now - dt.timedelta(seconds=30))
    with time_machine.travel(now, tick=False):
        warned = desk(client, mine)
    assert "Are you still there?" in warned and "data-countdown" in warned and "1 min 30 s" in warned
    here = client.post(reverse("desktops:session-here", args=[mine.pk]), headers=LIVE)
    assert "Are you still there?" not in text(here)
    mine.refresh_from_db()
    assert mine.warned_at is None
    Session.objects.update(warned_at=timezone.now())
    assert client.post(reverse("desktops:session-here", args=[mine.pk])).status_code == 302


def test_who_was_away_goes_on_where_they_were(mine: Session, charlie: User) -> None:
    client = signed_in(charlie)
    Pool.objects.update(idle_sign_out_s=600)
    broker.disconnect(mine)
    away = desk(client, mine)
    assert (
        'data-state="away"' in away and "goes on as you left it" in away and "signed out if nobody comes back" in away
    )
    assert "Goes on without you" in text(client.get(reverse("desktops:list")))
    back = text(client.get(reverse("desktops:session", args=[mine.pk])))
    assert "data-console" in back and 'data-state="active"' in back
    mine.refresh_from_db()
    assert mine.state == SessionState.ACTIVE


def test_the_time_limit_and_a_message_to_all_are_on_the_screen(mine: Session, charlie: User, operator: User) -> None:
    client = signed_in(charlie)
    Pool.objects.update(limit_s=3600)
    assert "This session ends in" not in desk(client, mine)
    Session.objects.update(started_at=timezone.now() - dt.timedelta(minutes=55))
    services.send_message(mine.pool, actor=operator, text="Save & close")
    page = desk(client, mine)
    assert "This session ends in" in page and "Save &amp; close" in page


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (EndReason.SIGNED_OUT, "You signed out of the desktop."),
        (EndReason.SIGNED_OUT_INSIDE, "You signed out inside the desktop."),
        (EndReason.IDLE, "Nobody used the desktop for longer than it is kept."),
        (EndReason.TIME_LIMIT, "A session on this desktop lasts only so long."),
        (EndReason.OPERATOR, "An operator signed you out"),
        (EndReason.RECOMPOSED, "There is a new version of the desktop"),
        (EndReason.MACHINE_DIED, "This is no fault of yours."),
        (EndReason.SHUT_DOWN, "It was shut down from inside."),
        (EndReason.NOT_ENTITLED, "The right to use it was taken away."),
    ],
)
def test_what_ended_the_session_is_told_with_the_way_back(
    mine: Session, charlie: User, reason: EndReason, told: str
) -> None:
    if reason == EndReason.NOT_ENTITLED:
        Entitlement.objects.all().delete()
    client = signed_in(charlie)
    broker.sign_out(mine, reason)
    page = text(client.get(reverse("desktops:session", args=[mine.pk])))
    for shown in (page, desk(client, mine)):
        assert told in shown
        assert ("Open a new desktop" in shown) is (reason != EndReason.NOT_ENTITLED)
    assert "data-console" not in page


def test_every_end_has_words_of_its_own() -> None:
    assert set(words._ENDED) == set(EndReason)


def test_signing_out_ends_it_once(mine: Session, charlie: User) -> None:
    client = signed_in(charlie)
    out = reverse("desktops:session-sign-out", args=[mine.pk])
    for _ in range(2):
        assert client.post(out)["Location"] == reverse("desktops:session", args=[mine.pk])
    mine.refresh_from_db()
    assert (mine.state, mine.end_reason) == (SessionState.ENDED, EndReason.SIGNED_OUT)
    again = enter(client, mine.pool)
    assert str(mine.pk) not in own_address(again), "another desktop"


def test_the_first_picture_is_written_down_once(mine: Session, charlie: User) -> None:
    client = signed_in(charlie)
    for _ in range(2):
        assert client.post(reverse("desktops:session-shown", args=[mine.pk])).status_code == 204
    mine.refresh_from_db()
    assert mine.on_screen_at is not None and mine.on_screen_at >= mine.asked_at


def test_a_person_may_have_several_of_one_pool_where_it_says_so(pool: Pool, charlie: User) -> None:
    Pool.objects.update(desktops_per_person=2)
    client = signed_in(charlie)
    enter(client, pool)
    page = text(client.get(reverse("desktops:list")))
    assert "another=1" in page
    more = enter(client, pool, another="1")
    newest = Session.objects.live().latest("started_at")
    assert more["Location"] == reverse("desktops:session", args=[newest.pk]), "a reload takes no third one"
    assert Session.objects.live().count() == 2
    assert "another=1" not in text(client.get(reverse("desktops:list")))
    assert client.get("/")["Location"] == reverse("desktops:list"), "two run: a tile each"


def test_who_waits_for_one_more_is_led_to_that_and_not_to_the_one_they_have(pool: Pool, charlie: User) -> None:
    Pool.objects.update(desktops_per_person=3)
    client = signed_in(charlie)
    enter(client, pool)
    Desktop.objects.filter(state=DesktopState.SPARE).update(state=DesktopState.BUILDING)
    waits = text(enter(client, pool, another="1"))
    place = Place.objects.get()
    path, query = reverse("desktops:place", args=[pool.name]), {"of": str(place.pk), "another": "1"}
    assert f"{path}?of={place.pk}&amp;another=1" in waits
    assert client.get(path, query, headers=LIVE).status_code == 200
    Desktop.objects.filter(state=DesktopState.BUILDING).update(state=DesktopState.SPARE)
    broker.serve(pool)
    newest = Session.objects.live().order_by("-started_at")[0]
    led = client.get(path, query, headers=LIVE)
    assert led["HX-Redirect"] == reverse("desktops:session", args=[newest.pk])
    assert Session.objects.live().count() == 2
