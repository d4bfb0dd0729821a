from tests.support.redis import redis_db, redis_url

__all__ = ["redis_db", "redis_url"]
