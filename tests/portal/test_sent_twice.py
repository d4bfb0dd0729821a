"""Every request that changes something, sent twice: a double click, a retry, a proxy. The effect is that of one.

An address that takes POST and is not told of here fails the first test.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.apps import apps
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from portal.accounts.models import ApiToken, Membership, Project, SshKey, User
from portal.accounts.permissions import Role
from portal.accounts.tokens import make_token
from portal.console.models import ConsoleSession
from portal.console.selectors import Target
from portal.console.services import begin_session, remove_person, share
from portal.console.tickets import Mode
from portal.deployments.access import make_links
from portal.deployments.models import Seat
from portal.events.models import Delivery, DeliveryStatus, Webhook
from portal.events.services import add_webhook, try_webhook
from portal.hosts.models import Difference, DifferenceKind, Host
from portal.images.models import Image, ImageVersion, VersionStatus
from portal.isos.models import Iso
from portal.isos.models import Status as IsoStatus
from portal.jobs import services as jobs
from portal.jobs.names import JobName
from portal.lib.secrets import seal
from portal.machines.models import Attachment, Disc, Flavour, Machine, NetworkCard
from portal.machines.states import PowerState, Status
from portal.parents.models import Parent, ParentWish
from portal.pools import broker, services
from portal.pools.models import Desktop, Pool, Session
from portal.profiles.models import Profile
from portal.profiles.states import State
from portal.snapshots.models import SnapshotSchedule
from portal.uploads import services as uploads
from portal.uploads.models import Upload
from portal.volumes.models import Volume
from portal.volumes.states import Status as VolumeStatus
from tests.conftest import PASSWORD
from tests.portal.test_every_url import ALL, seat_on, snapshot_of
from tests.support.pool_rows import pool_of

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti alice@laptop"
PORTAL = (
    *("accounts", "audit", "console", "deployments", "events", "hosts", "images", "isos"),
    *("jobs", "machines", "parents", "pools", "profiles", "snapshots", "uploads", "volumes"),
)
# Asking for these is itself what is done: each look is written down, each ticket is for one use, each secret is new.
EACH_COUNTS = {
    "machines:secret": {"audit.Event"},
    "machines:user-data": {"audit.Event"},
    "machines:rescue-secret": {"audit.Event"},
    "uploads:new": {"uploads.Upload"},
    "console:ticket": set[str](),
    "console:link-new": {"audit.Event", "console.ConsoleLink"},
    "sessions:watch": {"audit.Event"},
    "events:webhook-secret": {"audit.Event"},
    "events:webhook-new-secret": {"audit.Event", "events.Webhook"},
    "events:webhook-try": {"audit.Event", "events.Event", "events.Delivery"},
    "machines:disk-first": {"audit.Event", "events.Event"},
    "deployments:message": {"audit.Event", "console.ScreenNotice"},
    "deployments:links": {"audit.Event", "accounts.User", "deployments.Seat", "machines.Grant"},
    "deployments:seat-step": {"audit.Event"},
}


@dataclass
class Scene:
    """What there is to ask for. `change` prepares the machine's or another row's state for one request."""

    project: Project
    alice: User
    bob: User
    operator: User
    host: Host
    version: ImageVersion
    flavour: Flavour
    machine: Machine

    def set_machine(self, **values: object) -> str:
        Machine.objects.filter(pk=self.machine.pk).update(**values)
        return str(self.machine.pk)

    def difference(self, kind: DifferenceKind, *, of_machine: bool) -> str:
        row = Difference.objects.create(
            host=self.host,
            kind=kind,
            object_id=self.machine.pk if of_machine else uuid4(),
            name="found",
            detail={"vcpus": 1, "memory_mib": 512, "disk_gib": 4, "has_disk": True, "owned": True},
        )
        return str(row.pk)

    def wish(self) -> ParentWish:
        return ParentWish.objects.create(image=self.version.image, vcpus=1, memory_mib=1024, disk_gib=10)

    def failed_parent(self) -> Parent:
        size = {"vcpus": 1, "memory_mib": 1024, "disk_gib": 10}
        return Parent.objects.create(
            image_version=self.version, host=self.host, state="failed", failures=3, reason="It did not start.", **size
        )


@pytest.fixture
def scene(
    project: Project,
    alice: User,
    bob: User,
    operator: User,
    host: Host,
    image_version: ImageVersion,
    flavour: Flavour,
    machine: Machine,
) -> Scene:
    return Scene(project, alice, bob, operator, host, image_version, flavour, machine)


@dataclass(frozen=True)
class Request:
    """`pk` prepares the rows and gives the address's parameter, if it has one; `form` what is sent."""

    pk: Callable[[Scene], object] | None = None
    form: Callable[[Scene], Mapping[str, Any]] = lambda _scene: {}
    by: str = "alice"
    headers: Mapping[str, str] = field(default_factory=dict)


