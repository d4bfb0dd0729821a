"""One person, one desktop; in order; and nothing for those who may not."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pytest
from django.contrib.auth.models import Group
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from portal.accounts.models import Membership, Project, User
from portal.audit.models import Event as AuditEvent
from portal.errors import ForbiddenError, NotFoundError
from portal.events.models import Event
from portal.machines.models import Grant, Machine
from portal.machines.selectors import machine_for
from portal.machines.states import PowerState
from portal.pools import broker, selectors, services
from portal.pools.models import Desktop, Place, Pool, Session
from portal.pools.querysets import SEEN_FOR
from portal.pools.states import DesktopState, EndReason, PlaceState, PoolKind, SessionState
from tests.portal.pools.conftest import Look

pytestmark = pytest.mark.django_db

MakePool = Callable[..., Pool]
MakeUser = Callable[..., User]


def states(pool: Pool) -> list[str]:
    live = Desktop.objects.filter(pool=pool).exclude(state=DesktopState.RETIRED)
    return sorted(live.values_list("state", flat=True))


def taken_by(answer: broker.Answer) -> Session:
    assert answer.session is not None and answer.place is None
    return answer.session


def waiting(answer: broker.Answer) -> Place:
    assert answer.place is not None and answer.session is None
    return answer.place


def test_a_pool_fills_itself_and_hands_one_out(make_pool: MakePool, look: Look, charlie: User) -> None:
    pool = look(make_pool(entitled=(charlie,)))
    assert states(pool) == ["spare", "spare"]
    assert set(Machine.objects.filter(owner=None).values_list("name", flat=True)) == {"lab-1", "lab-2"}
    session = taken_by(broker.ask(pool, charlie))
    assert session.machine is not None
    assert machine_for(charlie, session.machine.pk).owner == charlie
    look(pool)
    assert states(pool) == ["spare", "spare", "taken"]


def test_the_one_that_has_been_free_for_longest_is_handed_out(make_pool: MakePool, look: Look, charlie: User) -> None:
    pool = look(make_pool(entitled=(charlie,), spare=2))
    long_ago = timezone.now() - dt.timedelta(minutes=5)
    Desktop.objects.filter(pool=pool, number=2).update(state_since=long_ago)
    session = taken_by(broker.ask(pool, charlie))
    assert session.desktop.number == 2


def test_signed_out_it_is_nobodys_at_once_and_new_afterwards(make_pool: MakePool, look: Look, charlie: User) -> None:
    pool = look(make_pool(entitled=(charlie,), spare=1, minimum=1, maximum=1))
    session = taken_by(broker.ask(pool, charlie))
    assert session.machine is not None
    first = session.machine.pk
    assert broker.sign_out(session, EndReason.SIGNED_OUT, actor=charlie)
    assert not Grant.objects.exists()
    with pytest.raises(NotFoundError):
        machine_for(charlie, first)
    assert states(pool) == ["recycling"]
    look(pool)
    assert states(pool) == ["spare"]
    second = taken_by(broker.ask(pool, charlie))
    assert second.machine is not None and second.machine.pk != first
    assert second.machine.name == "lab-1" and not broker.sign_out(session, EndReason.SIGNED_OUT)
    session.refresh_from_db()
    assert (session.state, session.end_reason) == (SessionState.ENDED, "signed_out")


def test_coming_back_finds_the_same_session(make_pool: MakePool, look: Look, charlie: User) -> None:
    pool = look(make_pool(entitled=(charlie,)))
    session = taken_by(broker.ask(pool, charlie))
    assert taken_by(broker.ask(pool, charlie)) == session
    assert broker.disconnect(session, actor=charlie)
    again = taken_by(broker.ask(pool, charlie))
    assert (again.pk, again.state) == (session.pk, SessionState.ACTIVE)
    assert list(selectors.sessions_of(charlie)) == [session]


def test_several_where_the_pool_allows_it_and_no_more(make_pool: MakePool, look: Look, charlie: User) -> None:
    pool = look(make_pool(entitled=(charlie,), desktops_per_person=2, spare=3))
    first = taken_by(broker.ask(pool, charlie))
    second = taken_by(broker.ask(pool, charlie, another=True))
    assert {first.slot, second.slot} == {0, 1} and first.desktop_id != second.desktop_id
    assert taken_by(broker.ask(pool, charlie, another=True)).pk in {first.pk, second.pk}
    assert broker.sign_out(first, EndReason.SIGNED_OUT)
    assert taken_by(broker.ask(pool, charlie, another=True)).slot == 0


def test_a_second_session_cannot_even_be_written(make_pool: MakePool, look: Look, alice: User, bob: User) -> None:
    pool = look(make_pool(entitled=(alice, bob)))
    session = taken_by(broker.ask(pool, alice))
    other = Desktop.objects.get(state=DesktopState.SPARE)
    now = timezone.now()
    values = {"pool": pool, "asked_at": now, "started_at": now, "last_active_at": now}
    with pytest.raises(IntegrityError), transaction.atomic():
        Session.objects.create(desktop=other, person=alice, **values)
    with pytest.raises(IntegrityError), transaction.atomic():
        Session.objects.create(desktop=session.desktop, person=bob, **values)


# --- the line ------------------------------------------------------------------------------------------------------


@pytest.fixture
def busy(make_pool: MakePool, look: Look, alice: User, bob: User, vera: User) -> Pool:
    """A pool of one, which Alice has."""
    pool = look(make_pool(entitled=(alice, bob, vera), spare=1, maximum=1))
    taken_by(broker.ask(pool, alice))
    return pool


def test_who_waits_is_served_in_order(busy: Pool, look: Look, alice: User, bob: User, vera: User) -> None:
    first, second = waiting(broker.ask(busy, bob)), waiting(broker.ask(busy, vera))
    assert [broker.position(place)[0] for place in (first, second)] == [1, 2]
    assert waiting(broker.ask(busy, bob)) == first, "asked again, the place is kept"
    broker.sign_out(Session.objects.get(), EndReason.SIGNED_OUT)
    look(busy)
    second.refresh_from_db()
    assert (Session.objects.live().get().person, broker.position(second)[0]) == (bob, 1)
    assert taken_by(broker.ask(busy, bob)).asked_at == first.asked_at
    waiting(broker.ask(busy, alice))
    assert waiting(broker.ask(busy, vera)) == second
    broker.sign_out(Session.objects.live().get(), EndReason.SIGNED_OUT)
    look(busy)
    assert Session.objects.live().get().person == vera


def test_who_comes_later_does_not_pass_by(busy: Pool, bob: User, vera: User, look: Look) -> None:
    """A desktop is free, and it is the one's who waited: whoever asks first after that."""
    waiting(broker.ask(busy, bob))
    Session.objects.update(state=SessionState.ENDED)
    Desktop.objects.update(state=DesktopState.SPARE, person=None)
    waiting(broker.ask(busy, vera))
    assert Session.objects.live().get().person == bob


