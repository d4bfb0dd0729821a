"""The page of one's API tokens, and what a token may."""

from __future__ import annotations

import datetime as dt
import re
from uuid import uuid4

import pytest
from django.test import Client
from django.urls import reverse

from portal.accounts.models import ApiToken, Project, User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import permissions_in, permissions_of, projects_for
from portal.accounts.tokens import LONGEST, MOST_TOKENS, make_token, person_of, token_of
from portal.audit.models import Event
from portal.errors import ConflictError, ForbiddenError, InvalidError
from portal.machines.models import Machine
from portal.machines.selectors import machines_for

TOKENS, REVOKE = reverse("accounts:tokens"), reverse("accounts:token-revoke")
DAY = dt.timedelta(days=1)
WRITE = ApiToken.Scope.WRITE
NASTY = "<script>alert(1)</script>"


def test_a_token_is_shown_once(client: Client, alice: User, project: Project) -> None:
    client.force_login(alice)
    form = {"name": NASTY, "scope": "write", "lifetime": "7", "project": str(project.pk)}
    answer = client.post(TOKENS, form)
    text = answer.content.decode()
    [secret] = set(re.findall(r"casement_[A-Za-z0-9_-]{43}", text))
    assert NASTY not in text
    assert answer["Cache-Control"].startswith("max-age=0")
    token = token_of(secret)
    assert token is not None and (token.user, token.project, token.scope) == (alice, project, "write")
    assert dt.timedelta(days=6) < token.expires_at - token.created_at <= dt.timedelta(days=7)
    again = client.get(TOKENS).content.decode()
    assert secret not in again and secret[:13] in again and "Not used yet" in again
    assert Event.objects.get().action == "token.made"


def test_what_is_wrong_stands_at_its_field(client: Client, alice: User, charlie: User) -> None:
    client.force_login(alice)
    elsewhere = charlie.memberships.get().project
    good = {"name": "x", "scope": "read", "lifetime": "7"}
    client.post(TOKENS, good)
    for wrong in ({"name": ""}, {"name": "x"}, {"scope": "all"}, {"lifetime": "1000"}, {"project": elsewhere.pk}):
        answer = client.post(TOKENS, {**good, "name": "y", **wrong})
        assert answer.status_code == 422, wrong
        assert answer.context["form"].errors.keys() == set(wrong)
    assert ApiToken.objects.count() == 1


def test_only_ones_own_are_listed_and_revoked(client: Client, alice: User, bob: User) -> None:
    token, secret = make_token(bob, actor=bob, name="bobs", scope=WRITE, lifetime=DAY)
    client.force_login(alice)
    assert "bobs" not in client.get(TOKENS).content.decode()
    for key in (token.pk, uuid4(), "x"):
        assert client.post(REVOKE, {"token": key}).status_code == 404
    assert token_of(secret) is not None
    client.force_login(bob)
    assert client.post(REVOKE, {"token": token.pk}).status_code == 302
    assert token_of(secret) is None


def test_nobody_makes_tokens_of_others_or_without_an_end(alice: User, bob: User) -> None:
    with pytest.raises(ForbiddenError):
        make_token(alice, actor=bob, name="x", scope=WRITE, lifetime=DAY)
    for lifetime in (LONGEST + DAY, dt.timedelta(0), -DAY):
        with pytest.raises(InvalidError):
            make_token(alice, actor=alice, name="x", scope=WRITE, lifetime=lifetime)
    for number in range(MOST_TOKENS):
        make_token(alice, actor=alice, name=f"{number}", scope=WRITE, lifetime=DAY)
    with pytest.raises(ConflictError):
        make_token(alice, actor=alice, name="one more", scope=WRITE, lifetime=DAY)


def test_a_token_for_one_project_holds_the_role_in_it_and_no_more(
    operator: User, project: Project, machine: Machine, charlie: User
) -> None:
    """Olga's office reaches everywhere; a token of hers for a project where she may look lets look, there only."""
    with pytest.raises(InvalidError):
        make_token(operator, actor=operator, name="x", scope=WRITE, lifetime=DAY, project=project)
    project.memberships.create(user=operator, role="viewer")
    token, _secret = make_token(operator, actor=operator, name="x", scope=WRITE, lifetime=DAY, project=project)
    limited = person_of(token)
    elsewhere = charlie.memberships.get().project
    elsewhere.memberships.create(user=operator, role="owner")
    assert list(projects_for(limited)) == [project]
    assert Permission.MACHINE_VIEW in permissions_in(limited, project.pk)
    assert Permission.MACHINE_OPERATE not in permissions_in(limited, project.pk)
    assert permissions_in(limited, elsewhere.pk) == frozenset()
    assert list(machines_for(limited)) == [machine]
    whole = User.objects.get(pk=operator.pk)
    assert whole.is_staff, "the row itself is as it was"
    both = permissions_of([(whole, project.pk), (limited, project.pk)])
    assert Permission.MACHINE_OPERATE not in both[operator.pk, project.pk]
