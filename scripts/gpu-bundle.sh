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
"$out/bin/eosin" doctor >"$out/ABOUT"
# As one archive whose window spans several programs: each holds the same kernels.
python3 - "$out" <<'PACK'
import lzma, sys, tarfile
filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 128 << 20}]
with lzma.open(f"{sys.argv[1]}/bin.tar.xz", "wb", filters=filters) as packed:
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(f"{sys.argv[1]}/bin", "bin")
PACK
rm -r "$out/bin"
cp -r tests/golden "$out/golden"
cp benches/peers/*.py "$out/peers/"
install -m 755 scripts/run-gpu-suite.sh "$out/run-gpu-suite.sh"
{
    echo "commit $(git rev-parse HEAD)$(git diff --quiet HEAD || echo ' with changes')"
    rustc --version
} >>"$out/ABOUT"

mib=$(du -sm "$out" | cut -f1)
echo "$out: $mib MiB (limit: $limit_mib)"
((mib <= limit_mib))
