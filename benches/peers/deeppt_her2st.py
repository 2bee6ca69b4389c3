"""Trains DeepPT in PyTorch as a finished run of `eosin train deeppt` did, and scores both.

    python deeppt_her2st.py RUN

RUN is the folder of a her2st run with spots as samples, `split.test`, `inner_by =
"section"`, dropout 0 and transforms `library_size:N, log10p1`. Its configuration and
its ResNet-50 features are read; initial weights, order and folds come from the same
Philox streams, written here once more; counts are read and transformed anew. So the
two runs differ in the code that trains, and in nothing else. Needs numpy and torch.
"""

import argparse
import csv
import gzip
import json
import struct
import time
import tomllib
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

MASK = (1 << 64) - 1


def fork(seed, purpose):
    """The key of a named stream (splitmix64 over the bytes)."""
    key = seed
    for byte in purpose.encode():
        key = ((key ^ byte) + 0x9E3779B97F4A7C15) & MASK
        key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & MASK
        key ^= key >> 31
    return key


def philox(key, start, blocks):
    """Philox 4x32-10 (Salmon et al. 2011): (blocks, 4) words."""
    u64 = np.uint64
    low = u64(0xFFFFFFFF)
    position = np.arange(start, start + blocks, dtype=np.uint64)
    zero = np.zeros_like(position)
    c = [position & low, position >> u64(32), zero, zero]
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p0, p1 = c[0] * u64(0xD2511F53), c[2] * u64(0xCD9E8D57)
        c = [(p1 >> u64(32)) ^ c[1] ^ u64(k0), p1 & low, (p0 >> u64(32)) ^ c[3] ^ u64(k1), p0 & low]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, axis=1)


