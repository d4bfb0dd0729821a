"""People's SSH keys: one's own only, checked, written down."""

from __future__ import annotations

import base64

import pytest
from django.test import Client
from django.urls import reverse

from portal.accounts.models import SshKey, User
from portal.accounts.services import MOST_KEYS
from portal.audit.models import Event
from portal.lib.ssh import key_fingerprint

KEYS = reverse("accounts:keys")
DELETE = reverse("accounts:key-delete")
NASTY = "<script>alert(1)</script>"


def key_line(seed: int = 1, comment: str = "alice@laptop") -> str:
    kind = b"ssh-ed25519"
    raw = len(kind).to_bytes(4, "big") + kind + (32).to_bytes(4, "big") + bytes([seed]) * 32
    return f"ssh-ed25519 {base64.b64encode(raw).decode()} {comment}".strip()


def test_a_key_is_added_under_its_own_comment(client: Client, alice: User) -> None:
    client.force_login(alice)
    assert client.post(KEYS, {"public_key": f"\ufeff{key_line()}\r\n", "name": ""}).status_code == 302
    key = alice.ssh_keys.get()
    assert (key.name, key.public_key) == ("alice@laptop", key_line())
    text = client.get(KEYS).content.decode()
    assert key_fingerprint(key_line()) in text
    assert "Not used yet" in text
    event = Event.objects.get()
    assert (event.action, event.actor) == ("key.added", alice)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "ssh-ed25519 AAAA",
        "ssh-ed25519",
        'command="rm -rf /" ' + key_line(),
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz\n-----END OPENSSH PRIVATE KEY-----",
        f"{key_line(1)}\n{key_line(2)}",
        "ssh-ed25519 " + "A" * 9000,
    ],
)
def test_what_is_no_public_key_is_refused_at_the_field(client: Client, alice: User, text: str) -> None:
    client.force_login(alice)
    answer = client.post(KEYS, {"public_key": text, "name": "laptop"})
    assert answer.status_code == 422
    assert answer.context["form"].errors.keys() == {"public_key"}
    assert not SshKey.objects.exists()
    assert not Event.objects.exists()


def test_the_same_key_or_name_is_refused(client: Client, alice: User, bob: User) -> None:
    client.force_login(alice)
    client.post(KEYS, {"public_key": key_line(1), "name": "laptop"})
    again = client.post(KEYS, {"public_key": key_line(1, "other@host"), "name": "desk"})
    assert again.context["form"].errors.keys() == {"public_key"}
    same_name = client.post(KEYS, {"public_key": key_line(2), "name": "laptop"})
    assert same_name.context["form"].errors.keys() == {"name"}
    assert alice.ssh_keys.count() == 1
    client.force_login(bob)
    assert client.post(KEYS, {"public_key": key_line(1), "name": "laptop"}).status_code == 302  # His own affair.


def test_there_is_an_end_to_the_number_of_keys(client: Client, alice: User) -> None:
    SshKey.objects.bulk_create(SshKey(user=alice, name=f"k{n}", public_key=key_line(n)) for n in range(MOST_KEYS))
    client.force_login(alice)
    answer = client.post(KEYS, {"public_key": key_line(200), "name": "one more"})
    assert answer.status_code == 422
    assert alice.ssh_keys.count() == MOST_KEYS


def test_a_key_is_deleted_by_its_person(client: Client, alice: User) -> None:
    key = SshKey.objects.create(user=alice, name="laptop", public_key=key_line())
    client.force_login(alice)
    assert client.get(DELETE).status_code == 405
    assert client.post(DELETE, {"key": key.pk}).status_code == 302
    assert not SshKey.objects.exists()
    assert Event.objects.get().action == "key.deleted"


@pytest.mark.parametrize("who", ["bob", "operator"])
def test_nobody_sees_or_deletes_the_keys_of_others(
    client: Client, alice: User, request: pytest.FixtureRequest, who: str
) -> None:
    key = SshKey.objects.create(user=alice, name="alices-laptop", public_key=key_line())
    client.force_login(request.getfixturevalue(who))
    assert "alices-laptop" not in client.get(KEYS).content.decode()
    assert client.post(DELETE, {"key": key.pk}).status_code == 404
    assert SshKey.objects.exists()
    assert not Event.objects.exists()


@pytest.mark.parametrize("value", ["", "x", "-1", str(2**63), "1 or 1=1"])
def test_a_key_that_cannot_be_is_not_found(client: Client, alice: User, value: str) -> None:
    client.force_login(alice)
    assert client.post(DELETE, {"key": value}).status_code == 404


def test_names_are_text_never_markup(client: Client, alice: User) -> None:
    client.force_login(alice)
    client.post(KEYS, {"public_key": key_line(1, NASTY), "name": NASTY})
    text = client.get(KEYS).content.decode()
    assert NASTY not in text
    assert "&lt;script&gt;" in text
