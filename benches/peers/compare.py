"""The same work by eosin and by its peers on the CPU, in turns, as one table.

    python benches/peers/compare.py [--threads 2] [--rounds 5] [--only TEXT] [--write FILE]

A round times every contestant once: eosin by its bench (criterion, 10 samples), a
peer by as many calls as fit in the same time. Clock and neighbours drift, so
contestants are compared within a round and the table has the medians over the
rounds. Beside them is the most memory that each process ever held, the check of its
results included: a peer that is checked against PyTorch's eager result may have held
both. Peers need PyTorch and torchvision; onnxruntime, openvino, onnx and
onnxscript for their rows. A peer that is not installed is left out, and said so.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import tasks

ROOT = Path(__file__).resolve().parents[2]
EXPORT = ["onnx", "onnxscript"]
NEEDED = {"onnxruntime": ["onnxruntime", *EXPORT], "openvino": ["openvino", *EXPORT]}


class Eosin:
    """The bench, started anew for each round: its check is not timed."""

    name = "eosin"

    def __init__(self, binary, task, threads):
        bench = task if task in tasks.OPERATORS else f"model/{task}"
        self.binary, self.bench, self.threads, self.peak = binary, bench, threads, 0
        self.home = tempfile.mkdtemp(prefix="eosin-peers-")

    def round(self):
        environment = {
            **os.environ,
            "RAYON_NUM_THREADS": str(self.threads),
            "CRITERION_HOME": self.home,
        }
        command = [self.binary, "--bench", "--noplot", "--exact", self.bench]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=quiet)
        self.peak = max(self.peak, peak_of(process))
        if process.returncode != 0:
            raise SystemExit(f"{self.bench} failed: see above")
        (found,) = Path(self.home).glob("*/*/new/sample.json")
        sample = json.loads(found.read_text())
        return [t / n * 1e-6 for t, n in zip(sample["times"], sample["iters"])]

    def close(self):
        shutil.rmtree(self.home)


class Peer:
    """A process that waits for its turn."""

    def __init__(self, peer, task, threads):
        self.name = peer
        command = [sys.executable, Path(tasks.__file__), task, peer, "--threads", str(threads)]
        pipe = subprocess.PIPE
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        if self.process.stdout.readline() != "ready\n":
            raise SystemExit(f"{peer} failed on {task}: see above")
        self.calls = 1
        first = self.round()[0]
        # What takes seconds is called once a round.
        self.calls = max(1 if first > 1000 else 3, min(200, int(1500 / first)))

    def round(self):
        print(self.calls, file=self.process.stdin, flush=True)
        return [float(t) for t in self.process.stdout.readline().split()]

    def close(self):
        self.process.stdin.close()
        self.peak = peak_of(self.process)


def peak_of(process):
    """Waits for a process; the most bytes that it held."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    # macOS counts bytes, Linux blocks of 1,024.
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def bench_binary():
    command = ["cargo", "bench", "--no-run", "--bench", "eosin", "--message-format=json"]
    built = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    found = [json.loads(line) for line in built.stdout.splitlines()]
    return next(m["executable"] for m in found if m.get("target", {}).get("kind") == ["bench"])


def output(*command):
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout.strip()


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def installed(peer):
    missing = [p for p in NEEDED.get(peer, []) if importlib.util.find_spec(p) is None]
    if missing:
        print(f"{peer}: left out: {', '.join(missing)} not installed", file=sys.stderr)
    return not missing


def header(args, load):
    packages = ["torch", "torchvision", "onnxruntime", "openvino"]
    versions = [
        f"{p} {importlib.metadata.version(p)}" for p in packages if importlib.util.find_spec(p)
    ]
    changed = " with changes" if output("git", "status", "--porcelain", "-uno") else ""
    return [
        f"# {date.today()}, {processor()}, {os.cpu_count()} cores",
        "",
        f"- command: `python benches/peers/compare.py {' '.join(sys.argv[1:])}`".rstrip(),
        f"- commit: {output('git', 'rev-parse', '--short=12', 'HEAD')}{changed}",
        f"- compiler: {output('rustc', '--version')}",
        f"- peers: {', '.join(versions)}",
        f"- {args.threads} threads each, f32, {args.rounds} rounds in turns",
        f"- load before the start: {load:.2f}" + (", busy: not to be quoted" if load > 1 else ""),
        "",
        "| task | by | median ms | fastest to slowest round | theirs / ours | peak GB | ours / theirs |",
        "|---|---|---|---|---|---|---|",
    ]


def compare(task, args, binary):
    """The rows of a task."""
    contestants = [Eosin(binary, task, args.threads)]
    contestants += [Peer(p, task, args.threads) for p in tasks.peers(task) if installed(p)]
    rounds = {c.name: [] for c in contestants}
    for i in range(args.rounds):
        for c in contestants:
            rounds[c.name].append(statistics.median(c.round()))
            print(f"{task} round {i + 1}: {c.name} {rounds[c.name][-1]:.2f} ms", file=sys.stderr)
    for c in contestants:
        c.close()
    rows = []
    peaks = {c.name: c.peak for c in contestants}
    for name, times in rounds.items():
        ratio = statistics.median(t / o for t, o in zip(times, rounds["eosin"]))
        rows.append(
            f"| {task} | {name} | {statistics.median(times):.2f} "
            f"| {min(times):.2f} to {max(times):.2f} | {ratio:.2f} "
            f"| {peaks[name] / 1e9:.2f} | {peaks['eosin'] / peaks[name]:.2f} |"
        )
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="tasks with this in their name")
    parser.add_argument("--write", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    known = [*tasks.INFERENCE, *tasks.REWRITTEN, *tasks.TRAINING, *tasks.ITERATIONS]
    known += tasks.OPERATORS
    wanted = [t for t in known if args.only in t]
    if not wanted:
        raise SystemExit(f"no task has {args.only} in its name")
    binary = bench_binary()
    lines = header(args, os.getloadavg()[0])
    for task in wanted:
        lines += compare(task, args, binary)
    text = "\n".join(lines) + "\n"
    print(text)
    if args.write:
        args.write.write_text(text)


if __name__ == "__main__":
    main()
