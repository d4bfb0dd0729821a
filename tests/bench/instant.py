"""A desktop at once: forked from a running one or spare, by click and by call, beside the same by hand.

Forks on the host beside bare libvirt calls, libvirt's restore and a cold boot; what an idle one costs; then the whole
way in Chromium. `BENCH_ROUNDS` says how often, `BENCH_IDLE` how many idle ones there are (30), `BENCH_IMAGE` is a
desktop image and CASEMENT_BENCH_HOME a folder whose images are built, so that nobody waits for those.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.bench.instants import clicks, forks
from tests.bench.rows import Row, table
from tests.support.desktop_image import build_desktop_image


def run() -> list[Row]:
    given = os.environ.get("BENCH_IMAGE")
    image = Path(given) if given else build_desktop_image()
    forked = forks.run(image)
    # The second half takes as long again; who ends it has the first.
    sys.stderr.write(f"{table(forked)}\n")
    return [*forked, *clicks.run()]
