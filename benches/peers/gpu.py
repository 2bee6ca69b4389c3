"""eosin's kernels and models beside PyTorch's on one GPU, as one table.

    python gpu.py kernels --table TABLE.json --criterion FOLDER [--write NAME]
    python gpu.py models --eosin PROGRAM [--only TEXT] [--write NAME]

`kernels` reads what eosin's benches have measured (their names and shapes from
TABLE.json, which the bench program writes where EOSIN_BENCH_TABLE says) and does
the same work in PyTorch: between two events, after 128 MB were written to flush
the L2 cache, with four sets of random inputs in turns, the median of 30.
Convolutions are channels-last, with cuDNN's choice of algorithm by measurement.
f32 is f32 on both sides; `tf32` is the peer once more with that mode on.

`models` times steps of whole models in turns. eosin's are those of `eosin
profile`, which observes every operator, so they are no better than they are in
use. The peer's are eager, bf16 channels-last under autocast, with fused Adam, and
the same under torch.compile.

Floors are the larger of FLOPs over the rate of a large product and bytes over the
rate of a large copy, both measured here first, through PyTorch.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
DROPPED, EPS, LEAK = 0.25, 1e-5, 0.2
SETS, SAMPLES, WARM_UP = 4, 30, 8
FLUSHED = 128 << 20


def median_ms(calls, samples=SAMPLES):
    """The median device time of calls that take turns."""
    flush = torch.empty(FLUSHED // 4, device="cuda")
    for i in range(WARM_UP):
        calls[i % len(calls)]()
    times = []
    for i in range(samples):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        calls[i % len(calls)]()
        end.record()
        times.append((start, end))
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in times)


def ceilings():
    """FLOP/s by dtype and B/s."""
    rates = {}
    for name, dtype in DTYPES.items():
        a, b = (torch.randn(8192, 8192, device="cuda").to(dtype) for _ in range(2))
        rates[name] = 2 * 8192**3 / (median_ms([lambda a=a, b=b: a @ b], 10) * 1e-3)
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    bandwidth = 2 * (1 << 30) / (median_ms([lambda: target.copy_(source)], 10) * 1e-3)
    return rates, bandwidth


def forward(entry, x):
    """One call of a bench's operator."""
    op = entry["op"]
    geometry = {k: entry[k] for k in ("stride", "padding", "groups") if k in entry}
    match op:
        case "matmul":
            return x[0] @ x[1]
        case "linear":
            return F.linear(x[0], x[1])
        case "linear_top_mean":
            return F.linear(x[0], x[1]).topk(entry["highest"], 1).values.mean(1)
        case "attention":
            return F.scaled_dot_product_attention(*x)
        case "attention_packed":
            batch, tokens, all_of_them = x[0].shape
            width = all_of_them // 3 // entry["heads"]
            q, k, v = x[0].view(batch, tokens, 3, entry["heads"], width).permute(2, 0, 3, 1, 4)
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, -1)
        case "conv2d":
            return F.conv2d(x[0], x[1], **geometry)
        case "conv_bn_act":
            return F.relu(F.conv2d(x[0], x[1], x[2], **geometry))
        case "conv_transpose2d":
            return F.conv_transpose2d(x[0], x[1], stride=geometry["stride"], padding=geometry["padding"])
        case "softmax":
            return F.softmax(x[0], -1)
        case "layer_norm":
            return F.layer_norm(x[0], x[1].shape, x[1], x[2], EPS)
        case "add_layer_norm":
            return F.layer_norm(x[0] + x[1], x[2].shape, x[2], x[3], EPS)
        case "batch_norm_train":
            return F.batch_norm(x[0], None, None, x[1], x[2], training=True, eps=EPS)
        case "relu":
            return F.relu(x[0])
        case "leaky_relu":
            return F.leaky_relu(x[0], LEAK)
        case "tanh":
            return torch.tanh(x[0])
        case "gelu":
            return F.gelu(x[0])
        case "dropout":
            return F.dropout(x[0], DROPPED)
        case "add":
            return x[0] + x[1]
        case "max_pool2d":
            return F.max_pool2d(x[0], 3, 2, 1)
        case "avg_pool2d":
            return F.avg_pool2d(x[0], 2)
        case "activated_avg_pool2d":
            scale, shift = (t.view(-1, 1, 1) for t in x[1:])
            return F.avg_pool2d(F.relu(x[0] * scale + shift), 2)
        case "adaptive_avg_pool2d":
            return F.adaptive_avg_pool2d(x[0], 1)
    raise SystemExit(f"{entry['name']}: no peer is written for {op}; add one to forward()")


def call(entry):
    """A function that does a bench's work on fresh random inputs."""
    dtype = DTYPES[entry["dtype"]]
    inputs = [torch.randn(shape, device="cuda").to(dtype) for shape in entry["inputs"]]
    if entry["op"] == "adamw":
        value = inputs[0].requires_grad_()
        value.grad = inputs[1]
        return torch.optim.AdamW([value], fused=True).step
    if entry["op"] != "attention":
        inputs = [t.to(memory_format=torch.channels_last) if t.dim() == 4 else t for t in inputs]
    wanted = entry["gradients"]
    if not wanted:
        def run():
            with torch.no_grad():
                return forward(entry, inputs)

        return run
    for i in wanted:
        inputs[i].requires_grad_()
    y = forward(entry, inputs)
    gradient = torch.randn_like(y)
    return lambda: torch.autograd.grad(y, [inputs[i] for i in wanted], gradient, retain_graph=True)


