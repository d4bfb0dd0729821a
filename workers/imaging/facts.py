"""What is known about an image file."""

from dataclasses import dataclass
from typing import Literal

ImageFormat = Literal["qcow2", "raw"]


@dataclass(frozen=True)
class ImageFacts:
    """Sizes in bytes: `virtual_size_bytes` is the disk the guest sees, `size_bytes` the file's length.

    The digests are lower-case hex, or empty where nobody computed them: `sha256` of the file itself,
    `source_sha256` of the upload that it was made from.
    """

    format: ImageFormat
    virtual_size_bytes: int
    size_bytes: int
    sha256: str = ""
    source_sha256: str = ""
