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
# In a function, whose arguments are its own.
build_tools() {
    set --
    . crates/plm-shards/build-tools.sh
}
build_tools
[ $# -gt 0 ] || set -- $(basename -s .rs tests/fuzz/fuzz_targets/*.rs)
toolchain=
[ -n "${RUSTC_BOOTSTRAP:-}" ] || toolchain=+nightly
for target in "$@"; do
    case $target in
        adapter | config_json | safetensors) features=checkpoints ;;
        pickle) features=pickles ;;
        segment) features=segments,hdf5-bundled ;;
        *) features= ;;
    esac
    corpus=tests/fuzz/corpus/$target
    seeds=tests/fuzz/seeds/$target
    mkdir -p "$corpus"
    [ -d "$seeds" ] || seeds=
    # Inputs are small, so a target that asks for much memory at once has believed what one says.
    cargo $toolchain fuzz run --fuzz-dir tests/fuzz --target-dir "$CARGO_TARGET_DIR/fuzz" --features "$features" \
        "$target" "$corpus" $seeds -- \
        -max_total_time="$seconds" -max_len=8192 -timeout=10 \
        -malloc_limit_mb=64 -rss_limit_mb=2048 -print_final_stats=1
done
