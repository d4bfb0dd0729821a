"""The API against its own document, by schemathesis: made-up requests, good and bad, and chains of them by its links.

Whatever is asked, the answer is one that the document tells of: no 500, no other status, no other form.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.generation import GenerationMode
from schemathesis.generation.case import Case
from schemathesis.generation.stateful.state_machine import APIStateMachine

from portal.accounts.models import User
from portal.api.document import FOLLOWING
from portal.images.models import ImageVersion
from portal.jobs import services as jobs
from portal.jobs.names import JobName
from portal.machines.models import Flavour, Machine
from tests.portal.api.conftest import MakeProgram

EXAMPLES = 4
CHAINS, STEPS = 15, 8
# They stream, which a WSGI application does not; tests/integration/api/test_live.py follows them.
LEFT_OUT = [*FOLLOWING]
# A body that fits its schema may still name what is not there (404), be in the way of something (409), or hold a key
# that is none (422), or announce more than fits (413): schemas cannot say that.
ACCEPTED = ["2xx", "304", "403", "404", "409", "412", "413", "422"]
REFUSED = ["400", "401", "403", "404", "405", "406", "409", "412", "413", "422"]
QUIET = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def one_connection() -> Iterator[None]:
    """As Django's test client does: a request that ends would close the connection that holds the test's rows."""
    signals = (request_started, request_finished)
    for signal in signals:
        signal.disconnect(close_old_connections)
    yield
    for signal in signals:
        signal.connect(close_old_connections)


@pytest.fixture
def schema(
    machine: Machine,
    image_version: ImageVersion,
    flavour: Flavour,
    alice: User,
    operator: User,
    program: MakeProgram,
    one_connection: None,
) -> Any:
    jobs.enqueue(JobName.MACHINE_CREATE, machine, queue="host.local", actor=alice)
    config = SchemathesisConfig.from_dict(
        {
            "auth": {"openapi": {"TokenAuth": {"bearer": program(operator).secret}}},
            "checks": {
                "positive_data_acceptance": {"expected-statuses": ACCEPTED},
                "negative_data_rejection": {"expected-statuses": REFUSED},
            },
        }
    )
    loaded = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", _closing(get_wsgi_application()), config=config)

    @loaded.hook
    def map_query(_context: Any, query: dict[str, Any] | None) -> dict[str, Any] | None:
        """An answer with some of its fields only does not fit the schema of a whole one, which is what clients need."""
        return {name: value for name, value in query.items() if name != "fields"} if query else query

    return loaded.exclude(operation_id=LEFT_OUT)


def _closing(app: Any) -> Any:
    """As servers do it: an answer that was sent is closed, and with it the files that came with its request."""

    def served(environ: Any, start: Any) -> list[bytes]:
        answer = app(environ, start)
        try:
            return list(answer)
        finally:
            answer.close()

    return served


@pytest.mark.timeout(900)
def test_every_operation_answers_as_its_document_says(schema: Any) -> None:
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 50
    statuses: Counter[int] = Counter()
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _tried(operation, mode, statuses)()
    # Made-up ids lead nowhere; but lists, and what makes something new, must have been let in and done.
    assert statuses[200] > 2 * EXAMPLES and statuses[201] + statuses[202] > EXAMPLES, statuses
    assert statuses[404] and statuses[422], statuses


def _tried(operation: Any, mode: GenerationMode, statuses: Counter[int]) -> Callable[[], None]:
    @QUIET
    @given(case=operation.as_strategy(generation_mode=mode))
    def tried(case: Case[Any]) -> None:
        statuses[case.call_and_validate().status_code] += 1

    return tried


def test_chains_of_requests_by_the_documents_links_find_nothing(schema: Any) -> None:
    # A chain may find its own token in the list and revoke it; all that it asks then is refused, and rightly.
    machine: type[APIStateMachine] = schema.exclude(operation_id="revoke_token").as_state_machine()
    machine.run(settings=settings(QUIET, max_examples=CHAINS, stateful_step_count=STEPS))
