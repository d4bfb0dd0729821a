"""F11, F13 and F15: the content decides, and what is refused is told in words."""

import gzip
import lzma
import os
import struct
import subprocess
from pathlib import Path

import pycdlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.imaging.errors import ImageRejected
from workers.imaging.inspector import Limits, inspect_image

MIB = 1024 * 1024


def qemu_img(*argv: str | Path) -> None:
    subprocess.run(["qemu-img", *argv], check=True, capture_output=True)


def new_qcow2(path: Path, *options: str, size: str = "8M") -> Path:
    qemu_img("create", "-f", "qcow2", *options, path, size)
    return path


def rejection(path: Path) -> ImageRejected:
    with pytest.raises(ImageRejected) as caught:
        inspect_image(path)
    return caught.value


def boot_sector() -> bytearray:
    disk = bytearray(MIB)
    disk[510:512] = b"\x55\xaa"
    return disk


@pytest.mark.parametrize("name", ["a.img", "a.raw", "a", "A.QCOW2", "it's; rm -rf $(x).vmdk"])
def test_a_qcow2_is_a_qcow2_whatever_its_name(tmp_path: Path, name: str) -> None:
    facts = inspect_image(new_qcow2(tmp_path / name))
    assert (facts.format, facts.virtual_size_bytes) == ("qcow2", 8 * MIB)
    assert facts.size_bytes == (tmp_path / name).stat().st_size


@pytest.mark.parametrize(
    "options",
    [
        ("-o", "compat=0.10"),
        ("-o", "compression_type=zstd"),
        ("-o", "cluster_size=512"),
        ("-o", "cluster_size=2M"),
        ("-o", "extended_l2=on"),
        ("-o", "lazy_refcounts=on"),
        ("-o", "refcount_bits=1"),
        ("-o", "preallocation=metadata"),
    ],
)
def test_every_plain_kind_of_qcow2_is_accepted(tmp_path: Path, options: tuple[str, ...]) -> None:
    assert inspect_image(new_qcow2(tmp_path / "a", *options)).virtual_size_bytes == 8 * MIB


def test_a_disk_with_a_boot_sector_is_raw(tmp_path: Path) -> None:
    (tmp_path / "a.qcow2").write_bytes(boot_sector())
    assert inspect_image(tmp_path / "a.qcow2").format == "raw"


@pytest.mark.parametrize(
    "backing", ["/etc/hostname", 'json:{"driver":"file","filename":"/etc/hostname"}', "nbd://host/x"]
)
def test_an_image_that_points_at_another_file_is_refused(tmp_path: Path, backing: str) -> None:
    new_qcow2(tmp_path / "a", "-u", "-b", backing, "-F", "raw", size="1M")
    error = rejection(tmp_path / "a")
    assert error.code == "backing-file"
    assert "flatten" in error.message
    assert "/etc" not in error.message


def test_an_image_with_a_data_file_is_refused(tmp_path: Path) -> None:
    new_qcow2(tmp_path / "a", "-o", f"data_file={tmp_path / 'data'}")
    assert rejection(tmp_path / "a").code == "data-file"


def test_a_data_file_hidden_from_the_feature_bits_is_refused(tmp_path: Path) -> None:
    new_qcow2(tmp_path / "a", "-o", f"data_file={tmp_path / 'data'}")
    patch(tmp_path / "a", 72, struct.pack(">Q", 0))
    assert rejection(tmp_path / "a").code == "data-file"


def test_an_encrypted_image_is_refused(tmp_path: Path) -> None:
    secret = ("--object", "secret,id=s,data=opensesame", "-o", "encrypt.format=luks,encrypt.key-secret=s")
    command = ("qemu-img", "create", "-f", "qcow2", *secret, str(tmp_path / "a"), "8M")
    for _ in range(20):
        made = subprocess.run(command, check=False, capture_output=True, text=True)
        # It measures how much a key may cost, which on a busy machine fails in one of four tries.
        if "accurate CPU usage" not in made.stderr:
            break
    assert made.returncode == 0, made.stderr
    assert rejection(tmp_path / "a").code == "encrypted"


def test_a_text_that_describes_a_vmware_disk_is_refused(tmp_path: Path) -> None:
    text = '# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\nRW 1 FLAT "/etc/hostname" 0\n'
    (tmp_path / "x.qcow2").write_text(text.ljust(1024, "\n"))
    assert rejection(tmp_path / "x.qcow2").code == "vmdk"


