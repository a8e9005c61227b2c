#!/bin/sh
# ptx_test.sh: is the PTX text in the tree what its source gives? Another clang writes other text, so
# only version 14 can tell.
here=$(dirname "$0")/../../../plugins/cuda
for CLANG in clang-14 clang; do
    "$CLANG" --version 2>/dev/null | grep -q 'version 14\.' && break
    CLANG=
done
[ -n "$CLANG" ] || { echo "no clang 14"; exit 77; }
export CLANG
new=$(mktemp -d) || exit 1
trap 'rm -rf "$new"' EXIT
"$here/make_ptx.sh" "$new" || exit 1
for file in cuda_base.ptx cuda_dp4a.ptx cuda_mma.ptx; do
    cmp "$here/$file" "$new/$file" || { echo "run plugins/cuda/make_ptx.sh plugins/cuda"; exit 1; }
    # rounding is as written: nothing fused or flushed behind the source's back
    if grep -nE '\.ftz|div\.(approx|full)|\.contract' "$new/$file"; then exit 1; fi
done
echo "the PTX in the tree matches its source"
