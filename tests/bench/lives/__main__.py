"""`python -m tests.bench.lives FILE`: measure on this machine's libvirt and write the rows there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import django

django.setup()

from django.conf import settings
from django.core.management import call_command
from django.utils import timezone
from tools import programs

from portal.accounts.models import Membership, Project, User
from portal.copies import cloning
from portal.copies.cloning import CloneRequest
from portal.copies.states import Identity
from portal.hosts.models import Host
from portal.images.models import Image, ImageVersion, Kind, Source, VersionStatus
from portal.jobs.models import Job
from portal.jobs.names import JobStatus, StepName
from portal.machines import disks, resizing, services
from portal.machines.models import Flavour, Machine
from portal.snapshots import restoring
from portal.snapshots import services as snapshots
from portal.snapshots.models import Snapshot
from tests.bench.lives.plain import Plain, plain_of
from tests.bench.rows import Row, to_json
from tests.support.libvirtd import run_name, running_libvirtd, temporary_pool
from tests.support.microguest import build_microguest
from workers.hosts import driver_of

ROOT = Path(__file__).resolve().parents[3]
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
TARGET_S = 0.3
LIMIT_S = 300
MANY = 1000
POLL_S = 0.005

Seconds = Callable[[int], float]


def main(out: Path) -> None:
    call_command("migrate", verbosity=0)
    with running_libvirtd() as libvirtd, temporary_pool() as pool, _worker():
        stage = _Stage(libvirtd.uri, pool)
        try:
            machine = stage.built()
            with plain_of(machine.pk, pool, run_name()) as plain:
                out.write_text(to_json(list(stage.measured(machine, plain))), encoding="utf-8")
        finally:
            stage.clean()


@contextmanager
def _worker() -> Iterator[None]:
    """As `bin/run` starts it."""
    argv = programs._celery_worker("worker", "default,host.local", "4")
    path = f"{ROOT / 'bin'}:{ROOT}"
    with (Path(os.environ["CASEMENT_HOME"]) / "worker.log").open("ab") as log:
        process = subprocess.Popen(argv, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Stage:
    """One project with room, one host, the smallest guest, and two sizes."""

    def __init__(self, uri: str, pool: Path) -> None:
        room = {"max_machines": MANY, "max_vcpus": MANY, "max_memory_mib": MANY * 1024, "max_disk_gib": MANY}
        self.project = Project.objects.create(name="Lighthouse", bin_days=0, **room)
        self.alice = User.objects.create_user("alice")
        Membership.objects.create(user=self.alice, project=self.project, role="owner")
        self.small = Flavour.objects.create(name="small", title="Small", vcpus=1, memory_mib=256, disk_gib=1)
        self.large = Flavour.objects.create(name="large", title="Large", vcpus=2, memory_mib=256, disk_gib=1)
        self.host = Host.objects.create(
            name="local",
            uri=uri,
            pool_dir=str(pool),
            network=run_name(),
            network_mode="nat",
            accelerator="tcg",
            last_seen_at=timezone.now(),
            cpus=MANY,
            memory_mib=MANY * 1024,
            storage_total_bytes=MANY << 30,
            storage_free_bytes=MANY << 30,
        )
        driver_of(self.host).prepare_host()
        self.version = self._image()

    def _image(self) -> ImageVersion:
        image = Image.objects.create(slug="micro", title="Micro", kind=Kind.SERVER, source=Source.UPLOAD)
        guest = build_microguest(settings.BASE_DIR / "var" / "images-dev")
        version = ImageVersion.objects.create(
            image=image,
            number=1,
            status=VersionStatus.READY,
            size_bytes=guest.stat().st_size,
            virtual_size_bytes=128 << 20,
            sha256="0" * 64,
        )
        version.path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(guest, version.path)
        return version

    def built(self) -> Machine:
        machine = services.request_machine(
            self.project,
            actor=self.alice,
            image_version=self.version,
            flavour=self.small,
            name="beacon",
            login_user="alice",
        )
        self._done(Job.objects.get(target_id=machine.pk))
        machine.refresh_from_db()
        return machine

    def _done(self, job: Job) -> Job:
        deadline = time.monotonic() + LIMIT_S
        while True:
            job.refresh_from_db()
            if job.is_final:
                break
            if time.monotonic() > deadline:
                raise AssertionError(f"{job} did not end: {job.status}")
            time.sleep(POLL_S)
        assert job.status == JobStatus.DONE, (job.name, job.error_message)
        return job

    def _timed(self, machine: Machine, ask: Callable[[], Job]) -> float:
        """From the request on until its row says that it is done."""
        machine.refresh_from_db()
        began = time.monotonic()
        self._done(ask())
        return time.monotonic() - began

    # --- the parts ----------------------------------------------------------------------------------------------------

    def measured(self, machine: Machine, plain: Plain) -> Iterator[Row]:
        plain.start()
        yield self._beside("attach", lambda number: self._attach(machine, number), plain.attach)
        yield self._beside(
            "resize", lambda number: self._resize(machine, number), lambda n: plain.resize(2 - n % 2, 256)
        )
        # Both bring back all their disks, and neither is measured while the other's guest boots.
        plain.stop()
        plain.keep("restored")
        plain.start()
        self._snapshot(machine)
        yield self._beside(
            "restore",
            lambda _n: self._restore(machine),
            lambda _n: plain.restore("restored"),
            before=lambda: self._until_both_answer(machine, plain),
        )
        self._until_both_answer(machine, plain)
        # libvirt's kind are files in a chain: what comes after it would be something else for both.
        yield self._beside("snapshot", lambda _n: self._snapshot(machine), lambda n: plain.snapshot(f"s{n}"))
        self._timed(machine, lambda: services.request_force_off(machine, actor=self.alice))
        plain.stop()
        first = self._snapshot_row(machine)
        self._clone(machine, first, 0, linked=True)  # The first one makes the base that the others read from.
        yield self._beside(
            "clone-linked",
            lambda n: self._clone(machine, first, n + 1, linked=True),
            lambda n: plain.clone(n, linked=True),
            before=lambda: self._drop_clones(machine, plain),
        )
        yield self._beside(
            "clone-full",
            lambda n: self._clone(machine, None, n + 100, linked=False),
            lambda n: plain.clone(n, linked=False),
            before=lambda: self._drop_clones(machine, plain),
        )
        self._drop_clones(machine, plain)

    def _beside(
        self,
        name: str,
        ours: Seconds,
        theirs: Callable[[int], None],
        *,
        before: Callable[[], None] = lambda: None,
    ) -> Row:
        """In turns, and each goes first as often as the other."""
        our_s, their_s = [], []
        for number in range(ROUNDS):

            def take_theirs(number: int = number) -> None:
                before()
                began = time.monotonic()
                theirs(number)
                their_s.append(time.monotonic() - began)

            if number % 2:
                take_theirs()
            before()
            our_s.append(ours(number))
            if not number % 2:
                take_theirs()
        value, peer = median(our_s), median(their_s)
        sys.stderr.write(f"{name}: ours {our_s}, plain {their_s}\n")
        more = value - peer
        spread = (max(our_s) - min(our_s)) / value
        target = f"+ {TARGET_S} s at most, is {more:+.3f} s"
        return Row(f"life.{name}", value, "s", "virsh, qemu-img", peer, value / peer, target, more <= TARGET_S, spread)

    def _attach(self, machine: Machine, number: int) -> float:
        return self._timed(
            machine,
            lambda: disks.request_new_disk(machine, actor=self.alice, name=f"volume-{number}", size_gib=1),
        )

    def _resize(self, machine: Machine, number: int) -> float:
        flavour = self.small if number % 2 else self.large
        return self._timed(machine, lambda: resizing.request_resize(machine, actor=self.alice, flavour=flavour))

    def _snapshot(self, machine: Machine) -> float:
        return self._timed(machine, lambda: snapshots.request_take(machine, actor=self.alice))

    def _snapshot_row(self, machine: Machine) -> Snapshot:
        self._snapshot(machine)
        return Snapshot.objects.filter(machine=machine).order_by("-created_at")[0]

    def _restore(self, machine: Machine) -> float:
        snapshot = Snapshot.objects.filter(machine=machine).order_by("created_at")[0]
        taken = self._timed(machine, lambda: restoring.request_restore(snapshot, actor=self.alice))
        machine.refresh_from_db()
        if machine.power_state == "running":
            return taken
        return taken + self._timed(machine, lambda: services.request_start(machine, actor=self.alice))

    def _clone(self, machine: Machine, snapshot: Snapshot | None, number: int, *, linked: bool) -> float:
        """Up to the guest's start: from there on it is the guest that takes its time."""
        machine.refresh_from_db()
        wanted = CloneRequest(f"clone-{number}", linked, Identity.KEPT, snapshot)
        began, at = time.monotonic(), timezone.now()
        clone = cloning.request_clone(machine, actor=self.alice, wanted=wanted)
        job = Job.objects.get(target_id=clone.pk)
        while not job.steps.filter(name=StepName.START, finished_at__isnull=False).exists():
            job.refresh_from_db()
            assert not job.is_final and time.monotonic() - began < LIMIT_S, (job.status, job.error_message)
            time.sleep(POLL_S)
        started = job.steps.get(name=StepName.START).finished_at
        assert started is not None
        return (started - at).total_seconds()

    def _drop_clones(self, machine: Machine, plain: Plain) -> None:
        plain.end_others()
        for clone in Machine.objects.exclude(pk=machine.pk).exclude(status="deleted"):
            services.request_delete(clone, actor=self.alice)
            self._done(Job.objects.filter(target_id=clone.pk, name="machine.delete").latest("created_at"))

    def _until_both_answer(self, machine: Machine, plain: Plain) -> None:
        """Their agents, so that both have booted, and can be asked to hold their file systems still."""
        deadline = time.monotonic() + LIMIT_S
        for name in (machine.domain_name, plain.name):
            ping = ["virsh", "qemu-agent-command", name, '{"execute":"guest-ping"}']
            while subprocess.run(ping, capture_output=True, check=False).returncode:
                assert time.monotonic() < deadline, f"the agent of {name} never answered"
                time.sleep(0.25)

    def clean(self) -> None:
        driver = driver_of(self.host)
        for machine in Machine.objects.all():
            driver.undefine(machine.pk)
            driver.delete_storage(machine.pk)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
