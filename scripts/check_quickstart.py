"""Checks what `eosin --json quickstart` prints against what it promises.

    eosin --json quickstart --out FOLDER | python3 scripts/check_quickstart.py

Every figure is printed with its bound; exit code 1 if one is outside.
"""

import json
import math
import os
import sys

SIGNIFICANCE = 0.01


def chance(r, n):
    """One-sided p of a Pearson correlation r of n independent normal pairs.

    Its density under the null is proportional to (1 - r^2)^((n - 4) / 2)
    (Fisher 1915); with r = sin(a) that is cos(a)^(n - 3), smooth enough for
    Simpson's rule.
    """

    def integral(low, high, parts=2000):
        step = (high - low) / parts
        weights = [1] + [4, 2] * (parts // 2 - 1) + [4, 1]
        return sum(w * math.cos(low + i * step) ** (n - 3) for i, w in enumerate(weights)) * step / 3

    quarter = math.pi / 2
    return integral(math.asin(r), quarter) / integral(-quarter, quarter)


def main():
    figures = json.load(sys.stdin)
    n = figures["samples"]
    # One-sided: predictions with every slide left out in turn anticorrelate with
    # the truth where there is nothing to learn, since each mean leaves out what
    # it predicts.
    colour = figures["colour_pearson"].get("nuclear_size")
    report = figures["report"]
    checks = [
        ("held-out slides", n, n >= 40, "at least 40"),
        (
            "planted genes, median Pearson",
            figures["planted_median_pearson"],
            figures["planted_median_pearson"] >= 0.5,
            "at least 0.5",
        ),
        (
            "planted genes significant",
            figures["planted_significant"],
            figures["planted_significant"] >= 0.8,
            "at least 0.8",
        ),
        (
            "noise genes significant",
            figures["noise_significant"],
            figures["noise_significant"] <= 0.02,
            "at most 0.02",
        ),
        (
            "genes significant with shuffled expression",
            figures["shuffled_significant"],
            figures["shuffled_significant"] == 0,
            "0",
        ),
        (
            "nuclear size from mean colour, Pearson",
            colour,
            colour is not None and n > 3 and chance(colour, n) >= SIGNIFICANCE,
            f"not significant at {SIGNIFICANCE:.0%}, one-sided",
        ),
        (
            "report, bytes",
            os.path.getsize(report) if os.path.isfile(report) else None,
            os.path.isfile(report) and os.path.getsize(report) > 10_000,
            "more than 10,000",
        ),
    ]
    for name, value, passed, bound in checks:
        shown = f"{value:.3f}" if isinstance(value, float) else str(value)
        print(f"  {'ok  ' if passed else 'FAIL'} {name}: {shown} ({bound})")
    if not all(passed for _, _, passed, _ in checks):
        sys.exit("quickstart does not reach its figures")


if __name__ == "__main__":
    main()
