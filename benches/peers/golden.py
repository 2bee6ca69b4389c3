"""The golden cases of `tests/golden`, for checking a peer that is written here."""

import json
import sys
from pathlib import Path

import numpy
import torch

FOLDER = Path(__file__).resolve().parents[2] / "tests/golden"


def drawn(name, shape, low, high):
    """The formula of the golden cases: FNV-1a of the name seeds SplitMix64."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    n = int(numpy.prod(shape, dtype=numpy.int64))
    with numpy.errstate(over="ignore"):
        z = numpy.uint64(seed) + numpy.arange(1, n + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z = z ^ (z >> numpy.uint64(31))
    u = (z >> numpy.uint64(40)).astype(numpy.float64) / 2**24
    return torch.from_numpy((low + (high - low) * u).astype(numpy.float32)).view(shape)


def weights(state):
    values = {}
    for key, shape, rule, _ in state:
        bound = (3 / max(1, int(numpy.prod(shape[1:], dtype=numpy.int64)))) ** 0.5
        ranges = {
            "fan_in": (-bound, bound),
            "fan_in_x0.4": (-0.4 * bound, 0.4 * bound),
            "running_var": (0.5, 1.5),
            "scale": (0.9, 1.1),
        }
        if rule == "zero_i64":
            values[key] = torch.zeros(shape, dtype=torch.int64)
        else:
            values[key] = drawn(key, shape, *ranges.get(rule, (-0.1, 0.1)))
    return values


def stored(case):
    raw = (FOLDER / f"{case}.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    kinds = {"F32": numpy.float32, "F64": numpy.float64}

    def read(name):
        entry = header[name]
        start, end = entry["data_offsets"]
        values = numpy.frombuffer(raw[8 + size + start : 8 + size + end], kinds[entry["dtype"]])
        return torch.from_numpy(values.copy()).view(entry["shape"])

    return read


def close(what, got, expected, tolerance):
    error = ((got - expected).norm() / expected.norm()).item()
    print(f"{what}: relative difference {error:.1e}")
    if not error <= tolerance:
        sys.exit(f"{what}: {error} is over {tolerance}")


def manifest(case):
    return json.loads((FOLDER / f"{case}.json").read_text())


def input_of(case, which):
    entry = manifest(case)["inputs"][which]
    x = drawn(entry["name"], entry["shape"], entry["lo"], entry["hi"])
    return x[entry["samples"]] if "samples" in entry else x
