"""Commands that tell what goes on: what machines use, and what happens in a project."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, urlencode

import click
from rich.live import Live
from rich.table import Table
from rich.text import Text

from portal.cli.client import Client, Json
from portal.cli.errors import NOT_FOUND, UNREACHABLE, CliError
from portal.cli.output import Output, clean
from portal.cli.parts import Context, machine_named, machine_names, pass_context, project_named

MOST: Final = 100
EVERY_S: Final = 10.0
AGAIN_S: Final = 2.0
SEEN: Final = 1000
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_COLUMNS: Final = ("name", "project", "cpu", "memory", "read", "written", "received", "sent")


# --- figures --------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("machine", required=False, shell_complete=lambda ctx, _param, start: machine_names(ctx, start))
@click.option("--project", help="Machines of this project.")
@click.option("-f", "--follow", is_flag=True, help="Again every ten seconds, until Ctrl-C.")
@pass_context
def top(context: Context, machine: str | None, *, project: str | None, follow: bool) -> None:
    """What running machines use now, the busiest first; of one, or of up to 100. Figures are of the last minute."""
    client, output = context.client, context.output
    of = project_named(client, project)["id"] if project else None
    one = machine_named(client, machine, project) if machine else None

    def rows() -> list[Json]:
        return _loads(
            client, [one] if one else client.get("machines", status="running", project=of, limit=MOST)["items"]
        )

    if not follow or output.form != "table":
        _show(output, rows())
        return
    with Live(_table(rows()), console=output.console, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(EVERY_S)
                live.update(_table(rows()), refresh=True)
        except KeyboardInterrupt:
            return


def _loads(client: Client, machines: list[Json]) -> list[Json]:
    """What each of them uses, as far as it told lately."""
    known = {machine["id"]: machine for machine in machines}
    if not known:
        return []
    found = client.get("loads?" + urlencode([("machine", key) for key in known]))["items"]
    rows = [
        {
            "name": known[load["machine"]]["name"],
            "project": known[load["machine"]]["project"]["name"],
            "id": load["machine"],
            **load["now"],
        }
        for load in found
    ]
    return sorted(rows, key=lambda row: -(row["cpu"] or 0.0))


def _show(output: Output, rows: list[Json]) -> None:
    if output.form == "json":
        output.json(rows)
    elif output.form == "quiet":
        for row in rows:
            output.line(row["name"])
    else:
        output.console.print(_table(rows))


def _table(rows: list[Json]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in _COLUMNS:
        table.add_column(column.upper(), justify="left" if column in {"name", "project"} else "right")
    for row in rows:
        rates = (row[name] for name in ("disk_read", "disk_written", "net_received", "net_sent"))
        cells = [row["name"], row["project"], _share(row["cpu"]), _bytes(row["memory_used"] or row["memory_taken"])]
        table.add_row(*(Text(clean(cell)) for cell in (*cells, *(_bytes(rate, "/s") for rate in rates))))
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.0f} %"


def _bytes(value: float | None, per: str = "") -> str:
    if value is None:
        return "-"
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}{per}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}{per}"
        value /= 1024
    raise AssertionError("the last unit takes all")


# --- events ---------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--project", help="Of this project, if you have several.")
@click.option("--kind", help="Only these, such as machine, job.failed or volume.attached.")
@click.option("-n", "--last", type=click.IntRange(0, 200), default=20, show_default=True, help="So many of before.")
@click.option("-f", "--follow", is_flag=True, help="And what happens from now on, until Ctrl-C.")
@pass_context
def events(context: Context, *, project: str | None, kind: str | None, last: int, follow: bool) -> None:
    """What happened in a project, the newest last. As JSON it is one object a line."""
    client, output = context.client, context.output
    of = project_named(client, project)
    # At least one, to know from where on to follow.
    before = list(reversed(client.get(f"projects/{of['id']}/events", kind=kind, limit=max(last, 1))["items"]))
    for event in before[-last:] if last else []:
        _say(output, event)
    if not follow:
        return
    try:
        for event in _following(client, of, before):
            if not kind or event["kind"] == kind or event["kind"].startswith(f"{kind}."):
                _say(output, event)
    except KeyboardInterrupt:
        return


def _following(client: Client, project: Json, before: list[Json]) -> Iterator[Json]:
    """What happens, once each, through lines that break and portals that restart. CliError when it is over."""
    seen = deque((event["id"] for event in before), maxlen=SEEN)
    since = before[-1]["at"] if before else None
    while True:
        query = f"?since={quote(since)}" if since else ""
        for event in _one_line(client, f"projects/{project['id']}/events/follow{query}"):
            if event["id"] not in seen:
                seen.append(event["id"])
                since = event["at"]
                yield event
        time.sleep(AGAIN_S)


def _one_line(client: Client, path: str) -> Iterator[Json]:
    """Ends when the line breaks."""
    name = ""
    try:
        with client.following(path) as stream:
            for name, event in stream:
                if name != "event":
                    break
                yield event
    except CliError as error:
        if error.exit_code != UNREACHABLE:
            raise
    if name == "gone":
        raise CliError("The project is not yours to see any more, or your token ended.", NOT_FOUND)


def _say(output: Output, event: Json) -> None:
    if output.form == "json":
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()
    elif output.form == "quiet":
        output.line(event["id"])
    else:
        who = f" by {event['actor']}" if event["actor"] else ""
        detail = json.dumps(event["detail"], ensure_ascii=False) if event["detail"] else ""
        output.line(f"{event['at'][:19]}  {event['kind']:<20} {event['subject']['name']}{who}  {detail}".rstrip())
        sys.stdout.flush()


COMMANDS: Final[tuple[click.Command, ...]] = (top, events)
