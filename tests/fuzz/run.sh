#!/bin/sh
# Runs fuzz targets, all of them or those that are named, for SECONDS each, one after the other:
#
#     tests/fuzz/run.sh 600 [TARGET...]
#
# Needs a nightly toolchain and `cargo install cargo-fuzz`. What a target finds is left in
# tests/fuzz/artifacts, what it learned in tests/fuzz/corpus, from which the next run goes on.
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:?usage: tests/fuzz/run.sh SECONDS [TARGET...]}
shift
. crates/plm-shards/build-tools.sh
[ $# -gt 0 ] || set -- fasta index config_json safetensors
toolchain=
[ -n "${RUSTC_BOOTSTRAP:-}" ] || toolchain=+nightly
for target in "$@"; do
    corpus=tests/fuzz/corpus/$target
    mkdir -p "$corpus"
    # What a target may take at once is bounded: each input is small, so whoever asks for more
    # believed what it says.
    cargo $toolchain fuzz run --fuzz-dir tests/fuzz --target-dir "$CARGO_TARGET_DIR/fuzz" "$target" \
        "$corpus" "tests/fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -max_len=8192 -timeout=10 \
        -malloc_limit_mb=64 -rss_limit_mb=2048 -print_final_stats=1
done
