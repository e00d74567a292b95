#!/bin/sh
# Passes if the program that `cuda-build.sh` made for tests, or the one named, asks the loader for
# no CUDA library, so that it starts where there is none.
set -eu
cd "$(dirname "$0")/../.."
program=${1:-${CARGO_TARGET_DIR:-target}/debug/plm-fleet}
linked=$(readelf --dynamic "$program" | grep NEEDED)
if echo "$linked" | grep -E 'libcu|libnv'; then
    echo "plm-fleet: $program is linked to CUDA" >&2
    exit 1
fi
"$program" --version
