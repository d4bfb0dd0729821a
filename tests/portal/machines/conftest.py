from collections.abc import Callable

import pytest
from django.test import Client

from portal.accounts.models import User


@pytest.fixture
def as_user() -> Callable[[User], Client]:
    def sign_in(user: User) -> Client:
        client = Client()
        client.force_login(user)
        return client

    return sign_in
