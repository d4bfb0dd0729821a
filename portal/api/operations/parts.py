"""What several modules of operations use."""

from django.http import HttpRequest
from django.utils.translation import gettext as _

from portal.accounts.http import person
from portal.accounts.models import User
from portal.errors import InvalidError, NotFoundError


def operators_only(request: HttpRequest) -> User:
    """For everyone else there is no such thing."""
    user = person(request)
    if not (user.is_active and user.is_staff):
        raise NotFoundError
    return user


def person_named(username: str) -> User:
    """Somebody at a screen, who is named by whoever sees them there."""
    user = User.objects.filter(username=username, is_active=True).first()
    if user is None:
        raise InvalidError(_("This person is not here any more."), field="username")
    return user
