"""Every operation, tried by people it is not for; and every page, which must have one. New ones are in here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.db.models import Model
from django.test import Client
from django.utils import timezone

from portal.accounts.models import ApiToken, Project, SshKey, User
from portal.api.core import Operation
from portal.api.document import document
from portal.api.operations import OPERATIONS
from portal.console.models import ConsoleLink, ConsoleSession
from portal.events.services import add_webhook, try_webhook
from portal.hosts.models import Difference, DifferenceKind
from portal.images.models import Image, ImageVersion
from portal.isos.models import Iso
from portal.isos.models import Status as IsoStatus
from portal.jobs import services as jobs
from portal.jobs.names import JobName
from portal.machines.models import Attachment, Batch, Disc, Machine, NetworkCard
from portal.machines.states import Status
from portal.parents.models import Parent, ParentWish
from portal.pools import broker
from portal.profiles.models import Profile
from portal.snapshots.models import SnapshotSchedule
from portal.uploads.models import Upload
from portal.volumes.models import Volume
from portal.volumes.states import Status as VolumeStatus
from tests.portal.api.conftest import ROOT, MakeProgram, Program
from tests.portal.test_every_url import ALL, seat_on, snapshot_of, state
from tests.support.pool_rows import pool_of

# Pages that programs have no use for, and why.
NOT_FOR_PROGRAMS = {
    "accounts:login": "a program signs in by its token",
    "accounts:logout": "there is no session to end; a token is revoked",
    "accounts:password": "who stole a token must not be able to lock its owner out",
    "home": "it leads people to where they land; a program knows what it wants",
    "desktops:session-shown": "a program has no screen on which a picture is seen",
    "api:browse": "the document itself, as a page; programs read openapi.json",
}
BODIES: dict[str, Any] = {
    "add_key": {"public_key": "ssh-ed25519 AAAA"},
    "launch_machine": {"project": str(uuid4()), "image": str(uuid4()), "flavour": "small"},
    "create_project": {"name": "Harbour"},
    "add_member": {"person": "charlie", "role": "owner"},
    "set_role": {"role": "owner"},
    "set_quota": {"machines": 99},
    "change_host": {"enabled": False},
    "adopt_difference": {"project": str(uuid4()), "name": "found"},
    "make_ticket": {},
    "give_control": {"username": "charlie"},
    "remove_from_screen": {"username": "alice"},
    "let_in_to_screen": {"username": "charlie"},
    "share_screen": {"mode": "control"},
    "open_link": {"token": "nothing"},
    "change_machine": {"name": "torch", "protected": True},
    "resize_machine": {"flavour": "small"},
    "add_machine_key": {"public_key": "ssh-ed25519 AAAA"},
    "act_on_many": {"action": "stop", "machines": [str(uuid4())]},
    "set_bin_days": {"days": 0},
    "add_webhook": {"name": "CI", "url": "https://ci.example.org/hook"},
    "change_webhook": {"name": "Other", "enabled": False},
    "import_image": {"official": "debian-12"},
    "create_volume": {"project": str(uuid4()), "size_gib": 1},
    "grow_volume": {"size_gib": 3},
    "attach_disk": {"size_gib": 1},
    "grow_disk": {"size_gib": 30},
    "limit_disk": {"iops": 100},
    "change_disk": {"delete_with_machine": True},
    "clone_machine": {"name": "torch"},
    "capture_machine": {"title": "Torch"},
    "rebuild_machine": {"confirm": "beacon"},
    "take_snapshot": {"name": "before"},
    "restore_snapshot": {},
    "change_snapshot": {"name": "after"},
    "set_snapshot_schedule": {"every": "day"},
    "create_upload": {"name": "half.iso", "size_bytes": 5},
    "add_iso": {"upload": str(uuid4()), "name": "installer"},
    "add_image": {"upload": str(uuid4()), "title": "mine"},
    "install_machine": {"project": str(uuid4()), "iso": str(uuid4()), "flavour": "small"},
    "insert_disc": {"iso": str(uuid4())},
    "start_from_disc": {"disc": True},
    "add_parent_wish": {"image": str(uuid4()), "flavour": "small"},
    "rescue_machine": {"iso": str(uuid4())},
    "ask_for_desktop": {},
    "create_pool": {
        "name": "lab",
        "project": str(uuid4()),
        "image_version": str(uuid4()),
        "flavour": "small",
    },
    "change_pool": {"title": "Other", "maximum": 9},
    "set_maintenance": {"on": True},
    "message_pool": {"text": "Save your work."},
    "recompose_pool": {"image_version": str(uuid4())},
    "pool_back": {},
    "entitle": {"person": "charlie"},
    "set_pool_hours": {"hours": [{"weekday": 0, "from_minute": 0, "to_minute": 60, "spare": 3}]},
    "check_deployment": {"project": str(uuid4()), "flavour": "small", "people": ["mia"]},
    "create_deployment": {
        "project": str(uuid4()),
        "image": str(uuid4()),
        "flavour": "small",
        "name": "Chemistry",
        "people": ["mia"],
    },
    "add_people": {"people": ["mia"]},
    "act_on_deployment": {"action": "stop"},
    "tell_deployment": {"text": "We go on at nine."},
    "make_seat_links": {},
    "step_in": {},
}
# What a stranger may ask for: it is about nothing that exists already.
OF_NOTHING = {known.name for known in OPERATIONS if "{" not in known.path}
OPERATORS_ONLY = {
    *("show_overview", "list_hosts", "list_events", "list_sessions", "create_project", "list_pools", "create_pool"),
}
CHANGING = [known for known in OPERATIONS if known.changes]
OF_OBJECTS = [known for known in OPERATIONS if known.name not in OF_NOTHING]


def test_every_page_has_an_operation_that_does_the_same() -> None:
    """A page that is added is named by an operation, in its `pages`, or stands above with the reason why not."""
    pages = {name for name, _parameters in ALL}
    covered = {page for known in OPERATIONS for page in known.pages}
    assert pages - covered - set(NOT_FOR_PROGRAMS) == set()


def test_no_operation_names_a_page_that_there_is_not() -> None:
    pages = {name for name, _parameters in ALL} | {"accounts:login"}
    covered = {page for known in OPERATIONS for page in known.pages}
    assert (covered | set(NOT_FOR_PROGRAMS)) - pages == set()
    assert not covered & set(NOT_FOR_PROGRAMS)


def test_each_has_a_name_of_its_own_and_says_what_it_does() -> None:
    names = [known.name for known in OPERATIONS]
    assert len(set(names)) == len(names)
    entries = [entry for methods in document()["paths"].values() for entry in methods.values()]
    assert len(entries) == len(names)
    assert all(entry["summary"] and entry["description"] for entry in entries)


# Changes of a thing that take no If-Match, and why.
UNGUARDED = {
    "make_ticket": "it changes nothing of the machine",
    "share_screen": "another link is right whichever there are",
    "add_webhook": "as another link",
    "add_to_upload": "the offset says what was there",
    "watch_session": "who watches takes nothing from anybody",
    "start_own_desktop": "it is the person's own, who sees no more of it than that",
    "show_webhook_secret": "it is read, and that is written down",
    "ask_for_desktop": "it changes nothing of the pool, and asked twice gives the same",
    "leave_line": "the place is one's own, whatever the pool is set to",
}


def test_what_changes_a_thing_can_be_guarded_by_its_state() -> None:
    open_to_all = {known.name for known in OF_OBJECTS if known.changes and known.guards is None}
    assert open_to_all == set(UNGUARDED)


@pytest.fixture
def path(machine: Machine, image_version: ImageVersion, project: Project, alice: User) -> Callable[[Operation], str]:
    """The address of an operation about something of Alice's."""
    job = jobs.enqueue(JobName.MACHINE_CREATE, machine, queue="host.local", actor=alice)
    Image.objects.update(project=project)
    session = ConsoleSession.objects.create(user=alice, user_name="alice", machine=machine, machine_name="beacon")
    difference = Difference.objects.create(host=machine.host, kind=DifferenceKind.MISSING, object_id=machine.pk)
    webhook = add_webhook(project, actor=alice, name="CI", url="https://ci.example.org/hook")
    delivery = try_webhook(webhook, actor=alice)
    batch = Batch.objects.create(actor=alice, action="stop")
    binned = Machine.objects.create(
        project=project,
        owner=alice,
        name="thrown-away",
        kind=machine.kind,
        vcpus=1,
        memory_mib=1024,
        disk_gib=10,
        host=machine.host,
        mac="52:54:00:00:00:02",
        status=Status.BINNED,
    )
    key = SshKey.objects.create(user=alice, name="laptop", public_key="ssh-ed25519 AAAA")
    free, attached = (
        Volume.objects.create(project=project, name=name, host=machine.host, size_gib=1, status=status)
        for name, status in (("free", VolumeStatus.AVAILABLE), ("attached", VolumeStatus.IN_USE))
    )
    disk = Attachment.objects.create(machine=machine, volume=attached)
    card = NetworkCard.objects.create(machine=machine, mac="52:54:00:00:00:03")
    snapshot = snapshot_of(machine, alice)
    SnapshotSchedule.objects.create(machine=machine, every="day", next_at=timezone.now(), created_by=alice)
    iso = Iso.objects.create(project=project, name="installer", status=IsoStatus.READY, size_bytes=1, created_by=alice)
    disc = Disc.objects.create(machine=machine, slot=0, iso=iso)
    upload = Upload.objects.create(user=alice, name="half.iso", size_bytes=2)
    pool = pool_of(machine, entitled=(alice,))
    on_desktop = broker.ask(pool, alice).session
    assert on_desktop is not None
    size = {"vcpus": 1, "memory_mib": 1024, "disk_gib": 10}
    parent = Parent.objects.create(image_version=image_version, host=machine.host, **size)
    wish = ParentWish.objects.create(image=image_version.image, **size)
    profile = Profile.objects.create(person=alice, project=project)
    seat = seat_on(machine)
    targets: dict[str, Callable[[], Model]] = {
        "desktops": lambda: pool,
        "desktop-sessions": lambda: on_desktop,
        "pools": lambda: pool,
        "pools/desktops": lambda: on_desktop.desktop,
        "pools/entitlements": pool.entitlements.get,
        "deployments": lambda: seat.deployment,
        "seats": lambda: seat,
        "machines": lambda: machine,
        "volumes": lambda: free,
        "snapshots": lambda: snapshot,
        "isos": lambda: iso,
        "uploads": lambda: upload,
        "files": lambda: profile,
        "bin": lambda: binned,
        "batches": lambda: batch,
        "webhooks": lambda: webhook,
        "deliveries": lambda: delivery,
        "jobs": lambda: job,
        "images": lambda: image_version.image,
        "images/versions": lambda: image_version,
        "projects": lambda: project,
        "projects/members": alice.memberships.get,
        "hosts": lambda: machine.host,
        "differences": lambda: difference,
        "parents": lambda: parent,
        "parent-wishes": lambda: wish,
        "sessions": lambda: session,
        "keys": lambda: key,
        "tokens": lambda: (
            ApiToken.objects.filter(user=alice).first()
            or ApiToken.objects.create(user=alice, name="x", token_hash="0" * 64, hint="", expires_at=job.created_at)
        ),
    }

    def of(known: Operation) -> str:
        before = known.path.partition("/{")[0]
        filled = known.path.replace("{uuid:link}", str(uuid4()))
        if known.name == "remove_snapshot_schedule":
            filled += "?every=day"
        filled = filled.replace("{disk}", str(disk.pk)).replace("{uuid:card}", str(card.pk))
        filled = filled.replace("{uuid:disc}", str(disc.pk))
        if "{" not in known.path:
            return filled
        key_text = str(targets[before]().pk)
        return filled.replace("{uuid:pk}", key_text).replace("{int:pk}", key_text)

    return of


