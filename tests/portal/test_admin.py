"""Django's admin: for operators only, no secrets, and nothing in it touches what has a real thing behind it."""

import datetime as dt
from collections.abc import Callable
from uuid import uuid4

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.models import Session
from django.core.handlers.wsgi import WSGIRequest
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django.urls import ResolverMatch, reverse
from django.utils import timezone

from portal.accounts.models import ApiToken, SshKey, User
from portal.accounts.tokens import make_token
from portal.api.models import Answered
from portal.audit import services as audit
from portal.audit.models import Event
from portal.console.models import ConsoleGrant, ConsoleLink, ConsoleSession, ScreenBan, ScreenControl, ScreenNotice
from portal.copies.models import DiskBase, DiskCopy
from portal.events.services import add_webhook, try_webhook
from portal.figures.models import Series
from portal.hosts.models import Difference, DifferenceKind, Host
from portal.images.models import ImageVersion
from portal.isos.models import Iso
from portal.jobs import services as jobs
from portal.jobs.names import JobName
from portal.lib.admin_csp import AdminPolicyMiddleware
from portal.lib.secrets import seal
from portal.machines.models import (
    Attachment,
    Batch,
    BatchItem,
    Disc,
    Flavour,
    Grant,
    Machine,
    MachineLabel,
    NetworkCard,
)
from portal.parents.models import Parent, ParentWish
from portal.pools.models import Desktop, Entitlement, Place, Pool, SpareHours
from portal.pools.models import Session as DesktopSession
from portal.profiles.models import Profile
from portal.snapshots.models import SnapshotHold, SnapshotSchedule, SnapshotVolume
from portal.uploads.models import Upload
from portal.volumes.models import Volume
from tests.portal.test_every_url import seat_on, snapshot_of

OURS = [model for model in apps.get_models() if model.__module__.startswith("portal.")]
CHANGED_HERE = {"user", "host", "image", "flavour"}
ADDED_HERE = {"user", "host", "flavour"}


def page(model: type[Model], view: str, *args: object) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{view}", args=args)


def version_of(machine: Machine) -> ImageVersion:
    assert machine.image_version is not None
    return machine.image_version


@pytest.fixture
def everything(machine: Machine, alice: User) -> None:
    """A row of every model."""
    job = jobs.enqueue(JobName.MACHINE_START, machine, queue="host.local", actor=alice)
    audit.record(alice, "machine.start", machine, detail={"job": str(job.pk)})
    SshKey.objects.create(user=alice, name="laptop", public_key="ssh-ed25519 AAAA")
    ConsoleSession.objects.create(
        user=alice, user_name="alice", machine=machine, machine_name="beacon", mode=ConsoleSession.Mode.VIEW
    )
    MachineLabel.objects.create(machine=machine, name="web")
    BatchItem.objects.create(batch=Batch.objects.create(actor=alice, action="start"), machine=machine, job=job)
    ScreenControl.objects.create(machine=machine, user=alice, since=timezone.now())
    ScreenBan.objects.create(machine=machine, user=alice, by_name="olga", until=timezone.now())
    link = ConsoleLink.objects.create(
        machine=machine, created_by=alice, created_by_name="alice", mode="view", expires_at=timezone.now()
    )
    ConsoleGrant.objects.create(link=link, membership=alice.memberships.get())
    try_webhook(add_webhook(machine.project, actor=alice, name="CI", url="https://ci.example.org/"), actor=alice)
    token, _ = make_token(
        alice, actor=alice, name="CI", scope=ApiToken.Scope.READ, lifetime=dt.timedelta(days=1), project=machine.project
    )
    Answered.objects.create(token=token, key="one", fingerprint="0" * 64, status=201)
    volume = Volume.objects.create(project=machine.project, name="beacon data", host=machine.host, size_gib=1)
    Attachment.objects.create(machine=machine, volume=volume)
    Profile.objects.create(person=alice, project=machine.project, volume=volume, machine=machine, state="in_use")
    snapshot = snapshot_of(machine, alice)
    SnapshotVolume.objects.create(snapshot=snapshot, volume=volume, size_gib=1)
    SnapshotHold.objects.create(snapshot=snapshot, holder=machine.pk)
    SnapshotSchedule.objects.create(machine=machine, every="day", next_at=timezone.now())
    NetworkCard.objects.create(machine=machine, mac="52:54:00:00:00:77")
    iso = Iso.objects.create(project=machine.project, name="beacon installer", created_by=alice)
    Disc.objects.create(machine=machine, slot=0, iso=iso)
    size = {"vcpus": 1, "memory_mib": 1024, "disk_gib": 10}
    Parent.objects.create(image_version=version_of(machine), host=machine.host, **size)
    ParentWish.objects.create(image=version_of(machine).image, **size)
    Upload.objects.create(user=alice, name="beacon.iso", size_bytes=1)
    Difference.objects.create(host=Host.objects.get(), kind=DifferenceKind.FOREIGN, object_id=uuid4(), name="beacon")
    base = DiskBase.objects.create(host=machine.host, source=machine, identity="new")
    DiskCopy.objects.create(source=machine, machine=machine, identity="new", base=base)
    Grant.objects.create(machine=machine, user=alice)
    version, flavour = machine.image_version, machine.flavour
    assert version is not None and flavour is not None
    now = timezone.now()
    pool = Pool.objects.create(
        name="beacon", title="Beacon", project=machine.project, image_version=version, flavour=flavour
    )
    SpareHours.objects.create(pool=pool, weekday=0, from_minute=480, to_minute=1080, spare=5)
    Entitlement.objects.create(pool=pool, user=alice)
    desktop = Desktop.objects.create(pool=pool, number=1, machine=machine, image_version=version, state_since=now)
    times = {"asked_at": now, "started_at": now, "last_active_at": now}
    DesktopSession.objects.create(pool=pool, desktop=desktop, machine=machine, person=alice, **times)
    Place.objects.create(pool=pool, person=alice, asked_at=now, seen_at=now)
    ScreenNotice.objects.create(machine=machine, text="We go on.", by_name="alice", posted_at=timezone.now())
    seat_on(machine)
    Series.objects.create(subject=machine.pk, level="hour", end=1, data=bytes(14))


