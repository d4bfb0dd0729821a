"""One three-line task per JobName, and the clock's. Everything else is the runner's."""

from uuid import UUID

from portal.console import notices, serial_log
from portal.console.services import end_lost_sessions as end_lost
from portal.events import delivery
from portal.figures.services import forget
from portal.hosts.selectors import hosts
from portal.jobs import services as jobs
from portal.jobs.names import JobName
from portal.lib import pulse
from portal.machines import binning, many
from portal.parents import tending
from portal.pools import broker, inside, ticking
from portal.snapshots import schedules
from portal.uploads import services as uploads
from workers import console_log, look_inside, reconcile, runner, sample
from workers.celery import app


@app.task(name=JobName.MACHINE_CREATE.value)
def machine_create(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.MACHINE_CLONE.value)
def machine_clone(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.MACHINE_REBUILD.value)
def machine_rebuild(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.MACHINE_START.value)
def machine_start(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.MACHINE_STOP.value)
def machine_stop(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.MACHINE_REBOOT.value)
def machine_reboot(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.MACHINE_RESET.value)
def machine_reset(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.MACHINE_FORCE_OFF.value)
def machine_force_off(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.MACHINE_PAUSE.value)
def machine_pause(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.MACHINE_RESUME.value)
def machine_resume(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.MACHINE_HIBERNATE.value)
def machine_hibernate(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.MACHINE_DISCARD.value)
def machine_discard(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.MACHINE_RESIZE.value)
def machine_resize(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.MACHINE_PASSWORD.value)
def machine_password(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.MACHINE_SSH_KEY.value)
def machine_ssh_key(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.MACHINE_BIN.value)
def machine_bin(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.MACHINE_DELETE.value)
def machine_delete(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.MACHINE_ADOPT.value)
def machine_adopt(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.MACHINE_REPAIR.value)
def machine_repair(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.DISK_ATTACH.value)
def disk_attach(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.DISK_DETACH.value)
def disk_detach(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.DISK_GROW.value)
def disk_grow(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.DISK_LIMITS.value)
def disk_limits(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.CARD_ADD.value)
def card_add(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.CARD_REMOVE.value)
def card_remove(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.PROFILE_ATTACH.value)
def profile_attach(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.PROFILE_DETACH.value)
def profile_detach(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.VOLUME_CREATE.value)
def volume_create(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.VOLUME_GROW.value)
def volume_grow(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.VOLUME_DELETE.value)
def volume_delete(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.SNAPSHOT_TAKE.value)
def snapshot_take(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.SNAPSHOT_RESTORE.value)
def snapshot_restore(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.SNAPSHOT_DELETE.value)
def snapshot_delete(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.COPY_REMOVE.value)
def copy_remove(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.IMAGE_BUILD.value)
def image_build(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.IMAGE_IMPORT.value)
def image_import(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.IMAGE_FETCH.value)
def image_fetch(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.IMAGE_CAPTURE.value)
def image_capture(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.IMAGE_DELETE.value)
def image_delete(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.MACHINE_INSTALL.value)
def machine_install(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.DISC_INSERT.value)
def disc_insert(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.DISC_EJECT.value)
def disc_eject(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.MACHINE_RESCUE.value)
def machine_rescue(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.MACHINE_UNRESCUE.value)
def machine_unrescue(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.ISO_IMPORT.value)
def iso_import(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.ISO_DELETE.value)
def iso_delete(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.PARENT_BUILD.value)
def parent_build(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name=JobName.PARENT_DELETE.value)
def parent_delete(job_id: str) -> None:
    runner.run(UUID(job_id))


@app.task(name="parents.tend")
def tend_parents() -> None:
    tending.tend()


@app.task(name="uploads.prune")
def prune_uploads() -> None:
    uploads.prune()


@app.task(name="jobs.send_again")
def send_again() -> None:
    jobs.send_again()


@app.task(name="machines.purge_due")
def purge_due() -> None:
    binning.purge_due()


@app.task(name="snapshots.keep_schedules")
def keep_snapshot_schedules() -> None:
    schedules.take_due()
    schedules.delete_surplus()


@app.task(name="machines.forget_requests")
def forget_requests() -> None:
    many.forget_old()
    notices.forget_old()


@app.task(name="pools.tend")
def tend_pools() -> None:
    for pool_id in ticking.pools_to_tend():
        app.send_task(broker.TEND_TASK, args=[str(pool_id)], queue=broker.QUEUE, expires=3)


@app.task(name=broker.TEND_TASK)
def tend_pool(pool_id: str) -> None:
    ticking.tend(UUID(pool_id))


@app.task(name="pools.keep_times")
def keep_pool_times() -> None:
    ticking.keep_times()


@app.task(name="pools.look_inside")
def look_inside_desktops() -> None:
    there = set(inside.hosts_to_ask())
    for host in hosts():
        if host.pk in there:
            app.send_task("pools.look_inside_one", args=[str(host.pk)], queue=host.queue, expires=15)


@app.task(name="pools.look_inside_one")
def look_inside_host(host_id: str) -> None:
    look_inside.look_on_host(UUID(host_id))


@app.task(name="pools.check_entitlements")
def check_pool_entitlements() -> None:
    ticking.check_entitlements()


@app.task(name="console.end_lost_sessions")
def end_lost_sessions() -> None:
    end_lost()


@app.task(name="events.deliver")
def deliver_events(webhook_id: str) -> None:
    delivery.deliver(UUID(webhook_id))


@app.task(name="events.wake_due")
def wake_due() -> None:
    delivery.wake_due()


@app.task(name="events.prune")
def prune_events() -> None:
    delivery.prune()


@app.task(name=serial_log.TASK)
def read_console_log(machine_id: str) -> None:
    console_log.read_log(UUID(machine_id))


@app.task(name="hosts.refresh")
def refresh_hosts() -> None:
    for host in hosts():
        app.send_task("hosts.refresh_one", args=[str(host.pk)], queue=host.queue, expires=15)


@app.task(name="hosts.refresh_one")
def refresh_host(host_id: str) -> None:
    reconcile.reconcile_host(UUID(host_id))


@app.task(name="figures.sample")
def sample_hosts() -> None:
    # Figures of now are of no use later: nothing waits where no worker would take it.
    taken = pulse.living().queues
    for host in hosts():
        if host.queue not in taken:
            continue
        app.send_task("figures.sample_one", args=[str(host.pk)], queue=host.queue, expires=10)


@app.task(name="figures.sample_one")
def sample_host(host_id: str) -> None:
    sample.sample_host(UUID(host_id))


@app.task(name="figures.forget")
def forget_figures() -> None:
    forget()
