#!/usr/bin/env bash
# Installs what compiles kernels/*.cu for NVIDIA GPUs into target/cuda-toolkit,
# where build.rs looks, for machines without a CUDA toolkit. It needs python3
# with pip, about 360 MB of disk, and a C++ compiler as nvcc always does; it
# needs no GPU and no rights, and touches no Python environment.
#
#     scripts/cuda-toolkit.sh && cargo build --release
#
# NVIDIA's licence lets you install these packages but not pass them on.
set -euo pipefail

# CUDA 13.0 update 2. Kernels built with it run under any driver from 580 on;
# a later compiler's PTX would ask for a later driver.
packages=(
    nvidia-cuda-nvcc==13.0.88
    nvidia-nvvm==13.0.88
    nvidia-cuda-crt==13.0.88
    nvidia-cuda-runtime==13.0.96
    nvidia-cuda-cccl==13.0.85
    # For `eosin kernels`: they read what any earlier compiler made.
    nvidia-cuda-cuobjdump==13.2.51
    nvidia-cuda-nvdisasm==13.2.51
)

script=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/$(basename "${BASH_SOURCE[0]}")
target=$(dirname "$(dirname "$script")")/target
toolkit=$target/cuda-toolkit
nvcc=$toolkit/nvidia/cu13/bin/nvcc
# Written last: a toolkit with this list in it is whole.
list=$toolkit/packages.txt

if [[ ! -x $nvcc || $(cat "$list" 2>/dev/null) != "${packages[*]}" ]]; then
    if ! python3 -m pip --version >/dev/null 2>&1; then
        echo "cuda-toolkit.sh: python3 with pip is needed; install them, or set NVCC to the nvcc of a toolkit" >&2
        exit 1
    fi
    mkdir -p "$target"
    fresh=$(mktemp -d "$target/cuda-toolkit.XXXXXX")
    trap 'rm -rf "$fresh"' EXIT
    # --no-deps: nothing but the pinned packages, whatever they name besides. The
    # warning about root is for environments, of which none is touched.
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --no-deps --only-binary :all: --target "$fresh" "${packages[@]}"
    echo "${packages[*]}" >"$fresh/packages.txt"
    chmod 755 "$fresh"
    rm -rf "$toolkit"
    mv "$fresh" "$toolkit"
    # build.rs watches this file, since it cannot watch a toolkit that does not
    # exist yet: a newer time makes the next build look for nvcc again.
    touch "$script"
fi

echo "$nvcc"
"$nvcc" --version | grep '^Cuda compilation tools'
