"""Reads about uploads. Each person sees their own."""

from uuid import UUID

from django.contrib.auth.models import AnonymousUser

from portal.accounts.models import User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import projects_for
from portal.errors import NotFoundError
from portal.uploads.models import Upload


def upload_for(user: User | AnonymousUser, pk: UUID | str) -> Upload:
    """NotFoundError if there is none, or it is somebody else's, or it has become something else."""
    upload = Upload.objects.filter(pk=pk, user=user).first() if isinstance(user, User) and user.is_active else None
    if upload is None:
        raise NotFoundError
    return upload


def uploads_of(user: User) -> list[Upload]:
    """What the person has begun and not finished, newest first."""
    return list(Upload.objects.filter(user=user))


def may_upload(user: User) -> bool:
    """There is a project that the person may add something to, or everybody's things are theirs to add."""
    return user.is_staff or projects_for(user, Permission.IMAGE_CREATE).exists()
