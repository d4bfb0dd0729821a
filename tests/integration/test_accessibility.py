"""Every page there is, in a real browser, by axe-core: nothing serious or critical. A page that is added is in here."""

from __future__ import annotations

import datetime as dt
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid4

import pytest
from django.conf import settings
from django.contrib import admin
from django.contrib.auth.models import Group
from django.db.models import Model
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import Browser, Page, sync_playwright

from portal.accounts.models import ApiToken, Membership, SshKey, User
from portal.api.models import Answered
from portal.console.models import ConsoleGrant, ConsoleLink, ConsoleSession, ScreenBan, ScreenControl, ScreenNotice
from portal.copies.models import DiskBase, DiskCopy
from portal.deployments.models import Seat
from portal.events.kinds import Kind as EventKind
from portal.events.models import Delivery, Webhook
from portal.events.services import add_webhook, record, try_webhook
from portal.figures.models import Series
from portal.figures.points import SHAPES, Level, Point, Ring, pack
from portal.hosts.models import Difference, DifferenceKind
from portal.images.models import ImageVersion
from portal.isos.models import Iso
from portal.jobs.models import Job, JobStep
from portal.machines.models import Attachment, Batch, BatchItem, Disc, Grant, Machine, MachineLabel, NetworkCard
from portal.machines.states import PowerState, Status, Task
from portal.parents.models import Parent, ParentWish
from portal.pools.models import Desktop, Place, Pool, SpareHours
from portal.pools.models import Session as DesktopSession
from portal.profiles.models import Profile
from portal.snapshots.models import Snapshot, SnapshotHold, SnapshotSchedule, SnapshotVolume
from portal.uploads.models import Upload
from portal.volumes.models import Volume
from tests.portal.test_every_url import ALL, PUBLIC, seat_on
from tests.support import axe
from tests.support.axe import Finding
from tests.support.estate import Estate, build_estate
from tests.support.pool_rows import pool_of
from tests.support.product import CHROMIUM_FLAGS
from tests.support.redis import redis_db, redis_url
from tests.support.web import CSRF, cookie_of, web_processes

__all__ = ["redis_db", "redis_url"]

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(1500),  # Some 200 pages are opened; on a busy machine each takes a second.
    pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here"),
    pytest.mark.skipif(
        not (settings.BASE_DIR / "static" / "dist" / "js" / "base.js").exists(),
        reason="the front end is not built (bin/frontend)",
    ),
    pytest.mark.skipif(not axe.SCRIPT.exists(), reason="axe-core is not installed (bin/frontend --lint)"),
]

OPERATOR, MEMBER, NEWCOMER, NOBODY = "operator", "member", "newcomer", "nobody"
# Pages whose look depends on what is asked of them.
ASKED: dict[str, list[str]] = {
    "machines:list": ["?view=table", "?q=nothing-is-called-so", "?view=cards"],
    "hosts:list": ["?q=nothing-is-called-so"],
    "jobs:list": ["?state=failed", "?q=nothing-is-called-so"],
    "audit:list": ["?q=nothing-is-called-so"],
    "volumes:list": ["?q=nothing-is-called-so"],
    "isos:list": ["?q=nothing-is-called-so"],
    "pools:list": ["?q=nothing-is-called-so"],
    "deployments:list": ["?q=nothing-is-called-so"],
    "deployments:detail": ["?q=nobody-is-called-so"],
}
# What Django's admin brings and we cannot change, by rule and page. The box that filters a person's groups is made by
# Django's SelectFilter2.js, which gives its icon's <span> a label.
OF_DJANGO = {("aria-prohibited-attr", f"{OPERATOR} /admin/accounts/user/{{pk}}/change/")}
# Forms that say what is wrong when they are sent empty.
FORMS = [
    "accounts:login",
    "accounts:password",
    "accounts:keys",
    "accounts:tokens",
    "accounts:project-new",
    "machines:new",
    "images:upload",
    "volumes:new",
    "isos:upload",
    "machines:new-iso",
    "pools:new",
    "deployments:new",
]


@dataclass(frozen=True, slots=True)
class Look:
    """How a page is looked at. `rules` are those that are asked for; none means all."""

    theme: Literal["light", "dark"]
    width: int
    height: int
    rules: tuple[str, ...] = ()


