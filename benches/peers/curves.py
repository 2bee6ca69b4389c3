"""Compares losses of single steps, ours and others', from CSV files of epoch, step and loss.

    python curves.py RUN/fold0/model-steps.csv torch-a.csv torch-b.csv

prints a table of some steps, and how far apart the curves are: the second and third file from each other, and the
first from the nearer of both.

It also holds what the peers that draw such curves share: their command line and their loop.
"""

import argparse
import csv
import sys
import time
from pathlib import Path


def commands(about, start, train, steps):
    """The parsers of the commands `start` and `train`, and what parses and runs them."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    both = parser.add_subparsers(required=True)
    of_start, of_train = both.add_parser("start"), both.add_parser("train")
    of_train.add_argument("--steps", type=int, default=steps)
    of_train.add_argument("--threads", type=int, default=2)
    of_train.add_argument("--no-onednn", action="store_true", help="another order of sums")
    of_train.add_argument("--reverse", action="store_true", help="each batch from its end: another order of sums")
    for command, do in ((of_start, start), (of_train, train)):
        command.add_argument("--out", type=Path, required=True)
        command.set_defaults(do=do)

    def run():
        args = parser.parse_args()
        args.do(args)

    return of_start, of_train, run


def record(args, optimizer, epoch, loss_of):
    """Takes `args.steps` steps and writes their losses: `epoch(number)` gives an epoch's batches, each with what else
    its step draws, and `loss_of` the loss of both."""
    with open(args.out, "w") as out:
        print("epoch,step,loss", file=out)
        step, number, started = 0, 0, time.monotonic()
        while step < args.steps:
            for batch, drawn in epoch(number):
                optimizer.zero_grad()
                loss = loss_of(batch[::-1] if args.reverse else batch, drawn)
                loss.backward()
                optimizer.step()
                step += 1
                print(f"{number},{step},{loss.item()}", file=out, flush=True)
                if step == args.steps:
                    break
            number += 1
        print(f"{step} steps in {time.monotonic() - started:.0f} s")


def losses(path):
    with open(path) as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def main():
    curves = [losses(path) for path in sys.argv[1:]]
    steps = min(map(len, curves))
    print("| step | " + " | ".join(sys.argv[1:]) + " |")
    print("|---" * (len(curves) + 1) + "|")
    for step in sorted({1, 10, 50, 100, 200, steps}):
        if step <= steps:
            print(f"| {step} | " + " | ".join(f"{curve[step - 1]:.6f}" for curve in curves) + " |")
    if len(curves) != 3:
        return
    apart = lambda a, b: abs(a - b) / abs(b)
    spread = [apart(b, a) for _, a, b in zip(*curves)]
    ours = [min(apart(x, a), apart(x, b)) for x, a, b in zip(*curves)]
    for first in range(0, steps, 25):
        part = slice(first, min(first + 25, steps))
        print(
            f"steps {part.start + 1:3} to {part.stop:3}: largest relative difference of the two "
            f"{max(spread[part]):.1e}, of ours from the nearer {max(ours[part]):.1e}"
        )


if __name__ == "__main__":
    main()
