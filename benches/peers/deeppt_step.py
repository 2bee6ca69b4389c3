"""One DeepPT training step (forward, backward, Adam) in PyTorch: milliseconds.

    python deeppt_step.py --threads 2 --runs 5

The sizes are those of `model/deeppt_step` in benches/models.rs:

autoencoder  64 tiles, 2048-512-2048 with ReLU at both ends, mean squared error
mlp          16 samples of 16 tiles, 512-512-4096, mean over a sample's tiles,
             mean squared error; no dropout on either side

Each run is the median of --steps steps and is printed as it ends, so that runs
can be interleaved with those of another program; the last lines have the
median and minimum over runs. --fused takes PyTorch's fused Adam instead of its
default.
"""

import argparse
import statistics
import time

import torch
from torch import nn

LEARNING_RATE = 1e-4


def autoencoder():
    model = nn.Sequential(nn.Linear(2048, 512), nn.ReLU(), nn.Linear(512, 2048), nn.ReLU())
    x = torch.randn(64, 2048).abs()
    return model, lambda: nn.functional.mse_loss(model(x), x)


def mlp(samples=16, tiles=16, genes=4096):
    model = nn.Sequential(nn.Linear(512, 512), nn.Linear(512, genes))
    x = torch.randn(samples, tiles, 512).abs()
    y = torch.randn(samples, genes)
    return model, lambda: nn.functional.mse_loss(model(x).mean(dim=1), y)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--fused", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    tasks = {}
    for name, (model, loss) in {"autoencoder_b64": autoencoder(), "mlp_16x16": mlp()}.items():
        fused = True if args.fused else None
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=fused)

        def step(optimizer=optimizer, loss=loss):
            optimizer.zero_grad()
            value = loss()
            value.backward()
            optimizer.step()
            return value.item()

        tasks[name] = step
    times = {name: [] for name in tasks}
    for step in tasks.values():
        for _ in range(5):
            step()
    for _ in range(args.runs):
        for name, step in tasks.items():
            run = []
            for _ in range(args.steps):
                start = time.perf_counter()
                step()
                run.append(1e3 * (time.perf_counter() - start))
            times[name].append(statistics.median(run))
            print(f"{name}: {times[name][-1]:.2f} ms", flush=True)
    for name, runs in times.items():
        print(
            f"{name}, {args.threads} threads: "
            f"median {statistics.median(runs):.2f} ms, minimum {min(runs):.2f} ms"
        )


if __name__ == "__main__":
    main()
