"""What an upload in pieces answers besides the portal's own errors; the statuses are those of the tus protocol."""

from django.utils.translation import gettext_lazy as _

from portal.errors import PortalError


class OffsetError(PortalError):
    """The piece does not begin where the last one ended: its sender asks anew how much has arrived."""

    code = "offset"
    status = 409

    def __init__(self) -> None:
        super().__init__(_("This piece does not begin where the last one ended."), field="offset")


class TooLargeError(PortalError):
    code = "too-large"
    status = 413


class NoRoomError(PortalError):
    code = "no-room"
    status = 507

    def __init__(self) -> None:
        super().__init__(_("The portal's disk has no room for this file."))