def _new_machine(scene: Scene) -> dict[str, object]:
    return {
        "project": scene.project.pk,
        "image": scene.version.image_id,
        "flavour": scene.flavour.pk,
        "name": "lamp",
        "login_user": "alice",
        "ssh_key": KEY,
        "request_key": uuid4(),
    }


def _upload(scene: Scene) -> dict[str, object]:
    return {
        "title": "My image",
        "owner": str(scene.project.pk),
        "kind": "server",
        "firmware": "bios",
        "file": SimpleUploadedFile("mine.qcow2", b"QFI\xfb" + b"\0" * 5000),
        "request_key": uuid4(),
    }


def _import(scene: Scene) -> dict[str, object]:
    return {"source": "debian-12", "owner": str(scene.project.pk), "request_key": uuid4()}


def _limits(**values: object) -> dict[str, object]:
    return {"max_machines": 7, "max_vcpus": 8, "max_memory_gib": "9", "max_disk_gib": 10, **values}


def _key(scene: Scene) -> dict[str, object]:
    return {"key": SshKey.objects.create(user=scene.alice, name="laptop", public_key=KEY).pk}


def _token(scene: Scene) -> dict[str, object]:
    week = dt.timedelta(days=7)
    token, _secret = make_token(scene.alice, actor=scene.alice, name="t", scope=ApiToken.Scope.READ, lifetime=week)
    return {"token": token.pk}


def _membership(scene: Scene) -> object:
    return Membership.objects.get(user=scene.bob).pk


def _machine(**values: object) -> Callable[[Scene], str]:
    return lambda scene: scene.set_machine(**values)


def _larger() -> Flavour:
    return Flavour.objects.create(name="larger", title="Larger", vcpus=2, memory_mib=2048, disk_gib=10)


def _job(scene: Scene) -> object:
    return jobs.enqueue(JobName.MACHINE_CREATE, scene.machine, queue="q", actor=scene.alice).pk


def _unused_version(scene: Scene) -> object:
    Machine.objects.all().delete()
    return scene.version.pk


def _image(scene: Scene) -> object:
    return scene.version.image_id


def _at_the_screen(*people: str) -> Callable[[Scene], object]:
    """The first of them controls it."""

    def come(scene: Scene) -> object:
        for name in people:
            begin_session(
                Target(getattr(scene, name), scene.machine, "", ""), number=uuid4(), mode=Mode.CONTROL, request_ip=None
            )
        return scene.machine.pk

    return come


def _removed(scene: Scene) -> object:
    remove_person(scene.machine, actor=scene.operator, person=scene.bob)
    return scene.machine.pk


def _link(scene: Scene) -> dict[str, object]:
    link, _token = share(scene.machine, actor=scene.alice, mode=Mode.VIEW, lifetime=dt.timedelta(hours=1))
    return {"link": link.pk}


def _session(scene: Scene) -> object:
    _at_the_screen("bob")(scene)
    return ConsoleSession.objects.get().pk


def _webhook(scene: Scene) -> UUID:
    return add_webhook(scene.project, actor=scene.alice, name="CI", url="https://ci.example.org/").pk


def _new_webhook(_scene: Scene) -> dict[str, object]:
    return {"name": "CI", "url": "https://ci.example.org/", "kinds": ["job.done"], "request_key": uuid4()}


