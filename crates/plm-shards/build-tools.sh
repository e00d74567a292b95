# Sourced by the scripts that build plm-fleet: puts what the bundled HDF5 needs to compile on PATH
# (CMake >= 3.26, which Debian 12 lacks, and Ninja), fetched from PyPI if it is missing. Further
# PyPI packages may be named as arguments, as `set -- h5py` before sourcing; $tools_python is a
# Python that has them.
#
# Needs Python 3, the current directory at the root of the workspace, and, the first time, the
# network.

# Build scripts and tests run in other directories than this one, so a relative target directory
# must not stay so.
case ${CARGO_TARGET_DIR:=$PWD/target} in
    /*) ;;
    *) CARGO_TARGET_DIR=$PWD/$CARGO_TARGET_DIR ;;
esac
export CARGO_TARGET_DIR
tools_dir=$CARGO_TARGET_DIR/tools
tools_python=$tools_dir/bin/python3

has_new_cmake() {
    cmake --version 2>/dev/null | awk '
        NR == 1 { split($3, v, "."); new = v[1] > 3 || v[1] == 3 && v[2] >= 26 }
        END { exit !new }'
}

make_environment() {
    [ -x "$tools_dir/bin/pip" ] && return
    mkdir -p "$tools_dir"
    rm -rf "$tools_dir"
    python3 -m venv "$tools_dir" >/dev/null 2>&1 && return
    # Debian and Ubuntu keep venv in a package of its own.
    as_root=
    [ "$(id -u)" = 0 ] || as_root=sudo
    if command -v apt-get >/dev/null && { [ -z "$as_root" ] || command -v sudo >/dev/null; }; then
        echo "plm-fleet: installing the system package python3-venv" >&2
        $as_root apt-get update -qq
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
        rm -rf "$tools_dir"
        python3 -m venv "$tools_dir" && return
    fi
    echo "plm-fleet: this Python cannot make virtual environments: install the package python3-venv and try again" >&2
    return 1
}

has_new_cmake || set -- "$@" cmake
command -v ninja >/dev/null || command -v make >/dev/null || set -- "$@" ninja
if [ $# -gt 0 ]; then
    # A mark for what is there makes a second run need no network.
    mark=$tools_dir/has-$(echo "$*" | tr ' ' -)
    if [ ! -e "$mark" ]; then
        make_environment
        echo "plm-fleet: fetching $* from PyPI" >&2
        "$tools_dir/bin/pip" install --quiet --disable-pip-version-check "$@"
        : >"$mark"
    fi
    PATH=$tools_dir/bin:$PATH
    export PATH
fi
if command -v ninja >/dev/null; then
    CMAKE_GENERATOR=Ninja
    export CMAKE_GENERATOR
fi
