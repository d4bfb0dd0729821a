"""Files on their way here, in pieces: so that one that breaks off goes on where it was."""

import datetime as dt
from typing import Final, Self
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest
from ninja import Field, Query, Schema
from pydantic import BaseModel

from portal.accounts.http import person
from portal.api.core import Guard, operation
from portal.api.paging import Listed
from portal.api.schemas import Input, Text
from portal.uploads import services
from portal.uploads.models import Upload
from portal.uploads.selectors import upload_for, uploads_of

TAG: Final = "Uploads"


class UploadOut(BaseModel):
    """`offset` is how many bytes have arrived: where the next piece begins."""

    id: UUID
    name: str
    size_bytes: int
    offset: int
    created_at: dt.datetime
    expires_at: dt.datetime = Field(description="It is thrown away then, unless another piece comes before.")

    @classmethod
    def of(cls, upload: Upload) -> Self:
        return cls(
            id=upload.pk,
            name=upload.name,
            size_bytes=upload.size_bytes,
            offset=upload.offset,
            created_at=upload.created_at,
            expires_at=upload.touched_at + dt.timedelta(hours=settings.UPLOADS_KEEP_HOURS),
        )


@operation("GET", "uploads", tag=TAG, answers=Listed[UploadOut], pages=("isos:list", "isos:upload"))
def list_uploads(request: HttpRequest) -> Listed[UploadOut]:
    """What you have begun to upload and made nothing of yet."""
    return Listed[UploadOut](items=[UploadOut.of(one) for one in uploads_of(person(request))], next=None)


class NewUploadIn(Input):
    name: Text = Field(min_length=1, max_length=255, description="The file's name, to know it by.")
    size_bytes: int = Field(ge=1, le=2**50)


@operation(
    "POST",
    "uploads",
    tag=TAG,
    answers=UploadOut,
    status=201,
    pages=("uploads:new",),
    links={name: {"pk": "id"} for name in ("show_upload", "add_to_upload", "throw_away_upload")},
)
def create_upload(request: HttpRequest, body: NewUploadIn) -> UploadOut:
    """Begin to upload a file of this size. Its bytes follow by PATCH; then an image or an ISO is made of it."""
    return UploadOut.of(services.begin(person(request), name=body.name, size_bytes=body.size_bytes))


@operation("GET", "uploads/{uuid:pk}", tag=TAG, answers=UploadOut, pages=("uploads:one",))
def show_upload(request: HttpRequest, pk: UUID) -> UploadOut:
    """How much has arrived."""
    return UploadOut.of(upload_for(person(request), pk))


class PieceQuery(Schema):
    offset: int = Field(default=0, ge=0, le=2**50, description="How many bytes had arrived before.")


@operation("PATCH", "uploads/{uuid:pk}", tag=TAG, answers=UploadOut, pages=("uploads:one",))
def add_to_upload(request: HttpRequest, pk: UUID, where: Query[PieceQuery]) -> UploadOut:
    """Add a piece, which is the body (64 MiB at most). It must begin where the last one ended, else it is refused by
    409: ask then how much has arrived, and go on there. What had arrived when a line broke is kept."""
    upload = upload_for(person(request), pk)
    length = int(request.headers.get("Content-Length") or 0)
    services.add(upload, request, offset=where.offset, length=length)
    return show_upload(request, pk)


@operation(
    "DELETE",
    "uploads/{uuid:pk}",
    tag=TAG,
    status=204,
    pages=("uploads:one", "uploads:discard"),
    guards=Guard(Upload, show_upload),
)
def throw_away_upload(request: HttpRequest, pk: UUID) -> None:
    """Throw away what has arrived."""
    services.throw_away(upload_for(person(request), pk))