def test_a_lost_tab_frees_its_place(busy: Pool, bob: User, vera: User) -> None:
    lost, kept = waiting(broker.ask(busy, bob)), waiting(broker.ask(busy, vera))
    Place.objects.filter(pk=lost.pk).update(seen_at=timezone.now() - SEEN_FOR)
    assert broker.position(kept)[0] == 1
    assert broker.drop_lost(busy) == 1
    lost.refresh_from_db()
    assert lost.state == PlaceState.GONE
    assert broker.position(waiting(broker.ask(busy, bob)))[0] == 2


def test_one_who_was_lost_for_a_while_is_at_the_end_again(busy: Pool, bob: User, vera: User) -> None:
    place, other = waiting(broker.ask(busy, bob)), waiting(broker.ask(busy, vera))
    Place.objects.filter(pk=place.pk).update(seen_at=timezone.now() - SEEN_FOR)
    assert waiting(broker.ask(busy, bob)) == place
    place.refresh_from_db()
    assert [broker.position(other)[0], broker.position(place)[0]] == [1, 2]


def test_a_closed_tab_leaves_the_place_to_another_one_of_the_same_person(busy: Pool, bob: User) -> None:
    place = waiting(broker.ask(busy, bob))
    broker.let_go(place)
    place.refresh_from_db()
    soon = timezone.now() + broker.LEFT_BEHIND
    assert place.seen_at + SEEN_FOR <= soon and Place.objects.waiting().filter(pk=place.pk).exists()
    assert waiting(broker.ask(busy, bob)) == place
    place.refresh_from_db()
    assert place.seen_at + SEEN_FOR > soon
    broker.leave(place)
    place.refresh_from_db()
    assert place.state == PlaceState.GONE and waiting(broker.ask(busy, bob)) != place


def test_who_leaves_leaves_nothing(busy: Pool, bob: User, vera: User) -> None:
    first, second = waiting(broker.ask(busy, bob)), waiting(broker.ask(busy, vera))
    broker.leave(first)
    assert broker.position(second)[0] == 1
    first.refresh_from_db()
    assert broker.position(first) == (0, None)


