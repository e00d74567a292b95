#!/bin/sh
# Builds plm-fleet and embeds a protein FASTA file: the 500 UniProt proteins shipped here, or the
# file in the arguments.
#
#     examples/quickstart.sh                          the shipped proteins, into out/
#     examples/quickstart.sh my.fasta --out DIR ...   runs plm-fleet embed my.fasta --out DIR ...
set -eu
here=$PWD
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- "$PWD/examples/data/uniprot_500.fasta.gz" --out "$PWD/out"
build() {
    set --
    . crates/plm-shards/build-tools.sh
    cargo build --release --locked -p plm-cli
}
build
program=$CARGO_TARGET_DIR/release/plm-fleet
cd "$here"
exec "$program" embed "$@"
