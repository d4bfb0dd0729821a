"""Which host a new machine goes to."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from portal.accounts.quota import Amount
from portal.errors import NoCapacityError
from portal.hosts import services
from portal.hosts.models import Host
from portal.hosts.selectors import SILENT_AFTER

pytestmark = pytest.mark.django_db

GIB = 1024**3
SMALL = Amount(machines=1, vcpus=1, memory_mib=1024, disk_gib=10)
MakeHost = Callable[..., Host]


@pytest.fixture
def make_host() -> MakeHost:
    """A host with room for exactly four of `SMALL`, by each of its resources."""

    def make(name: str, **values: object) -> Host:
        whole: dict[str, Any] = {
            "cpus": 2,
            "vcpu_overcommit": 2.0,
            "memory_mib": 5 * 1024,
            "memory_kept_mib": 1024,
            "storage_total_bytes": 20 * GIB,
            "storage_free_bytes": 15 * GIB,
            "disk_overcommit": 2.0,
            "last_seen_at": timezone.now(),
            **values,
        }
        return Host.objects.create(name=name, uri=f"fake://{name}", pool_dir="/x", **whole)

    return make


def place(count: int, amount: Amount = SMALL) -> Counter[str]:
    return Counter(services.reserve_capacity(amount).name for _ in range(count))


def test_it_takes_as_many_as_were_promised_and_no_more(make_host: MakeHost) -> None:
    make_host("one")
    assert place(4) == {"one": 4}
    with pytest.raises(NoCapacityError, match="most free on one host: 0 MiB of memory, 0 GiB of disk"):
        place(1)
    host = Host.objects.get()
    assert (host.reserved_vcpus, host.reserved_memory_mib, host.reserved_disk_gib) == (4, 4096, 40)


@pytest.mark.parametrize(
    ("values", "fit"),
    [
        ({"vcpu_overcommit": 1.0}, 2),
        ({"vcpu_overcommit": 0.9}, 1),
        ({"memory_overcommit": 0.5}, 2),
        ({"memory_overcommit": 0.74}, 2),
        ({"memory_kept_mib": 3072}, 2),
        ({"memory_kept_mib": 6000}, 0),
        ({"disk_overcommit": 1.0}, 2),
        ({"disk_overcommit": 1.45}, 2),
        ({"cpus": 0}, 0),
    ],
)
def test_every_promise_has_its_limit(make_host: MakeHost, values: dict[str, Any], fit: int) -> None:
    host = make_host("one", **values)
    # The figures that pages show say the same.
    by_pages = min(host.vcpus_promisable, host.memory_promisable_mib // 1024, host.disk_promisable_gib // 10)
    assert by_pages == fit
    assert place(fit).total() == fit
    with pytest.raises(NoCapacityError):
        place(1)


@pytest.mark.parametrize(
    ("values", "fit"),
    [
        ({"storage_free_bytes": 2 * GIB}, 0),
        ({"storage_free_bytes": 2 * GIB + 1}, 4),
        ({"memory_used_mib": 4097}, 0),
        ({"memory_used_mib": 4096}, 4),
    ],
)
def test_a_host_that_is_really_full_takes_nothing(make_host: MakeHost, values: dict[str, Any], fit: int) -> None:
    make_host("one", **values)
    assert place(fit).total() == fit
    with pytest.raises(NoCapacityError):
        place(1)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"enabled": False}, "none is registered, enabled and answering"),
        ({"last_error": "Connection refused"}, "does not answer just now"),
        ({"last_seen_at": None}, "none is registered, enabled and answering"),
    ],
)
def test_hosts_that_take_nothing_get_nothing(make_host: MakeHost, values: dict[str, Any], reason: str) -> None:
    make_host("out", **values)
    with pytest.raises(NoCapacityError, match=reason):
        place(1)
    make_host("in")
    assert place(4) == {"in": 4}


def test_a_silent_host_gets_nothing_while_others_answer(make_host: MakeHost) -> None:
    long_ago = timezone.now() - SILENT_AFTER - dt.timedelta(seconds=1)
    silent = make_host("silent", last_seen_at=long_ago)
    speaking = make_host("speaking")
    assert place(4) == {"speaking": 4}
    with pytest.raises(NoCapacityError):
        place(1)
    # When nobody reports it is the watcher that is silent.
    Host.objects.filter(pk=speaking.pk).update(last_seen_at=long_ago)
    assert place(1) == {silent.name: 1}


def test_the_emptiest_is_taken_and_a_busy_one_comes_last(make_host: MakeHost) -> None:
    make_host("half", reserved_memory_mib=2048)
    make_host("empty")
    make_host("busy", load=2.5)
    assert place(1) == {"empty": 1}
    assert place(5) == {"empty": 3, "half": 2}
    assert place(1) == {"busy": 1}


def test_really_used_memory_counts_as_well_as_promised(make_host: MakeHost) -> None:
    make_host("used", memory_used_mib=4000)
    make_host("promised", reserved_memory_mib=1024)
    assert place(1) == {"promised": 1}


def test_equal_hosts_share_what_comes(make_host: MakeHost) -> None:
    for number in range(10):
        make_host(f"host-{number}")
    assert max(place(10).values()) < 10
    assert place(30).total() == 30
    with pytest.raises(NoCapacityError):
        place(1)


def test_the_number_of_queries_does_not_depend_on_the_number_of_hosts(make_host: MakeHost) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            place(1)
        return len(queries)

    make_host("first")
    few = cost()
    for number in range(200):
        make_host(f"host-{number}")
    assert cost() == few