LIGHT_DESK, DARK_PHONE = Look("light", 1400, 900), Look("dark", 390, 844)
DARK_DESK, LIGHT_PHONE = Look("dark", 1400, 900), Look("light", 390, 844)
# Two looks each, so that what operators and members both see is seen in all four, and what operators alone see in both
# colour schemes and both widths. In the admin's second look only the colours differ.
COLOURS = Look("dark", 1400, 900, ("color-contrast", "link-in-text-block"))
LOOKS = {
    OPERATOR: [LIGHT_DESK, DARK_PHONE],
    MEMBER: [DARK_DESK, LIGHT_PHONE],
    NEWCOMER: [LIGHT_DESK, DARK_PHONE],
    NOBODY: [LIGHT_DESK, DARK_PHONE],
}


@dataclass
class Site:
    """A running portal with something of each kind, and how to be somebody in it."""

    url: str
    browser: Browser
    sessions: dict[str, str]
    paths: dict[str, list[str]]
    admin_paths: list[str]
    turn: int | None

    def looks(self, all_of_them: list[Look]) -> list[Look]:
        """With `--turn` one of them, by turns."""
        return all_of_them if self.turn is None else [all_of_them[self.turn % len(all_of_them)]]

    def page(self, who: str, look: Look) -> Page:
        context = self.browser.new_context(
            viewport={"width": look.width, "height": look.height}, color_scheme=look.theme, reduced_motion="reduce"
        )
        context.set_default_timeout(60_000)
        if who != NOBODY:
            values = {settings.SESSION_COOKIE_NAME: self.sessions[who], settings.CSRF_COOKIE_NAME: CSRF}
            context.add_cookies([{"name": name, "value": value, "url": self.url} for name, value in values.items()])
        axe.load_into(context)
        return context.new_page()


@pytest.fixture
def site(redis_db: str, tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[Site]:
    estate = build_estate(hosts=8, machines=12, projects=2)
    newcomer = User.objects.create_user("newcomer")
    people = {OPERATOR: estate.operator, MEMBER: estate.member, NEWCOMER: newcomer}
    objects = _objects(estate)
    paths = {name: list(_paths(name, parameters, objects)) for name, parameters in ALL}
    admin_paths = list(_admin_paths())
    # Playwright runs an event loop in this thread, beside which Django asks no database.
    sessions = {who: cookie_of(user).partition(";")[0].partition("=")[2] for who, user in people.items()}
    environment = {"DJANGO_SETTINGS_MODULE": "tests.bench.scale.settings", "REDIS_URL": redis_db}
    with web_processes(1, environment, tmp_path) as [web], sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_FLAGS)
        yield Site(
            f"http://localhost:{web.port}", browser, sessions, paths, admin_paths, pytestconfig.getoption("--turn")
        )
        browser.close()


# --- something of each kind ----------------------------------------------------------------------------------------

SAVED = {"saved_at": timezone.now(), "saved_gib": 1}
STATES: list[dict[str, Any]] = [
    {"status": Status.READY, "power_state": PowerState.RUNNING, "task": Task.NONE},
    {"status": Status.READY, "power_state": PowerState.SHUT_OFF, "task": Task.NONE, "console_socket": ""},
    {"status": Status.BUILDING, "power_state": PowerState.SHUT_OFF, "task": Task.BUILDING, "console_socket": ""},
    {"status": Status.ERROR, "power_state": PowerState.SHUT_OFF, "error_message": "No room.", "console_socket": ""},
    {"status": Status.READY, "power_state": PowerState.UNKNOWN, "task": Task.NONE},
    {"status": Status.READY, "power_state": PowerState.PAUSED, "task": Task.NONE},
    {"status": Status.READY, "power_state": PowerState.RUNNING, "task": Task.NONE, "console_socket": ""},
    {"status": Status.READY, "power_state": PowerState.SHUT_OFF, "task": Task.NONE, "console_socket": "", **SAVED},
]
Objects = dict[str, Sequence[Model]]