def _delivery(scene: Scene) -> object:
    """One that was given up."""
    delivery = try_webhook(Webhook.objects.get(pk=_webhook(scene)), actor=scene.alice)
    Delivery.objects.update(status=DeliveryStatus.FAILED)
    return delivery.pk


def _volume(scene: Scene, status: VolumeStatus = VolumeStatus.AVAILABLE) -> Volume:
    return Volume.objects.create(project=scene.project, name="data", host=scene.host, size_gib=1, status=status)


def _disk(scene: Scene) -> object:
    volume = _volume(scene, VolumeStatus.IN_USE)
    return Attachment.objects.create(machine=scene.machine, volume=volume).pk


def _card(scene: Scene) -> object:
    return NetworkCard.objects.create(machine=scene.machine, mac="52:54:00:00:00:77").pk


def _snapshot(scene: Scene) -> object:
    return snapshot_of(scene.machine, scene.alice).pk


def _schedule(scene: Scene) -> dict[str, object]:
    SnapshotSchedule.objects.create(machine=scene.machine, every="day", next_at=timezone.now())
    return {"every": "day"}


def _iso(scene: Scene) -> Iso:
    return Iso.objects.create(
        project=scene.project, name="installer", status=IsoStatus.READY, size_bytes=1, created_by=scene.alice
    )


def _begun(scene: Scene) -> Upload:
    return uploads.begin(scene.alice, name="installer.iso", size_bytes=5)


def _whole(scene: Scene) -> Upload:
    upload = _begun(scene)
    upload.path.write_bytes(b"whole")
    return upload


def _new_iso(scene: Scene) -> dict[str, object]:
    owner = str(scene.project.pk)
    return {"upload": str(_whole(scene).pk), "name": "installer", "owner": owner, "role": "installer"}


def _install(scene: Scene) -> dict[str, object]:
    size = {"flavour": scene.flavour.pk, "disk_gib": "8", "name": "lamp", "kind": "server", "firmware": "bios"}
    return {"project": scene.project.pk, "iso": _iso(scene).pk, "request_key": uuid4(), **size}


def _disc(scene: Scene) -> dict[str, object]:
    return {"disc": Disc.objects.create(machine=scene.machine, slot=0, iso=_iso(scene)).pk}


def _other_version(scene: Scene) -> ImageVersion:
    image = Image.objects.create(slug="other", title="Other", source="upload")
    return ImageVersion.objects.create(image=image, number=1, status=VersionStatus.READY)


def _in_rescue(scene: Scene) -> object:
    return scene.set_machine(rescue_version=_other_version(scene), rescue_password=seal("rescue-password"))


def _pool(scene: Scene, **values: Any) -> Pool:
    return pool_of(scene.machine, entitled=(scene.alice,), **values)


def _of_pool(**values: Any) -> Callable[[Scene], object]:
    return lambda scene: _pool(scene, **values).pk


def _on_desktop(scene: Scene) -> Session:
    """Alice's, with the warning that nobody seems to be there."""
    session = broker.ask(_pool(scene), scene.alice).session
    assert session is not None
    Session.objects.update(warned_at=timezone.now())
    return session


def _with_session(scene: Scene) -> object:
    return _on_desktop(scene).pool_id


def _open_elsewhere(scene: Scene) -> object:
    session = _on_desktop(scene)
    assert session.machine is not None
    begin_session(Target(scene.alice, session.machine, "", ""), number=uuid4(), mode=Mode.CONTROL, request_ip=None)
    return session.pk


def _in_line(scene: Scene) -> object:
    """Alice waits: there is no desktop."""
    pool = _pool(scene, desktops=0)
    assert broker.ask(pool, scene.alice).place is not None
    return pool.name


def _new_pool(scene: Scene) -> dict[str, object]:
    many = {"minimum": "0", "maximum": "5", "spare": "1", "desktops_per_person": "1"}
    times = dict.fromkeys(("idle_warn_min", "idle_disconnect_min", "idle_sign_out_min", "limit_min"), "0")
    made_from = {"project": scene.project.pk, "image_version": scene.version.pk, "flavour": scene.flavour.pk}
    named = {"title": "Lab", "name": "lab", "kind": "floating", "time_zone": "UTC", "name_pattern": ""}
    return {**named, **made_from, **many, **times, "request_key": uuid4(), "enabled": "on"}


