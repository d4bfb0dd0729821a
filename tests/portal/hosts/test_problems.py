"""What is wrong with a host is said in words, with what to do."""

import datetime as dt
from uuid import uuid4

import pytest
from django.utils import timezone

from portal.hosts.capacity import capacity_of, capacity_of_enabled
from portal.hosts.models import Difference, DifferenceKind, Host
from portal.hosts.problems import (
    accelerator_words,
    in_trouble,
    network_words,
    problems_among,
    problems_of,
    remedy_for,
)
from portal.hosts.selectors import hosts_with_differences

GIB = 1024**3


def silent(host: Host, *, error: str = "") -> Host:
    host.last_seen_at = timezone.now() - dt.timedelta(minutes=5)
    host.last_error = error
    return host


def test_a_host_that_answers_and_has_room_has_no_problem(host: Host) -> None:
    assert problems_of(host) == []


def test_a_silent_host_is_grave_and_says_that_its_machines_go_on(host: Host) -> None:
    (problem,) = problems_of(silent(host))
    assert problem.is_grave
    assert "does not answer" in problem.title
    assert "keep running" in problem.remedy


def test_a_host_taken_out_of_service_is_no_alarm(host: Host) -> None:
    host.enabled = False
    (problem,) = problems_of(silent(host, error="Connection refused"))
    assert not problem.is_grave


def test_a_host_that_never_reported_is_waited_for(host: Host) -> None:
    host.last_seen_at = None
    (problem,) = problems_of(host)
    assert not problem.is_grave
    assert "not reported yet" in problem.title


@pytest.mark.parametrize(
    ("error", "word"),
    [
        ("Failed to connect socket to '…': Connection refused", "systemctl start libvirtd"),
        ("authentication failed: access denied", "group libvirt"),
        ("The TLS certificate is not valid", "certificate"),
        ("Name or service not known", "DNS"),
        ("The host did not answer: timed out", "switched on"),
        ("storage pool is not active", "folder for disks"),
        ("something nobody has seen before", "libvirt runs on it"),
    ],
)
def test_the_remedy_fits_the_error(error: str, word: str) -> None:
    assert word in remedy_for(error)


@pytest.mark.parametrize(("free", "grave"), [(1 * GIB, True), (2 * GIB, True), (49 * GIB, False)])
def test_storage_is_a_problem_before_it_is_full(host: Host, free: int, grave: bool) -> None:
    host.storage_free_bytes = free
    (problem,) = problems_of(host)
    assert problem.is_grave is grave


def test_when_nothing_reports_that_is_one_problem(host: Host) -> None:
    others = [Host(name=f"h{number}", storage_free_bytes=GIB * 90, storage_total_bytes=GIB * 100) for number in (1, 2)]
    found = problems_among([silent(one) for one in (host, *others)])
    assert [problem.host for problem in found] == [None]
    assert "watcher" in found[0].remedy


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"enabled": False},
        {"last_error": "Connection refused"},
        {"last_seen_at": None},
        {"last_seen_at": timezone.now() - dt.timedelta(minutes=5)},
        {"last_seen_at": timezone.now() + dt.timedelta(minutes=50)},
        {"storage_free_bytes": 2 * GIB},
        {"storage_free_bytes": 49 * GIB},
        {"storage_free_bytes": 50 * GIB},
        {"storage_total_bytes": 0, "storage_free_bytes": 0},
    ],
)
def test_the_database_finds_the_hosts_that_have_a_problem(host: Host, values: dict[str, object]) -> None:
    Host.objects.update(**values)
    host.refresh_from_db()
    assert Host.objects.filter(in_trouble()).exists() is bool(problems_of(host))


def test_a_difference_is_a_problem_for_the_database_too(host: Host) -> None:
    Difference.objects.create(host=host, kind=DifferenceKind.STRAY, object_id=uuid4())
    assert Host.objects.filter(in_trouble()).exists()
    assert problems_of(hosts_with_differences().get()) != []


def test_silence_of_all_is_one_problem_only_if_no_other_is_well(host: Host) -> None:
    hosts = [silent(one) for one in (host, Host(name="b"), Host(name="c"))]
    assert [problem.host for problem in problems_among(hosts)] == [None]
    assert len(problems_among(hosts, others_well=1)) == 3


def test_the_gravest_comes_first(host: Host) -> None:
    host.storage_free_bytes = 40 * GIB
    other = silent(Host(name="other"), error="Connection refused")
    assert [problem.is_grave for problem in problems_among([host, other])] == [True, False]


def test_capacity_sets_promised_against_what_may_be_and_used_against_what_is(host: Host) -> None:
    host.reserved_vcpus, host.load = 16, 4.0
    host.reserved_memory_mib, host.memory_used_mib = 7680, 8192
    cpus, memory, disk = capacity_of(host)
    assert (cpus.promised_percent, cpus.used_percent) == (50, 50)
    assert (memory.promised_percent, memory.used_percent) == (50, 50)
    assert (memory.promised_text, memory.used_text) == ("7.5 GiB of 15 GiB", "8 GiB of 16 GiB")
    assert (disk.promised_text, disk.used_percent) == ("0 GiB of 1 TiB", 20)
    assert [line.note for line in (cpus, memory, disk)] == [
        "4 promised per CPU",
        "what there is, without the host's own 1 GiB",
        "2 times what its storage pool holds",
    ]


@pytest.mark.django_db
def test_the_capacity_of_all_is_the_sum_of_each() -> None:
    for number in range(5):
        Host.objects.create(
            name=f"host-{number}",
            enabled=number != 4,
            cpus=3 + number,
            vcpu_overcommit=1.3,
            memory_mib=512 * number,  # Less than what is kept for the host, at first.
            memory_overcommit=0.77,
            disk_overcommit=1.45,
            storage_total_bytes=number * 7 * GIB + 12345,
            storage_free_bytes=number * 3 * GIB,
            reserved_vcpus=number,
            reserved_memory_mib=number * 100,
            reserved_disk_gib=number * 3,
            memory_used_mib=number * 99,
            load=0.5 * number,
        )
    lines, number = capacity_of_enabled()
    each = [capacity_of(host) for host in Host.objects.filter(enabled=True)]
    assert number == len(each) == 4
    for place, line in enumerate(lines):
        of_each = [host[place] for host in each]
        for name in ("promised", "promisable", "used", "total"):
            assert getattr(line, name) == pytest.approx(sum(getattr(one, name) for one in of_each)), (line.label, name)
    Host.objects.update(enabled=False)
    assert capacity_of_enabled() == ([], 0)


def test_a_host_that_has_reported_nothing_divides_by_nothing(db: None) -> None:
    assert [line.promised_percent for line in capacity_of(Host(name="new"))] == [0, 0, 0]


@pytest.mark.parametrize(("kind", "word"), [("kvm", "KVM"), ("tcg", "slower"), ("", "not reported")])
def test_the_accelerator_is_explained(kind: str, word: str) -> None:
    assert word in accelerator_words(Host(accelerator=kind))


@pytest.mark.parametrize(("mode", "word"), [("nat", "NAT"), ("user", "user mode"), ("", "not reported")])
def test_the_network_is_explained(mode: str, word: str) -> None:
    assert word in network_words(Host(network_mode=mode))