@pytest.fixture
def helper(make_user: Callable[..., User]) -> User:
    """An operator who is no administrator."""
    return make_user("otto", is_staff=True)


def test_every_model_is_there() -> None:
    assert [model.__name__ for model in OURS if not admin.site.is_registered(model)] == []


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
@pytest.mark.parametrize("cast", ["operator", "helper"])
def test_operators_look_at_every_row(
    client: Client, request: pytest.FixtureRequest, everything: None, model: type[Model], cast: str
) -> None:
    client.force_login(request.getfixturevalue(cast))
    assert client.get(page(model, "changelist") + "?q=beacon").status_code == 200
    row = model._default_manager.first()
    assert row is not None
    assert client.get(page(model, "change", row.pk)).status_code == 200


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
def test_what_may_be_written_is_as_little_as_can_be(
    client: Client, operator: User, everything: None, model: type[Model]
) -> None:
    client.force_login(operator)
    name = model._meta.model_name or ""
    row = model._default_manager.first()
    assert row is not None
    assert client.get(page(model, "add")).status_code == (200 if name in ADDED_HERE else 403)
    if name not in CHANGED_HERE:
        assert client.post(page(model, "change", row.pk), {"name": "x"}).status_code == 403
    deleted = client.get(page(model, "delete", row.pk)).status_code
    assert deleted == (200 if name in {"user", "flavour"} else 403)


@pytest.mark.parametrize("cast", ["alice", "bob", "vera", "charlie"])
def test_there_is_no_admin_for_others(client: Client, request: pytest.FixtureRequest, cast: str) -> None:
    client.force_login(request.getfixturevalue(cast))
    for model in OURS:
        assert client.get(page(model, "changelist"), follow=True).status_code == 404


def test_the_admin_has_no_sign_in_of_its_own(client: Client, db: None) -> None:
    for answer in (client.get("/admin/login/"), client.post("/admin/login/", {"username": "olga", "password": "x"})):
        assert answer.status_code == 302
        assert answer["Location"] == "/login/?next=/admin/"


@pytest.mark.parametrize("cast", ["operator", "helper"])
def test_no_secret_is_shown(client: Client, request: pytest.FixtureRequest, machine: Machine, cast: str) -> None:
    names = ("login_password", "next_password", "console_secret", "user_data", "rescue_password")
    sealed = {name: seal("apple-pie") for name in names}
    Machine.objects.update(**sealed)
    client.force_login(request.getfixturevalue(cast))
    for address in (page(Machine, "change", machine.pk), page(Machine, "changelist")):
        text = client.get(address).content.decode()
        assert not any(secret in text for secret in ("apple-pie", *sealed.values()))


