"""Pools and desktops by the `casement` command, as a process of its own against a real web process."""

from __future__ import annotations

import pytest

from portal.accounts.models import User
from portal.images.models import ImageVersion, VersionStatus
from portal.machines.models import Flavour, Machine
from portal.pools import broker
from portal.pools.models import Desktop, Place, Pool
from portal.pools.states import DesktopState, PlaceState
from tests.integration.api.shell import Shell
from tests.support.pool_rows import pool_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(900)]


def test_a_desktop_is_opened_kept_and_left(shell: Shell, machine: Machine, alice: User, bob: User) -> None:
    pool = pool_of(machine, desktops=1, entitled=(alice, bob))
    shell.sign_in()
    code, out, _said = shell.run("desktop", "ls")
    assert code == 0 and "Lab desktop" in out
    opened = shell.data("desktop", "open", "lab")
    assert (opened["desktop"], opened["state"]) == ("lab-1", "active")
    assert shell.data("desktop", "open", "Lab desktop")["id"] == opened["id"]
    assert shell.run("-q", "desktop", "sessions")[1] == f"{opened['id']}\n"
    assert shell.data("desktop", "stay", "lab-1")["id"] == opened["id"]
    assert shell.run("desktop", "open", "nothing")[0] == 4
    assert shell.run("desktop", "sign-out", "lab", typed="n\n")[0] == 1
    assert shell.data("desktop", "sign-out", "lab", "--yes")["end_reason"] == "signed_out"
    assert Desktop.objects.get().state == DesktopState.RECYCLING
    code, _out, said = shell.run("desktop", "open", "lab", "--no-wait")
    assert (code, "in use" in said) == (5, True), said
    assert Place.objects.get(pool=pool).state == PlaceState.GONE


def test_an_operator_runs_a_pool(
    shell: Shell, alice: User, bob: User, image_version: ImageVersion, flavour: Flavour
) -> None:
    shell.sign_in()
    assert shell.run("pool", "ls")[0] == 4, "it is for operators"
    User.objects.filter(pk=alice.pk).update(is_staff=True)
    made = shell.data(
        *("pool", "create", "lab", "--image", "debian-12-server", "--flavour", "small"),
        *("--project", "Lighthouse", "--max", "3", "--idle-warn", "10", "--title", "Reading room"),
    )
    assert (made["maximum"], made["idle_warn_s"], made["image_version"]["number"]) == (3, 600, 1)
    assert shell.run("-q", "pool", "ls")[1] == "lab\n"
    assert shell.data("pool", "set", "lab", "--spare", "2", "--off")["enabled"] is False
    assert shell.data("pool", "set", "lab", "--on")["spare"] == 2
    assert shell.data("pool", "allow", "lab", "--person", "bob")["person"] == "bob"
    assert shell.run("pool", "allow", "lab")[0] == 2
    code, out, _said = shell.run("pool", "allowed", "lab")
    assert code == 0 and "bob" in out
    set_hours = ("pool", "hours", "lab", "--set", "mon-fri 07:00-18:00=3", "--set", "sun 9-12=1")
    assert [one["day"] for one in shell.data(*set_hours)] == ["mon", "tue", "wed", "thu", "fri", "sun"]
    assert shell.data("pool", "hours", "lab")[-1] == {"day": "sun", "from": "09:00", "to": "12:00", "spare": 1}
    assert shell.run("pool", "hours", "lab", "--set", "always 5")[0] == 2
    assert shell.data("pool", "hours", "lab", "--clear") == []
    assert shell.data("pool", "maintenance", "lab", "on")["maintenance"] is True
    assert shell.data("pool", "message", "lab", "Back at noon.")["message"] == "Back at noon."
    assert shell.data("pool", "message", "lab")["message"] == ""
    assert shell.run("pool", "disallow", "lab", "bob")[0] == 0
    assert shell.run("pool", "disallow", "lab", "bob")[0] == 4
    assert shell.run("pool", "rm", "lab", "--yes")[0] == 0
    assert not Pool.objects.exists()


def test_an_operator_looks_at_a_pool_signs_off_and_brings_a_version(
    shell: Shell, machine: Machine, alice: User, bob: User
) -> None:
    pool = pool_of(machine, entitled=(alice, bob))
    User.objects.filter(pk=alice.pk).update(is_staff=True)
    shell.sign_in()
    for person in (alice, bob):
        assert broker.ask(pool, person).session is not None
    shown = shell.data("pool", "show", "lab")
    assert (shown["sessions"], shown["desktops"]["taken"], shown["waiting"]) == (2, 2, 0)
    code, out, _said = shell.run("pool", "sessions", "lab")
    assert code == 0 and "alice" in out and "bob" in out and "lab-1" in out
    assert shell.run("-q", "pool", "desktops", "lab", "--state", "taken")[1] == "lab-1\nlab-2\n"
    assert shell.run("pool", "sign-off", "lab", "--yes")[0] == 2
    assert shell.data("pool", "sign-off", "lab", "bob", "--yes")["end_reason"] == "operator"
    assert shell.run("pool", "sign-off", "lab", "bob", "--yes")[0] == 4
    assert shell.data("pool", "sign-off", "lab", "--all", "--yes") == {"signed_off": 1}
    Desktop.objects.filter(number=1).update(state=DesktopState.FAILED)
    assert shell.data("pool", "recycle", "lab", "lab-1")["state"] == "recycling"
    assert shell.data("pool", "line", "lab") == []
    ImageVersion.objects.create(image=pool.image_version.image, number=2, status=VersionStatus.READY)
    assert shell.data("pool", "recompose", "lab")["image_version"]["number"] == 2
    assert shell.data("pool", "back", "lab")["image_version"]["number"] == 1
    assert shell.run("pool", "recompose", "lab", "--version", "7")[0] == 4
    later = shell.data("pool", "recompose", "lab", "--how", "at_time", "--at", "2030-01-01T00:00:00Z")
    assert later["next_version"]["number"] == 2
    assert shell.data("pool", "recompose", "lab", "--cancel")["next_version"] is None
    assert shell.data("pool", "rm", "lab", "--empty", "--yes")["enabled"] is False
    assert shell.run("pool", "rm", "lab", "--yes")[0] == 5, "its desktops are there until they are deleted"
