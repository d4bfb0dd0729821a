"""Tell the browser, after commit, that a person's projects changed."""

import logging

import redis.exceptions
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction

from portal.accounts.models import Project, User
from portal.lib import live

logger = logging.getLogger(__name__)


def project_changed(project: Project) -> None:
    """Everyone in the project, and the operators, look at it again."""
    live.publish_on_commit([live.project_group(project.pk), live.OPERATORS], [f"project:{project.pk}", "projects"])


def memberships_changed(user: User) -> None:
    """The person's open tabs join the groups of the projects that are theirs now, and leave the others."""
    group = live.user_group(user.pk)
    transaction.on_commit(lambda: _rejoin(group))


def _rejoin(group: str) -> None:
    layer = get_channel_layer()
    if layer is None:
        return
    try:
        async_to_sync(layer.group_send)(group, {"type": "live.rejoin"})
    except (OSError, redis.exceptions.RedisError) as error:
        # The rows are right, and every page asks them; only what open tabs hear of is out of date until they reconnect.
        logger.warning("change of membership not told to open tabs: %s", error)
