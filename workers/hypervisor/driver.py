"""The contract that every hypervisor driver keeps; `tests/integration/hypervisor/` runs one suite on all of them.

Common to all operations: they are keyed by the machine's UUID, which is the domain's UUID; they are idempotent, so a
worker that was killed in the middle may call them again; they end within a time limit (`HostUnreachableError` past it);
they raise only `HypervisorError`s. A domain that Casement did not define is reported but never touched: operations on
it raise `DomainNotFoundError`.

Files in the pool: `images/<version or base uuid>.qcow2` (read-only bases), `isos/<iso uuid>.iso` (read-only discs),
`machines/<machine uuid>/disk.qcow2`, `seed.iso` and, of a machine in rescue, `rescue.qcow2` and `rescue-seed.iso`,
`volumes/<volume uuid>.qcow2`, and in `parents/<parent uuid>/` a parent's memory, state and disk. Names are made from
UUIDs only. Volumes are named to a driver by their UUID alone: where and as what they lie (a file, a logical volume, an
object of Ceph) is the driver's.
A snapshot lies inside the machine's disks, by its UUID; what there is of it besides (its memory, the firmware's
variables, what is known of it) is in `machines/<machine uuid>/<snapshot uuid>.*`.
"""

from __future__ import annotations

from builtins import list as list_of
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from uuid import UUID

from workers.hypervisor.stats import HostStats
from workers.hypervisor.types import (
    CommandResult,
    ConsoleEndpoint,
    DiskSpec,
    Forked,
    HostInfo,
    HostUsage,
    IoLimits,
    MachineDevices,
    MachineEvent,
    MachineInfo,
    MachineSpec,
    NicSpec,
    ParentInfo,
    ParentSpec,
    PowerState,
    SeedSpec,
    SnapshotInfo,
    VolumeInfo,
)