class Stream:
    def __init__(self, seed, purpose):
        self.key, self.position = fork(seed, purpose), 0

    def uniform(self, shape, bound):
        count = int(np.prod(shape))
        blocks = -(-count // 4)
        words = philox(self.key, self.position, blocks).reshape(-1)[:count]
        self.position += blocks
        unit = (words >> np.uint64(8)).astype(np.float32) * np.float32(1 / (1 << 24))
        low, high = np.float32(-bound), np.float32(bound)
        return torch.from_numpy((low + (high - low) * unit).reshape(shape))

    def linear(self, inputs, outputs):
        bound = inputs**-0.5
        layer = torch.nn.Linear(inputs, outputs)
        with torch.no_grad():
            layer.weight.copy_(self.uniform((outputs, inputs), bound))
            layer.bias.copy_(self.uniform((outputs,), bound))
        return layer

    def below(self, n):
        a, b = philox(self.key, self.position, 1)[0, :2].tolist()
        self.position += 1
        return ((a | b << 32) * n) >> 64

    def shuffled(self, items):
        items = list(items)
        words = philox(self.key, self.position, max(len(items) - 1, 0))
        self.position += len(words)
        for i, (a, b, _, _) in zip(range(len(items) - 1, 0, -1), words.tolist()):
            j = ((a | b << 32) * (i + 1)) >> 64
            items[i], items[j] = items[j], items[i]
        return items


def safetensors(path):
    """Arrays by name, and the metadata."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    kinds = {"F32": np.float32, "I64": np.int64}
    out = {}
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        out[name] = np.frombuffer(data[start:end], kinds[entry["dtype"]]).reshape(entry["shape"])
    return out, metadata


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


def counts(root, section, genes):
    """Spots that have counts, in the order of the spot file, and their (spots, genes)."""
    with gzip.open(root / "ST-cnts" / f"{section}.tsv.gz", "rt") as file:
        names = file.readline().rstrip("\n").split("\t")[1:]
        rows = {}
        for line in file:
            spot, *values = line.rstrip("\n").split("\t")
            rows[spot] = np.array(values, dtype=np.float64)
    column = {name: i for i, name in enumerate(names)}
    with open(root / "ST-spotfiles" / f"{section}_selection.tsv") as file:
        spots = [f"{row['x']}x{row['y']}" for row in csv.DictReader(file, delimiter="\t")]
    spots = [spot for spot in spots if spot in rows]
    table = np.zeros((len(spots), len(genes)))
    for j, gene in enumerate(genes):
        if gene in column:
            table[:, j] = [rows[spot][column[gene]] for spot in spots]
    return [f"{section}_{spot}" for spot in spots], table


def folds(sections, sizes, number, seed):
    """Sections of each inner fold: dealt in random order, largest first, to the smallest fold."""
    order = Stream(seed, "split").shuffled(sorted(sections))
    order.sort(key=lambda s: -sizes[s])
    dealt = [(0, [])] * number
    for section in order:
        k = min(range(number), key=lambda i: dealt[i][0])
        dealt[k] = (dealt[k][0] + sizes[section], dealt[k][1] + [section])
    return [names for _, names in dealt]


def fit(name, seed, parameters, rule, plan, items, batch, loss, validate):
    """Adam with early stopping; leaves the best weights in place."""
    optimizer = torch.optim.Adam(parameters, **rule)
    best, best_loss, best_epoch, losses = None, float("inf"), 0, []
    for epoch in range(plan["epochs"]):
        order = Stream(seed, f"{name} epoch {epoch}").shuffled(items)
        for start in range(0, len(order), batch):
            optimizer.zero_grad()
            loss(order[start : start + batch]).backward()
            optimizer.step()
        with torch.no_grad():
            losses.append(validate().item())
        if losses[-1] < best_loss:
            best, best_loss, best_epoch = [p.detach().clone() for p in parameters], losses[-1], epoch
        if epoch + 1 > best_epoch + plan["patience"]:
            break
    with torch.no_grad():
        for parameter, value in zip(parameters, best):
            parameter.copy_(value)
    return losses, best_epoch


def pearson(predicted, measured):
    p, m = predicted - predicted.mean(0), measured - measured.mean(0)
    with np.errstate(invalid="ignore"):
        return (p * m).sum(0) / np.sqrt((p**2).sum(0) * (m**2).sum(0))


def summary(r):
    """Median over the genes that have a correlation, and mean of the 50 best."""
    r = np.sort(r[np.isfinite(r)])[::-1]
    return np.median(r), r[:50].mean()


def table_of(path):
    with open(path) as file:
        header, *rows = csv.reader(file)
    return {row[0]: np.array(row[1:], dtype=np.float64) for row in rows}, header[1:]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = tomllib.loads((args.run / "config.toml").read_text())
    record = json.loads((args.run / "fold0" / "fold.json").read_text())
    seed, data, split = config["seed"], config["data"], config["split"]
    ae, mlp = config["autoencoder"], config["mlp"]
    size, log = config["expression"]["transforms"]
    supported = size.startswith("library_size:") and log == "log10p1" and data["ring"] == 0
    if not (supported and mlp["dropout"] == 0 and mlp["standardise"] and split["inner_by"] == "section"):
        parser.error("this run is not of the kind that the peer repeats; see --help")

    genes = record["genes"]
    sections = sorted(data["sections"])
    samples, raw, features = {}, {}, {}
    for section in sections:
        samples[section], raw[section] = counts(Path(data["path"]), section, genes)
        features[section] = safetensors(args.run / "features" / f"{section}.safetensors")[0]["features"]
        assert len(features[section]) == len(samples[section]), section
    test = [s for s in sections if s in split["test"]]
    assert [x for s in test for x in samples[s]] == record["test"], "another order of spots"
    known = [s for s in sections if s not in split["test"]]
    first, at = {}, 0
    for s in sections:
        first[s], at = at, at + len(samples[s])
    rows = lambda names: [i for s in sections if s in names for i in range(first[s], first[s] + len(samples[s]))]
    x = torch.from_numpy(np.concatenate([features[s] for s in sections]).astype(np.float32))
    y = np.concatenate([raw[s] for s in sections])
    total = y.sum(1, keepdims=True)
    y = np.where(total > 0, y * float(size.split(":")[1]) / np.where(total > 0, total, 1), 0)
    y = torch.from_numpy(np.log10(1 + y).astype(np.float32))

    inner = folds(known, {s: len(samples[s]) for s in known}, split["inner_folds"], seed)
    parts = [(rows([s for s in known if s not in held]), rows(held)) for held in inner]
    started = time.monotonic()

    name = "fold 1/1: autoencoder"
    stream = Stream(seed, name)
    encoder = stream.linear(x.shape[1], 512)
    decoder = stream.linear(512, x.shape[1])
    reconstruct = lambda z: F.relu(decoder(F.relu(encoder(z))))
    held = x[parts[0][1]]
    losses, best = fit(
        name, seed, [*encoder.parameters(), *decoder.parameters()], {"lr": ae["learning_rate"]}, ae,
        parts[0][0], ae["batch"], lambda b: F.mse_loss(reconstruct(x[b]), x[b]),
        lambda: F.mse_loss(reconstruct(held), held),
    )
    theirs = record["autoencoder"]
    print(f"autoencoder: best validation loss {losses[best]:.6f} in epoch {best}; "
          f"eosin {theirs['validation'][theirs['best']]:.6f} in epoch {theirs['best']}")
    with torch.no_grad():
        codes = F.relu(encoder(x))

    predicted = np.zeros((len(rows(test)), len(genes)))
    for number, (train, validation) in enumerate(parts):
        scale = lambda t: (t.mean(0), torch.where(t.var(0, correction=0) > 1e-12, t.std(0, correction=0), 1.0))
        # A network's genes are ordered by their median, and its last weights with them.
        file = args.run / "fold0" / f"model{number}-genes0.safetensors"
        order = json.loads(safetensors(file)[1]["genes"])
        assert len(order) == len(genes), "genes in several groups"
        columns = [genes.index(gene) for gene in order]
        target = y[:, columns]
        (cm, cs), (tm, ts) = scale(codes[train]), scale(target[train])
        z, t = (codes - cm) / cs, (target - tm) / ts
        name = f"fold 1/1: model {number + 1} genes 1"
        stream = Stream(seed, name)
        layers = [stream.linear(512, mlp["hidden"]), stream.linear(mlp["hidden"], len(genes))]
        with torch.no_grad():
            layers[1].bias.zero_()  # the mean of standardised targets
        model = torch.nn.Sequential(*layers)
        losses, best = fit(
            name, seed, list(model.parameters()),
            {"lr": mlp["learning_rate"], "weight_decay": mlp["weight_decay"]}, mlp, train, mlp["batch"],
            lambda b: F.mse_loss(model(z[b]), t[b]), lambda: F.mse_loss(model(z[validation]), t[validation]),
        )
        theirs = record["mlps"][number][0]
        print(f"model {number + 1}: best validation loss {losses[best]:.6f} in epoch {best}; "
              f"eosin {theirs['validation'][theirs['best']]:.6f} in epoch {theirs['best']}")
        with torch.no_grad():
            predicted[:, columns] += (model(z[rows(test)]) * ts + tm).double().numpy() / len(parts)
    print(f"trained in {time.monotonic() - started:.0f} s")

    measured = y[rows(test)].double().numpy()
    (ours, _), (truth, order) = table_of(args.run / "predictions.csv"), table_of(args.run / "measured.csv")
    assert order == genes
    ours = np.stack([ours[s] for s in record["test"]])
    truth = np.stack([truth[s] for s in record["test"]])
    print(f"measured values differ by at most {np.abs(truth - measured).max():.1e}")
    theirs_r, ours_r = pearson(predicted, measured), pearson(ours, truth)
    for label, r in (("PyTorch", theirs_r), ("eosin", ours_r)):
        median, top = summary(r)
        print(f"{label:8} median Pearson {median:.4f}, top 50 {top:.4f}")
    both = np.isfinite(theirs_r) & np.isfinite(ours_r)
    print(f"predictions correlate by {np.corrcoef(predicted.ravel(), ours.ravel())[0, 1]:.6f}; "
          f"largest difference of a gene's Pearson {np.abs(theirs_r - ours_r)[both].max():.4f}")


if __name__ == "__main__":
    main()
