# Puts the tools that compile the bundled HDF5 on PATH: CMake 3.26 or newer, which Debian 12 lacks,
# and Ninja. Scripts that build plm-fleet source this file. Missing tools come from PyPI.
#
# More PyPI packages may be named as arguments: run `set -- h5py` before sourcing. $tools_python is
# a Python that has them.
#
# This needs Python 3, the root of the workspace as the current directory, and the network at the
# first run.

# Build scripts and tests run in other directories, so a relative target directory is made absolute.
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
    # Debian and Ubuntu have venv in a separate package.
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
    # A marker file for installed packages saves the network at later runs.
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