def _entitlement(_scene: Scene) -> dict[str, object]:
    return {"entitlement": Pool.objects.get().entitlements.get().pk}


def _hours(scene: Scene) -> dict[str, object]:
    services.set_hours(Pool.objects.get(), actor=scene.operator, hours=[services.Hours(0, 420, 1080, 5)])
    return {"hours": Pool.objects.get().hours.get().pk}


def _two_versions(scene: Scene) -> object:
    return _pool(scene, previous_version=_other_version(scene)).pk


def _new_deployment(scene: Scene) -> dict[str, object]:
    return {
        "project": scene.project.pk,
        "name": "Chemistry",
        "called": "lab",
        "image": scene.version.image_id,
        "flavour": scene.flavour.pk,
        "people": "bob\nMia",
        "whole": "yes",
        "step": "make",
        "request_key": uuid4(),
    }


def _seat(scene: Scene) -> Seat:
    return seat_on(scene.machine)


def _deployment(scene: Scene) -> object:
    return _seat(scene).deployment_id


def _linked(scene: Scene) -> object:
    seat = _seat(scene)
    make_links(seat.deployment, [seat], actor=scene.alice, lifetime=dt.timedelta(days=1))
    return seat.pk


def _own(scene: Scene) -> object:
    scene.set_machine(power_state=PowerState.SHUT_OFF, console_socket="")
    seat = _seat(scene)
    Seat.objects.filter(pk=seat.pk).update(person=scene.alice)
    return seat.pk


OFF = PowerState.SHUT_OFF
ASKED_AS = uuid4()


def _files(scene: Scene, status: VolumeStatus) -> Profile:
    """Bob's: open on the machine, or put away."""
    volume = Volume.objects.create(
        project=scene.project, name="files bob", host=scene.host, size_gib=1, status=status, personal=True, task=""
    )
    files = Profile(person=scene.bob, project=scene.project, volume=volume, formatted_at=timezone.now())
    if status == VolumeStatus.IN_USE:
        Attachment.objects.create(machine=scene.machine, volume=volume)
        files.state, files.machine = State.IN_USE, scene.machine
    files.save()
    return files


