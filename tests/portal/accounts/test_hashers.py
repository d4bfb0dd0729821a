"""How passwords are kept, and that those that were kept otherwise are kept so once their person signs in."""

from __future__ import annotations

from collections.abc import Callable

import argon2
import pytest
from django.contrib.auth.hashers import identify_hasher, make_password
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings

from portal import settings as product
from portal.accounts.models import User
from tests.conftest import PASSWORD


@pytest.fixture(autouse=True)
def products_hashers(settings: Settings) -> None:
    settings.PASSWORD_HASHERS = product.PASSWORD_HASHERS


def test_a_new_password_takes_that_memory_from_whoever_guesses(make_user: Callable[..., User]) -> None:
    user = make_user("dora")
    assert identify_hasher(user.password).algorithm == "argon2"
    kept = argon2.extract_parameters(user.password.removeprefix("argon2"))
    assert (kept.type, kept.memory_cost, kept.time_cost, kept.parallelism) == (argon2.Type.ID, 47_104, 1, 1)
    assert user.check_password(PASSWORD) and not user.check_password(PASSWORD + " ")


@pytest.mark.parametrize("before", ["scrypt", "pbkdf2_sha256"])
def test_who_signs_in_with_one_that_was_kept_otherwise_gets_it_kept_so(
    client: Client, make_user: Callable[..., User], before: str
) -> None:
    user = make_user("dora")
    User.objects.filter(pk=user.pk).update(password=make_password(PASSWORD, hasher=before))
    answer = client.post(reverse("accounts:login"), {"username": "dora", "password": PASSWORD})
    assert answer.status_code == 302
    user.refresh_from_db()
    assert identify_hasher(user.password).algorithm == "argon2"
    assert user.check_password(PASSWORD)
