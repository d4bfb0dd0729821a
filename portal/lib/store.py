"""Redis for synchronous code: one pool of connections for each process, shared by its threads and safe to fork with."""

from functools import cache

import redis
from django.conf import settings

# Whoever asks holds up a person: a Redis that is gone must be told within seconds.
_TIMEOUT_S = 2


def store() -> redis.Redis:
    return _client(settings.REDIS_URL)


@cache
def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
