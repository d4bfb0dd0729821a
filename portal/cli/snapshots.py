"""Commands about snapshots of machines: what there are, take one, go back to one, delete some."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import click

from portal.cli.client import Client, Json
from portal.cli.parts import Context, done, is_id, machine_named, machine_names, only, pass_context

_machine: Callable[[Any], Any] = click.argument(
    "machine", shell_complete=lambda ctx, _param, start: machine_names(ctx, start)
)
_project: Callable[[Any], Any] = click.option(
    "--project", help="In which project, where several have one of this name."
)
_wait: Callable[[Any], Any] = click.option("--wait", is_flag=True, help="Until it is done.")
COLUMNS = ("name", "created_at", "with_memory", "quiesced", "is_current", "schedule", "created_by", "id")


@click.group()
def snapshot() -> None:
    """Snapshots of machines. Go back to one: casement restore."""


@snapshot.command("ls")
@_machine
@_project
@pass_context
def list_snapshots(context: Context, machine: str, *, project: str | None) -> None:
    """A machine's snapshots, the newest first."""
    found = machine_named(context.client, machine, project)
    rows = list(context.client.every(f"machines/{found['id']}/snapshots", limit=200))
    context.output.rows(rows, COLUMNS, key="name")


@snapshot.command("take")
@_machine
@click.argument("name", required=False)
@click.option("--memory", is_flag=True, help="With its memory: what runs in it goes on from there.")
@click.option("--description", default="", help="What it is for.")
@_project
@_wait
@pass_context
def take_snapshot(
    context: Context,
    machine: str,
    name: str | None,
    *,
    memory: bool,
    description: str,
    project: str | None,
    wait: bool,
) -> None:
    """Keep a machine's disks as they are now. It runs on. Without a name one is chosen."""
    found = machine_named(context.client, machine, project)
    body = {"name": name or "", "description": description, "with_memory": memory}
    done(context, context.client.send("POST", f"machines/{found['id']}/snapshots", body), wait=wait)


@snapshot.command("rm")
@_machine
@click.argument("name", nargs=-1, required=True)
@_project
@_wait
@click.confirmation_option(prompt="What only they hold is lost. Delete?")
@pass_context
def remove_snapshot(context: Context, machine: str, name: tuple[str, ...], *, project: str | None, wait: bool) -> None:
    """Delete snapshots of a machine, by name or id. All others stay as they are. Several are done one after another."""
    found = machine_named(context.client, machine, project)
    for position, one in enumerate(name):
        wanted = _snapshot(context.client, found, one)
        # A machine does one thing at a time.
        last = position == len(name) - 1
        done(context, context.client.send("DELETE", f"snapshots/{wanted['id']}"), wait=wait or not last)


@click.command()
@_machine
@click.argument("name")
@click.option("--take-first", is_flag=True, help="Take a snapshot of its disks as they are now first.")
@_project
@_wait
@click.confirmation_option(prompt="What the machine did since then is lost. Restore?")
@pass_context
def restore(context: Context, machine: str, name: str, *, take_first: bool, project: str | None, wait: bool) -> None:
    """Bring a machine back to a snapshot: its disks and size, and with memory what it was doing."""
    found = machine_named(context.client, machine, project)
    wanted = _snapshot(context.client, found, name)
    body = {"take_first": take_first}
    done(context, context.client.send("POST", f"snapshots/{wanted['id']}/restore", body), wait=wait)


def _snapshot(client: Client, machine: Json, wanted: str) -> Json:
    if is_id(wanted):
        return cast(Json, client.get(f"snapshots/{wanted}"))
    found = client.get(f"machines/{machine['id']}/snapshots", name=wanted)["items"]
    return only(found, f"snapshot “{wanted}” of {machine['name']}", lambda one: str(one["id"]))
