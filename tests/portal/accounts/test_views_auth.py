"""Signing in and out, guessing passwords, and changing one's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.test import Client
from django.urls import reverse

from portal.accounts import throttle
from portal.accounts.models import User
from tests.conftest import PASSWORD

LOGIN = reverse("accounts:login")


@pytest.fixture(autouse=True)
def _fresh_counters() -> Iterator[None]:
    cache.clear()
    yield
    cache.clear()


def _try(client: Client, password: str, **extra: str) -> int:
    return client.post(LOGIN, {"username": "alice", "password": password, **extra}).status_code


def test_signing_in_leads_to_the_machines(alice: User, client: Client) -> None:
    answer = client.post(LOGIN, {"username": "alice", "password": PASSWORD})
    assert (answer.status_code, answer.headers["Location"]) == (302, reverse("home"))
    answer = client.get(answer.headers["Location"])
    assert (answer.status_code, answer.headers["Location"]) == (302, reverse("machines:list"))


def test_signing_in_leads_to_the_page_that_was_asked_for(alice: User, client: Client) -> None:
    wanted = reverse("machines:new")
    asked = client.get(wanted)
    answer = client.post(asked.headers["Location"], {"username": "alice", "password": PASSWORD, "next": wanted})
    assert answer.headers["Location"] == wanted


@pytest.mark.parametrize("evil", ["https://evil.example/", "//evil.example", "/%2F/evil", "javascript:alert(1)"])
def test_signing_in_never_leads_to_another_site(evil: str, alice: User, client: Client) -> None:
    answer = client.post(LOGIN, {"username": "alice", "password": PASSWORD, "next": evil})
    assert "evil.example" not in answer.headers["Location"]
    assert "javascript" not in answer.headers["Location"]


def test_a_wrong_password_is_said_without_telling_who_exists(alice: User, client: Client) -> None:
    answers = [client.post(LOGIN, {"username": name, "password": "wrong"}) for name in ("alice", "nobody")]
    texts = [answer.content.decode().split('role="alert"')[1].split("</div>")[0] for answer in answers]
    assert texts[0] == texts[1]


def test_nobody_has_a_session_before_signing_in(alice: User, client: Client) -> None:
    client.get(LOGIN)
    client.get(reverse("machines:list"))
    _try(client, "wrong")
    assert "casement_session" not in client.cookies
    assert not Session.objects.exists()


def test_guessing_is_slowed_down_even_for_the_right_password(alice: User, client: Client) -> None:
    for _guess in range(throttle.MOST_FAILURES):
        assert _try(client, "wrong") == 200
    assert _try(client, PASSWORD) == 200
    cache.clear()  # A minute later.
    assert _try(client, PASSWORD) == 302


def test_others_can_sign_in_while_somebody_guesses(alice: User, bob: User, client: Client) -> None:
    for _guess in range(throttle.MOST_FAILURES):
        _try(client, "wrong")
    assert client.post(LOGIN, {"username": "bob", "password": PASSWORD}).status_code == 302


def test_signing_in_well_forgets_the_failures(alice: User, client: Client) -> None:
    for _guess in range(throttle.MOST_FAILURES - 1):
        _try(client, "wrong")
    assert _try(client, PASSWORD) == 302
    client.post(reverse("accounts:logout"))
    assert _try(client, "wrong") == 200
    assert _try(client, PASSWORD) == 302


def test_signing_out_takes_a_post_and_ends_the_session(alice: User, client: Client) -> None:
    client.force_login(alice)
    assert client.get(reverse("accounts:logout")).status_code == 405
    assert client.post(reverse("accounts:logout")).headers["Location"] == LOGIN
    assert client.get(reverse("machines:list")).status_code == 302


def test_a_changed_password_ends_the_other_sessions(alice: User, client: Client) -> None:
    other = Client()
    client.force_login(alice)
    other.force_login(alice)
    new = "another-good-battery"
    answer = client.post(
        reverse("accounts:password"), {"old_password": PASSWORD, "new_password1": new, "new_password2": new}
    )
    assert answer.status_code == 302
    assert client.get(reverse("machines:list")).status_code == 200
    assert other.get(reverse("machines:list")).status_code == 302


def test_the_session_cookie_is_kept_from_scripts_and_other_sites(alice: User, client: Client) -> None:
    client.post(LOGIN, {"username": "alice", "password": PASSWORD})
    cookie = client.cookies["casement_session"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"