def measured(folder):
    """Median milliseconds of eosin's benches by name."""
    found = {}
    for file in Path(folder).glob("**/new/benchmark.json"):
        name = json.loads(file.read_text())["full_id"]
        estimates = json.loads((file.parent / "estimates.json").read_text())
        found[name] = estimates["median"]["point_estimate"] * 1e-6
    return found


def kernels(args):
    torch.backends.cudnn.benchmark = True
    rates, bandwidth = ceilings()
    ours = measured(args.criterion)
    rows = []
    for entry in json.loads(Path(args.table).read_text()):
        mine = ours.get("cuda/" + entry["name"])
        if mine is None:
            continue
        theirs = median_ms([call(entry) for _ in range(SETS)])
        tf32 = None
        if entry["dtype"] == "f32" and "flops" in entry:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
            tf32 = median_ms([call(entry) for _ in range(SETS)])
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        flops, moved = entry.get("flops", 0), entry.get("bytes", 0)
        floor = 1e3 * max(flops / rates[entry["dtype"]], moved / bandwidth)
        rows.append({"name": entry["name"], "ours": mine, "theirs": theirs, "tf32": tf32, "floor": floor})
        torch.cuda.empty_cache()
    about = {"product_flops": rates, "copy_bytes": bandwidth}
    return about, rows


def shown(about, rows):
    lines = [f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}"]
    lines += [f"{key}: {value}" for key, value in about.items()]
    lines.append(f"{'':56} {'ours us':>10} {'theirs us':>10} {'ratio':>6} {'tf32 us':>9} {'% of floor':>10}")
    for row in rows:
        tf32 = "" if row.get("tf32") is None else f"{1e3 * row['tf32']:.1f}"
        part = f"{100 * row['floor'] / row['ours']:.0f}" if row.get("floor") else ""
        lines.append(
            f"{row['name']:56} {1e3 * row['ours']:10.1f} {1e3 * row['theirs']:10.1f} "
            f"{row['theirs'] / row['ours']:6.2f} {tf32:>9} {part:>10}"
        )
    return lines


# ---- models

STEPS = [("resnet50", "infer", 64), ("resnet50", "train", 64), ("resnet18", "infer", 64),
         ("resnet18", "train", 64), ("deeppt-autoencoder", "train", 1024), ("deeppt", "train", 64)]


def peer_step(model, mode, batch, compiled):
    import torchvision

    if model.startswith("resnet"):
        network = getattr(torchvision.models, model)(weights=None).to("cuda", memory_format=torch.channels_last)
        x = torch.randn(batch, 3, 224, 224, device="cuda").to(memory_format=torch.channels_last)
        labels = torch.randint(1000, (batch,), device="cuda")
        loss = lambda: F.cross_entropy(network(x), labels)
    elif model == "deeppt-autoencoder":
        network = torch.nn.Sequential(torch.nn.Linear(2048, 512), torch.nn.ReLU(), torch.nn.Linear(512, 2048), torch.nn.ReLU()).cuda()
        x = torch.randn(batch, 2048, device="cuda").abs()
        loss = lambda: F.mse_loss(network(x), x)
    else:
        network = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.Dropout(0.2), torch.nn.Linear(512, 4096)).cuda()
        x, y = torch.randn(batch, 16, 512, device="cuda"), torch.randn(batch, 4096, device="cuda")
        loss = lambda: F.mse_loss(network(x).mean(dim=1), y)
    if mode == "infer":
        network = network.eval()
        run = torch.compile(network, mode="max-autotune") if compiled else network

        def step():
            with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
                run(x)

        return step
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    value = torch.compile(loss, mode="max-autotune") if compiled else loss

    def step():
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            result = value()
        result.backward()
        optimizer.step()

    return step


def models(args):
    torch.backends.cudnn.benchmark = True
    rates, bandwidth = ceilings()
    rows = []
    for model, mode, batch in STEPS:
        if args.only not in model:
            continue
        command = [args.eosin, "profile", model, "--mode", mode, "--batch", str(batch), "--device", "cuda",
                   "--dtype", "bf16", "--steps", "20", "--json", "--quiet",
                   "--peak-gflops", str(rates["bf16"] * 1e-9), "--bandwidth", str(bandwidth * 1e-9)]
        mine = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        for compiled in (False, True):
            name = f"{model}/{mode}/b{batch} against {'compiled' if compiled else 'eager'}"
            try:
                theirs = median_ms([peer_step(model, mode, batch, compiled)])
            except Exception as problem:  # a peer that fails is reported, not hidden
                print(f"{name}: the peer failed: {problem}", file=sys.stderr)
                continue
            rows.append({"name": name, "ours": 1e3 * mine["seconds"], "theirs": theirs,
                         "floor": 1e3 * mine["floor_seconds"]})
            torch.cuda.empty_cache()
    return {"product_flops": rates, "copy_bytes": bandwidth}, rows


def main():
    parser = argparse.ArgumentParser(description="See the head of the file.")
    parser.add_argument("part", choices=["kernels", "models"])
    parser.add_argument("--table")
    parser.add_argument("--criterion")
    parser.add_argument("--eosin", default="eosin")
    parser.add_argument("--only", default="")
    parser.add_argument("--write", help="also write NAME.txt and NAME.json")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("stopped: PyTorch finds no GPU")
        raise SystemExit(3)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    about, rows = {"kernels": kernels, "models": models}[args.part](args)
    lines = shown(about, rows)
    print("\n".join(lines))
    if args.write:
        Path(args.write + ".txt").write_text("\n".join(lines) + "\n")
        Path(args.write + ".json").write_text(json.dumps({"about": about, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
