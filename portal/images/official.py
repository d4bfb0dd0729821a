"""Official cloud images by name: where they are, and where their makers say which checksums they have.

Declarative on purpose: a release that comes is a word in a list. The addresses are those of each distribution's own
servers, under names that stay the same from build to build where the distribution has such names.
"""

from __future__ import annotations

from dataclasses import dataclass

from portal.images.models import Firmware
from portal.images.signing import file_of, of_maker


@dataclass(frozen=True, slots=True)
class Release:
    """`values` fill the family's patterns."""

    name: str
    values: dict[str, str]


@dataclass(frozen=True, slots=True)
class Family:
    """`folder`, `file` and `checksums` are patterns; the latter two are names in the folder.

    `signature` is what the name of the checksums' signature ends with; empty where it is in the file of checksums
    itself, None where the makers sign nothing (then https to their own server is all there is).
    """

    slug: str
    title: str
    icon: str
    folder: str
    file: str
    checksums: str
    releases: tuple[Release, ...]
    firmware: Firmware = Firmware.BIOS
    min_memory_mib: int = 512
    signature: str | None = None


@dataclass(frozen=True, slots=True)
class Official:
    slug: str
    title: str
    icon: str
    url: str
    checksums_url: str
    firmware: Firmware
    min_memory_mib: int
    maker: str
    signature_url: str
    is_signed: bool

    @property
    def maker_title(self) -> str:
        return next(family.title for family in FAMILIES if family.slug == self.maker)

    @property
    def signing_key(self) -> str:
        """What a version keeps as such."""
        return of_maker(self.maker) if self.is_signed else ""

    @property
    def is_checked(self) -> bool:
        """Whether there is a key here to check the signature with."""
        return self.is_signed and file_of(self.maker) is not None

    @property
    def host(self) -> str:
        return self.url.split("/")[2]


FAMILIES = (
    Family(
        "debian",
        "Debian",
        "brand-debian",
        "https://cloud.debian.org/images/cloud/{codename}/latest/",
        "debian-{release}-genericcloud-amd64.qcow2",
        "SHA512SUMS",
        (
            Release("13", {"release": "13", "codename": "trixie"}),
            Release("12", {"release": "12", "codename": "bookworm"}),
        ),
    ),
    Family(
        "ubuntu",
        "Ubuntu",
        "brand-ubuntu",
        "https://cloud-images.ubuntu.com/releases/{release}/release/",
        "ubuntu-{release}-server-cloudimg-amd64.img",
        "SHA256SUMS",
        (Release("24.04 LTS", {"release": "24.04"}), Release("22.04 LTS", {"release": "22.04"})),
        signature=".gpg",
    ),
    Family(
        "fedora",
        "Fedora Cloud",
        "server",
        # Not download.fedoraproject.org, which leads on to mirrors, some of them without https.
        "https://dl.fedoraproject.org/pub/fedora/linux/releases/{release}/Cloud/x86_64/images/",
        "Fedora-Cloud-Base-Generic-{release}-{build}.x86_64.qcow2",
        "Fedora-Cloud-{release}-{build}-x86_64-CHECKSUM",
        (Release("43", {"release": "43", "build": "1.6"}),),
        min_memory_mib=1024,
        signature="",
    ),
    Family(
        "almalinux",
        "AlmaLinux",
        "server",
        "https://repo.almalinux.org/almalinux/{release}/cloud/x86_64/images/",
        "AlmaLinux-{release}-GenericCloud-latest.x86_64.qcow2",
        "CHECKSUM",
        (Release("10", {"release": "10"}), Release("9", {"release": "9"})),
        min_memory_mib=1024,
        signature=".asc",
    ),
)


def _all() -> dict[str, Official]:
    found = {}
    for family in FAMILIES:
        for release in family.releases:
            folder = family.folder.format(**release.values)
            slug = f"{family.slug}-{release.values['release']}"
            checksums = folder + family.checksums.format(**release.values)
            found[slug] = Official(
                slug,
                f"{family.title} {release.name}",
                family.icon,
                folder + family.file.format(**release.values),
                checksums,
                family.firmware,
                family.min_memory_mib,
                family.slug,
                f"{checksums}{family.signature}" if family.signature else "",
                family.signature is not None,
            )
    return found


OFFICIAL = _all()
"""by slug, such as debian-12"""
