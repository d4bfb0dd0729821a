"""Parents and their forks: KvmDriver's part of the contract in `../driver.py`. The files are in `parent_files.py`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import secrets
import time
from builtins import list as list_of
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from uuid import UUID, uuid4, uuid5

import libvirt

from workers.hypervisor.errors import (
    DomainNotFoundError,
    ForkFailedError,
    HostUnreachableError,
    HypervisorError,
    InvalidOperationError,
    InvalidSpecError,
    StorageFullError,
    VolumeNotFoundError,
)
from workers.hypervisor.kvm import agent, fork, life
from workers.hypervisor.kvm.connection import VirConnect, VirDomain
from workers.hypervisor.kvm.domain_xml import DomainFiles, HostTraits, ParentMemory, check, domain_xml
from workers.hypervisor.kvm.parent_files import ParentFiles, ParentNote, write_renamed
from workers.hypervisor.kvm.snapshots import save_memory
from workers.hypervisor.kvm.storage import Storage, replace_file, storage_errors
from workers.hypervisor.types import Firmware, Forked, MachineInfo, MachineSpec, ParentInfo, ParentSpec

logger = logging.getLogger(__name__)

T = TypeVar("T")

TRIAL_LIMIT_S = 60.0
_TRIAL_RUNS_S = 0.3
_TRIAL = "trial"
# From this QEMU on a file is mapped privately that may not be written to.
_SEALED_SINCE = 8_002_000


class KvmParents:
    """This part of KvmDriver. The methods without a body are the driver's."""

    def _storage(self) -> Storage:
        raise NotImplementedError

    def _traits(self) -> HostTraits:
        raise NotImplementedError

    def _call(self, doing: str, work: Callable[[VirConnect], T], *, limit_s: float | None = None) -> T:
        raise NotImplementedError

    def _with(self, machine: UUID, doing: str, work: Callable[[VirDomain], T], *, limit_s: float | None = None) -> T:
        raise NotImplementedError

    def _define(self, spec: MachineSpec, files: DomainFiles, traits: HostTraits) -> None:
        raise NotImplementedError

    def get(self, machine: UUID) -> MachineInfo:
        raise NotImplementedError

    def undefine(self, machine: UUID) -> None:
        raise NotImplementedError

    # --- parents ----------------------------------------------------------------------------------------------

    def start_parent(self, spec: ParentSpec) -> None:
        files = self._parent_files()
        if files.whole(spec.uuid) is not None or self._is_there(spec.uuid):
            return
        template = _template(spec)
        check(template)
        self.undefine(_trial_of(spec.uuid))
        files.remove_trial(spec.uuid)
        files.make(spec)
        memory = ParentMemory(spec.memory_mib << 20, files.path(spec.uuid, "ram"), shared=True)
        xml = domain_xml(template, files.files(spec.uuid, spec.uuid), self._traits(), memory)
        self._call("start the template", lambda conn: _create(conn, xml), limit_s=fork.FORK_LIMIT_S)

    def capture_parent(self, parent: UUID, *, trial_agent: bool) -> ParentInfo:
        files = self._parent_files()
        if files.whole(parent) is None:
            note = files.note(parent)
            if note is None:
                raise VolumeNotFoundError("The parent is not on the host.")
            self._save_template(parent)
            files.keep_state(parent)
            self._try(parent, note, trial_agent=trial_agent)
            files.finish(parent, sealed=self._maps_sealed())
        return files.info(parent, forks=self._forks_of(parent))

    def has_parent(self, parent: UUID) -> bool:
        return self._parent_files().whole(parent) is not None

    def parents(self) -> list_of[ParentInfo]:
        files = self._parent_files()
        return [files.info(parent, forks=self._forks_of(parent)) for parent in self._storage().parent_uuids()]

    def delete_parent(self, parent: UUID) -> None:
        storage = self._storage()
        storage.refuse_if_based_on(parent)
        if self._forks_of(parent):
            raise InvalidOperationError("The parent is in use: a machine was forked from it.")
        if storage.parent_folder(parent).is_dir():
            for uuid in (parent, _trial_of(parent)):
                self.undefine(uuid)
            self._parent_files().delete(parent)

    # --- the parts of a capture -------------------------------------------------------------------------------

    def _save_template(self, parent: UUID) -> None:
        files = self._parent_files()
        if files.has_state(parent) and not self._is_there(parent):
            return  # Whoever captured it before was killed after that.
        target = files.path(parent, "saved")
        with storage_errors("save the template"):
            target.unlink(missing_ok=True)
        try:
            self._with(parent, "save the template", lambda it: fork.save_state(it, target), limit_s=life.SAVE_LIMIT_S)
        except DomainNotFoundError as error:
            raise InvalidOperationError("The template does not run; it cannot be captured.") from error

    def _try(self, parent: UUID, note: ParentNote, *, trial_agent: bool) -> None:
        """One fork, kept whole before it runs on. It is gone afterwards, whatever happens."""
        files, trial = self._parent_files(), _trial_of(parent)
        self.undefine(trial)
        files.make_trial_disk(parent)
        spec = MachineSpec(
            uuid=trial,
            name=f"{note.name}-{_TRIAL}",
            title="",
            vcpus=note.vcpus,
            memory_mib=note.memory_mib,
            firmware=Firmware.BIOS,
            genid=uuid4(),
            console_secret=_secret(),
            desktop=note.desktop,
        )
        domain_files = files.files(parent, trial, f"{_TRIAL}.")
        xml = domain_xml(spec, domain_files, self._traits(), self._memory_of(parent, note))
        state, whole = files.path(parent, "state"), files.path(parent, "whole")
        with storage_errors("keep the parent whole"):
            whole.unlink(missing_ok=True)

        def work(conn: VirConnect) -> None:
            with fork.started_from_state(conn, xml, state) as domain:
                save_memory(domain, whole)
                domain.resume()
                _wait_until_it_runs(domain, trial_agent=trial_agent)

        try:
            self._call("try a fork of the template", work, limit_s=life.SAVE_LIMIT_S)
        except (HostUnreachableError, StorageFullError):
            raise
        except HypervisorError as error:
            raise ForkFailedError("The trial fork of the template does not work.") from error
        finally:
            with contextlib.suppress(HostUnreachableError):
                self.undefine(trial)
            files.remove_trial(parent)

    # --- forks ------------------------------------------------------------------------------------------------

    def fork(self, spec: MachineSpec, parent: UUID) -> Forked:
        storage, files = self._storage(), self._parent_files()
        if (done := self._forked(spec.uuid)) is not None:
            return done
        note = files.whole(parent)
        if note is None:
            raise VolumeNotFoundError("The parent is not on the host.")
        _refuse_unfit(spec, note)
        if spec.seeded and not (storage.machine_folder(spec.uuid) / "seed.iso").is_file():
            raise VolumeNotFoundError("The machine's seed is not on the host.")
        self._undo_what_was_left(spec.uuid)
        try:
            storage.create_disk(spec.uuid, parent, note.disk_bytes)
            forked = self._fork(spec, parent, note)
            content = json.dumps(dataclasses.asdict(forked)).encode()
            with storage_errors("note that it was forked"):
                replace_file(storage.machine_folder(spec.uuid) / "fork.json", content)
        except BaseException:
            # Of a host that does not answer nothing is known: the next call removes what there may be.
            with contextlib.suppress(HostUnreachableError):
                self._undo(spec.uuid)
            raise
        return forked

    def _fork(self, spec: MachineSpec, parent: UUID, note: ParentNote) -> Forked:
        """Its disk names the parent by now: one that is removed meanwhile is gone already, or stays."""
        if self._parent_files().whole(parent) is None:
            raise VolumeNotFoundError("The parent is not on the host any more.")
        files, traits = self._storage().files(spec.uuid, spec), self._traits()
        like_the_template = dataclasses.replace(spec, nics=(), most_vcpus=0, most_memory_mib=0, disks=(), seeded=True)
        # Its template had a seed: what runs has one, too.
        seed = files.seed if spec.seeded else self._parent_files().path(parent, "seed.iso")
        with_seed = dataclasses.replace(files, seed=seed)
        try:
            xml = domain_xml(like_the_template, with_seed, traits, self._memory_of(parent, note))
            state = self._parent_files().path(parent, "state")
            self._call("fork the machine", lambda conn: _run(conn, xml, state), limit_s=fork.FORK_LIMIT_S)
            forked = Forked("fork")
        except (HostUnreachableError, StorageFullError):
            raise
        except HypervisorError as error:
            logger.warning("the machine %s could not be forked: %s", spec.uuid, error.__cause__ or error)
            self.undefine(spec.uuid)
            xml = domain_xml(like_the_template, with_seed, traits, ParentMemory(note.memory_bytes))
            self._restore(spec.uuid, parent, xml)
            forked = Forked("restore", f"Mapping the parent's memory failed: {error.message}")
        self._define(spec, files, traits)
        return forked

    def _restore(self, machine: UUID, parent: UUID, xml: str) -> None:
        saved = self._storage().machine_folder(machine) / ".restore.part"
        try:
            with storage_errors("restore the machine"):
                saved.unlink(missing_ok=True)
                write_renamed(self._parent_files().path(parent, "whole"), saved, xml)
            self._call("restore the machine", lambda conn: fork.restore(conn, saved), limit_s=fork.RESTORE_LIMIT_S)
        except (HostUnreachableError, StorageFullError):
            raise
        except HypervisorError as error:
            raise ForkFailedError("The parent could be neither forked nor restored.") from error
        finally:
            saved.unlink(missing_ok=True)

    def _forked(self, machine: UUID) -> Forked | None:
        try:
            content = (self._storage().machine_folder(machine) / "fork.json").read_bytes()
        except FileNotFoundError:
            return None
        return Forked(**json.loads(content))

    def _undo_what_was_left(self, machine: UUID) -> None:
        """By a worker that was killed: then its disk reads from a parent, and nobody has used it yet."""
        storage = self._storage()
        base = storage.base_id(machine)
        if base is not None and storage.parent_folder(base).is_dir():
            self._undo(machine)
        if storage.disk(machine).exists() or self._is_there(machine):
            raise InvalidOperationError("The machine is there already, and was not forked.")

    def _undo(self, machine: UUID) -> None:
        self.undefine(machine)
        self._storage().undo_fork(machine)

    # --- helpers ----------------------------------------------------------------------------------------------

    def _parent_files(self) -> ParentFiles:
        return ParentFiles(self._storage())

    def _memory_of(self, parent: UUID, note: ParentNote) -> ParentMemory:
        file = self._parent_files().path(parent, "ram")
        return ParentMemory(note.memory_bytes, file, incoming=True, sealed=self._maps_sealed())

    def _maps_sealed(self) -> bool:
        return self._call("describe itself", lambda conn: int(conn.getVersion())) >= _SEALED_SINCE

    def _is_there(self, uuid: UUID) -> bool:
        """A domain of ours; `DomainNotFoundError` for a stranger's."""
        try:
            self.get(uuid)
        except DomainNotFoundError:
            return False
        return True

    def _forks_of(self, parent: UUID) -> int:
        """Running machines that map its memory. Only those whose disk is the parent's can."""
        ram, machines = self._parent_files().path(parent, "ram"), list(self._storage().machines_on(parent))

        def work(conn: VirConnect) -> int:
            return sum(_maps(conn, machine) == ram for machine in machines)

        return self._call("look who maps the parent's memory", work) if machines else 0

    def _parent_domains(self) -> frozenset[UUID]:
        """The UUIDs that templates and trials have."""
        parents = list(self._storage().parent_uuids())
        return frozenset([*parents, *map(_trial_of, parents)])


