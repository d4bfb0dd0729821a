"""An upload whose connection breaks leaves nothing: no row, no job, no file (field case F15)."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.test import Client

from portal.accounts.models import Project, User
from portal.images.models import Image, ImageVersion
from portal.jobs.models import Job

BOUNDARY = "casement-test"


def head_and_some(project: Project, token: str) -> bytes:
    fields = {"csrfmiddlewaretoken": token, "title": "Cut", "owner": str(project.pk), "kind": "server"}
    fields["firmware"] = "bios"
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    file = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="disk.qcow2"\r\n\r\n'
    return ("".join(parts) + file).encode() + b"QFI\xfb" + b"\x00" * 500_000


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("no_connection_left")
async def test_a_connection_that_breaks_leaves_nothing(client: Client, project: Project, bob: User) -> None:
    await sync_to_async(client.force_login)(bob)
    session = client.cookies[settings.SESSION_COOKIE_NAME].value
    body = head_and_some(project, "t" * 32)
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/images/upload/",
        "raw_path": b"/images/upload/",
        "query_string": b"",
        "headers": [
            (b"host", b"localhost"),
            (b"content-type", f"multipart/form-data; boundary={BOUNDARY}".encode()),
            (b"content-length", str(2 * len(body)).encode()),
            (b"cookie", f"{settings.SESSION_COOKIE_NAME}={session}".encode()),
        ],
    }
    arriving: asyncio.Queue[dict[str, object]] = asyncio.Queue()
    arriving.put_nowait({"type": "http.request", "body": body, "more_body": True})
    arriving.put_nowait({"type": "http.disconnect"})
    answers: list[object] = []

    async def send(message: object) -> None:
        answers.append(message)

    app: Any = get_asgi_application()
    await asyncio.wait_for(app(scope, arriving.get, send), timeout=60)
    assert answers == []
    assert await Image.objects.acount() == await ImageVersion.objects.acount() == await Job.objects.acount() == 0
    assert files_below(Path(settings.UPLOADS_DIR)) == []