Path = Callable[[Operation], str]


def _asked(program: Program, known: Operation, address: str) -> Any:
    if known.name == "upload_image":
        return program.client.post(ROOT + address, {"title": "x"})
    return program.send(known.method, address, BODIES.get(known.name))


def test_without_a_token_nothing_is_answered(path: Path, alice: User) -> None:
    before = state()
    for known in OPERATIONS:
        answer = _asked(Program(None), known, path(known))
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), known
        assert answer["WWW-Authenticate"].startswith("Bearer")
    assert state() == before


def test_a_session_is_no_token(path: Path, alice: User, client: Client) -> None:
    """A page of another site makes Alice's browser send these, with her cookies: they must have no effect at all."""
    client.force_login(alice)
    program = Program(None)
    program.client = client
    before = state()
    for known in OPERATIONS:
        assert _asked(program, known, path(known)).status_code == 401, known
    assert state() == before


def test_a_stranger_cannot_tell_that_it_exists(path: Path, charlie: User, program: MakeProgram) -> None:
    stranger = program(charlie)
    before = state()
    for known in OF_OBJECTS:
        answer = _asked(stranger, known, path(known))
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found"), (known, answer.content)
        assert state() == before, known


def test_what_is_for_operators_is_not_there_for_others(alice: User, program: MakeProgram) -> None:
    for known in OPERATIONS:
        if known.name in OPERATORS_ONLY:
            assert _asked(program(alice), known, known.path).status_code == 404, known


