"""Reading and colouring slides by eosin, OpenSlide and torchstain, in turns.

    python benches/peers/slides.py --make FOLDER --image SECTION.jpg --mpp 0.34
    python benches/peers/slides.py FOLDER [--rounds 7] [--threads 2] [--write FILE]

The first writes slides of one section: a pyramidal JPEG TIFF as libvips writes it, an
Aperio-like SVS (JPEG and JPEG 2000) by tifffile. The second times, on the same files
and cores: random 256 x 256 tiles at level 0, the whole slide as normalised tensors of
224 px at 0.5 um, and Macenko's normalisation of tiles of 256 px, each fitted by itself.
Needs openslide-python with openslide-bin, Pillow, NumPy; torch and torchstain; to make
slides pyvips with pyvips-binary, tifffile with imagecodecs.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RAW, PX, MPP = 256, 224, 0.5
COUNTS = {"random": 400, "tiles": 0, "macenko": 32}
SLIDES = {"vips.tif": "JPEG, libvips", "aperio.svs": "JPEG, Aperio-like", "j2k.svs": "JPEG 2000, Aperio-like"}


def make(folder, image, mpp):
    import pyvips
    import tifffile

    folder.mkdir(parents=True, exist_ok=True)
    section = pyvips.Image.new_from_file(str(image))
    section = section.copy(xres=1000 / mpp, yres=1000 / mpp)
    section.tiffsave(
        str(folder / "vips.tif"), tile=True, tile_width=256, tile_height=256, pyramid=True,
        compression="jpeg", Q=90, bigtiff=True,
    )
    pixels = section.numpy()[:, :, :3]
    for name, compression, args in [
        ("aperio.svs", "jpeg", {"level": 90}),
        ("j2k.svs", "aperio_jp2000_rgb", {"level": 40}),
    ]:
        description = f"Aperio Image Library v12.0.15\n{pixels.shape[1]}x{pixels.shape[0]} (256x256)|AppMag = 20|MPP = {mpp}"
        with tifffile.TiffWriter(folder / name, bigtiff=True) as out:
            for step, text in [(1, description), (4, "Aperio Image Library v12.0.15")]:
                out.write(
                    pixels[::step, ::step].copy(), tile=(256, 256), photometric="rgb", compression=compression,
                    compressionargs=args, description=text, metadata=None, subfiletype=0,
                )
    for path in sorted(folder.iterdir()):
        print(path.name, path.stat().st_size, "bytes")


def places(width, height, count, number):
    state, found = number + 1, []

    def below(bound):
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (state >> 33) % bound

    for _ in range(count):
        x = below(width - RAW)
        found.append((x, below(height - RAW)))
    return found


_slide = None


def _open(path):
    global _slide
    import openslide

    _slide = openslide.OpenSlide(path)


def read_raw(at):
    import numpy as np

    tile = np.asarray(_slide.read_region(at, 0, (RAW, RAW)).convert("RGB"))
    return float(tile.reshape(-1)[::997].sum(dtype="float64"))


def read_tensor(at, side):
    import numpy as np
    from PIL import Image

    tile = _slide.read_region(at, 0, (side, side)).convert("RGB").resize((PX, PX), Image.BILINEAR)
    x = np.asarray(tile, dtype="float32") / 255
    x -= np.array([0.485, 0.456, 0.406], dtype="float32")
    x /= np.array([0.229, 0.224, 0.225], dtype="float32")
    return x


def tensor_sum(job):
    return float(read_tensor(*job).reshape(-1)[::997].sum(dtype="float64"))


def tensor_into(job):
    out, at, side = job
    out[...] = read_tensor(at, side)


def peer(task, path, contestant, threads):
    """Answers each line with the seconds of a round."""
    import numpy as np

    if task == "macenko":
        import torch
        import torchstain

        torch.set_num_threads(threads)
        _open(path)
        tiles = (
            np.asarray(_slide.read_region(at, 0, (RAW, RAW)).convert("RGB"))
            for at in places(*_slide.dimensions, 40 * COUNTS[task], 0)
        )
        tiles = [tile for tile in tiles if tile.mean() < 190][: COUNTS[task]]
        backend = contestant.split()[-1]
        normalizer = torchstain.normalizers.MacenkoNormalizer(backend=backend)
        if backend == "torch":
            tiles = [torch.from_numpy(t.copy()).permute(2, 0, 1) for t in tiles]

        def work(_):
            sums = 0.0
            for tile in tiles:
                normalised, _, _ = normalizer.normalize(I=tile, stains=False)
                sums += float(np.asarray(normalised).reshape(-1)[::997].sum())
            return sums
    else:
        import openslide

        processes = contestant.endswith("processes")
        pool = ProcessPoolExecutor(threads, initializer=_open, initargs=(path,)) if processes else ThreadPoolExecutor(threads)
        _open(path)
        slide = _slide

        def work(number):
            if not processes:
                _open(path)
            if task == "random":
                return sum(pool.map(read_raw, places(*slide.dimensions, COUNTS[task], number), chunksize=8))
            side = MPP / float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) * PX
            columns, rows = (int(n / side) for n in slide.dimensions)
            corners = [(round(x * side), round(y * side)) for y in range(rows) for x in range(columns)]
            if processes:
                # The tensors stay with the processes that made them.
                return sum(pool.map(tensor_sum, [(at, round(side)) for at in corners], chunksize=8))
            out = np.empty((len(corners), PX, PX, 3), dtype="float32")
            list(pool.map(tensor_into, [(o, at, round(side)) for o, at in zip(out, corners)]))
            return float(out.reshape(-1)[::997].sum(dtype="float64"))

        work(0)
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        total = work(int(line))
        print(time.perf_counter() - began, total, flush=True)


class Contestant:
    def __init__(self, command, threads):
        environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        if self.process.stdout.readline() != "ready\n":
            raise SystemExit(f"{command} failed")
        self.seconds = []

    def round(self, number):
        print(number, file=self.process.stdin, flush=True)
        seconds, total = self.process.stdout.readline().split()
        self.seconds.append(float(seconds))
        return float(total)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    args = argparse.ArgumentParser()
    args.add_argument("folder", nargs="?", type=Path)
    args.add_argument("--make", type=Path)
    args.add_argument("--image", type=Path)
    args.add_argument("--mpp", type=float, default=0.34)
    args.add_argument("--rounds", type=int, default=7)
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--only", default="")
    args.add_argument("--binary", type=Path)
    args.add_argument("--write", type=Path)
    args.add_argument("--peer", nargs=3)
    args = args.parse_args()
    if args.peer:
        return peer(*args.peer, args.threads)
    if args.make:
        return make(args.make, args.image, args.mpp)
    binary = args.binary or max((ROOT / "target/release/deps").glob("slides-*[!d]"), key=lambda p: p.stat().st_mtime)
    lines = ["| task | slide | eosin, ms | peer | ms | peer / eosin | pixel sums |", "|---|---|---|---|---|---|---|"]
    for task, peers in [
        ("random", ["openslide threads", "openslide processes"]),
        ("tiles", ["openslide threads", "openslide processes"]),
        ("macenko", ["torchstain torch", "torchstain numpy"]),
    ]:
        for name, what in SLIDES.items():
            if args.only not in f"{task} {name}" or (task == "macenko" and name != "vips.tif"):
                continue
            path = str(args.folder / name)
            ours = Contestant([binary, task, path, str(COUNTS[task])], args.threads)
            command = [sys.executable, __file__, "--threads", str(args.threads), "--peer", task, path]
            theirs = {p: Contestant([*command, p], args.threads) for p in peers}
            for number in range(args.rounds + 1):
                sums = [c.round(number) for c in [ours, *theirs.values()]]
            for contestant in [ours, *theirs.values()]:
                contestant.seconds.pop(0)
                contestant.close()
            own = statistics.median(ours.seconds)
            for (peer_name, c), total in zip(theirs.items(), sums[1:]):
                ratio = statistics.median(t / o for t, o in zip(c.seconds, ours.seconds))
                lines.append(
                    f"| {task} | {what} | {own * 1e3:.1f} | {peer_name} | {statistics.median(c.seconds) * 1e3:.1f} "
                    f"| {ratio:.2f} | {sums[0]:.0f} / {total:.0f} |"
                )
                print(lines[-1], flush=True)
    if args.write:
        args.write.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
