"""Deployments by the command: a class from its list to its end."""

from __future__ import annotations

import pytest

from portal.accounts.models import Project, User
from portal.console.models import ScreenNotice
from portal.deployments.models import Deployment, Seat
from portal.deployments.services import Plan
from portal.machines.models import Machine
from tests.integration.api.shell import Shell
from tests.portal.deployments.conftest import dana, emil, plan, room, run_all

__all__ = ["dana", "emil", "plan", "room"]

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(900)]


def test_a_class_from_its_list_to_its_end(shell: Shell, room: Project, plan: Plan, dana: User, emil: User) -> None:
    shell.sign_in()
    (shell.home / "10b.csv").write_text("Name;E-Mail\nDana;dana@example.org\nMia;mia@example.org\n")
    made = ("deployment", "create", "Chemistry", "--image", "debian-12-server", "--flavour", "small")
    code, out, said = shell.run(*made, "--list", "10b.csv", "--check")
    assert (code, "room for 2 of 2" in said) == (0, True), said
    assert "dana@example.org" in out and not Deployment.objects.exists()
    assert shell.run(*made)[0] == 2, "for whom?"
    shown = shell.data(*made, "--list", "10b.csv", "--called", "lab")
    assert (shown["people"], shown["desktops_are_called"]) == (2, "lab")
    run_all(Deployment.objects.get())
    assert shell.run("-q", "deployment", "ls")[1] == "Chemistry\n"
    code, out, _said = shell.run("deployment", "add", "Chemistry", "--add", "emil", "--add", "Noah")
    assert (code, "lab-4" in out) == (0, True), out
    run_all(Deployment.objects.get())
    assert shell.run("-q", "deployment", "show", "Chemistry")[1].split() == [
        *("dana@example.org", "mia@example.org", "emil", "Noah")
    ]
    links = shell.data("deployment", "links", "Chemistry", "--days", "2")
    assert [one["person"] for one in links] == ["mia@example.org", "Noah"]
    assert all(one["url"].startswith(shell.url) for one in links)
    assert shell.run("deployment", "unlink", "Chemistry", "Noah")[0] == 0
    assert Seat.objects.get(label="Noah").token_hash is None
    assert shell.run("deployment", "unlink", "Chemistry", "Nobody")[0] == 4
    assert "4 screens" in shell.run("deployment", "message", "Chemistry", "We go on at nine.")[2]
    assert ScreenNotice.objects.count() == 4
    code, out, _said = shell.run("deployment", "stop", "Chemistry", "--person", "Noah")
    assert (code, "lab-4" in out, "lab-1" in out) == (0, True, False)
    assert shell.run("deployment", "reset", "Chemistry", typed="n\n")[0] == 1
    code, out, _said = shell.run("deployment", "reset", "Chemistry", "--yes")
    assert code == 1 and "busy" in out, "one of them is, and the others are reset all the same"
    assert Machine.objects.filter(task="rebuilding").count() == 3
    assert shell.run("deployment", "rm", "Chemistry", "--yes")[0] == 0
    assert not Deployment.objects.exists()
    assert Machine.objects.filter(task="deleting").count() == 4
