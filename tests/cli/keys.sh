#!/usr/bin/env bash
# keys.sh TARE: keygen, sign and verify as a user meets them, and stock minisign in between.
set -u
tare=$1
folder=$(mktemp -d) && cd "$folder" || exit 1
trap 'rm -rf "$folder"' EXIT
bad=0
# expect STATUS WHAT COMMAND...
expect() {
    local want=$1 what=$2
    shift 2
    "$@" >out 2>err </dev/null
    local got=$?
    if [ $got -ne "$want" ]; then
        echo "$what: status $got, expected $want: $(cat err)"
        bad=1
    fi
}
head -c 100000 /dev/urandom >file
expect 0 'keygen' "$tare" keygen -o a.key
expect 3 'keygen does not replace' "$tare" keygen -o a.key
[ "$(stat -c %a a.key)" = 600 ] || { echo "a.key: mode is not 600"; bad=1; }
expect 0 'sign' "$tare" sign -k a.key file --comment 'role=targets version=1'
expect 0 'verify' "$tare" verify -k a.key.pub file
grep -q 'role=targets version=1' out || { echo "verify: no trusted comment"; bad=1; }
expect 0 'verify --json' "$tare" verify -k "$(tail -1 a.key.pub)" file --json
grep -q '"verified": true' out || { echo "verify --json: $(cat out)"; bad=1; }
expect 0 'keygen b' "$tare" keygen -o b.key --role director --public b.pub
expect 3 'another key' "$tare" verify -k b.pub file
expect 3 'no key' "$tare" verify -k none file
expect 2 'usage' "$tare" sign file
if command -v minisign >/dev/null; then
    expect 0 'stock minisign verifies' minisign -V -H -p a.key.pub -m file
    expect 0 'stock minisign signs' minisign -S -W -s a.key -m file
    expect 0 'verify stock' "$tare" verify -k a.key.pub file
fi
echo x >>file
expect 1 'altered' "$tare" verify -k a.key.pub file
chmod 644 a.key
expect 3 'open key' "$tare" sign -k a.key file
exit $bad
