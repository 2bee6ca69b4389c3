"""ResNet-50 features (224 x 224, evaluation) in PyTorch: milliseconds per batch.

    python resnet50_features.py --threads 2 --batch 16 --runs 5 [--optimized]

Weights are random: the time does not depend on them. Each run is printed as it
ends, so that runs can be interleaved with those of another program; the last
line has their median and minimum. --optimized folds batch norm and freezes the
traced graph (torch.jit.optimize_for_inference).
"""

import argparse
import statistics
import time

import torch
import torchvision


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--optimized", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = torchvision.models.resnet50(weights=None).eval()
    model.fc = torch.nn.Identity()
    model = model.to(memory_format=torch.channels_last)
    images = torch.rand(args.batch, 3, 224, 224).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        if args.optimized:
            model = torch.jit.optimize_for_inference(torch.jit.trace(model, images))
        for _ in range(2):
            model(images)
        times = []
        for _ in range(args.runs):
            start = time.perf_counter()
            model(images)
            times.append(1e3 * (time.perf_counter() - start))
            print(f"{times[-1]:.1f} ms")
    print(
        f"batch {args.batch}, {args.threads} threads: "
        f"median {statistics.median(times):.1f} ms, minimum {min(times):.1f} ms"
    )


if __name__ == "__main__":
    main()
