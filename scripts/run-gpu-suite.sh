#!/usr/bin/env bash
# Tests and times eosin on the first GPU. Part of the folder that
# scripts/gpu-bundle.sh packs; each part is meant to take less than 8 minutes.
#
#     run-gpu-suite.sh correctness            every kernel and golden case, then compute-sanitizer
#     run-gpu-suite.sh kernels [FILTER]       ceilings, then each kernel's bench beside PyTorch's
#     run-gpu-suite.sh models [FILTER]        steps of whole models beside PyTorch's
#
# Results go to $OUT (default: results/ beside this script); the last thing that
# a part prints is its table. Without a GPU a part runs as far as it can without
# one, says where it stopped, and exits with 3.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
part=${1:-}
filter=${2:-}
results=${OUT:-$here/results}
export EOSIN_GOLDEN=$here/golden
export EOSIN_TEST_GPU=0

has_gpu() {
    [[ -e /dev/nvidiactl ]] && command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1
}

without_gpu() {
    echo "stopped: $1 needs a GPU, and there is none"
    exit 3
}

# check NAME COMMAND...: runs it, keeps what it prints, notes how it ended.
failed=0
summary=()
check() {
    local name=$1 start=$SECONDS status
    shift
    "$@" >"$results/$name.log" 2>&1
    status=$?
    ((status == 0)) || failed=1
    summary+=("$(printf '%-28s %-6s %4d s  %s' "$name" "$([[ $status == 0 ]] && echo ok || echo "rc $status")" \
        $((SECONDS - start)) "$(grep -E '^test result|ERROR SUMMARY|RACECHECK SUMMARY' "$results/$name.log" | tail -1)")")
    echo "${summary[-1]}"
}

about() {
    cat "$here/ABOUT"
    "$here/bin/eosin" doctor
    nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit --format=csv 2>/dev/null
    uptime
}

correctness() {
    about >"$results/about.txt" 2>&1
    # What needs no GPU: that the programs start, and what they would run.
    for binary in ops cuda models; do
        check "list-$binary" "$here/bin/$binary" --list
    done
    has_gpu || { printf '%s\n' "${summary[@]}"; without_gpu correctness; }
    # Products of small integers first: their sums are exact, so a fragment that
    # lies in the wrong place shows as a wrong bit.
    check exact "$here/bin/ops" exact --test-threads 8
    check ops "$here/bin/ops" cuda --test-threads 12
    check cuda "$here/bin/cuda" --skip emulator --skip table --skip ledger --test-threads 8
    check models "$here/bin/models" cuda --test-threads 4
    if command -v compute-sanitizer >/dev/null; then
        for tool in memcheck racecheck synccheck; do
            check "$tool" timeout 120 compute-sanitizer --tool "$tool" --error-exitcode 9 \
                "$here/bin/ops" golden::ops --skip cpu --test-threads 1
        done
    else
        summary+=("compute-sanitizer: not found, not run")
    fi
    printf '%s\n' "${summary[@]}" | tee "$results/correctness.txt"
    return $failed
}

kernels() {
    about >"$results/about.txt" 2>&1
    local table=$results/table.json
    EOSIN_BENCH_TABLE=$table CRITERION_HOME=$results/criterion \
        "$here/bin/bench" --bench --noplot "cuda/$filter" >"$results/bench.log" 2>&1 || {
        tail -5 "$results/bench.log"
        return 1
    }
    has_gpu || without_gpu kernels
    python3 "$here/peers/gpu.py" kernels --table "$table" --criterion "$results/criterion" --write "$results/kernels"
}

models() {
    about >"$results/about.txt" 2>&1
    check dry-run "$here/bin/eosin" profile trnasformer --mode train --device null
    has_gpu || without_gpu models
    python3 "$here/peers/gpu.py" models --eosin "$here/bin/eosin" --only "$filter" --write "$results/models"
}

case $part in
correctness | kernels | models)
    mkdir -p "$results"
    [[ -d $here/bin ]] || python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' \
        "$here/bin.tar.xz" "$here" || exit 1
    "$part"
    ;;
*)
    sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 2
    ;;
esac
