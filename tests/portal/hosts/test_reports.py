"""What pages are told when a host reports."""

import datetime as dt

import pytest
from django.utils import timezone

from portal.hosts import services
from portal.hosts.models import Host
from portal.lib import live


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    topics: list[str] = []
    monkeypatch.setattr(live, "publish_on_commit", lambda _groups, names: topics.extend(names))
    return topics


def test_figures_are_news_for_the_hosts_own_page_only(host: Host, told: list[str]) -> None:
    services.record_host(host, load=3.5, memory_used_mib=77, storage_free_bytes=5, cpus=host.cpus)
    assert told == [f"host:{host.pk}"]
    host.refresh_from_db()
    assert (host.load, host.memory_used_mib, host.storage_free_bytes) == (3.5, 77, 5)


@pytest.mark.parametrize(
    ("before", "observed"),
    [
        ({}, {"accelerator": "kvm"}),
        ({}, {"cpus": 99}),
        ({"last_error": "Connection refused"}, {"load": 1.0}),
        ({"last_seen_at": None}, {"load": 1.0}),
        ({"last_seen_at": timezone.now() - dt.timedelta(minutes=5)}, {"load": 1.0}),
    ],
)
def test_what_is_news_is_told_to_every_page_of_hosts(
    host: Host, told: list[str], before: dict[str, object], observed: dict[str, object]
) -> None:
    Host.objects.update(**before)
    host.refresh_from_db()
    services.record_host(host, **observed)
    assert told == [f"host:{host.pk}", "hosts"]
