"""What one small picture of a screen costs the web process, at several sizes of screen.

The display is a process of its own, so that its work is not counted. It paints windows, text and a photograph's noise.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import resource
import struct
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from PIL import Image, ImageDraw

from portal.console.capture import Picture, take_picture
from portal.console.rfb import open_display
from tests.bench.rows import Row
from tests.portal.console.displays import display_at, greet, server_init

SECRET = "s3cr3tpw"
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "40"))
SIZES = [(1280, 800), (1920, 1080), (3840, 2160)]
# A tab asks each card every 12 s; so often pictures are taken, and no oftener however many tabs there are.
PER_MINUTE = 60 / 12


def run() -> list[Row]:
    return [row for size in SIZES for row in _measured(*size)]


def _measured(width: int, height: int) -> list[Row]:
    context = multiprocessing.get_context("spawn")
    with TemporaryDirectory(prefix="casement-bench-") as folder:
        path, ready, end = str(Path(folder) / "vnc"), context.Event(), context.Event()
        display = context.Process(target=_show, args=(path, width, height, ready, end))
        display.start()
        ready.wait(60)
        try:
            picture, cpu_ms, took_ms = asyncio.run(_rounds(path))
        finally:
            end.set()
            display.join()
    name, peak_mib = f"{width}x{height}", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [
        Row(f"{name}: processor time", cpu_ms, "ms"),
        Row(f"{name}: from connecting to the picture", took_ms, "ms"),
        Row(f"{name}: its size", len(picture.data) / 1024, "KiB"),
        Row(f"{name}: 50 machines on a page", 50 * PER_MINUTE * cpu_ms / 1000, "CPU s per minute"),
        Row(f"{name}: the process at most", peak_mib, "MiB"),
    ]


async def _rounds(path: str) -> tuple[Picture, float, float]:
    cpu, took = [], []
    for _ in range(ROUNDS + 3):
        began, used = time.perf_counter(), time.process_time()
        display = await open_display(path, SECRET, deadline=30)
        picture = await take_picture(display, deadline=30)
        await display.close()
        cpu.append((time.process_time() - used) * 1000)
        took.append((time.perf_counter() - began) * 1000)
    # The first ones load what the rest finds loaded.
    return picture, median(cpu[3:]), median(took[3:])


def _show(path: str, width: int, height: int, ready: Event, end: Event) -> None:
    asyncio.run(_serve(path, width, height, ready, end))


async def _serve(path: str, width: int, height: int, ready: Event, end: Event) -> None:
    screen = struct.pack(">BxHHHHHi", 0, 1, 0, 0, width, height, 0) + _painted(width, height).tobytes("raw", "BGRX")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, secret=SECRET)
        writer.write(server_init(width=width, height=height))
        await reader.readexactly(20 + 12 + 10)
        writer.write(screen)
        await writer.drain()
        await reader.read(1)

    async with display_at(path, talk):
        ready.set()
        await asyncio.to_thread(end.wait)


def _painted(width: int, height: int) -> Image.Image:
    dice = random.Random(1)  # noqa: S311 - the same screen each time is the point
    image = Image.effect_noise((width, height), 40).convert("RGB")
    draw = ImageDraw.Draw(image)
    for left, top in ((width // 20, height // 12), (width // 3, height // 4), (width // 2, height // 8)):
        draw.rectangle((left, top, left + width // 3, top + height // 2), fill=(246, 247, 249), outline=(40, 44, 52))
        for line in range(top + 12, top + height // 2 - 16, 14):
            draw.text((left + 10, line), "lorem ipsum dolor " * dice.randint(1, 3), fill=(30, 33, 40))
    return image
