"""Programs of the fixed cast: each speaks to the API with a token of its person."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from portal.accounts.models import ApiToken, Project, User
from portal.accounts.tokens import make_token

ROOT = "/api/v1/"


class Program:
    """A client of the API. Bodies are JSON; what is answered is read by `json()`, as from Django's own client."""

    def __init__(self, secret: str | None) -> None:
        self.secret = secret
        self.client = Client(headers={"Authorization": f"Bearer {secret}"} if secret else {})

    def get(self, path: str, **headers: str) -> Any:
        return self.client.get(ROOT + path, headers=_spelled(headers))

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        data = json.dumps(body) if body is not None else ""
        return self.client.generic(
            method, ROOT + path, data, content_type="application/json", headers=_spelled(headers)
        )

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        return self.send("POST", path, body, **headers)


def _spelled(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


MakeProgram = Callable[..., Program]


@pytest.fixture
def program(db: None) -> MakeProgram:
    def make(user: User, *, scope: str = "write", project: Project | None = None, name: str = "") -> Program:
        name = name or f"token {user.api_tokens.count()}"
        lifetime = dt.timedelta(days=1)
        _row, secret = make_token(
            user, actor=user, name=name, scope=ApiToken.Scope(scope), lifetime=lifetime, project=project
        )
        return Program(secret)

    return make