def test_an_estimate_is_told_only_where_something_tells(busy: Pool, look: Look, bob: User) -> None:
    place = waiting(broker.ask(busy, bob))
    assert broker.position(place) == (1, None), "nobody has ever given one back"
    Pool.objects.update(created_at=timezone.now() - dt.timedelta(hours=2))
    session = Session.objects.get()
    for minutes in (10, 30, 50):
        ended = timezone.now() - dt.timedelta(minutes=minutes)
        Session.objects.create(
            pool=busy,
            desktop=session.desktop,
            person=bob,
            asked_at=ended,
            started_at=ended,
            last_active_at=ended,
            ended_at=ended,
            state=SessionState.ENDED,
        )
    place.pool.refresh_from_db()
    in_line, seconds = broker.position(place)
    assert in_line == 1 and seconds is not None and 1200 <= seconds <= 1360, "three in an hour"
    services_message = selectors.pool_page(busy)
    assert services_message.waiting == 1


def test_in_maintenance_everybody_new_waits(make_pool: MakePool, look: Look, operator: User, bob: User) -> None:
    pool = look(make_pool(entitled=(bob,)))
    services.set_maintenance(pool, actor=operator, on=True)
    pool.refresh_from_db()
    place = waiting(broker.ask(pool, bob))
    assert broker.serve(pool) == 0 and broker.position(place) == (1, None)
    services.set_maintenance(pool, actor=operator, on=False)
    look(pool)
    assert Session.objects.live().get().person == bob


def test_a_dead_machine_is_never_handed_out(make_pool: MakePool, look: Look, bob: User) -> None:
    pool = look(make_pool(entitled=(bob,), spare=1, maximum=1))
    Machine.objects.update(power_state=PowerState.SHUT_OFF)
    waiting(broker.ask(pool, bob))


# --- whose -----------------------------------------------------------------------------------------------------------


def test_an_assigned_one_is_kept_for_its_person(make_pool: MakePool, look: Look, alice: User, bob: User) -> None:
    pool = look(make_pool(kind=PoolKind.ASSIGNED, entitled=(alice, bob), spare=1, maximum=2))
    session = taken_by(broker.ask(pool, alice))
    machine = session.machine
    broker.sign_out(session, EndReason.SIGNED_OUT, actor=alice)
    look(pool)
    kept = Desktop.objects.get(person=alice)
    assert (kept.state, kept.machine) == (DesktopState.SPARE, machine)
    other = taken_by(broker.ask(pool, bob))
    assert other.machine != machine
    assert taken_by(broker.ask(pool, alice)).machine == machine


def test_a_named_one_is_made_ahead_for_each_entitled_person(
    make_pool: MakePool, look: Look, operator: User, alice: User, bob: User, charlie: User
) -> None:
    pool = make_pool(kind=PoolKind.NAMED, spare=0, maximum=4)
    services.entitle(pool, actor=operator, user=charlie)
    services.entitle(pool, actor=operator, project=pool.project)
    look(pool)
    owners = Desktop.objects.filter(state=DesktopState.SPARE).values_list("person__username", flat=True)
    assert set(owners) == {"alice", "bob", "charlie"}
    session = taken_by(broker.ask(pool, bob))
    assert session.desktop.person == bob
    assert session.machine is not None and session.machine.login_user == "bob"
    services.disentitle(selectors.entitlements_of(pool).get(user=charlie), actor=operator)
    look(pool)
    assert not Desktop.objects.filter(person=charlie).exists()


# --- who may ---------------------------------------------------------------------------------------------------------


def test_by_person_by_project_and_by_group(
    make_pool: MakePool, look: Look, operator: User, alice: User, charlie: User, make_user: MakeUser
) -> None:
    pool, group, nora = make_pool(), Group.objects.create(name="class-7b"), make_user("nora")
    for stranger in (alice, charlie, nora, operator):
        assert not selectors.pools_for(stranger).exists()
        with pytest.raises(NotFoundError):
            broker.ask(pool, stranger)
    services.entitle(pool, actor=operator, project=pool.project)
    services.entitle(pool, actor=operator, group=group)
    services.entitle(pool, actor=operator, user=charlie)
    assert services.entitle(pool, actor=operator, user=charlie).pk, "twice is once"
    group.user_set.add(nora)
    for person in (alice, charlie, nora):
        assert list(selectors.pools_for(person)) == [pool]
        broker.ask(pool, person)
        assert selectors.pool_for(person, "lab") == pool
    with pytest.raises(NotFoundError):
        broker.ask(pool, operator)


