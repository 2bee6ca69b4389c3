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

import csv
import sys
import tomllib
import types
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from curves import commands, record
from deeppt_her2st import Stream, counts, safetensors, write_safetensors

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

    def epoch(number):
        order = Stream(config.get("seed", 0), f"fold 1/1 epoch {number}").shuffled(range(len(x)))
        for first in range(0, len(order), training["batch"]):
            yield order[first : first + training["batch"]], None

    def loss_of(batch, _):
        return torch.nn.functional.mse_loss(network(x[batch]), y[batch])

    record(args, optimizer, epoch, loss_of)


def main():
    start_of, train_of, run = commands(__doc__, start, train, steps=200)
    start_of.add_argument("--genes", type=int, default=785)
    start_of.add_argument("--seed", type=int, default=0)
    train_of.add_argument("config", type=Path)
    for command in (start_of, train_of):
        command.add_argument("--code", type=Path, required=True)
    run()


if __name__ == "__main__":
    main()
