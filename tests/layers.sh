#!/usr/bin/env bash
# layers.sh: includes go downwards only, and no two files of the product share a name.
set -u
cd "$(dirname "$0")/.." || exit 1
bad=0

# room: the prefixes that its project includes may start with
allowed() {
    case $1 in
    protocol) echo 'protocol/' ;;
    hal) echo 'protocol/ hal/ plugins/scalar/scalar.h' ;;
    plugins) echo 'protocol/err.h hal/hal.h hal/block.h hal/half.h plugins/' ;;
    model) echo 'protocol/ hal/ model/' ;;
    compress) echo 'protocol/ hal/ model/ compress/' ;;
    agent) echo 'protocol/ hal/ model/ compress/ agent/' ;;
    controller) echo 'protocol/ compress/ model/ hal/block.h controller/' ;;
    cli) echo 'protocol/ hal/ plugins/scalar/scalar.h model/ compress/ cli/' ;;
    esac
}

for room in protocol hal plugins model compress agent controller cli; do
    while IFS=: read -r file line include; do
        path=$(sed -E 's/.*"([^"]+)".*/\1/' <<<"$include")
        case $path in generated/*) continue ;; esac
        ok=0
        for prefix in $(allowed "$room"); do
            case $path in "$prefix"*) ok=1 ;; esac
        done
        if [ $ok -eq 0 ]; then
            echo "$file:$line: $room may not include \"$path\""
            bad=1
        fi
    done < <(grep -rnE '^[[:space:]]*#[[:space:]]*include[[:space:]]+"' --include='*.[ch]' "$room" 2>/dev/null)
done

same=$(find protocol hal plugins model compress agent controller cli -name '*.[ch]' -printf '%f\n' 2>/dev/null | sort | uniq -d)
if [ -n "$same" ]; then
    echo "files of one name: $same"
    bad=1
fi
[ $bad -eq 0 ] && echo "layers: all includes point downwards, file names are unique"
exit $bad
