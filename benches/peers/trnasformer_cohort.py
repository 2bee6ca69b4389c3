"""Trains tRNAsformer in PyTorch as `eosin train trnasformer` does from the same run file.

    python trnasformer_cohort.py start --genes 148 --classes 2 --out start.safetensors
    eosin train trnasformer --config run.toml --out RUN    # model.start = "start.safetensors", bags.write = true
    python trnasformer_cohort.py train RUN --out torch.csv
    python curves.py RUN/fold0/model0-steps.csv torch.csv ...

The first network of the first fold is trained, on the run's own bags. The run file has a folder of tiles, named test
slides, transforms log10p1, classes, and dropout 0. The network is written from the paper (Alsaafin et al. 2023) with
the published names; order, folds and each step's k come from the same Philox streams. Needs numpy and torch.
"""

import argparse
import csv
import json
import time
import tomllib
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from deeppt_her2st import Stream, folds, safetensors
from tcgn_her2st import write_safetensors

KS = (1, 2, 5, 10, 20, 49)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        bags, tokens, width = x.shape
        q, k, v = self.qkv(x).view(bags, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(bags, tokens, width))


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Trnasformer(nn.Module):
    def __init__(self, width, depth, heads, genes, classes):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 50, width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(1, width, 32, 32)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.conv = nn.Conv1d(width, genes, 1)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, bags, k):
        """Expression from the k tiles of highest score, and logits."""
        tiles = self.patch_embed.proj(bags).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(len(bags), -1, -1), tiles), 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        scores = self.conv(x[:, 1:].transpose(1, 2))
        return scores.topk(k, dim=2).values.mean(2), self.head(x[:, 0])


def start(args):
    torch.manual_seed(args.seed)
    model = Trnasformer(args.width, args.depth, 1, args.genes, args.classes)
    write_safetensors(args.out, model.state_dict())


def rows(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def train(args):
    torch.set_num_threads(args.threads)
    torch.backends.mkldnn.enabled = not args.no_onednn
    config = tomllib.loads((args.run / "config.toml").read_text())
    genes = json.loads(safetensors(args.run / "fold0" / "model0.safetensors")[1]["genes"])
    seed, split, model, training = config["seed"], config["split"], config["model"], config["training"]
    alike = model["dropout"] == 0 and model["positions"] and split["test"] and split["by"] == "patient"
    if not (alike and "inner_by" not in split and config["expression"]["transforms"] == ["log10p1"]):
        raise SystemExit("this run is not of the kind that the peer repeats; see the top of this file")

    bags, images = rows(args.run / "bags.csv"), np.load(args.run / "bags.npy", mmap_mode="r")
    names = sorted({bag["label"] for bag in bags})
    labels = torch.tensor([names.index(bag["label"]) for bag in bags])
    table = {row["sample"]: row for row in rows(config["data"]["expression"])}
    counts = [[float(table[bag["slide"]][gene]) for gene in genes] for bag in bags]
    targets = torch.from_numpy(np.log10(1 + np.array(counts)).astype(np.float32))

    # Patients of slides that train or validate; the first inner fold validates.
    patient = {bag["slide"]: bag["patient"] for bag in bags if bag["slide"] not in split["test"]}
    sizes = {p: list(patient.values()).count(p) for p in patient.values()}
    held = folds(sizes, sizes, split["inner_folds"], seed)[0]
    train = [i for i, bag in enumerate(bags) if bag["slide"] in patient and bag["patient"] not in held]

    heads = model["heads"]
    network = Trnasformer(model["width"], model["depth"], heads, len(genes), len(names))
    weights = safetensors(Path(model["start"]))[0]
    network.load_state_dict({key: torch.from_numpy(v.copy()) for key, v in weights.items()})
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=training["learning_rate"], weight_decay=training["weight_decay"]
    )
    with open(args.out, "w") as out:
        print("epoch,step,loss", file=out)
        step, epoch, started = 0, 0, time.monotonic()
        while step < args.steps:
            stage = f"fold 1/1: model 1 epoch {epoch}"
            order, draws = Stream(seed, stage).shuffled(range(len(train))), Stream(seed, f"{stage} k")
            for first in range(0, len(order), training["batch"]):
                batch = [train[i] for i in order[first : first + training["batch"]]]
                batch = batch[::-1] if args.reverse else batch
                optimizer.zero_grad()
                scores, logits = network(torch.from_numpy(images[batch]), KS[draws.below(len(KS))])
                loss = 0.5 * F.mse_loss(scores, targets[batch]) + F.cross_entropy(logits, labels[batch])
                loss.backward()
                optimizer.step()
                step += 1
                print(f"{epoch},{step},{loss.item()}", file=out, flush=True)
                if step == args.steps:
                    break
            epoch += 1
        print(f"{step} steps in {time.monotonic() - started:.0f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    sub = commands.add_parser("start")
    for name, value in {"genes": None, "classes": None, "width": 384, "depth": 1, "seed": 0}.items():
        sub.add_argument(f"--{name}", type=int, default=value, required=value is None)
    sub.set_defaults(do=start)
    other = commands.add_parser("train")
    other.add_argument("run", type=Path)
    other.add_argument("--steps", type=int, default=100)
    other.add_argument("--threads", type=int, default=2)
    other.add_argument("--no-onednn", action="store_true", help="another order of sums")
    other.add_argument("--reverse", action="store_true", help="each batch from its end: another order of sums")
    other.set_defaults(do=train)
    for command in (sub, other):
        command.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.do(args)


if __name__ == "__main__":
    main()
