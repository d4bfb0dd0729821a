"""A ticket is random, hashed at rest, short-lived, spent once however many ask at once, never in a log (rows 1-3)."""

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import cast
from uuid import uuid4

import pytest
import redis

from portal.console import tickets
from portal.console.tickets import SUBPROTOCOL_PREFIX, Claim, Mode, TicketScrubber, from_subprotocols, session_hash

CLAIM = Claim(7, session_hash("alices-session"), uuid4(), Mode.CONTROL)


@pytest.fixture
def store(redis_db: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_db) as client:
        yield client


def test_a_ticket_stands_for_its_claim_exactly_once(redis_db: str) -> None:
    token = tickets.issue(CLAIM)
    assert tickets.redeem(token) == CLAIM
    assert tickets.redeem(token) is None


def test_of_many_who_redeem_at_the_same_moment_one_gets_through(redis_db: str) -> None:
    token = tickets.issue(CLAIM)
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(tickets.redeem, [token] * 40))
    assert [answer for answer in answers if answer] == [CLAIM]


def test_tickets_have_256_random_bits_and_no_two_are_alike(redis_db: str) -> None:
    made = {tickets.issue(CLAIM) for _ in range(200)}
    assert len(made) == 200
    assert all(len(token) == 43 for token in made)  # 32 bytes in base64 without padding


def test_what_redis_holds_is_no_ticket_and_names_no_session(store: redis.Redis) -> None:
    token = tickets.issue(CLAIM)
    keys = list(store.scan_iter("*"))
    held = b" ".join(keys) + b" ".join(cast("bytes", store.get(key)) for key in keys)
    assert len(keys) == 1
    assert token.encode() not in held
    assert b"alices-session" not in held


def test_a_ticket_dies_within_half_a_minute(store: redis.Redis, redis_db: str) -> None:
    token = tickets.issue(CLAIM)
    (key,) = store.scan_iter("*")
    assert 0 < int(store.ttl(key)) <= 30
    store.pexpire(key, 1)
    time.sleep(0.02)
    assert tickets.redeem(token) is None


@pytest.mark.parametrize("guess", ["", "x", "0" * 43, "*", "a\r\nDEL *"])
def test_a_guess_is_worth_nothing(redis_db: str, guess: str) -> None:
    tickets.issue(CLAIM)
    assert tickets.redeem(guess) is None


def test_the_ticket_is_found_among_subprotocols_only_when_it_is_the_only_one() -> None:
    assert from_subprotocols(["binary", f"{SUBPROTOCOL_PREFIX}abc"]) == "abc"
    assert from_subprotocols(["binary"]) is None
    assert from_subprotocols([f"{SUBPROTOCOL_PREFIX}"]) is None
    assert from_subprotocols([f"{SUBPROTOCOL_PREFIX}a", f"{SUBPROTOCOL_PREFIX}b"]) is None


def test_tickets_are_blotted_out_of_log_records(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("tests.console.scrubber")
    scrubber = TicketScrubber()
    logger.addFilter(scrubber)
    with caplog.at_level(logging.DEBUG):
        logger.debug("< %s: %s", "Sec-WebSocket-Protocol", f"binary, {SUBPROTOCOL_PREFIX}aB-9_z, other")
    logger.removeFilter(scrubber)
    assert caplog.messages == ["< Sec-WebSocket-Protocol: binary, casement.ticket.***, other"]


def test_api_tokens_are_blotted_out_too(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("tests.console.scrubber")
    scrubber = TicketScrubber()
    logger.addFilter(scrubber)
    with caplog.at_level(logging.DEBUG):
        logger.debug("< %s: %s", "Authorization", f"Bearer casement_{'aB-9_' * 9}")
    logger.removeFilter(scrubber)
    assert caplog.messages == ["< Authorization: Bearer casement_***"]