def test_sessions_and_content_types_are_not_there() -> None:
    assert not admin.site.is_registered(Session)
    assert not admin.site.is_registered(ContentType)


# --- an operator does not rise -------------------------------------------------------------------------------------


def test_an_operator_makes_nobody_an_operator(client: Client, helper: User, alice: User) -> None:
    client.force_login(helper)
    values = {"username": "alice", "is_active": "on", "is_staff": "on", "is_superuser": "on"}
    assert client.post(page(User, "change", alice.pk), values).status_code == 302
    alice.refresh_from_db()
    assert (alice.is_staff, alice.is_superuser) == (False, False)


@pytest.mark.parametrize("above", ["operator", "helper"])
def test_an_operator_changes_no_other_operator(
    client: Client, helper: User, request: pytest.FixtureRequest, above: str
) -> None:
    client.force_login(helper)
    other = request.getfixturevalue(above)
    for address in (page(User, "change", other.pk), reverse("admin:auth_user_password_change", args=[other.pk])):
        values = {"username": "mine", "password1": "correct-horse-mine", "password2": "correct-horse-mine"}
        assert client.post(address, values).status_code == 403
    before = other.password
    other.refresh_from_db()
    assert (other.username, other.password) != ("mine", before) and other.password == before


def test_an_operator_deletes_no_person(client: Client, helper: User, alice: User) -> None:
    client.force_login(helper)
    assert client.post(page(User, "delete", alice.pk), {"post": "yes"}).status_code == 403


def test_an_operator_adds_a_person(client: Client, helper: User) -> None:
    client.force_login(helper)
    values = {"username": "nora", "password1": "correct-horse-nora", "password2": "correct-horse-nora"}
    values["usable_password"] = "true"
    assert client.post(page(User, "add"), values).status_code == 302
    assert User.objects.get(username="nora").check_password("correct-horse-nora")


# --- hosts ---------------------------------------------------------------------------------------------------------

HOST = {
    "uri": "qemu:///system",
    "pool_dir": "/srv/disks",
    "network": "casement",
    "enabled": "on",
    "vcpu_overcommit": "4",
    "memory_overcommit": "1",
    "disk_overcommit": "2",
    "memory_kept_mib": "1024",
}


def test_a_host_is_registered_and_it_is_written_down(client: Client, helper: User) -> None:
    client.force_login(helper)
    assert client.post(page(Host, "add"), {"name": "atlas", **HOST}).status_code == 302
    assert Host.objects.get().name == "atlas"
    assert Event.objects.get().action == "host.registered"


def test_saving_a_host_leaves_alone_what_moved_meanwhile(client: Client, helper: User, host: Host) -> None:
    """The form was opened before a machine was promised to the host."""
    client.force_login(helper)
    Host.objects.update(reserved_vcpus=3, load=1.5)
    values = {**HOST, "uri": host.uri, "pool_dir": host.pool_dir, "memory_kept_mib": "2048", "name": "renamed"}
    values |= {"reserved_vcpus": "0", "load": "9"}
    assert client.post(page(Host, "change", host.pk), values).status_code == 302
    host.refresh_from_db()
    assert (host.name, host.memory_kept_mib, host.reserved_vcpus, host.load) == ("local", 2048, 3, 1.5)
    assert Event.objects.get().detail == {"fields": ["memory_kept_mib"]}


def test_a_size_that_machines_have_stays(client: Client, operator: User, machine: Machine, flavour: Flavour) -> None:
    client.force_login(operator)
    assert machine.flavour == flavour
    client.post(page(Flavour, "delete", flavour.pk), {"post": "yes"})
    assert Flavour.objects.filter(pk=flavour.pk).exists()


# --- the content policy ----------------------------------------------------------------------------------------------


def widened(user: User, app_name: str) -> object:
    """What AdminPolicyMiddleware adds to the policy of a page of `app_name`."""
    request: WSGIRequest = RequestFactory().get("/")
    request.user = user
    request.resolver_match = ResolverMatch(lambda: None, (), {}, app_names=[app_name])

    def respond(_request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    return getattr(AdminPolicyMiddleware(respond)(request), "_csp_update", None)


def test_the_policy_is_wider_in_the_admin_and_for_operators_alone(operator: User, alice: User) -> None:
    assert widened(operator, "admin") == {"script-src": ["'unsafe-eval'"], "style-src": ["'unsafe-inline'"]}
    assert widened(operator, "machines") is None
    assert widened(alice, "admin") is None
