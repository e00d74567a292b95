# Sourced by the scripts that build plm-fleet with `--features cuda`: besides what
# crates/plm-shards/build-tools.sh puts on PATH (and with the arguments that it takes), CUDA's
# compiler. A CUDA_HOME with a CUDA 13.0 is taken as it is; otherwise the compiler comes from PyPI,
# into the target directory. Neither a GPU nor a driver is needed.
#
# Needs Python 3, a C++ compiler, the current directory at the root of the workspace, and, the first
# time, the network.

. crates/plm-shards/build-tools.sh

# Not newer: a driver can't compile the PTX of a compiler that is newer than itself, and 580 is CUDA
# 13.0's.
cuda_version=13.0.88
cuda_dir=$CARGO_TARGET_DIR/cuda-$cuda_version

is_cuda_13_0() {
    [ -n "$1" ] && "$1/bin/nvcc" --version 2>/dev/null | grep -q 'release 13\.0'
}

fetch_cuda() {
    [ -d "$cuda_dir" ] && return
    make_environment || return
    echo "plm-fleet: fetching nvcc $cuda_version from PyPI (104 MB)" >&2
    rm -rf "$cuda_dir.part"
    "$tools_dir/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "$cuda_dir.part" \
        "nvidia-cuda-nvcc==$cuda_version" "nvidia-cuda-crt==$cuda_version" "nvidia-nvvm==$cuda_version" \
        nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 || return
    # Under its name only once it is whole.
    mv "$cuda_dir.part" "$cuda_dir"
}

if ! is_cuda_13_0 "${CUDA_HOME:-}"; then
    [ -z "${CUDA_HOME:-}" ] || echo "plm-fleet: $CUDA_HOME has no nvcc of CUDA 13.0: passed over" >&2
    fetch_cuda
    # All of the wheels unpack into this one tree.
    CUDA_HOME=$cuda_dir/nvidia/cu13
fi
PATH=$CUDA_HOME/bin:$PATH
# What candle's own kernels are compiled for. 80 is PTX that every GPU from the A100 on can take; 90
# would be Hopper's alone.
CUDA_COMPUTE_CAP=80
# Compilers that run side by side; otherwise candle's build takes half of the cores, which is one of
# two.
CUDAFORGE_THREADS=${CUDAFORGE_THREADS:-2}
export CUDA_HOME PATH CUDA_COMPUTE_CAP CUDAFORGE_THREADS
