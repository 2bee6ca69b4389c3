"""Puts the seeds of every target into fuzz/corpus: the fixtures of the tests, and the
tiles of the slides among them.

    python3 fuzz/seeds.py
"""

import shutil
import struct
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent / "tests"


def tiles(path):
    """The data of each tile of a little-endian classic TIFF, with its compression."""
    data = path.read_bytes()
    (at,) = struct.unpack_from("<I", data, 4)
    while at:
        (count,) = struct.unpack_from("<H", data, at)
        tags = {}
        for i in range(count):
            tag, kind, n, value = struct.unpack_from("<HHII", data, at + 2 + 12 * i)
            size = {3: 2, 4: 4}.get(kind)
            if size is None:
                continue
            place = at + 2 + 12 * i + 8 if n * size <= 4 else value
            tags[tag] = struct.unpack_from(f"<{n}{'HI'[size == 4]}", data, place)
        for start, length in zip(tags.get(324, ()), tags.get(325, ())):
            yield tags[259][0], data[start : start + length]
        (at,) = struct.unpack_from("<I", data, at + 2 + 12 * count)


def put(target, name, data):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


shutil.rmtree(HERE / "corpus", ignore_errors=True)
slides = TESTS / "cohort/fixtures"
for path in sorted(slides.iterdir()):
    if path.suffix in {".svs", ".tif", ".jpg"}:
        put("slide", path.name, path.read_bytes())
    if path.suffix == ".jpg":
        put("jpeg_tile", path.name, path.read_bytes())
    if path.suffix == ".svs":
        for i, (compression, tile) in enumerate(tiles(path)):
            target = {7: "jpeg_tile", 33003: "jpeg2000_tile", 33005: "jpeg2000_tile"}.get(compression)
            if target and i < 4:
                put(target, f"{path.stem}-{i}", tile)
for path in sorted((TESTS / "formats/fixtures").iterdir()):
    target = {
        ".h5": "hdf5",
        ".h5ad": "hdf5",
        ".npy": "npy",
        ".pth": "weights",
        ".pt": "weights",
        ".safetensors": "weights",
    }.get(path.suffix)
    if target:
        put(target, path.name, path.read_bytes())
for folder in sorted((HERE / "corpus").iterdir()):
    print(folder.name, len(list(folder.iterdir())), "seeds")