# What everybody may do for themselves, a viewer too: watch a screen, let go of what they do not hold.
VIEWERS = {"step_in", "make_ticket", "release_control", "add_key", "open_link", "watch_session"}


def test_a_viewer_changes_nothing(path: Path, vera: User, program: MakeProgram) -> None:
    viewer = program(vera)
    before = state()
    for known in CHANGING:
        if known.name not in VIEWERS:
            answer = _asked(viewer, known, path(known))
            assert answer.status_code in {403, 404, 409, 422}, (known, answer.content)
            assert state() == before, known


def test_a_token_that_may_only_read_changes_nothing(path: Path, operator: User, program: MakeProgram) -> None:
    """Not even an operator's."""
    reader = program(operator, scope="read")
    path(CHANGING[0])
    before = state()
    for known in CHANGING:
        answer = _asked(reader, known, path(known))
        assert answer.status_code == (422 if known.name == "upload_image" else 403), (known, answer.content)
        assert state() == before, known


def test_a_token_for_one_project_reaches_nothing_else(
    path: Path, charlie: User, operator: User, program: MakeProgram
) -> None:
    """Olga runs the hosts and owns another project; a token for that one has nothing of her office."""
    elsewhere = charlie.memberships.get().project
    elsewhere.memberships.create(user=operator, role="owner")
    limited = program(operator, project=elsewhere)
    before = state()
    for known in OF_OBJECTS:
        answer = _asked(limited, known, path(known))
        assert answer.status_code == (403 if known.personal and known.changes else 404), (known, answer.content)
        assert state() == before, known


def test_a_share_link_of_another_project_opens_nothing(
    machine: Machine, alice: User, charlie: User, program: MakeProgram
) -> None:
    made = program(alice).post(f"machines/{machine.pk}/screen/links", {"mode": "view"}).json()
    token = made["url"].rstrip("/").rpartition("/")[2]
    assert program(charlie).post("screens/open-link", {"token": token}).status_code == 404
    assert ConsoleLink.objects.get().grants.count() == 0
