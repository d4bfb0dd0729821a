"""What several workflows of machines share: loading, the spec for the driver, and the start with its screen."""

from uuid import UUID

from django.utils.translation import gettext as _

from portal.lib.secrets import unseal
from portal.machines import services
from portal.machines.devices import Plug
from portal.machines.discs import DRIVES
from portal.machines.models import Attachment, Disc, Machine, NetworkCard
from portal.machines.selectors import machine_by_id
from portal.machines.sizes import room_of
from workers.hosts import driver_of
from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.errors import InvalidOperationError
from workers.hypervisor.types import DiskSpec, Firmware, IoLimits, MachineSpec, NetworkMode, NicSpec, PowerState
from workers.workflows.base import Context, WorkFailedError

# RFB uses no more than eight characters; of 54 that are easy to tell apart this is 46 bits, behind file permissions.
SECRET_LENGTH = 8

load = machine_by_id


def driver(context: Context[Machine]) -> HypervisorDriver:
    return driver_of(context.target.host)


def spec_of(machine: Machine, *, secret: str, own: bool = False) -> MachineSpec:
    """What the domain is made from: in the size of its next start. `own`: to start from its own disk, if in rescue."""
    vcpus, memory_mib = machine.wanted_vcpus or machine.vcpus, machine.wanted_memory_mib or machine.memory_mib
    most_vcpus, most_memory_mib = room_of(vcpus, memory_mib)
    return MachineSpec(
        uuid=machine.pk,
        name=machine.domain_name,
        title=machine.name,
        vcpus=vcpus,
        memory_mib=memory_mib,
        firmware=_firmware_of(machine, own=own),
        genid=machine.genid,
        console_secret=secret,
        nics=tuple(nic_of(machine, mac) for mac in (machine.mac, *_further_macs(machine))),
        desktop=machine.kind == "desktop",
        most_vcpus=most_vcpus,
        most_memory_mib=most_memory_mib,
        disks=disks_of(machine),
        tpm=machine.tpm,
        discs=discs_of(machine, own=own),
        boot_disc=machine.boot_disc or (machine.rescue_iso_id is not None and not own),
        seeded=not machine.iso_name,
        rescue=machine.rescue_version_id is not None and not own,
    )


def _firmware_of(machine: Machine, *, own: bool) -> Firmware:
    """A rescue system starts by the firmware that its image was made for."""
    if machine.rescue_version is not None and not own:
        return Firmware(machine.rescue_version.firmware)
    if machine.firmware:
        return Firmware(machine.firmware)
    return Firmware(machine.image_version.firmware) if machine.image_version else Firmware.BIOS


def discs_of(machine: Machine, *, own: bool = False) -> tuple[UUID | None, ...]:
    """What is in its drives. What is being put in only is not there yet; what is being ejected still is."""
    there = dict(Disc.objects.filter(machine=machine).exclude(task=Plug.ADDING).values_list("slot", "iso_id"))
    if machine.rescue_iso_id is not None and not own:
        there[0] = machine.rescue_iso_id
    return tuple(there.get(slot) for slot in range(DRIVES))


def define(machine: Machine, host_driver: HypervisorDriver) -> None:
    """Of a machine that is off: what it can be given while it runs is written down first."""
    spec = spec_of(machine, secret=stored_secret(machine))
    services.record_room(machine, vcpus=spec.most_vcpus, memory_mib=spec.most_memory_mib)
    host_driver.define(spec)


def nic_of(machine: Machine, mac: str) -> NicSpec:
    mode = NetworkMode(machine.host.network_mode or NetworkMode.NAT)
    return NicSpec(mac=mac, mode=mode, network=machine.host.network if mode == NetworkMode.NAT else None)


def _further_macs(machine: Machine) -> list[str]:
    """What is being added only is not there yet; what is being removed still is."""
    cards = NetworkCard.objects.filter(machine=machine).exclude(task=Plug.ADDING)
    return list(cards.order_by("created_at", "pk").values_list("mac", flat=True))


def disks_of(machine: Machine) -> tuple[DiskSpec, ...]:
    attached = Attachment.objects.filter(machine=machine).exclude(task=Plug.ADDING)
    return tuple(disk_of(attachment) for attachment in attached.order_by("created_at", "pk"))


def disk_of(attachment: Attachment) -> DiskSpec:
    limits = IoLimits(attachment.iops, attachment.bytes_per_s)
    return DiskSpec(attachment.volume_id, limits, attachment.boot)


def stored_secret(machine: Machine) -> str:
    """The VNC secret of the definition. A lost one (another SECRET_KEY) is told in words."""
    secret = unseal(machine.console_secret)
    if not secret:
        raise WorkFailedError(
            _("The machine's screen secret cannot be read: was SECRET_KEY changed? Stop and start the machine."),
            code="secret-lost",
        )
    return secret


def start(context: Context[Machine]) -> None:
    """Start the domain and record where its screen is."""
    host_driver = driver(context)
    host_driver.start(context.target.pk)
    record_running(context.target, host_driver)


def record_running(machine: Machine, host_driver: HypervisorDriver) -> None:
    """A machine that somebody else defined tells its screen's secret itself, if it has a screen that can be shown."""
    try:
        screen = host_driver.console(machine.pk)
    except InvalidOperationError:
        if not machine.keeps_definition:
            raise
        services.record_started(machine, console_socket="")
        return
    if machine.keeps_definition:
        services.record_secret(machine, screen.secret)
    services.record_started(machine, console_socket=screen.socket_path, serial_socket=screen.serial_path)


def is_off(machine: Machine, host_driver: HypervisorDriver) -> bool:
    return host_driver.power_state(machine.pk) == PowerState.SHUT_OFF
