#!/bin/sh
# Builds the program with the feature `cuda`, on a machine with a GPU or without:
# target/release/plm-fleet. Arguments go to cargo instead, as in
# `crates/plm-kernels/cuda-build.sh test --package plm-kernels`.
set -eu
cd "$(dirname "$0")/../.."
cuda_tools() {
    set --
    . crates/plm-kernels/cuda-tools.sh
}
cuda_tools
[ $# -gt 0 ] || set -- build --release --package plm-cli
command=$1
shift
exec cargo "$command" --locked --features cuda "$@"
