"""Waiting for a job, with the same steps as on its page."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from portal.cli.client import Client, Json
from portal.cli.errors import CliError
from portal.cli.output import Output, clean

# Between two looks where following does not work, as behind a proxy that keeps answers back.
POLL_S: Final = 2.0


def wait_for(client: Client, output: Output, job: Json) -> Json:
    """The job when it has ended. CliError with its own words if it has not ended well."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=output.notes,
        disable=output.form == "quiet" or not output.notes.is_terminal,
        transient=True,
    )
    with bar:
        task = bar.add_task(clean(job["title"]), total=100)
        while not job["finished_at"]:
            for news in _news(client, job):
                job = news
                bar.update(task, completed=job["progress"], description=_now(job))
    if job["status"] != "done":
        raise CliError(f"{job['title']} of {job['target']['name']}: {job['status']}. {job['error']}".strip())
    return job


def _news(client: Client, job: Json) -> Iterator[Json]:
    """The job each time that it changed. Ends with the job, or when the line breaks: then it is asked for once."""
    try:
        with client.following(f"jobs/{job['id']}/events") as events:
            for name, data in events:
                if name == "job":
                    yield data
                    if data["finished_at"]:
                        return
    except CliError as error:
        if error.code:
            raise
    time.sleep(POLL_S)
    yield client.get(f"jobs/{job['id']}")


def _now(job: Json) -> str:
    running = next((step for step in job["steps"] if step["status"] == "running"), None)
    waiting = next((step for step in job["steps"] if step["status"] == "pending"), None)
    step = running or waiting
    return clean(f"{job['target']['name']}: {step['title'] if step else job['title']}")
