"""Puts the seeds of every target into fuzz/corpus: the fixtures of the tests, and the
tiles of the slides among them.

    python3 fuzz/seeds.py
"""

import gzip
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


def fixed(*values):
    return b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def profile(tags, connection=b"XYZ "):
    """An ICC profile of version 2 from red, green and blue."""
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags:
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I", 128 + len(table) + len(body)) + b"\0\0\0\0\x02\x40\0\0mntrRGB " + connection
    head += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + table + body


def profiles():
    """One for each way in which a profile says its colours: primaries with curves of a
    power, of a table and of a formula, and tables of three sides in both widths."""
    xyz = lambda *v: b"XYZ \0\0\0\0" + fixed(*v)
    white = (b"wtpt", xyz(0.9642, 1, 0.8249))
    primaries = [
        (b"rXYZ", xyz(0.5151, 0.2412, -0.0011)),
        (b"gXYZ", xyz(0.2919, 0.6922, 0.0419)),
        (b"bXYZ", xyz(0.1572, 0.0666, 0.7841)),
    ]
    table = b"".join(struct.pack(">H", i * i * 65535 // 31**2) for i in range(32))
    curves = {
        "power": b"curv" + struct.pack(">IIH", 0, 1, 563),
        "table": b"curv" + struct.pack(">II", 0, 32) + table,
        "formula": b"para" + struct.pack(">IHH", 0, 3, 0) + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045),
    }
    for name, curve in curves.items():
        yield name, profile([white, *primaries] + [(c + b"TRC", curve) for c in (b"r", b"g", b"b")])
    same = fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    side = 3
    corners = [(r, g, b) for r in range(side) for g in range(side) for b in range(side)]
    for name, kind, pack, most in [("lut8", b"mft1", "B", 255), ("lut16", b"mft2", ">H", 65535)]:
        line = lambda n: b"".join(struct.pack(pack, i * most // (n - 1)) for i in range(n))
        lut = kind + struct.pack(">IBBBB", 0, 3, 3, side, 0) + same
        entries = 256
        if kind == b"mft2":
            entries = 2
            lut += struct.pack(">HH", entries, entries)
        lut += 3 * line(entries)
        lut += b"".join(struct.pack(pack, v * most // (side - 1)) for corner in corners for v in corner)
        lut += 3 * line(entries)
        yield name, profile([white, (b"A2B0", lut)], b"Lab ")


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
for name, data in profiles():
    put("icc", name, data)
put("lmdb", "tiles", gzip.decompress((slides / "tiles.db.gz").read_bytes()))
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