REQUESTS: dict[str, Request] = {
    "accounts:logout": Request(),
    "accounts:password": Request(
        form=lambda _: {"old_password": PASSWORD, "new_password1": "a-New-Word-77", "new_password2": "a-New-Word-77"}
    ),
    "accounts:keys": Request(form=lambda _: {"name": "laptop", "public_key": KEY}),
    "accounts:key-delete": Request(form=_key),
    "accounts:tokens": Request(form=lambda _: {"name": "script", "scope": "read", "lifetime": "7"}),
    "accounts:token-revoke": Request(form=_token),
    "accounts:project-new": Request(form=lambda _: _limits(name="Harbour"), by="operator"),
    "accounts:project-quota": Request(lambda scene: scene.project.pk, lambda _: _limits(), by="operator"),
    "accounts:project-bin": Request(lambda scene: scene.project.pk, lambda _: {"bin_days": 3}),
    "accounts:project-people": Request(
        lambda scene: scene.project.pk, lambda _: {"person": "olga", "role": Role.VIEWER}
    ),
    "accounts:member-role": Request(_membership, lambda _: {"role": Role.OWNER}),
    "accounts:member-remove": Request(_membership),
    "console:take": Request(_at_the_screen("bob", "operator"), by="operator"),
    "console:ask": Request(_at_the_screen("bob", "alice")),
    "console:give": Request(_at_the_screen("alice", "bob"), lambda scene: {"person": scene.bob.pk}, by="operator"),
    "console:release": Request(_at_the_screen("alice")),
    "console:remove": Request(_at_the_screen("bob"), lambda scene: {"person": scene.bob.pk}),
    "console:let-in": Request(_removed, lambda scene: {"person": scene.bob.pk}),
    "console:link-new": Request(_machine(), lambda _: {"mode": "control", "lifetime": "1h"}),
    "console:link-revoke": Request(_machine(), _link),
    "console:ticket": Request(_machine(console_secret=seal("secret12"))),
    "console:selftest-steps": Request(_machine(console_secret=seal("secret12"))),
    "desktops:leave": Request(_in_line, lambda _: {"for_good": "yes"}),
    "desktops:session-open": Request(_open_elsewhere, lambda _: {"choice": "take"}),
    "desktops:session-here": Request(lambda scene: _on_desktop(scene).pk),
    "desktops:session-shown": Request(lambda scene: _on_desktop(scene).pk),
    "desktops:session-sign-out": Request(lambda scene: _on_desktop(scene).pk),
    "pools:new": Request(form=_new_pool, by="operator"),
    "pools:edit": Request(_of_pool(), lambda scene: _new_pool(scene) | {"title": "Other"}, by="operator"),
    "pools:maintenance": Request(_of_pool(), lambda _: {"on": "yes"}, by="operator"),
    "pools:message": Request(_of_pool(), lambda _: {"text": "Save your work."}, by="operator"),
    "pools:sign-off": Request(_with_session, by="operator"),
    "pools:recompose": Request(
        _of_pool(), lambda scene: {"version": _other_version(scene).pk, "how": "rolling"}, by="operator"
    ),
    "pools:recompose-cancel": Request(_of_pool(recompose_at=timezone.now()), by="operator"),
    "pools:back": Request(_two_versions, lambda _: {"version": Pool.objects.get().previous_version_id}, by="operator"),
    "pools:people-add": Request(_of_pool(), lambda _: {"what": "user", "who": "bob"}, by="operator"),
    "pools:people-remove": Request(_of_pool(), _entitlement, by="operator"),
    "pools:hours-add": Request(
        _of_pool(),
        lambda _: {"weekdays": ["0", "4"], "from_time": "07:00", "to_time": "18:00", "spare": "3"},
        by="operator",
    ),
    "pools:hours-remove": Request(_of_pool(), _hours, by="operator"),
    "pools:empty": Request(_with_session, by="operator"),
    "pools:delete": Request(_of_pool(desktops=0), by="operator"),
    "pools:session-sign-off": Request(lambda scene: _on_desktop(scene).pk, by="operator"),
    "pools:desktop-recycle": Request(
        lambda scene: Desktop.objects.get(pool=_pool(scene, desktops=1)).pk, by="operator"
    ),
    "events:new": Request(lambda scene: scene.project.pk, _new_webhook),
    "events:webhook-edit": Request(_webhook, lambda _: {"name": "Other", "url": "https://other.example.org/"}),
    "events:webhook-enable": Request(_webhook, lambda _: {"enabled": "no"}),
    "events:webhook-try": Request(_webhook),
    "events:webhook-secret": Request(_webhook),
    "events:webhook-new-secret": Request(_webhook),
    "events:webhook-delete": Request(_webhook),
    "events:delivery-resend": Request(_delivery),
    "hosts:enable": Request(lambda scene: scene.host.pk, lambda _: {"enabled": "no"}, by="operator"),
    "hosts:adopt": Request(
        lambda scene: scene.difference(DifferenceKind.FOREIGN, of_machine=False),
        lambda scene: {"project": scene.project.pk, "name": "found"},
        by="operator",
    ),
    "hosts:copy-keep": Request(
        None, lambda scene: {"image": scene.version.image_id, "flavour": scene.flavour.pk}, by="operator"
    ),
    "hosts:copy-no-longer": Request(lambda scene: str(scene.wish().pk), by="operator"),
    "hosts:copy-again": Request(lambda scene: str(scene.failed_parent().pk), by="operator"),
    "hosts:repair": Request(lambda scene: scene.difference(DifferenceKind.MISSING, of_machine=True), by="operator"),
    "hosts:remove-copy": Request(
        lambda scene: scene.difference(DifferenceKind.ELSEWHERE, of_machine=True), by="operator"
    ),
    "sessions:end": Request(_session, by="operator"),
    "sessions:watch": Request(_session, by="operator"),
    "images:upload": Request(form=_upload, by="operator"),
    "images:import": Request(form=_import),
    "images:build": Request(_image, by="operator"),
    "images:delete-version": Request(_unused_version, by="operator"),
    "jobs:cancel": Request(_job),
    "machines:new": Request(form=_new_machine),
    "machines:start": Request(_machine(power_state=OFF)),
    "machines:stop": Request(_machine()),
    "machines:reboot": Request(_machine()),
    "machines:reset": Request(_machine()),
    "machines:force-off": Request(_machine()),
    "machines:disk-new": Request(_machine(), lambda _: {"name": "data", "size_gib": "2"}),
    "machines:disk-attach": Request(_machine(), lambda scene: {"volume": _volume(scene).pk}),
    "machines:disk-detach": Request(_machine(), lambda scene: {"disk": _disk(scene)}),
    "machines:disk-grow": Request(_machine(), lambda scene: {"disk": _disk(scene), "size_gib": "3"}),
    "machines:disk-limits": Request(_machine(), lambda _: {"disk": "root", "iops": "100", "mib_per_s": ""}),
    "machines:disk-first": Request(_machine(), lambda scene: {"disk": _disk(scene)}),
    "machines:disk-keep": Request(_machine(), lambda scene: {"disk": _disk(scene), "keep": "no"}),
    "machines:card-add": Request(_machine()),
    "machines:card-remove": Request(_machine(), lambda scene: {"card": _card(scene)}),
    "snapshots:machine-take": Request(_machine(), lambda _: {"name": "before", "with_memory": "yes"}),
    "snapshots:machine-schedule": Request(
        _machine(), lambda _: {"every": "week", "at": "04:30", "weekday": "6", "keep": "4"}
    ),
    "snapshots:machine-unschedule": Request(_machine(), _schedule),
    "snapshots:change": Request(_snapshot, lambda _: {"name": "after", "description": "as it was"}),
    "snapshots:restore": Request(_snapshot, lambda _: {"take_first": "yes"}),
    "snapshots:delete": Request(_snapshot),
    "volumes:new": Request(
        form=lambda scene: {"project": scene.project.pk, "name": "data", "size_gib": "2", "request_key": uuid4()}
    ),
    "volumes:grow": Request(lambda scene: _volume(scene).pk, lambda _: {"size_gib": "3"}),
    "volumes:delete": Request(lambda scene: _volume(scene).pk),
    "profiles:release": Request(lambda scene: _files(scene, VolumeStatus.IN_USE).pk, by="operator"),
    "profiles:delete": Request(lambda scene: _files(scene, VolumeStatus.AVAILABLE).pk, by="operator"),
    "machines:retry": Request(_machine(status=Status.ERROR, power_state=OFF, holds_quota=False)),
    "machines:pause": Request(_machine()),
    "machines:resume": Request(_machine(power_state=PowerState.PAUSED)),
    "machines:hibernate": Request(_machine()),
    "machines:discard": Request(_machine(power_state=OFF, saved_at=timezone.now(), saved_gib=1)),
    "machines:resize": Request(_machine(), lambda _: {"flavour": _larger().pk}),
    "copies:clone": Request(
        _machine(), lambda _: {"name": "torch", "kind": "linked", "identity": "new", "request_key": uuid4()}
    ),
    "copies:capture": Request(
        _machine(),
        lambda _: {"image": "new", "title": "Torch", "owner": "project", "identity": "new", "request_key": uuid4()},
    ),
    "copies:rebuild": Request(_machine(), lambda scene: {"image": scene.version.pk, "confirm": scene.machine.name}),
    "machines:edit": Request(_machine(), lambda _: {"name": "lamp", "labels": "web, blue", "protected": "on"}),
    "machines:password": Request(_machine()),
    "machines:key": Request(_machine(), lambda _: {"public_key": KEY}),
    "machines:user-data": Request(_machine(user_data=seal("#cloud-config\n"))),
    "machines:many": Request(
        form=lambda scene: {"machine": scene.set_machine(), "action": "stop", "request_key": uuid4()}
    ),
    "machines:bin-restore": Request(_machine(status=Status.BINNED, power_state=OFF)),
    "machines:bin-purge": Request(_machine(status=Status.BINNED, power_state=OFF)),
    "machines:delete": Request(_machine()),
    "machines:secret": Request(_machine(login_password=seal("first-password"))),
    "machines:new-iso": Request(form=_install),
    "machines:disc-insert": Request(_machine(), lambda scene: {"iso": _iso(scene).pk}),
    "machines:disc-eject": Request(_machine(), _disc),
    "machines:disc-boot": Request(_machine(), lambda _: {"first": "yes"}),
    "machines:rescue": Request(_machine(), lambda scene: {"system": str(_other_version(scene).pk)}),
    "machines:unrescue": Request(_in_rescue),
    "machines:rescue-secret": Request(_in_rescue),
    "isos:upload": Request(form=_new_iso),
    "isos:delete": Request(lambda scene: _iso(scene).pk),
    "deployments:new": Request(form=_new_deployment),
    "deployments:act": Request(_deployment, lambda _: {"action": "reset", "sure": "yes", "request_key": ASKED_AS}),
    "deployments:message": Request(_deployment, lambda _: {"text": "We go on at nine."}),
    "deployments:people": Request(_deployment, lambda _: {"people": "bob", "whole": "no"}),
    "deployments:links": Request(_deployment, lambda _: {"lifetime": "1d"}),
    "deployments:delete": Request(_deployment, lambda _: {"request_key": ASKED_AS}),
    "deployments:seat-step": Request(lambda scene: _seat(scene).pk, lambda _: {"mode": "view"}),
    "deployments:seat-unlink": Request(_linked),
    "deployments:own-start": Request(_own),
    "uploads:new": Request(headers={"Upload-Length": "5", "Upload-Metadata": "filename aXNvLmlzbw=="}),
    "uploads:discard": Request(lambda scene: _begun(scene).pk),
}


