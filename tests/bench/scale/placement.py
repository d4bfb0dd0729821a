"""Choosing a host and reserving it, each in a transaction of its own."""

from __future__ import annotations

import time

from django.db import transaction

from portal.hosts.services import release_capacity, reserve_capacity
from tests.bench.rows import Row
from tests.support.estate import Estate

TIMES = 1000
TARGET_S = 10


def measure(estate: Estate) -> list[Row]:
    amount = estate.flavours[1].amount
    taken_on = []
    began = time.perf_counter()
    for _ in range(TIMES):
        with transaction.atomic():
            taken_on.append(reserve_capacity(amount))
    taken = time.perf_counter() - began
    for host in taken_on:
        release_capacity(host, amount)
    return [
        Row(f"placement.{TIMES}-machines", taken, "s", target=f"< {TARGET_S} s", ok=taken < TARGET_S),
        Row("placement.hosts-used", len({host.pk for host in taken_on}), "hosts"),
    ]