def _objects(estate: Estate) -> Objects:
    """By the beginning of a page's name: what it can be about. All of it is in the member's project."""
    machines = _machines(estate)
    version = ImageVersion.objects.exclude(image=None).first()
    assert version is not None
    SshKey.objects.create(user=estate.member, name="laptop", public_key="ssh-ed25519 AAAA")
    token = ApiToken.objects.create(user=estate.member, name="script", hint="casement_abcd", expires_at=timezone.now())
    Answered.objects.create(token=token, key="once", fingerprint="x", status=202)
    statuses = Job.objects.filter(project=estate.projects[0]).values_list("status", flat=True).distinct()
    jobs = [Job.objects.filter(project=estate.projects[0], status=status).first() for status in statuses.order_by()]
    seen = {"vcpus": 2, "memory_mib": 2048, "disk_gib": 10, "power_state": "running", "owned": True}
    for kind in DifferenceKind:
        found = machines[0].pk if kind in (DifferenceKind.MISSING, DifferenceKind.SIZE) else uuid4()
        Difference.objects.create(host=estate.hosts[0], kind=kind, object_id=found, name=kind, detail=seen)
    session = ConsoleSession.objects.first()
    assert session is not None
    membership = estate.projects[0].memberships.exclude(user=estate.member).first()
    assert membership is not None
    _people_on(machines[0], estate.member, membership)
    base = DiskBase.objects.create(host=machines[0].host, source=machines[0], identity="new", status="ready")
    DiskCopy.objects.create(source=machines[0], machine=machines[1], identity="new", base=base)
    webhook, delivery = _webhook(estate, machines[0])
    _dress(machines[0])
    _figures_of(machines[0].pk, estate.hosts[0].pk)
    binned = _binned(machines[0])
    pools, sessions = _pools(machines[0], estate.member)
    seats = _seats(machines, estate.member)
    _parents(machines[0], version)
    return {
        "profiles": _files(machines, estate),
        "desktops:session": sessions,
        "desktops": pools,
        "pools:session": sessions,
        "pools:desktop": [sessions[0].desktop],
        "pools": pools,
        "deployments:seat": seats,
        "deployments:own": seats[1:2],
        "deployments": [seats[0].deployment],
        "machines:bin-": [binned],
        "machines:many-": [_batch(machines, estate)],
        "machines": machines,
        "copies": machines[:1],
        "snapshots:machine": machines[:2],
        "snapshots": _snapshots(machines[0]),
        "isos": _isos(machines[0], estate.member),
        "uploads": list(Upload.objects.all()),
        "volumes": [*_volumes(machines[0]), *_volumes_in_bin(binned)],
        "console": machines[:2],
        "figures": machines[:1],
        "host-figures": [estate.hosts[0]],
        "sessions": [session],
        "images:delete-version": [version],
        "images": [version.image],
        "jobs": [job for job in jobs if job],
        "hosts": [estate.hosts[0], estate.hosts[7]],
        "events:webhook": [webhook],
        "events:delivery": [delivery],
        "events": [estate.projects[0]],
        "accounts:member": [membership],
        "accounts": [estate.projects[0]],
    }


def _pools(machine: Machine, member: User) -> tuple[list[Pool], list[DesktopSession]]:
    """One with everything in it, one that has trouble, and one whose line the member is in; a session that runs, one
    that is asked whether somebody is there, and one that has ended."""
    now = timezone.now()
    full = pool_of(machine, desktops=5, entitled=(member,), idle_warn_s=60, idle_disconnect_s=600, limit_s=300)
    Pool.objects.filter(pk=full.pk).update(message="The lab closes at six.", desktops_per_person=3)
    states = ["taken", "taken", "failed", "recycling", "building"]
    for desktop, state in zip(Desktop.objects.filter(pool=full), states, strict=True):
        error = "The host is full." if state == "failed" else ""
        Desktop.objects.filter(pk=desktop.pk).update(state=state, error=error, retry_at=now if error else None)
    times = dict.fromkeys(("asked_at", "started_at", "on_screen_at", "last_active_at"), now)
    ends: list[dict[str, Any]] = [{}, {"warned_at": now}, {"state": "ended", "ended_at": now, "end_reason": "idle"}]
    sessions = [
        DesktopSession.objects.create(
            pool=full, desktop=desktop, machine=desktop.machine, person=member, slot=slot, **times, **values
        )
        for slot, (desktop, values) in enumerate(zip(Desktop.objects.filter(pool=full)[:3], ends, strict=True))
    ]
    SpareHours.objects.create(pool=full, weekday=0, from_minute=420, to_minute=1080, spare=5)
    for number, values in enumerate(
        [{"problem": "No host has room.", "build_after": now}, {"maintenance": True, "message": "Back at noon."}]
    ):
        pool_of(machine, name=f"other-{number}", title=f"Other {number}", desktops=0, entitled=(member,), **values)
    Place.objects.create(pool=Pool.objects.get(name="other-0"), person=member, asked_at=now, seen_at=now)
    return list(Pool.objects.order_by("created_at")), sessions


