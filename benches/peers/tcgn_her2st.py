"""Trains TCGN in PyTorch, by its authors' code, as `eosin train tcgn` does from the same run file.

    python tcgn_her2st.py start --code TCGN --genes 785 --out start.safetensors
    eosin train tcgn --config run.toml --out RUN          # model.start = "start.safetensors"
    python tcgn_her2st.py train run.toml --code TCGN --out torch.csv
    python curves.py RUN/fold0/steps.csv torch.csv ...

CODE is a checkout of github.com/lugia-xiao/TCGN, of which nothing is copied here. The run file's first fold is
trained: layout her2st, genes from a file, augment = false, dropout 0, reference_quirks = true. Tiles are cut anew, so
images must be PNG: JPEG decoders differ by a level here and there. The order of spots comes from the same Philox
streams. `start` draws weights by the published rule. Needs numpy, torch, torchvision, Pillow, scipy, einops.
"""

import argparse
import csv
import json
import struct
import sys
import time
import tomllib
import types
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from deeppt_her2st import Stream, counts, safetensors

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def published(code, genes):
    """The authors' network on the CPU, computing what it computes on a GPU."""
    # All that it takes from two packages.
    layers = types.ModuleType("timm.models.layers")
    layers.to_2tuple = lambda x: (x, x)
    layers.trunc_normal_ = torch.nn.init.trunc_normal_
    layers.DropPath = torch.nn.Identity  # of rate 0
    profiler = types.ModuleType("memory_profiler")
    profiler.profile = lambda f: f
    for name, module in {
        "timm": types.ModuleType("timm"),
        "timm.models": types.ModuleType("timm.models"),
        "timm.models.layers": layers,
        "memory_profiler": profiler,
    }.items():
        sys.modules.setdefault(name, module)
    # On a GPU `.cpu()` copies, and what follows may edit in place.
    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.Tensor.cpu = lambda self, *_, **__: self.clone()
    sys.path.insert(0, str(code))
    from model import TCGN

    model = TCGN(num_classes=genes, dp=0.0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif type(module).__name__ == "GCN":
            module.dropout = 0.0
    return model


def write_safetensors(path, tensors):
    kinds = {torch.float32: "F32", torch.int64: "I64"}
    header, blobs, at = {}, [], 0
    for name, tensor in tensors.items():
        blob = tensor.contiguous().numpy().tobytes()
        header[name] = {"dtype": kinds[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def start(args):
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)
    write_safetensors(args.out, published(args.code, args.genes).state_dict())


def tile(image, x, y, px):
    left, top = int(np.floor(x)) - px // 2, int(np.floor(y)) - px // 2
    part = image.crop((left, top, left + px, top + px)).resize((224, 224), Image.Resampling.BILINEAR)
    levels = np.asarray(part, dtype=np.float32) / np.float32(255)
    values = (levels - np.array(MEAN, dtype=np.float32)) / np.array(STD, dtype=np.float32)
    return torch.from_numpy(values.transpose(2, 0, 1).copy())


def section(root, name, genes, px):
    """Tiles and scaled expression of a section's spots, in the order of the spot file."""
    ids, table = counts(root, name, genes)
    with open(root / "ST-spotfiles" / f"{name}_selection.tsv") as file:
        rows = {f"{name}_{row['x']}x{row['y']}": row for row in csv.DictReader(file, delimiter="\t")}
    (path,) = root.glob(f"ST-imgs/*/{name}/*.png")
    Image.MAX_IMAGE_PIXELS = None
    image = Image.open(path).convert("RGB")
    tiles = torch.stack([tile(image, float(rows[i]["pixel_x"]), float(rows[i]["pixel_y"]), px) for i in ids])
    total = table.sum(1, keepdims=True)
    scaled = np.log10(1 + np.where(total > 0, table * 1e4 / np.where(total > 0, total, 1), 0))
    return tiles, torch.from_numpy(scaled.astype(np.float32))


def train(args):
    torch.set_num_threads(args.threads)
    torch.backends.mkldnn.enabled = not args.no_onednn
    config = tomllib.loads(args.config.read_text())
    base = args.config.parent
    data, model, training, fold = config["data"], config["model"], config["training"], config["split"]["folds"][0]
    alike = not training["augment"] and model["dropout"] == 0 and model["reference_quirks"]
    if not (alike and data["layout"] == "her2st" and config["expression"]["genes"].startswith("file:")):
        raise SystemExit("this run is not of the kind that the peer repeats; see the top of this file")
    genes = (base / config["expression"]["genes"].removeprefix("file:")).read_text().split()
    root, px = base / data["path"], data.get("spot_px", 112)
    # The folders' order.
    parts = [section(root, name, genes, px) for name in sorted(fold["train"])]
    x, y = (torch.cat([p[i] for p in parts]) for i in range(2))
    network = published(args.code, len(genes))
    weights = safetensors(base / model["start"])[0]
    network.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in weights.items()})
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=training["learning_rate"])
    with open(args.out, "w") as out:
        print("epoch,step,loss", file=out)
        step, epoch, started = 0, 0, time.monotonic()
        while step < args.steps:
            order = Stream(config.get("seed", 0), f"fold 1/1 epoch {epoch}").shuffled(range(len(x)))
            for first in range(0, len(order), training["batch"]):
                batch = order[first : first + training["batch"]]
                batch = batch[::-1] if args.reverse else batch
                optimizer.zero_grad()
                loss = torch.nn.functional.mse_loss(network(x[batch]), y[batch])
                loss.backward()
                optimizer.step()
                step += 1
                print(f"{epoch},{step},{np.float32(loss.item())}", file=out, flush=True)
                if step == args.steps:
                    break
            epoch += 1
        print(f"{step} steps in {time.monotonic() - started:.0f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    sub = commands.add_parser("start")
    sub.add_argument("--genes", type=int, default=785)
    sub.add_argument("--seed", type=int, default=0)
    sub.set_defaults(do=start)
    other = commands.add_parser("train")
    other.add_argument("config", type=Path)
    other.add_argument("--steps", type=int, default=200)
    other.add_argument("--threads", type=int, default=2)
    other.add_argument("--no-onednn", action="store_true", help="another order of sums")
    other.add_argument("--reverse", action="store_true", help="each batch from its end: another order of sums")
    other.set_defaults(do=train)
    for command in (sub, other):
        command.add_argument("--code", type=Path, required=True)
        command.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.do(args)


if __name__ == "__main__":
    main()
