"""Trains tRNAsformer in PyTorch as `eosin train trnasformer` does from the same run file.

    python trnasformer_cohort.py start --genes 148 --classes 2 --out start.safetensors
    eosin train trnasformer --config run.toml --out RUN    # model.start = "start.safetensors", bags.write = true
    python trnasformer_cohort.py train RUN --out torch.csv
    python curves.py RUN/fold0/model0-steps.csv torch.csv ...

The first network of the first fold is trained, on the run's own bags. The run file has a folder of tiles, named test
slides, transforms log10p1, classes, and dropout 0. The network is that of `trnasformer.py`; order, folds and each step's k come from the same Philox streams. Needs numpy and torch.
"""

import csv
import json
import tomllib
from pathlib import Path

import numpy as np
import torch

from curves import commands, record
from deeppt_her2st import Stream, folds, safetensors, write_safetensors
from trnasformer import KS, Trnasformer, loss

def start(args):
    torch.manual_seed(args.seed)
    model = Trnasformer(args.depth, args.genes, args.classes, args.width, heads=1)
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

    network = Trnasformer(model["depth"], len(genes), len(names), model["width"], model["heads"], drop=0.0)
    weights = safetensors(Path(model["start"]))[0]
    network.load_state_dict({key: torch.from_numpy(v.copy()) for key, v in weights.items()})
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=training["learning_rate"], weight_decay=training["weight_decay"]
    )

    def epoch(number):
        stage = f"fold 1/1: model 1 epoch {number}"
        order, draws = Stream(seed, stage).shuffled(range(len(train))), Stream(seed, f"{stage} k")
        for first in range(0, len(order), training["batch"]):
            yield [train[i] for i in order[first : first + training["batch"]]], KS[draws.below(len(KS))]

    def loss_of(batch, k):
        return loss(network, torch.from_numpy(images[batch]), targets[batch], labels[batch], k)

    record(args, optimizer, epoch, loss_of)


def main():
    start_of, train_of, run = commands(__doc__, start, train, steps=100)
    for name, value in {"genes": None, "classes": None, "width": 384, "depth": 1, "seed": 0}.items():
        start_of.add_argument(f"--{name}", type=int, default=value, required=value is None)
    train_of.add_argument("run", type=Path)
    run()


if __name__ == "__main__":
    main()
