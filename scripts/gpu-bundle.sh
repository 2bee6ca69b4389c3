#!/usr/bin/env bash
# Packs into one folder what a machine with an NVIDIA GPU, PyTorch and no Rust
# needs to test and to time eosin: programs with the kernels in them, golden
# numbers, the peers' scripts, and run-gpu-suite.sh, which says how to run them.
#
#     scripts/gpu-bundle.sh [FOLDER]      # default: target/gpu-bundle
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-target/gpu-bundle}
limit_mib=40

scripts/cuda-toolkit.sh
cargo build --release --locked --bin eosin
executables=$(
    {
        cargo test --release --locked --no-run --test ops --test cuda --test models --message-format json-render-diagnostics
        cargo bench --locked --no-run --bench eosin --message-format json-render-diagnostics
    } | python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["kind"][0] in ("test", "bench"):
        kind, name = message["target"]["kind"][0], message["target"]["name"]
        print("bench" if kind == "bench" else name, message["executable"])
'
)

rm -rf "$out"
mkdir -p "$out/bin" "$out/peers"
install -m 755 target/release/eosin "$out/bin/eosin"
while read -r name executable; do
    install -m 755 "$executable" "$out/bin/$name"
done <<<"$executables"
strip "$out"/bin/*
cp -r tests/golden "$out/golden"
cp benches/peers/*.py "$out/peers/"
install -m 755 scripts/run-gpu-suite.sh "$out/run-gpu-suite.sh"
{
    echo "commit $(git rev-parse HEAD)$(git diff --quiet HEAD || echo ' with changes')"
    rustc --version
    "$out/bin/eosin" doctor
} >"$out/ABOUT"

mib=$(du -sm "$out" | cut -f1)
echo "$out: $mib MiB (limit: $limit_mib)"
((mib <= limit_mib))
