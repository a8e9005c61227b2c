#!/bin/sh
# ptxas_test.sh: NVIDIA's assembler takes the PTX for every architecture it knows, without spilling.
here=$(dirname "$0")/../../../plugins/cuda
command -v ptxas >/dev/null || { echo "no ptxas"; exit 77; }
known=$(ptxas --help | grep -oE "sm_[0-9]+'" | tr -d "'" | sort -u)
count=0
for gpu in sm_61 sm_70 sm_75 sm_80 sm_86 sm_89 sm_90 sm_100 sm_120; do
    echo "$known" | grep -qx $gpu || continue
    for file in cuda_base cuda_dp4a cuda_mma; do
        [ $file = cuda_mma ] && [ "${gpu#sm_}" -lt 80 ] && continue
        out=$(ptxas -v -arch=$gpu "$here/$file.ptx" -o /dev/null 2>&1) || { echo "$gpu $file: $out"; exit 1; }
        if echo "$out" | grep -E '[1-9][0-9]* bytes (stack frame|spill)'; then
            echo "$gpu $file: registers do not suffice"
            exit 1
        fi
        count=$((count + 1))
    done
done
echo "$count modules assembled"
[ $count -gt 0 ]