def _files(machines: list[Machine], estate: Estate) -> list[Profile]:
    """The member's own, open on a machine and damaged; somebody else's, put away."""
    now, made = timezone.now(), []
    for person, values in (
        (estate.member, {"state": "in_use", "machine": machines[0], "is_read_only": True, "message": "It is damaged."}),
        (estate.operator, {}),
    ):
        volume = Volume.objects.create(
            project=machines[0].project, name=f"files {person}", host=machines[0].host, size_gib=4, personal=True
        )
        kept = {"volume": volume, "formatted_at": now, "used_bytes": 3 << 30}
        made.append(Profile.objects.create(person=person, project=machines[0].project, **kept, **values))
    return made


def _parents(machine: Machine, version: ImageVersion) -> None:
    """In each state, with one that is used, and a wish that cannot be met."""
    states: list[dict[str, Any]] = [
        {"state": "ready", "memory_bytes": 1 << 30, "captured_at": timezone.now(), "made_for": "8.0 (tcg)"},
        {"state": "building", "settling": {"quiet": 1}},
        {"state": "failed", "reason": "The guest did not come to rest.", "failures": 2, "retry_at": timezone.now()},
        {"state": "retiring"},
        {"state": "wanted"},
    ]
    for number, values in enumerate(states, 1):
        size = {"vcpus": number, "memory_mib": 1024, "disk_gib": 10}
        parent = Parent.objects.create(image_version=version, host=machine.host, **size, **values)
        if number == 1:
            Machine.objects.filter(pk=machine.pk).update(parent=parent, made_by="fork")
    note = "The host has no room."
    ParentWish.objects.create(image=version.image, vcpus=1, memory_mib=1024, disk_gib=10, note=note)


def _seats(machines: list[Machine], member: User) -> list[Seat]:
    """A desktop in each state: people with an account, with a link, with none that works, without a desktop."""
    seats = [seat_on(machines[0])]
    for number, machine in enumerate(machines[1:], 2):
        seats.append(
            Seat.objects.create(
                deployment=seats[0].deployment,
                number=number,
                label=f"Mia {number}",
                machine=machine,
                person=member if number == 2 else None,
                token_hash=uuid4().hex if number == 3 else None,
                link_expires_at=timezone.now() + dt.timedelta(days=1 if number == 3 else -1) if number < 5 else None,
            )
        )
    Seat.objects.create(deployment=seats[0].deployment, number=99, label="Noah", refusal="There is no room.")
    return seats


def _webhook(estate: Estate, machine: Machine) -> tuple[Webhook, Delivery]:
    """It has sent something that arrived, something that did not, and something of which nothing is known yet."""
    project, owner = estate.projects[0], estate.operator
    webhook = add_webhook(project, actor=owner, name="Build server", url="https://ci.example.org/hook")
    record(EventKind.MACHINE_STATE, machine, project=project.pk, data={"power_state": "running"})
    for answer in ({"status": "done", "answer_status": 200, "answer": "ok"}, {"error": "It answers with 500."}, {}):
        Delivery.objects.filter(pk=try_webhook(webhook, actor=owner).pk).update(tried_at=timezone.now(), **answer)
    Webhook.objects.filter(pk=webhook.pk).update(failing_since=timezone.now())
    delivery = webhook.deliveries.first()
    assert delivery is not None
    return webhook, delivery


def _dress(machine: Machine) -> None:
    """All that a machine may show beside its state."""
    MachineLabel.objects.bulk_create(MachineLabel(machine=machine, name=name) for name in ("web", "team:blue"))
    waits = {"wanted_vcpus": 4, "wanted_memory_mib": 4096, "wanted_flavour": machine.flavour}
    about = {"description": "The one that everybody uses.", "protected": True}
    Machine.objects.filter(pk=machine.pk).update(login_password="x", user_data="x", **waits, **about)


