"""How often a token may ask: so many requests in a minute, counted in Redis for all web processes together."""

from __future__ import annotations

import logging
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest
from redis.exceptions import RedisError

from portal.api.errors import RateLimitedError
from portal.lib.store import store

WINDOW_S: Final = 60
# One step for all web processes: the count, and how long its window still lasts.
_COUNT: Final = """
local count = redis.call('INCR', KEYS[1])
if count == 1 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return {count, redis.call('TTL', KEYS[1])}
"""

logger = logging.getLogger(__name__)


def count(request: HttpRequest, token_id: UUID) -> None:
    """Count this request. Raises RateLimitedError; what is left is told in the answer's headers.

    Without Redis nothing is counted: a portal whose Redis is away must still be one that can be helped by its API.
    """
    most = settings.API_REQUESTS_PER_MINUTE
    if not most:
        return
    try:
        answer: Any = store().eval(_COUNT, 1, f"casement:api:rate:{token_id}", WINDOW_S)
    except (RedisError, OSError) as error:
        logger.debug("requests are not counted: %s", error)
        return
    counted, left_s = int(answer[0]), max(int(answer[1]), 1)
    request.api_headers = {  # type: ignore[attr-defined]  # read by ProblemMiddleware
        "RateLimit-Policy": f'"token";q={most};w={WINDOW_S}',
        "RateLimit": f'"token";r={max(most - counted, 0)};t={left_s}',
    }
    if counted > most:
        raise RateLimitedError(left_s)
