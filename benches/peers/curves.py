"""Compares losses of single steps, ours and others', from CSV files of epoch, step and loss.

    python curves.py RUN/fold0/model-steps.csv torch-a.csv torch-b.csv

prints a table of some steps, and how far apart the curves are: the second and third file from each other, and the
first from the nearer of both.
"""

import csv
import sys


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