def _binned(like: Machine) -> Machine:
    week = timezone.now() + dt.timedelta(days=7)
    values = {"status": Status.BINNED, "binned_at": timezone.now(), "purge_at": week, "host": like.host}
    size = {"vcpus": 1, "memory_mib": 1024, "disk_gib": 10}
    return Machine.objects.create(
        project=like.project,
        owner=like.owner,
        name="thrown-away",
        kind=like.kind,
        mac="52:54:ff:00:00:01",
        **values,
        **size,
    )


def _batch(machines: list[Machine], estate: Estate) -> Batch:
    """One that is under way, one that is done, one that was refused; asked by the operator."""
    batch = Batch.objects.create(actor=estate.operator, action="stop")
    for machine, status in zip(machines, ["running", "done", ""], strict=False):
        job = Job.objects.filter(project=estate.projects[0], status=status).first()
        BatchItem.objects.create(batch=batch, machine=machine, job=job, refusal="" if job else "It is busy.")
    return batch


def _figures_of(*subjects: UUID) -> None:
    """An hour of them, with a gap."""
    ring, slot = Ring(Level.HOUR), SHAPES[Level.HOUR].slot(timezone.now().timestamp())
    point = pack(Point(0.5, 2**29, 2**30, 2**20, 2**18, 2**16, 2**14))
    for place in (*range(-60, -30), *range(-20, 0)):
        ring = ring.put(slot + place, point)
    rows = [Series(subject=subject, level="hour", end=ring.end, data=ring.data) for subject in subjects]
    Series.objects.bulk_create(rows)


def _isos(machine: Machine, member: User) -> list[Iso]:
    """One in each state, one of them in a drive; and an upload that is not finished."""
    Upload.objects.create(user=member, name="half.iso", size_bytes=4 << 30)
    made = [
        Iso.objects.create(project=machine.project, name=f"installer {status}", size_bytes=650 << 20, **values)
        for status, values in {
            "ready": {"status": "ready", "sha256": "a" * 64},
            "checked": {"status": "checking"},
            "failed": {
                "status": "failed",
                "error": "This is no ISO: it has no file system of a disc.",
            },
        }.items()
    ]
    drivers = Iso.objects.create(name="virtio-win", role="drivers", size_bytes=600 << 20, status="ready")
    Disc.objects.create(machine=machine, slot=0, iso=made[0])
    Disc.objects.create(machine=machine, slot=1, iso=drivers, task="removing")
    return [*made, drivers]


def _volumes(machine: Machine) -> list[Volume]:
    """One in each state; the machine has two of them, and a second network card."""
    made = [
        Volume.objects.create(project=machine.project, name=f"data {status}", host=machine.host, size_gib=4, **values)
        for status, values in {
            "free": {"status": "available"},
            "in use": {"status": "in_use"},
            "growing": {"status": "in_use", "task": "growing"},
            "failed": {"status": "error", "error_message": "The host's storage is full."},
        }.items()
    ]
    Attachment.objects.create(machine=machine, volume=made[1], iops=500, bytes_per_s=20 << 20)
    Attachment.objects.create(machine=machine, volume=made[2], task="growing")
    NetworkCard.objects.create(machine=machine, mac="52:54:00:00:00:77", task="removing")
    return made


def _snapshots(machine: Machine) -> list[Snapshot]:
    """On two ways, of each kind, one being deleted; taken by hand and by a schedule that has trouble."""
    schedule = SnapshotSchedule.objects.create(
        machine=machine, every="day", next_at=timezone.now(), problem="The machine is busy."
    )
    size: dict[str, Any] = {"vcpus": 1, "memory_mib": 1024, "disk_gib": 10}
    size |= {"taken_at": timezone.now(), "status": "ready", "task": ""}
    first = Snapshot.objects.create(machine=machine, name="first", description="Before all.", quiesced=True, **size)
    others: dict[str, dict[str, Any]] = {
        "left": {"quiesced": False, "was_running": True, "schedule": schedule},
        "going": {"task": "deleting"},
        "here": {"with_memory": True, "memory_bytes": 1 << 30, "is_current": True},
    }
    for name, values in others.items():
        Snapshot.objects.create(machine=machine, name=name, parent=first, **{**size, **values})
    volume = Volume.objects.create(project=machine.project, name="in it", host=machine.host, size_gib=4)
    SnapshotVolume.objects.create(snapshot=first, volume=volume, size_gib=4)
    SnapshotHold.objects.create(snapshot=first, holder=machine.pk)
    return [first]


