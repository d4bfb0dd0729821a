"""Commands about people's own files: where they are; for operators, putting them away and deleting them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import click

from portal.cli.client import Client, Json
from portal.cli.parts import Context, done, is_id, only, pass_context, project_named

COLUMNS = ("person", "project.name", "state", "machine", "size_gib", "used_bytes", "message", "id")

_wait: Callable[[Any], Any] = click.option("--wait", is_flag=True, help="Until it is done.")
_project: Callable[[Any], Any] = click.option("--project", help="In which one, where somebody has files in several.")


def files_of(client: Client, wanted: str, project: str | None) -> Json:
    """By their person's name, or their id."""
    if is_id(wanted):
        return cast(Json, client.get(f"files/{wanted}"))
    found = [one for one in client.every("files", q=wanted) if one["person"] == wanted]
    if project:
        within = project_named(client, project)["id"]
        found = [one for one in found if one["project"]["id"] == within]
    return only(found, f"files of “{wanted}”", lambda one: f"{one['project']['name']} ({one['id']})")


@click.group()
def files() -> None:
    """People's own files, which follow them from desktop to desktop. See: casement ls files."""


@files.command("show")
@click.argument("person")
@_project
@pass_context
def show_files(context: Context, person: str, project: str | None) -> None:
    """Somebody's files, by their person's name or by id."""
    context.output.one(files_of(context.client, person, project), key="id")


@files.command("release")
@click.argument("person")
@_project
@_wait
@pass_context
def release_files(context: Context, person: str, *, project: str | None, wait: bool) -> None:
    """Have somebody's files put away from the machine that has them."""
    found = files_of(context.client, person, project)
    done(context, context.client.send("POST", f"files/{found['id']}/release"), wait=wait)


@files.command("rm")
@click.argument("person")
@_project
@_wait
@click.confirmation_option(prompt="Nobody can bring them back. Delete them?")
@pass_context
def remove_files(context: Context, person: str, *, project: str | None, wait: bool) -> None:
    """Delete somebody's files for good, when no machine has them."""
    found = files_of(context.client, person, project)
    done(context, context.client.send("DELETE", f"files/{found['id']}"), wait=wait)
