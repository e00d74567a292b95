#!/bin/sh
# Passes if a crate of someone else's builds against the packages of plm-fleet and runs, as the
# README says: with the bundled HDF5, and with the system's where there is no CMake. Both must give
# the same vectors to the last bit.
#
# Needs what crates/plm-shards/build-tools.sh needs, and libhdf5-dev, which it installs where there
# is apt-get.
set -eu
cd "$(dirname "$0")/../.."
without_cmake=$PATH
tools() {
    set --
    . crates/plm-shards/build-tools.sh
}
tools
work=$CARGO_TARGET_DIR/outside
unset HDF5_DIR HDF5_VERSION CMAKE
# Both ways share it: only what stands on HDF5 is compiled twice.
build_dir=$work/target

fail() {
    echo "tests/outside/run.sh: $*" >&2
    exit 1
}

# One of the blocks of a language in the README's section on the library, by its number.
readme() {
    awk -v fence="\`\`\`$1" -v wanted="$2" '
        /^## / { here = $0 == "## The library" }
        !here { next }
        inside && /^```$/ { inside = 0 }
        inside && n == wanted
        $0 == fence { inside = 1; n++ }' README.md
}

need_system_hdf5() {
    ! pkg-config --exists hdf5 2>/dev/null || return 0
    [ ! -e /usr/include/hdf5/serial/H5pubconf.h ] || return 0
    command -v apt-get >/dev/null ||
        fail "install HDF5's headers (Debian and Ubuntu: libhdf5-dev) and try again"
    as_root=
    [ "$(id -u)" = 0 ] || as_root=sudo
    echo "plm-fleet: installing the system package libhdf5-dev" >&2
    $as_root apt-get update -qq
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libhdf5-dev >/dev/null
}

# A PATH with all that there was, but CMake.
hide_cmake() {
    rm -rf "$work/bin"
    mkdir -p "$work/bin"
    (
        IFS=:
        for folder in $without_cmake; do
            # What is there already comes earlier in PATH.
            ln -s "$folder"/* "$work/bin" 2>/dev/null || :
        done
    )
    rm -f "$work"/bin/cmake*
    without_cmake=$work/bin
    ! (PATH=$without_cmake && command -v cmake) || fail "CMake is still on PATH"
}

# The packages, as a registry would have them, where the README looks for a checkout.
unpack() {
    rm -rf "$work/plm-fleet" "$CARGO_TARGET_DIR/package"
    mkdir -p "$work/plm-fleet/crates"
    cargo package --workspace --locked --no-verify --allow-dirty --quiet \
        --exclude plm-tests --exclude plm-examples --exclude plm-benches --exclude plm-testkit
    for package in "$CARGO_TARGET_DIR"/package/*.crate; do
        name=$(basename "$package" .crate)
        # As of now: the times in packages are always the same, and cargo goes by times.
        tar -xzmf "$package" -C "$work/plm-fleet/crates"
        mv "$work/plm-fleet/crates/$name" "$work/plm-fleet/crates/${name%-*}"
    done
}

# An empty project that depends on plm-fleet by the tables given, with the README's program in it.
project() {
    rm -rf "${work:?}/$1"
    mkdir -p "$work/$1/src/bin"
    cat >"$work/$1/Cargo.toml" <<EOF
[package]
name = "$1"
edition = "2024"

$2

[workspace]

# Where packages find each other: published ones would be in the registry.
[patch.crates-io]
EOF
    for crate in plm-core plm-index plm-hub plm-checkpoint plm-kernels plm-encoder plm-esm2 \
        plm-esmc plm-coordinator plm-shards plm-export; do
        echo "$crate = { path = \"../plm-fleet/crates/$crate\" }" >>"$work/$1/Cargo.toml"
    done
    # The versions that are tested here.
    cp Cargo.lock "$work/$1"
    readme rust 1 >"$work/$1/src/main.rs"
    cp tests/outside/vectors.rs "$work/$1/src/bin"
    cat >"$work/$1/proteins.fasta" <<EOF
>insulin_b
FVNQHLCGSHLVEALYLVCGERGFFYTPKT
>insulin_a
GIVEQCCTSICSLYQLENYCN
>glucagon
HSQGTFTSDYSKYLDSRRAQDFVQWLMNT
EOF
}

# Builds and runs a project, and keeps its programs.
build_and_run() {
    (cd "$work/$1" && CARGO_TARGET_DIR=$build_dir cargo build)
    cp "$build_dir/debug/$1" "$work/$1/program"
    cp "$build_dir/debug/vectors" "$work/$1/vectors"
    (cd "$work/$1" && ./program && ./vectors out/embeddings.h5 >vectors.txt)
    grep -q '^3 of 128$' "$work/$1/vectors.txt" || fail "three proteins were to be embedded"
}

need_system_hdf5
hide_cmake
unpack

project bundled "$(readme toml 1)"
project system "$(readme toml 2)"
build_and_run bundled
(
    PATH=$without_cmake
    unset CMAKE_GENERATOR
    build_and_run system
)
links_hdf5() { readelf --dynamic "$work/$1/program" | grep -q 'NEEDED.*libhdf5'; }
links_hdf5 system || fail "HDF5 should be the system's"
! links_hdf5 bundled || fail "HDF5 should be the bundled one"
cmp "$work/bundled/vectors.txt" "$work/system/vectors.txt"
cmp "$work/bundled/out/embeddings.h5" "$work/system/out/embeddings.h5" ||
    echo "tests/outside/run.sh: the two HDF5s lay the file out differently, which they may" >&2
# Each reads what the other wrote.
"$work/bundled/vectors" "$work/system/out/embeddings.h5" | cmp - "$work/bundled/vectors.txt"
"$work/system/vectors" "$work/bundled/out/embeddings.h5" | cmp - "$work/bundled/vectors.txt"

# With neither, one sentence says what is missing, and no build script of HDF5's.
project neither '[dependencies.plm-fleet]
path = "../plm-fleet/crates/plm-fleet"
default-features = false'
if (cd "$work/neither" && CARGO_TARGET_DIR=$build_dir cargo build) >"$work/neither/log" 2>&1; then
    fail "without an HDF5 there is nothing to build"
fi
grep -q 'error: .*plm-shards needs one of its features: hdf5-bundled' "$work/neither/log" ||
    fail "it should say which features there are: $work/neither/log"
echo "tests/outside/run.sh: the packages build with both HDF5s, and the vectors are the same"