def test_every_address_that_takes_a_post_is_told_of(client: Client, operator: User) -> None:
    taking = set()
    for name, parameters in ALL:
        client.force_login(operator)  # Each time, since one of them signs out.
        path = reverse(name, kwargs={parameter: 0 if "member" in name else uuid4() for parameter in parameters})
        # Whatever else is answered: only 405 says that nothing can be sent there.
        if client.post(path).status_code != 405:
            taking.add(name)
    assert taking == set(REQUESTS)


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.usefixtures("redis_db")
def test_sent_twice_it_has_the_effect_of_once(client: Client, scene: Scene, name: str) -> None:
    wanted = REQUESTS[name]
    person = getattr(scene, wanted.by)
    client.force_login(person)
    path = reverse(name, args=[wanted.pk(scene)] if wanted.pk else [])
    form = dict(wanted.form(scene))
    before = rows()
    first = client.post(path, _again(form), headers=dict(wanted.headers))
    assert first.status_code in {200, 201, 204, 302}, (name, first.status_code, first.content[:300])
    once = rows()
    assert once != before or name in {"accounts:logout", "console:ticket", "console:selftest-steps"}
    # Someone who signed out or changed the password is signed in elsewhere still.
    client.force_login(User.objects.get(pk=person.pk))
    second = client.post(path, _again(form), headers=dict(wanted.headers))
    assert second.status_code in {200, 201, 204, 302, 404, 409, 422}, (name, second.status_code)
    twice = rows()
    for model, found in twice.items():
        if model not in EACH_COUNTS.get(name, set()):
            assert found == once[model], (name, model)
    if second.status_code in {409, 422}:
        assert _says_why(second.content.decode()), name


def _again(form: Mapping[str, Any]) -> dict[str, Any]:
    """Files are read up by sending them."""
    for value in form.values():
        if isinstance(value, SimpleUploadedFile):
            value.seek(0)
    return dict(form)


def _says_why(page: str) -> bool:
    return any(mark in page for mark in ('class="invalid-feedback', 'role="alert"', "error", "already"))


def rows() -> dict[str, list[str]]:
    """Everything that the portal keeps, without when people signed in."""
    found = {}
    for app in PORTAL:
        for model in apps.get_app_config(app).get_models():
            columns = [column.attname for column in model._meta.concrete_fields if column.name != "last_login"]
            found[model._meta.label] = sorted(map(repr, model._default_manager.values_list(*columns)))
    return found