def _volumes_in_bin(binned: Machine) -> list[Volume]:
    """One stays when its machine is deleted for good, the other goes."""
    made = [
        Volume.objects.create(project=binned.project, name=name, host=binned.host, size_gib=4, status="in_use")
        for name in ("stays", "goes")
    ]
    for volume in made:
        Attachment.objects.create(machine=binned, volume=volume, delete_with_machine=volume.name == "goes")
    return made[:1]


def _people_on(machine: Machine, member: User, other: Membership) -> None:
    """Somebody who controls, somebody who was removed, and a link that was opened."""
    later = timezone.now() + dt.timedelta(hours=1)
    ScreenControl.objects.create(machine=machine, user=member, since=timezone.now())
    ScreenNotice.objects.create(machine=machine, text="We go on.", by_name="olga", posted_at=timezone.now())
    Grant.objects.create(machine=machine, user=member)
    ScreenBan.objects.create(machine=machine, user=other.user, by_name="somebody", until=later)
    link = ConsoleLink.objects.create(machine=machine, created_by=member, token_hash="0", mode="view", expires_at=later)
    ConsoleGrant.objects.create(link=link, membership=other)


def _machines(estate: Estate) -> list[Machine]:
    """One in each state."""
    mine = list(Machine.objects.live().filter(project=estate.projects[0])[: len(STATES)])
    assert len(mine) == len(STATES)
    for machine, values in zip(mine, STATES, strict=True):
        socket = {"console_socket": "/nowhere/vnc.sock"} | values
        Machine.objects.filter(pk=machine.pk).update(**socket)
    rescued = {"rescue_version": mine[-1].image_version, "rescue_password": "x", "rescued_at": timezone.now()}
    Machine.objects.filter(pk=mine[5].pk).update(**rescued)
    return mine


def _paths(name: str, parameters: frozenset[str], objects: Objects) -> Iterator[str]:
    if not parameters:
        yield from (reverse(name) + query for query in ["", *ASKED.get(name, [])])
        return
    about = next((found for begin, found in objects.items() if name.startswith(begin)), None)
    assert about, f"say what {name} is about"
    for one in about if name.endswith((":detail", ":enter", ":session", ":session-desk")) else about[:1]:
        yield reverse(name, kwargs={word: getattr(one, "name" if word == "pool" else "pk") for word in parameters})


def _admin_paths() -> Iterator[str]:
    """The pages of each model that is registered: its list, a new one, one, its end and its history."""
    Group.objects.create(name="helpers")
    assert ConsoleSession.objects.exists() and JobStep.objects.exists()
    yield from (reverse(f"admin:{name}") for name in ("index", "password_change"))
    for model in admin.site._registry:
        base = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        yield from (reverse(f"{base}_{view}") for view in ("changelist", "add"))
        row = model._default_manager.order_by("pk").first()
        assert row is not None, f"there is no {model._meta.label}"
        yield from (reverse(f"{base}_{view}", args=[row.pk]) for view in ("change", "delete", "history"))


# --- the checks ----------------------------------------------------------------------------------------------------


def pages_among(site: Site, who: str, paths: Sequence[str]) -> list[str]:
    """Parts of pages, pictures and what is only posted are none."""
    context, found = site.page(who, LIGHT_DESK).context, []
    for path in paths:
        answer = context.request.get(site.url + path)
        is_html = "text/html" in answer.headers.get("content-type", "")
        if answer.status != 405 and is_html and answer.text().lstrip().lower().startswith("<!doctype html"):
            found.append(path)
    context.close()
    return found


