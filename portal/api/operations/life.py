"""What machines can be told besides power: rest, another size, name and labels, who can sign in inside."""

from typing import Final, Self
from uuid import UUID

from django.db import transaction
from django.http import HttpRequest
from pydantic import BaseModel, Field

from portal.accounts.http import client_ip, person
from portal.accounts.permissions import Permission
from portal.api.core import operation
from portal.api.operations.machines import GUARD, TAG, flavour_named, show_machine, told
from portal.api.paging import Listed
from portal.api.schemas import FlavourOut, Input, JobOut, MachineOut, Text
from portal.audit import services as audit
from portal.jobs.models import Job
from portal.machines import access, editing, hibernation, resizing, services, sizes
from portal.machines.models import Machine
from portal.machines.selectors import machine_for, user_data_of

JOB: Final = {"show_job": {"pk": "id"}}

told("pause_machine", "pause", services.request_pause, "Stop its processors; its memory stays where it is.")
told("resume_machine", "resume", services.request_resume, "Let a paused machine go on.")
told("hibernate_machine", "hibernate", hibernation.request_hibernate, "Save its memory to disk and switch it off.")
told("discard_machine", "discard", hibernation.request_discard, "Forget saved memory: its next start is a cold one.")
told(
    "renew_machine_password",
    "password",
    access.request_password,
    "Have a new password set inside, by the guest's agent. When the job is done, the machine's secret is the new one.",
    needs=Permission.MACHINE_SECRET,
)


# --- another size -------------------------------------------------------------------------------------------------


class SizeOut(BaseModel):
    """A size that it could have: whether its processors and memory stay the same, come `now`, or at the `next-start`.
    `reason` says why it cannot be had, and is empty if it can."""

    flavour: FlavourOut
    vcpus: sizes.When
    memory: sizes.When
    is_current: bool
    reason: str

    @classmethod
    def of(cls, choice: sizes.Choice) -> Self:
        return cls(
            flavour=FlavourOut.of(choice.flavour),
            vcpus=choice.vcpus,
            memory=choice.memory,
            is_current=choice.is_current,
            reason=choice.reason,
        )


@operation("GET", "machines/{uuid:pk}/sizes", tag=TAG, answers=Listed[SizeOut], pages=("machines:resize",))
def list_machine_sizes(request: HttpRequest, pk: UUID) -> Listed[SizeOut]:
    """The sizes that a machine could have, and which part of each comes at once."""
    machine = machine_for(person(request), pk, Permission.MACHINE_CREATE)
    return Listed[SizeOut](items=[SizeOut.of(one) for one in sizes.choices_for(machine)], next=None)


class ResizeIn(Input):
    flavour: Text = Field(max_length=40, description="A size, by its name.")


@operation(
    "POST",
    "machines/{uuid:pk}/resize",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("machines:resize",),
    guards=GUARD,
    links=JOB,
)
def resize_machine(request: HttpRequest, pk: UUID, body: ResizeIn) -> Job:
    """Give it another size: at once where the guest takes it, else at its next start; its `sizes` say which."""
    machine = machine_for(person(request), pk, Permission.MACHINE_CREATE)
    flavour = flavour_named(body.flavour)
    return resizing.request_resize(machine, actor=person(request), flavour=flavour, request_ip=client_ip(request))


# --- name, labels, protection -------------------------------------------------------------------------------------


class MachineIn(Input):
    """What is left out, or null, stays as it is."""

    name: Text | None = Field(default=None, max_length=63, description="The guest keeps the host name that it has.")
    description: Text | None = Field(default=None, max_length=editing.MOST_DESCRIPTION)
    labels: list[Text] | None = Field(default=None, max_length=editing.MOST_LABELS, description="All that it has then.")
    protected: bool | None = None


@operation("PATCH", "machines/{uuid:pk}", tag=TAG, answers=MachineOut, pages=("machines:edit",), guards=GUARD)
def change_machine(request: HttpRequest, pk: UUID, body: MachineIn) -> MachineOut:
    """Change its name, description, labels or protection from deletion."""
    machine_for(person(request), pk, Permission.MACHINE_OPERATE)
    # Held, so that what is left out stays as somebody else makes it at this moment.
    Machine.objects.select_for_update().filter(pk=pk).first()
    machine = machine_for(person(request), pk, Permission.MACHINE_OPERATE)
    editing.update_machine(
        machine,
        actor=person(request),
        name=machine.name if body.name is None else body.name,
        description=machine.description if body.description is None else body.description,
        labels=machine.labels.values_list("name", flat=True) if body.labels is None else body.labels,
        protected=machine.protected if body.protected is None else body.protected,
        request_ip=client_ip(request),
    )
    return show_machine(request, pk)


# --- who can sign in inside ---------------------------------------------------------------------------------------


class LetInIn(Input):
    public_key: Text = Field(max_length=access.MOST_KEY_CHARACTERS, description="One line, as in `id_ed25519.pub`.")


@operation(
    "POST",
    "machines/{uuid:pk}/key",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("machines:key",),
    guards=GUARD,
    links=JOB,
)
def add_machine_key(request: HttpRequest, pk: UUID, body: LetInIn) -> Job:
    """Have a public key let in as the user inside, by the guest's agent."""
    machine = machine_for(person(request), pk, Permission.MACHINE_SECRET)
    return access.request_ssh_key(
        machine, actor=person(request), public_key=body.public_key, request_ip=client_ip(request)
    )


class UserDataOut(BaseModel):
    user_data: str


@operation(
    "POST", "machines/{uuid:pk}/user-data", tag=TAG, answers=UserDataOut, pages=("machines:user-data",), guards=GUARD
)
def show_machine_user_data(request: HttpRequest, pk: UUID) -> UserDataOut:
    """The cloud-config that it was launched with. That it was asked for is written down, so this is a POST."""
    with transaction.atomic():
        machine, text = user_data_of(person(request), pk)
        audit.record(person(request), "machine.user_data", machine, request_ip=client_ip(request))
    return UserDataOut(user_data=text)