def _trial_of(parent: UUID) -> UUID:
    return uuid5(parent, _TRIAL)


def _secret() -> str:
    return secrets.token_hex(4)


def _template(spec: ParentSpec) -> MachineSpec:
    return MachineSpec(
        uuid=spec.uuid,
        name=spec.name,
        title="",
        vcpus=spec.vcpus,
        memory_mib=spec.memory_mib,
        firmware=Firmware.BIOS,
        genid=spec.uuid,
        console_secret=_secret(),
        desktop=spec.desktop,
    )


def _refuse_unfit(spec: MachineSpec, parent: ParentNote) -> None:
    check(spec)
    wanted = (spec.vcpus, spec.memory_mib, spec.desktop, spec.firmware, spec.tpm)
    if wanted != (parent.vcpus, parent.memory_mib, parent.desktop, Firmware.BIOS, False):
        raise InvalidSpecError("The machine is of another size or kind than the parent.")
    if spec.rescue or any(spec.discs) or any(disk.volume is not None for disk in spec.disks):
        raise InvalidSpecError("A fork has no volumes, discs or rescue system from the start.")


def _create(conn: VirConnect, xml: str) -> None:
    conn.createXML(xml, 0)


def _run(conn: VirConnect, xml: str, state: Path) -> None:
    with fork.started_from_state(conn, xml, state) as domain:
        domain.resume()


def _maps(conn: VirConnect, machine: UUID) -> Path | None:
    try:
        return fork.maps(conn.lookupByUUIDString(str(machine)))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _wait_until_it_runs(domain: VirDomain, *, trial_agent: bool) -> None:
    """It runs on for a moment at least; what was loaded wrongly ends it at once."""
    deadline = time.monotonic() + TRIAL_LIMIT_S
    while trial_agent and not agent.answers(domain):
        if time.monotonic() > deadline:
            raise ForkFailedError("The trial's agent does not answer.")
    time.sleep(_TRIAL_RUNS_S)
    if not domain.isActive() or domain.state()[0] != libvirt.VIR_DOMAIN_RUNNING:
        raise ForkFailedError("The trial does not run on.")
