"""Official cloud images by name: where they are, and where their makers say which checksums they have.

Declarative on purpose: a release that comes is a word in a list. The addresses are those of each distribution's own
servers, under names that stay the same from build to build where the distribution has such names.
"""

from __future__ import annotations

from dataclasses import dataclass

from portal.images.models import Firmware


@dataclass(frozen=True, slots=True)
class Release:
    """`values` fill the family's patterns."""

    name: str
    values: dict[str, str]


@dataclass(frozen=True, slots=True)
class Family:
    """`folder`, `file` and `checksums` are patterns; the latter two are names in the folder."""

    slug: str
    title: str
    icon: str
    folder: str
    file: str
    checksums: str
    releases: tuple[Release, ...]
    firmware: Firmware = Firmware.BIOS
    min_memory_mib: int = 512


@dataclass(frozen=True, slots=True)
class Official:
    slug: str
    title: str
    icon: str
    url: str
    checksums_url: str
    firmware: Firmware
    min_memory_mib: int

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
    ),
)


def _all() -> dict[str, Official]:
    found = {}
    for family in FAMILIES:
        for release in family.releases:
            folder = family.folder.format(**release.values)
            slug = f"{family.slug}-{release.values['release']}"
            found[slug] = Official(
                slug,
                f"{family.title} {release.name}",
                family.icon,
                folder + family.file.format(**release.values),
                folder + family.checksums.format(**release.values),
                family.firmware,
                family.min_memory_mib,
            )
    return found


OFFICIAL = _all()
"""by slug, such as debian-12"""
