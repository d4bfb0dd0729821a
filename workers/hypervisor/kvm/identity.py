"""Taking from a disk what makes a machine the one that it is."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from workers.hypervisor.errors import HypervisorError
from workers.hypervisor.kvm.storage import Storage


def remove_identity(
    storage: Storage, disk: UUID, pool_dir: Path, qemu_ids: tuple[int, int] | None, *, personal: bool
) -> None:
    raise HypervisorError("This host lacks the tools for that.", code="no-tools")