# The admin asks for the scheme only while it loads, and then has this class. What fades there is there at once.
SCHEME = """async (theme) => {
  document.documentElement.classList.toggle("dark", theme === "dark");
  await new Promise((seen) => requestAnimationFrame(() => requestAnimationFrame(seen)));
  const fades = document.getAnimations().filter((one) => one.effect.getComputedTiming().endTime !== Infinity);
  for (const fade of fades) fade.finish();
}"""


def check(site: Site, who: str, paths: Sequence[str], looks: Sequence[Look]) -> dict[str, list[Finding]]:
    """What is wrong with which page: it is opened once, and looked at in one way after the other."""
    wrong: dict[str, list[Finding]] = defaultdict(list)
    page = site.page(who, looks[0])
    for path in paths:
        page.goto(site.url + path)
        for look in looks:
            put_on(page, look)
            wrong[f"{who} {path}"] += axe.findings(page, *look.rules)
        put_on(page, looks[0])
    page.context.close()
    return {path: found for path, found in wrong.items() if found}


def put_on(page: Page, look: Look) -> None:
    page.emulate_media(color_scheme=look.theme)
    page.set_viewport_size({"width": look.width, "height": look.height})
    page.evaluate(SCHEME, look.theme)


def check_forms(site: Site, who: str, names: Sequence[str]) -> dict[str, list[Finding]]:
    """Sent empty, past the browser's own checks: the page that comes back says what is missing."""
    wrong: dict[str, list[Finding]] = defaultdict(list)
    for look in site.looks(LOOKS[who]):
        page = site.page(who, look)
        for name in names:
            page.goto(site.url + reverse(name))
            with page.expect_navigation():
                page.evaluate("() => document.querySelector('main form[method=post], body.bare form').submit()")
            wrong[f"{name}, sent empty"] += axe.findings(page)
        page.context.close()
    return {path: found for path, found in wrong.items() if found}


def told(wrong: dict[str, list[Finding]]) -> str:
    return "\n".join(f"{path}\n    {finding}" for path, found in wrong.items() for finding in dict.fromkeys(found))


def test_no_page_has_a_serious_or_critical_finding(site: Site) -> None:
    everything = [path for paths in site.paths.values() for path in paths]
    empty = [path for name, paths in site.paths.items() for path in paths if not dict(ALL)[name]]
    strangers = [*(reverse(name) for name in PUBLIC), "/nowhere/"]
    wrong: dict[str, list[Finding]] = {}
    for who, paths, least in [
        (OPERATOR, [*everything, "/nowhere/"], 30),
        (MEMBER, everything, 20),
        (NEWCOMER, empty, 5),
        (NOBODY, strangers, 2),
    ]:
        pages = pages_among(site, who, paths)
        assert len(pages) >= least, (who, pages)
        wrong |= check(site, who, pages, site.looks(LOOKS[who]))
    wrong |= check_forms(site, OPERATOR, FORMS) | check_forms(site, NOBODY, ["accounts:login"])
    assert not wrong, told(wrong)


def test_no_page_of_the_admin_has_one_that_is_ours(site: Site) -> None:
    pages = pages_among(site, OPERATOR, site.admin_paths)
    assert len(pages) > 40
    wrong = {
        path: [one for one in found if (one.rule, re.sub(r"/\d+/", "/{pk}/", path)) not in OF_DJANGO]
        for path, found in check(site, OPERATOR, pages, site.looks([LIGHT_DESK, COLOURS])).items()
    }
    wrong = {path: found for path, found in wrong.items() if found}
    assert not wrong, told(wrong)


PLANTED = """() => {
  const { body } = document;
  body.insertAdjacentHTML("beforeend", `
    <img src="/static/img/casement.svg">
    <button type="button"></button>
    <input type="text">
    <p class="planted">so pale that nobody can read it</p>`);
  Object.assign(body.querySelector(".planted").style, { color: "#777", background: "#888" });
}"""


def test_what_is_wrong_is_found(site: Site) -> None:
    """Else the others could not fail."""
    page = site.page(NOBODY, LIGHT_DESK)
    page.goto(site.url + reverse("accounts:login"))
    assert not axe.findings(page)
    page.evaluate(PLANTED)
    assert {one.rule for one in axe.findings(page)} == {"image-alt", "button-name", "label", "color-contrast"}
    assert {one.rule for one in axe.findings(page, *COLOURS.rules)} == {"color-contrast"}
