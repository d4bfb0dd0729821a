"""Commands about running copies that machines are forked from. They are for operators."""

from __future__ import annotations

from typing import Final

import click

from portal.cli.client import Client, Json
from portal.cli.parts import Context, is_id, only, pass_context

COLUMNS: Final = ("image.name", "version", "host.name", "memory_mib", "state", "forks", "reason", "id")
WISH_COLUMNS: Final = ("image.name", "vcpus", "memory_mib", "disk_gib", "note", "id")


def _image_named(client: Client, wanted: str) -> str:
    if is_id(wanted):
        return wanted
    found = [one for one in client.every("images", limit=200) if wanted in (one["slug"], one["title"])]
    return str(only(found, f"image “{wanted}”", lambda one: one["slug"])["id"])


@click.group()
def parent() -> None:
    """Running copies: new machines are forked from them in a moment."""


@parent.command("ls")
@pass_context
def list_parents(context: Context) -> None:
    """List running copies on all hosts."""
    context.output.rows(context.client.every("parents", limit=200), COLUMNS, key="id")


@parent.command("kept")
@pass_context
def list_wishes(context: Context) -> None:
    """Of which images, and in which sizes, running copies are kept ready."""
    context.output.rows(context.client.every("parent-wishes", limit=200), WISH_COLUMNS, key="id")


@parent.command("keep")
@click.argument("image")
@click.option("--flavour", required=True, help="A size; see: casement ls flavours.")
@pass_context
def keep(context: Context, image: str, *, flavour: str) -> None:
    """Keep a running copy of an image ready, in this size."""
    body: Json = {"image": _image_named(context.client, image), "flavour": flavour}
    context.output.one(context.client.send("POST", "parent-wishes", body), key="id")


@parent.command("no-longer")
@click.argument("wish")
@pass_context
def no_longer(context: Context, wish: str) -> None:
    """Keep it ready no longer. The id is of: casement parent kept."""
    context.client.send("DELETE", f"parent-wishes/{wish}")
    context.output.note("No running copy is kept for this any more; it goes when nothing uses it.")


@parent.command("retry")
@click.argument("copy")
@pass_context
def retry(context: Context, copy: str) -> None:
    """Have one that failed made again. The id is of: casement parent ls."""
    context.output.one(context.client.send("POST", f"parents/{copy}/retry"), key="id")
