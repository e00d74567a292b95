#!/bin/sh
# Passes the tests of the whole workspace. Arguments go to `cargo test`.
set -eu
cd "$(dirname "$0")/.."
build_tools() {
    set -- h5py numpy
    . crates/plm-shards/build-tools.sh
}
build_tools
# What h5py reads back is ignored by a bare `cargo test`, since h5py may be absent; here it is there.
PLM_TEST_PYTHON=$tools_python
export PLM_TEST_PYTHON
cargo test --workspace --locked "$@"
cargo test --workspace --locked "$@" h5py -- --ignored
