#!/bin/sh
# Runs the tests of the whole workspace, those that need h5py, another reader or huggingface_hub,
# and those with the FASTA files of other tools. With arguments, it passes these to `cargo test`
# instead: `tests/run.sh -p plm-index` or `tests/run.sh goldens -- --nocapture`.
set -eu
cd "$(dirname "$0")/.."
build_tools() {
    # Exports are read by those that people read them with, and the cache of models by its owner.
    set -- h5py numpy safetensors pyarrow pandas polars duckdb huggingface_hub
    . crates/plm-shards/build-tools.sh
}
build_tools
# A bare `cargo test` ignores the tests with h5py, other readers and huggingface_hub, which may be
# absent. Here they are installed. The names of all tests with readers have h5py in them.
PLM_TEST_PYTHON=$tools_python
export PLM_TEST_PYTHON
if [ $# -gt 0 ]; then
    exec cargo test --workspace --locked "$@"
fi
cargo test --workspace --locked
cargo test --workspace --locked h5py -- --ignored
cargo test --workspace --locked --test hub python:: -- --ignored
PLM_TEST_FASTA_FOLDER=$CARGO_TARGET_DIR/torture
export PLM_TEST_FASTA_FOLDER
if "$tools_python" crates/plm-index/tests/torture.py "$PLM_TEST_FASTA_FOLDER"; then
    cargo test --workspace --locked --test index torture -- --ignored
else
    echo "tests/run.sh: the FASTA files of other tools could not be fetched: the tests with them were ignored" >&2
fi
