#!/usr/bin/env bash
# arm64.sh TARE: the neon plugin, cross-built, against scalar under qemu on four processors: one that has only the
# base instructions, two with sdot, one with everything; and `tare quantize` against TARE, the native one: the same
# bytes. No time counts here, only agreement.
set -eu
tare=$(realpath "$1")
cd "$(dirname "$0")/../.."
for tool in aarch64-linux-gnu-gcc qemu-aarch64; do
    command -v "$tool" >/dev/null || { echo "skipped: $tool is absent"; exit 77; }
done
script/sysroot || { echo "skipped: the arm64 libraries cannot be fetched"; exit 77; }
cmake --preset arm64 >build/arm64.log 2>&1 && cmake --build --preset arm64 --target neon check_plugins tare >>build/arm64.log 2>&1 ||
    { tail -n 30 build/arm64.log; exit 1; }
bin=build/arm64/bin/check_plugins
plugin=build/arm64/lib/tare/plugins/neon.so
for cpu in cortex-a72 cortex-a76 neoverse-n1 max; do
    echo "-cpu $cpu"
    timeout 400 qemu-aarch64 -L build/arm64-sysroot -cpu $cpu "$bin" "$plugin" || exit 1
done

kept=$(mktemp -d)
trap 'rm -rf "$kept"' EXIT
PLUGINS=scalar THREADS=2 tests/compress/identity.sh "$tare" "$kept"
PLUGINS=neon THREADS=4 tests/compress/identity.sh build/arm64/bin/tare "$kept" qemu-aarch64 -L build/arm64-sysroot -cpu max
