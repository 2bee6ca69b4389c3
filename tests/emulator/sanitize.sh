#!/usr/bin/env bash
# Runs tests that launch kernels under a sanitizer, on stable Rust: the emulator is
# a shared library, and one with instrumented kernels is preloaded into the plain
# test programs, after the sanitizer's runtime. A report fails the run.
#
#   tests/emulator/sanitize.sh thread|address [arguments of cargo test]
#
# thread: threads that access the same memory with no barrier between them.
# address: accesses outside of a buffer or of a shared array.
#
# Without arguments: the tests of the emulator and of every operator on the
# emulated device. Needs g++ with its sanitizers. With EOSIN_EMULATOR_SHARED=1 in
# the environment before, the test programs that are there already serve.
set -euo pipefail

kind=${1:-}
case $kind in
    thread)
        runtime=libtsan.so
        planted=a_removed_barrier_shows_when_one_warp_runs_ahead
        report="WARNING: ThreadSanitizer: data race"
        # The same kernels again, reading at other strides: what races is what they write.
        left_out=(::layouts)
        ;;
    address)
        runtime=libasan.so
        planted=an_index_outside_of_a_buffer_is_an_error_of_the_next_read
        report="ERROR: AddressSanitizer"
        # The same kernels again at other strides: minutes, and CI has 40 in all.
        left_out=(::layouts)
        ;;
    *)
        sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
        exit 2
        ;;
esac
shift

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
library=$("${CXX:-g++}" -print-file-name="$runtime")
if [[ $library != /* ]]; then
    echo "sanitize.sh: ${CXX:-g++} has no $runtime: install its sanitizers' runtimes" >&2
    exit 1
fi
export EOSIN_EMULATOR_SHARED=1

# Apart, so that neither sanitizer's kernels take the place of the plain ones.
instrumented=$(
    EOSIN_EMULATOR_SANITIZER=$kind cargo build --release --locked --package eosin-emulator \
        --target-dir "${CARGO_TARGET_DIR:-target}/sanitizer-$kind" --message-format json-render-diagnostics |
        sed -n 's/.*"build-script-executed".*eosin-emulator.*"out_dir":"\([^"]*\)".*/\1/p'
)/libeosin_emulator.so
if [[ ! -f $instrumented ]]; then
    echo "sanitize.sh: no instrumented library was built" >&2
    exit 1
fi

# How cargo starts a test program. The sanitizers want addresses that are not
# randomised further than they know.
runner="env LD_PRELOAD=$library:$instrumented"
if setarch "$(uname -m)" -R true 2>/dev/null; then
    runner="setarch $(uname -m) -R $runner"
fi
triple=$(rustc -vV | sed -n 's/^host: //p')
export "CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$triple")_RUNNER=$runner"
# Rust's own code is not instrumented, so what it copies and frees under locks
# that ThreadSanitizer does not know would look like races; and what leaks there
# is not the kernels'.
export TSAN_OPTIONS="exitcode=66 ignore_noninstrumented_modules=1 ${TSAN_OPTIONS:-}"
export ASAN_OPTIONS="exitcode=66 detect_leaks=0 ${ASAN_OPTIONS:-}"

run() {
    cargo test --release --locked "$@"
}

# The tools work at all: a planted bug is reported and fails its run.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
run --test cuda --no-run
if run --test cuda -- "planted::$planted" >"$log" 2>&1 || ! grep -q "$report" "$log"; then
    cat "$log"
    echo "sanitize.sh: a planted bug was not reported" >&2
    exit 1
fi

if (($#)); then
    run "$@"
else
    # What takes minutes when it is instrumented: the benches' table and golden case,
    # whose kernels the other tests of `ops` run; f16, whose kernels are bf16's templates;
    # convolutions in large tiles, whose main loop large products share; and what counts
    # launches.
    left_out+=(golden::ops_conv::conv_patch32 ::f16 conv2d::cuda::bf16::large_tiles)
    left_out+=(launches_are_of_operators)
    echo "sanitize.sh: not run: benches ${left_out[*]}"
    run --test cuda -- --skip planted --skip benches
    run --test ops -- cuda "${left_out[@]/#/--skip=}"
fi