@pytest.mark.parametrize("fmt", ["vmdk", "vdi", "vpc", "vhdx", "qed", "parallels"])
def test_other_formats_are_named_and_the_way_out_is_told(tmp_path: Path, fmt: str) -> None:
    qemu_img("create", "-f", fmt, tmp_path / "a.qcow2", "8M")
    error = rejection(tmp_path / "a.qcow2")
    assert error.code == {"vpc": "vhd"}.get(fmt, fmt)
    assert "qemu-img convert" in error.message


def test_a_fixed_hyper_v_disk_is_known_by_its_footer(tmp_path: Path) -> None:
    qemu_img("create", "-f", "vpc", "-o", "subformat=fixed", tmp_path / "a", "8M")
    patch(tmp_path / "a", 510, b"\x55\xaa")
    assert rejection(tmp_path / "a").code == "vhd"


@pytest.mark.parametrize(("code", "pack"), [("gzip", gzip.compress), ("xz", lzma.compress)])
def test_an_archive_is_refused_with_advice(tmp_path: Path, code: str, pack: type[bytes]) -> None:
    (tmp_path / "a.qcow2").write_bytes(pack(new_qcow2(tmp_path / "b").read_bytes()))
    error = rejection(tmp_path / "a.qcow2")
    assert error.code == code
    assert "unpack it" in error.message


def test_an_installation_cd_is_refused(tmp_path: Path) -> None:
    iso = pycdlib.PyCdlib()
    iso.new()
    iso.write(str(tmp_path / "a.qcow2"))
    iso.close()
    assert rejection(tmp_path / "a.qcow2").code == "iso"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty"),
        (b"QFI", "truncated"),
        (b"QFI\xfb\0\0\0\3", "truncated"),
        (b"hello", "unknown"),
        (b"\0" * 4096, "unknown"),
    ],
)
def test_what_is_no_disk_at_all_is_refused(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "a").write_bytes(content)
    assert rejection(tmp_path / "a").code == code


def test_a_raw_disk_cut_within_a_sector_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(boot_sector()[:-100])
    assert rejection(tmp_path / "a").code == "truncated"


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)


@pytest.mark.parametrize(
    ("offset", "data", "code"),
    [
        (4, b"\0\0\0\4", "qcow-version"),
        (20, b"\xff\xff\xff\xff", "damaged"),
        (20, b"\0\0\0\x3f", "damaged"),
        (24, b"\0" * 8, "empty"),
        (24, b"\x7f" + b"\xff" * 7, "damaged"),
        (36, b"\x7f\xff\xff\xff", "damaged"),
        (40, b"\0\0\0\0\0\0\0\1", "damaged"),
        (40, b"\x7f\0\0\0\0\0\0\0", "truncated"),
        (56, b"\xff\xff\xff\xff", "damaged"),
        (72, b"\0\0\0\0\0\0\0\1", "dirty"),
        (72, b"\0\0\0\0\0\0\0\2", "dirty"),
        (72, b"\x80\0\0\0\0\0\0\0", "unknown-feature"),
        (100, b"\xff\xff\xff\xff", "damaged"),
    ],
)
def test_a_crafted_header_is_refused(tmp_path: Path, offset: int, data: bytes, code: str) -> None:
    patch(new_qcow2(tmp_path / "a"), offset, data)
    assert rejection(tmp_path / "a").code == code


def test_a_disk_above_the_cap_is_refused_before_it_is_read(tmp_path: Path) -> None:
    new_qcow2(tmp_path / "a", size="1T")
    with pytest.raises(ImageRejected, match=r"1,024\.0 GiB; at most 100\.0"):
        inspect_image(tmp_path / "a", limits=Limits(100 * 1024 * MIB))


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(new_qcow2(tmp_path / "a"))
    os.mkfifo(tmp_path / "pipe")
    assert rejection(tmp_path / "link").code == "not-a-file"
    assert rejection(tmp_path / "pipe").code == "not-a-file"
    assert rejection(tmp_path).code == "not-a-file"


@settings(max_examples=300, deadline=200)
@given(noise=st.lists(st.tuples(st.integers(0, 160), st.integers(0, 255)), max_size=40), cut=st.integers(0, 400))
def test_no_header_makes_the_parser_fail_in_another_way(
    tmp_path_factory: pytest.TempPathFactory, noise: list[tuple[int, int]], cut: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz"
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 16, 8 * MIB, 0, 1, 196608, 65536, 1, *[0] * 5, 4, 104
    )
    data = bytearray(header.ljust(400, b"\0"))
    for offset, value in noise:
        data[offset] = value
    path.write_bytes(data[: len(data) - cut])
    try:
        inspect_image(path)
    except ImageRejected as error:
        assert error.message.endswith(".") or "qemu-img" in error.message