def test_who_loses_the_right_loses_desktop_and_place(
    make_pool: MakePool, look: Look, operator: User, charlie: User, bob: User
) -> None:
    pool = make_pool(spare=1, maximum=1)
    services.entitle(pool, actor=operator, project=pool.project)
    right = services.entitle(pool, actor=operator, user=charlie)
    look(pool)
    session = taken_by(broker.ask(pool, charlie))
    place = waiting(broker.ask(pool, bob))
    services.disentitle(right, actor=operator)
    session.refresh_from_db()
    assert (session.state, session.end_reason) == (SessionState.ENDED, EndReason.NOT_ENTITLED)
    assert not Grant.objects.exists()
    Membership.objects.filter(user=bob).delete()
    assert services.end_of_unentitled(pool) == 0
    place.refresh_from_db()
    assert place.state == PlaceState.GONE


def test_a_right_that_was_lost_while_waiting_gives_nothing(busy: Pool, look: Look, bob: User, vera: User) -> None:
    place = waiting(broker.ask(busy, bob))
    waiting(broker.ask(busy, vera))
    busy.entitlements.filter(user=bob).delete()
    broker.sign_out(Session.objects.get(), EndReason.SIGNED_OUT)
    look(busy)
    place.refresh_from_db()
    assert place.state == PlaceState.GONE and Session.objects.live().get().person == vera


def test_somebody_elses_session_is_nobodys_business(
    busy: Pool, alice: User, bob: User, operator: User, charlie: User
) -> None:
    session, place = Session.objects.get(), waiting(broker.ask(busy, bob))
    for stranger in (bob, charlie):
        with pytest.raises(NotFoundError):
            selectors.session_for(stranger, session.pk)
        for end in (lambda who: broker.sign_out(session, EndReason.SIGNED_OUT, actor=who), broker_disconnect(session)):
            with pytest.raises(ForbiddenError):
                end(stranger)
    with pytest.raises(NotFoundError):
        selectors.place_for(alice, place.pk)
    session.refresh_from_db()
    assert session.state == SessionState.ACTIVE
    assert selectors.session_for(operator, session.pk) == selectors.session_for(alice, session.pk) == session
    assert broker.sign_out(session, EndReason.OPERATOR, actor=operator)
    assert AuditEvent.objects.filter(action="desktop.ended", actor=operator).count() == 1


def broker_disconnect(session: Session) -> Callable[[User], object]:
    return lambda who: broker.disconnect(session, actor=who)


def test_a_token_for_another_project_brings_no_desktop(busy: Pool, alice: User) -> None:
    session = Session.objects.get()
    alice.limited_to = Project.objects.create(name="Elsewhere too").pk
    assert session.machine is not None
    assert not selectors.pools_for(alice).exists() and not selectors.sessions_of(alice).exists()
    for ask in (
        lambda: selectors.session_for(alice, session.pk),
        lambda: machine_for(alice, session.machine_id or ""),
    ):
        with pytest.raises(NotFoundError):
            ask()


def test_nobody_but_operators_runs_pools(busy: Pool, alice: User, bob: User) -> None:
    desktop = Desktop.objects.get()
    for refused in (
        lambda: services.set_maintenance(busy, actor=alice, on=True),
        lambda: services.send_message(busy, actor=alice, text="hi"),
        lambda: services.entitle(busy, actor=alice, user=alice),
        lambda: services.change_pool(busy, actor=alice, maximum=50),
        lambda: services.sign_off_all(busy, actor=alice),
        lambda: services.recompose(busy, actor=alice, image_version=busy.image_version),
        lambda: services.delete_pool(busy, actor=alice),
        lambda: broker.recycle(desktop, actor=alice),
        lambda: selectors.managed_pool(alice, busy.pk),
    ):
        with pytest.raises(ForbiddenError):
            refused()


# --- what is written, and what it costs ------------------------------------------------------------------------------


def test_it_is_written_down(busy: Pool, alice: User) -> None:
    session = Session.objects.get()
    broker.sign_out(session, EndReason.SIGNED_OUT, actor=alice)
    kinds = Event.objects.filter(kind__startswith="desktop.").order_by("pk").values_list("kind", "actor_name")
    assert list(kinds) == [("desktop.taken", "alice"), ("desktop.left", "alice")]
    actions = AuditEvent.objects.filter(action__startswith="desktop.").order_by("pk").values_list("action", flat=True)
    assert list(actions) == ["desktop.taken", "desktop.left"]


def test_an_answer_is_a_handful_of_queries(make_pool: MakePool, look: Look, alice: User) -> None:
    pool = look(make_pool(entitled=(alice,)))
    pool = Pool.objects.get(pk=pool.pk)
    with CaptureQueriesContext(
        connection,
    ) as taking:
        taken_by(broker.ask(pool, alice))
    statements = [query["sql"] for query in taking if "SAVEPOINT" not in query["sql"]]
    assert len(statements) <= 13, "\n".join(statements)
    with CaptureQueriesContext(connection) as again:
        taken_by(broker.ask(pool, alice))
    assert len(again) == 2