class HypervisorDriver(Protocol):
    """One host. Safe to use from several threads."""

    def close(self) -> None:
        """End the connection. Domains go on running."""

    # --- the host ---------------------------------------------------------------------------------------------

    def prepare_host(self) -> HostInfo:
        """Make what Casement needs on the host: pool folders and, in NAT mode, its network, active and autostarted."""

    def host_info(self) -> HostInfo:
        """Sizes, versions, accelerator. The accelerator is found by a probe boot once and remembered on the host."""

    def host_usage(self) -> HostUsage:
        """What is really in use now; cheap enough for every few seconds."""

    def stats(self) -> HostStats:
        """What the host and every machine that runs, foreign ones too, have used: one bulk call, ended within 10 s.

        Machines that are off are not in it, paused ones may be. A machine of which little can be told just now does
        not keep the others back.
        """

    # --- storage ----------------------------------------------------------------------------------------------

    def put_image(self, version: UUID, source: Path, *, progress: Callable[[int], None]) -> VolumeInfo:
        """Copy the qcow2 file `source` into the pool as a read-only base image.

        Success: the image is whole under its final name. Failure: nothing under the final name; a temporary file at
        most, which the next call for this version replaces. Nothing is done if it is there already. `progress` gets
        whole percents, 100 last. An image that names a backing or data file is refused (code "invalid-image").
        """

    def has_image(self, version: UUID) -> bool:
        """True if the base image is on the host, whole."""

    def delete_image(self, version: UUID) -> None:
        """Remove a base image. No error if there is none. `InvalidOperationError` while a disk is based on it."""

    def create_disk(self, machine: UUID, *, image: UUID, size_bytes: int) -> VolumeInfo:
        """Create the machine's disk as a qcow2 overlay of a base image, at least as large as the base.

        Success: the disk exists. Failure: no disk. If there is one already it is kept as it is. `VolumeNotFoundError`
        without the image, `StorageFullError` without room.
        """

    def renew_disk(self, machine: UUID, *, image: UUID, size_bytes: int) -> VolumeInfo:
        """Throw the machine's root disk away, with its snapshots, and create it anew, as `create_disk` does.

        `VolumeNotFoundError` without the image, `StorageFullError` without room: then the old disk stays. After another
        failure there may be none. `InvalidOperationError` while the machine runs.
        """

    # --- copies of disks ----------------------------------------------------------------------------------------

    def copy_disk(
        self, machine: UUID, *, source: UUID, snapshot: UUID | None, base: UUID | None, progress: Callable[[int], None]
    ) -> VolumeInfo:
        """Make the machine's root disk as a copy of another machine's: as that is now, or was at a snapshot of it.

        It stands alone; or, with `base`, reads from the image that its source is based on what that has not written
        itself. Success: the disk exists, whole. Failure: no disk. If there is one already it is kept as it is.
        `progress` gets whole percents. `InvalidOperationError` if the source runs and no snapshot is named, or it is
        based on another image than `base`; `VolumeNotFoundError` without the source, `StorageFullError` without room.
        """

    def make_base(
        self, base: UUID, *, source: UUID, snapshot: UUID | None, flat: bool, progress: Callable[[int], None]
    ) -> VolumeInfo:
        """Make a read-only image of a machine's root disk, for `create_disk`; it is like any image of `put_image`.

        With `flat` it stands alone; else it is a delta that goes on reading from the image that its source is based on,
        if that has one. Success, failure and errors as of `copy_disk`. While a disk or another base reads from it, it
        is neither removed nor changed.
        """

    def remove_identity(self, disk: UUID, *, personal: bool) -> None:
        """Take from a disk what makes a machine the one that it is: machine-id, host keys, leases, random seed.

        `disk` is a base, or a machine, whose root disk is meant. With `personal` also what people left in it: their
        keys, histories, logs, what cloud-init was told. At its next start the system makes itself a new identity.
        Killed in between it is done again. `HypervisorError` "unknown-system" if no system is found that this is known
        of, "no-tools" if the host lacks what it takes; then the disk is as it was. `InvalidOperationError` while the
        machine runs, or something reads from the base.
        """

    def get_image(self, version: UUID, destination: Path, *, progress: Callable[[int], None]) -> None:
        """Copy an image that stands alone out of the pool, to a file that is there whole or not at all.

        `VolumeNotFoundError` if there is none.
        """

    def copy_firmware(self, machine: UUID, *, source: UUID) -> None:
        """Give a machine that was never started the variables of another one's UEFI: there it says what to start from.

        Both are defined. Nothing is done where one of them has none. What a TPM holds is not copied.
        """

    # --- seeds and volumes --------------------------------------------------------------------------------------

    def create_empty_disk(self, machine: UUID, *, size_bytes: int) -> VolumeInfo:
        """Create the machine's disk without anything on it. If there is one already it is kept as it is."""

    def write_seed(self, machine: UUID, seed: SeedSpec) -> None:
        """Write the machine's NoCloud ISO, readable by the hypervisor alone, replacing one that is there."""

    def delete_storage(self, machine: UUID) -> None:
        """Remove the machine's folder with disk and seed. No error if there is none.

        `InvalidOperationError` while the domain runs.
        """

    def list_volumes(self) -> list[VolumeInfo]:
        """Every file in Casement's pool: images, volumes, disks, seeds, and what else is of a machine or a parent."""

    def create_volume(self, volume: UUID, *, size_bytes: int) -> VolumeInfo:
        """Create an empty volume. If there is one already it is kept as it is. Failure (`StorageFullError`): none."""

    def delete_volume(self, volume: UUID) -> None:
        """Remove a volume. No error if there is none. `InvalidOperationError` while a machine that runs has it."""

    def grow_volume(self, volume: UUID, *, size_bytes: int) -> VolumeInfo:
        """Make a volume that no running machine has larger; one that is as large already is left as it is.

        `VolumeNotFoundError` if there is none, `InvalidOperationError` while a machine that runs has it.
        """

    # --- discs and rescue -------------------------------------------------------------------------------------

    def put_iso(self, iso: UUID, source: Path, *, progress: Callable[[int], None]) -> VolumeInfo:
        """Copy the file `source` into the pool as a read-only disc. As `put_image`, but it is taken as plain bytes:
        whatever it begins with, no guest ever has it read as anything but a disc of these bytes.
        """

    def has_iso(self, iso: UUID) -> bool:
        """True if the ISO is on the host, whole."""

    def delete_iso(self, iso: UUID) -> None:
        """Remove an ISO. No error if there is none. `InvalidOperationError` while it lies in a machine's drive."""

    def insert_disc(self, machine: UUID, slot: int, iso: UUID | None, *, force: bool = False) -> bool:
        """Put an ISO into a disc drive (0 is the first) of the machine, or (None) take out what is in there.

        True: it is so in the definition and, if it runs, in what runs. False: the guest keeps the drive shut, and the
        disc before is still in there; it was asked to open it. With `force` it is not asked. `VolumeNotFoundError`
        without the ISO; `InvalidOperationError` if what runs was started without such a drive.
        """

    def prepare_rescue(self, machine: UUID, *, image: UUID, seed: SeedSpec) -> None:
        """Make the disk and the seed of the machine's rescue system. A disk that is there already is kept as it is.

        `VolumeNotFoundError` without the image, `StorageFullError` without room.
        """

    def end_rescue(self, machine: UUID) -> None:
        """Remove what `prepare_rescue` made. No error if there is nothing. The definition must be without it."""

    # --- disks and cards of a machine -------------------------------------------------------------------------

    def devices(self, machine: UUID) -> MachineDevices:
        """What is plugged in now, as the host says. The root disk and the seed are not told."""

    def attach_disk(self, machine: UUID, disk: DiskSpec) -> None:
        """Attach a volume, to the definition and, if the machine runs, to what runs. No error if it is attached.

        Success: both have it. Failure: neither, or at most the definition. `VolumeNotFoundError` without its file;
        `InvalidOperationError` if all places for disks are taken.
        """

    def detach_disk(self, machine: UUID, volume: UUID) -> bool:
        """Ask the guest to let a volume go. True if it is gone from definition and what runs, or was not there.

        False: the guest has not let it go yet, and the machine still has it. Asked again, it asks the guest again. Only
        True means that another machine may have the volume.
        """

    def grow_disk(self, machine: UUID, volume: UUID | None, *, size_bytes: int) -> None:
        """Make a machine's disk (None: its root disk) larger; a running guest sees it. Never smaller."""

    def set_io_limits(self, machine: UUID, volume: UUID | None, limits: IoLimits) -> None:
        """Limit a disk of a machine (None: its root disk), at once if it runs and at its next start."""

    def attach_nic(self, machine: UUID, nic: NicSpec) -> None:
        """Plug a network card in, behind its filter from the first packet on. As `attach_disk` otherwise."""

    def detach_nic(self, machine: UUID, mac: str) -> bool:
        """Ask the guest to let a network card go. As `detach_disk`."""

    # --- snapshots of a machine -------------------------------------------------------------------------------

    def take_snapshot(self, machine: UUID, snapshot: UUID, *, memory: bool) -> SnapshotInfo:
        """Keep the disks that the machine has now (root disk and volumes), and with `memory` what it is doing.

        Of a running machine the disks are taken in one moment, its file systems still if its agent answers; with
        memory it is paused for as long as that is written, and goes on. Success: the snapshot is whole. Failure: it
        goes on, thawed, and `delete_snapshot` removes what there may be. One that is whole already is kept as it is;
        what a killed worker left of it is removed first, the guest thawed and let go on.

        `InvalidOperationError` if it is hibernated, or does not run and its memory was asked for; `StorageFullError`.
        """

    def restore_snapshot(self, machine: UUID, snapshot: UUID) -> None:
        """Cut the machine's power, forget its saved memory, and make its disks what they were, sizes too.

        Success: with memory it runs and goes on from there, with the volumes, network cards and size that it had then,
        and those of its discs that are still on the host; without it is off. Failure: it is off, and some of the disks
        may be what they were: call it again, or restore another one. Nothing is done, but for the power, if a disk
        cannot be brought back: `VolumeNotFoundError` without the snapshot or one of its volumes,
        `InvalidOperationError` while another machine runs with one. Which volumes the definition has is the caller's
        to see to.
        """

    def delete_snapshot(self, machine: UUID, snapshot: UUID) -> None:
        """Remove a snapshot, in any order, while anything runs; machine and other snapshots stay as they are.

        No error if there is none, or if a volume of it is gone. What is left of one that never became whole goes too:
        the guest is thawed, and let go on if it was paused for it. Works without the machine's domain.
        """

    def snapshots(self, machine: UUID) -> list_of[UUID]:
        """Those that are whole. They go with `delete_storage`, from volumes that stay too."""

    # --- parents and forks ------------------------------------------------------------------------------------

    def start_parent(self, spec: ParentSpec) -> None:
        """Make a parent's disk, seed and memory file, and start its template: a domain with the parent's UUID.

        The template has no network card and exists only while it runs. Until it is captured, `agent_ready`,
        `run_in_guest`, `screenshot`, `get` and `list` work on it by the parent's UUID. Nothing is done if it runs, or
        is captured. One that ended before it was captured is made anew. Failure: no domain; files at most, which the
        next call replaces and `delete_parent` removes. `VolumeNotFoundError` without the image, `StorageFullError`
        without room, `InvalidSpecError` for a spec that must not become a domain.
        """

    def capture_parent(self, parent: UUID, *, trial_agent: bool) -> ParentInfo:
        """Take the running template as it is, and prove by one trial fork that machines can be made of it.

        The template is gone afterwards, and its files are read-only for good. The trial must run and, with
        `trial_agent`, its agent must answer; it is gone afterwards. What it began with is kept as a whole image too,
        for the fallback of `fork`. Nothing is done if it is captured already; what a killed worker left is gone on
        with where that is whole. Success: `has_parent`. Failure: not `has_parent`, and the template may be gone: then
        `start_parent` makes it anew. `VolumeNotFoundError` without the parent, `InvalidOperationError` if its template
        does not run, `ForkFailedError` if the trial fails, `StorageFullError`.
        """

    def has_parent(self, parent: UUID) -> bool:
        """True if the parent is captured, whole, and was tried."""

    def parents(self) -> list_of[ParentInfo]:
        """Every parent that there is anything of, captured or not."""

    def delete_parent(self, parent: UUID) -> None:
        """Remove a parent, its template or trial if one runs, and all its files. No error if there is none.

        `InvalidOperationError` while a machine maps its memory, or a disk or base reads from its disk.
        """

    def fork(self, spec: MachineSpec, parent: UUID) -> Forked:
        """Make a machine that runs, as a copy of what the parent was doing when it was captured.

        By mapping the parent's memory copy-on-write, or else by restoring its whole image; the answer says which, and
        why. The machine's disk is made, as an overlay of the parent's; its seed, if it is to have one, must be there.
        It has its own name, UUID, generation id and console secret, but the identity inside is the template's until
        `guest_identity` has changed it. For that reason what runs has none of `spec.nics`: `attach_nic` plugs them in.
        The definition has them, and is what `define` would make of `spec`: a cold start, from its own disk, has nothing
        of the parent's but what the disk reads. What runs has no room to grow or to give memory back, and no volumes or
        discs; it may be given volumes.

        Success: it runs and is defined persistently. Failure: no domain, no disk, nothing mapped. If it was forked
        already it is left as it is, and the answer is the first one's; what a killed worker left is removed first.
        `VolumeNotFoundError` without the parent or the seed, `InvalidSpecError` if the size or the firmware is not
        the parent's, `InvalidOperationError` if it has a disk or a definition of another origin, `StorageFullError`,
        `ForkFailedError` if neither works.
        """

    # --- the domain -------------------------------------------------------------------------------------------

    def define(self, spec: MachineSpec) -> None:
        """Define the domain, or redefine it: a running one takes the new definition at its next start.

        `VolumeNotFoundError` without disk, seed (if it is to have one), a volume, a disc, or a rescue system's files,
        `InvalidSpecError` for a spec that must not become a domain.

        Success: the domain is defined persistently, with disk, seed, volumes and discs. Failure: as before the call.
        """

    def start(self, machine: UUID) -> None:
        """Start a defined domain. Nothing is done if it runs; a paused one is resumed."""

    def shut_down(self, machine: UUID) -> None:
        """Ask the guest to shut down, by its agent if it answers, else by ACPI. Returns at once; a guest may ignore it.

        No error if it does not run.
        """

    def reboot(self, machine: UUID) -> None:
        """Ask the guest to reboot, by its agent if it answers, else by ACPI; a guest may ignore it.

        `InvalidOperationError` if it does not run.
        """

    def reset(self, machine: UUID) -> None:
        """Reset the virtual hardware, like the reset button. `InvalidOperationError` if it does not run."""

    def force_off(self, machine: UUID) -> None:
        """Cut the power. Success: the domain does not run. No error if it did not run."""

    def suspend(self, machine: UUID) -> None:
        """Stop the guest's processors; its memory stays. Nothing is done if they are.

        `InvalidOperationError` if it is off.
        """

    def resume(self, machine: UUID) -> None:
        """Let a suspended guest go on. Nothing is done if it runs. `InvalidOperationError` if it is off."""

    def save(self, machine: UUID) -> None:
        """Write the guest's memory to a file of the host and switch it off; `start` then goes on from there.

        Success: the domain is off and `get` says `saved`. Failure: it runs on, or it is off and nothing is saved.
        Nothing is done if it is off and saved. `InvalidOperationError` if it is off and not. What it goes on with is
        the definition that it had: another one, made in between, counts from the start after.
        """

    def discard_saved(self, machine: UUID) -> None:
        """Remove the saved memory: the next start is a cold one. No error if there is none, or if it runs."""

    def set_vcpus(self, machine: UUID, vcpus: int) -> None:
        """Plug processors into the running domain, and have the guest use them, if its agent answers.

        Nothing is done if it has so many. `InvalidOperationError` if it is off, has more, or was started without room.
        """

    def set_memory(self, machine: UUID, memory_mib: int) -> None:
        """Let the running guest have so much memory, by its balloon; it takes its time for that.

        `InvalidOperationError` if it is off, or was started with room for less.
        """

    def undefine(self, machine: UUID) -> None:
        """Force off and remove the definition with NVRAM, TPM state and saved memory. Disks stay.

        No error if there is none.
        """

    def adopt(self, machine: UUID) -> None:
        """Put Casement's mark on a domain that somebody else defined, so that the other operations work on it.

        Nothing else of it changes, and a running one runs on. No error if it has the mark. `DomainNotFoundError` if
        there is none; `InvalidOperationError` for one that exists only while it runs: it could not be started again.
        """

    def disown(self, machine: UUID) -> None:
        """Take the mark off again. No error if there is no such domain, or no mark on it."""

    def get(self, machine: UUID) -> MachineInfo:
        """One domain. `DomainNotFoundError` if there is none."""

    def list(self) -> list[MachineInfo]:
        """Every domain on the host in one bulk call, also those that Casement does not own."""

    def power_state(self, machine: UUID) -> PowerState:
        """The power state. `DomainNotFoundError` if there is no such domain."""

    def console(self, machine: UUID) -> ConsoleEndpoint:
        """Where the running domain's VNC and its serial port listen. `InvalidOperationError` if it does not run."""

    def console_log(self, machine: UUID) -> bytes:
        """What the guest printed on its serial port, whether or not somebody listened: the end of it, some MiB at most.

        It outlives restarts and goes with `delete_storage`. Empty, and no error, if there is none.
        """

    def screenshot(self, machine: UUID) -> bytes:
        """The screen as a PNG. `InvalidOperationError` if it does not run."""

    # --- the guest --------------------------------------------------------------------------------------------

    def agent_ready(self, machine: UUID) -> bool:
        """True if the guest agent answers a ping. False, and no error, if the machine is off."""

    def addresses(self, machine: UUID) -> tuple[str, ...]:
        """The guest's IP addresses without loopback and link-local, from its agent or else the DHCP lease."""

    def card_addresses(self, machine: UUID) -> dict[str, tuple[str, ...]]:
        """The same by network card: MAC in lower case to addresses. Cards without any are left out."""

    def run_in_guest(
        self, machine: UUID, argv: tuple[str, ...], *, stdin: bytes = b"", timeout_s: float = 30
    ) -> CommandResult:
        """Run a command by the guest agent. `GuestAgentError` if it does not answer or takes longer.

        A command that takes longer is not ended: it may go on in the guest.
        """

    def set_password(self, machine: UUID, user: str, password: str) -> None:
        """Give a user in the guest this password. `GuestAgentError` if the agent does not answer or knows no such user.

        It goes through the agent's own channel: it is in no command line, in the guest or on the host.
        """

    def add_ssh_key(self, machine: UUID, user: str, key: str) -> None:
        """Let the key in as this user; one that is let in already is not added again. Errors as `set_password`."""

    # --- events -----------------------------------------------------------------------------------------------

    def events(self, stop: Callable[[], bool]) -> Iterator[MachineEvent]:
        """Lifecycle events as they happen, until `stop()` is true (asked at least once a second).

        Reconnects by itself; the first event, and the first after every reconnect, is `RESYNC`. Defining a domain is no
        event, and one change of power may be told twice (a start is "started" and "resumed" to libvirt). A device that
        a running guest has let go of is one, whenever it does so. Domains that are not Casement's have events as well.
        """
