#!/bin/sh
# make_ptx.sh FOLDER: the kernels' PTX text into FOLDER, by clang 14 in OpenCL mode (another version
# writes other text; the text kept in the tree is version 14's). CLANG names the compiler.
set -eu
to=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
make() { # file, GPU, PTX version
    "${CLANG:-clang}" -x cl -cl-std=CL1.2 --target=nvptx64-nvidia-cuda -Xclang -target-cpu -Xclang "$2" \
        -Xclang -target-feature -Xclang "+$3" -I. -Wall -Werror -ffp-contract=off -O3 -S \
        "plugins/cuda/$1.c" -o "$to/$1.raw"
    sed -e '/^[[:space:]]*\/\//d' -e '/^[[:space:]]*$/d' "$to/$1.raw" >"$to/$1.ptx"
    rm "$to/$1.raw"
}
make cuda_base sm_61 ptx60
make cuda_dp4a sm_61 ptx60
make cuda_mma sm_80 ptx70
