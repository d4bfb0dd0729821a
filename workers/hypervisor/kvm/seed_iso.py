"""The NoCloud seed as an ISO 9660 image, in memory."""

from __future__ import annotations

from io import BytesIO

from pycdlib import PyCdlib

from workers.hypervisor.types import SeedSpec

# cloud-init looks for a file system with this label.
LABEL = "cidata"


def seed_iso(seed: SeedSpec) -> bytes:
    """Rock Ridge and Joliet both carry the long names, so that every kernel sees `user-data` and not `USERDATA.`."""
    iso = PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    files = {"meta-data": seed.meta_data, "user-data": seed.user_data, "network-config": seed.network_config}
    for name, text in files.items():
        content = text.encode()
        short = name.replace("-", "").upper()[:8]
        iso.add_fp(BytesIO(content), len(content), f"/{short}.;1", rr_name=name, joliet_path=f"/{name}")
    image = BytesIO()
    iso.write_fp(image)
    iso.close()
    return image.getvalue()
