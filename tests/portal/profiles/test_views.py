"""The pages of people's files: who sees what, and that it is all said."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from portal.accounts.models import Project, User
from portal.hosts.models import Host
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.machines.models import Attachment, Machine
from portal.profiles import services
from portal.profiles.models import Profile
from portal.profiles.states import State
from portal.volumes.models import Volume
from portal.volumes.states import Status

GIB = 1024**3


@pytest.fixture
def profile(project: Project, bob: User, host: Host, machine: Machine) -> Profile:
    """Bob's, open on a machine."""
    volume = Volume.objects.create(
        project=project, name="files bob 1", host=host, size_gib=4, status=Status.IN_USE, task="", personal=True
    )
    Attachment.objects.create(machine=machine, volume=volume)
    return Profile.objects.create(
        person=bob,
        project=project,
        volume=volume,
        state=State.IN_USE,
        machine=machine,
        formatted_at=machine.created_at,
        used_bytes=GIB,
    )


def page(client: Client, user: User, name: str, *args: object, **query: str) -> str:
    client.force_login(user)
    answer = client.get(reverse(f"profiles:{name}", args=args), query)
    assert answer.status_code == 200
    return answer.content.decode()


def test_a_person_sees_where_they_are_and_how_full(client: Client, profile: Profile, bob: User) -> None:
    text = page(client, bob, "mine")
    assert "Files in Lighthouse" in text
    assert "beacon" in text
    assert "of 4 GiB" in text
    assert 'value="25"' in text


def test_what_is_wrong_is_said(client: Client, profile: Profile, bob: User, operator: User) -> None:
    Profile.objects.update(state=State.DETACHING, message="The host is silent <b>now</b>.")
    for text in (page(client, bob, "mine"), page(client, operator, "list")):
        assert "The host is silent &lt;b&gt;now&lt;/b&gt;." in text
        assert "Not put away yet" in text


def test_nobody_else_of_the_project_sees_them(client: Client, profile: Profile, alice: User) -> None:
    assert "No files yet" in page(client, alice, "mine")
    client.force_login(alice)
    assert profile.volume is not None
    assert client.get(reverse("volumes:detail", args=[profile.volume.pk])).status_code == 404
    assert "files bob" not in client.get(reverse("volumes:list")).content.decode()
    shown = client.get(reverse("machines:detail", args=[profile.machine_id])).content.decode()
    assert "files bob" not in shown
    assert "own files" in shown


def test_who_may_not_see_the_machine_gets_its_name_without_a_link(
    client: Client, profile: Profile, bob: User, project: Project
) -> None:
    bob.memberships.all().delete()
    text = page(client, bob, "mine")
    assert "beacon" in text
    assert reverse("machines:detail", args=[profile.machine_id]) not in text


def test_operators_find_them_by_person_state_and_desktop(client: Client, profile: Profile, operator: User) -> None:
    for query in ({}, {"q": "bob"}, {"q": "beacon"}, {"q": "lightho"}, {"state": "in_use"}, {"state": "nonsense"}):
        assert "bob" in page(client, operator, "list", **query), query
    for query in ({"q": "nobody"}, {"state": "free"}):
        assert "files match" in page(client, operator, "list", **query), query
    Profile.objects.all().delete()
    assert "Nobody has files yet" in page(client, operator, "list")


def test_operators_put_them_away(client: Client, profile: Profile, operator: User) -> None:
    client.force_login(operator)
    for _ in range(2):
        assert client.post(reverse("profiles:release", args=[profile.pk])).status_code == 302
    assert Job.objects.get().name == JobName.PROFILE_DETACH
    profile.refresh_from_db()
    assert profile.state == State.DETACHING


def test_operators_delete_them_when_nobody_has_them(client: Client, profile: Profile, operator: User) -> None:
    client.force_login(operator)
    address = reverse("profiles:delete", args=[profile.pk])
    assert client.post(address).status_code == 409
    Attachment.objects.all().delete()
    assert services.record_free(profile)
    Volume.objects.update(status=Status.AVAILABLE)
    assert "no way back" in client.get(address).content.decode()
    assert client.get(address).status_code == 200
    assert not Job.objects.exists()
    for _ in range(2):
        assert client.post(address).status_code in {302, 409}
    assert Job.objects.get().name == JobName.VOLUME_DELETE
