#!/bin/sh
# Plants each bug of this directory in a copy of the tree, and requires that the tests that ought to
# notice it fail. Arguments are names of patches, without which all are planted, as in
# `tests/planted/run.sh name_not_synced`.
#
# A patch begins with what is wrong then, and with the arguments of `cargo test` that notice it, a
# line each. These tests pass without the patch, or the table says so. A patch that no longer
# applies is an error: write it anew.
set -eu
cd "$(dirname "$0")/../.."
# In a function, whose arguments it may change.
build_tools() {
    set --
    . crates/plm-shards/build-tools.sh
}
build_tools
tree=$PWD
planted=$tree/tests/planted
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
trap 'exit 1' INT TERM

# What git knows or would: no build outputs. Of those, the ones of dependencies, so that they need
# not be built again.
git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -x -C "$copy"
mkdir -p "$copy/target/debug"
for seed in .fingerprint build deps; do
    [ ! -e "$CARGO_TARGET_DIR/debug/$seed" ] || cp -a "$CARGO_TARGET_DIR/debug/$seed" "$copy/target/debug/"
done
CARGO_TARGET_DIR=$copy/target
export CARGO_TARGET_DIR
cd "$copy"

log=$copy/log
# Builds and runs tests; says ok, FAILED, NO TESTS or NO BUILD.
outcome() {
    # shellcheck disable=SC2086 # The arguments are several.
    if ! cargo test --locked --quiet --no-run $1 >"$log" 2>&1; then
        echo "NO BUILD"
    elif cargo test --locked $1 >"$log" 2>&1; then
        grep -q ' [1-9][0-9]* passed' "$log" && echo ok || echo "NO TESTS"
    else
        echo FAILED
    fi
}

noticers() {
    sed -n 's/^Noticed by: //p' "$1"
}

[ $# -gt 0 ] || set -- $(ls "$planted" | sed -n 's/\.patch$//p')
failures=0
tell() {
    echo "| $1 | \`$2\` | $3 |"
    case $3 in ok | noticed) ;; *)
        failures=$((failures + 1))
        tail -n 40 "$log" >&2
        ;;
    esac
}

echo "| planted | cargo test ... | result |"
echo "|---|---|---|"
for name in "$@"; do
    noticers "$planted/$name.patch"
done | sort -u >"$copy/noticers"
# From a file, and not through a pipe, whose end would forget what was counted.
while read -r arguments; do
    tell nothing "$arguments" "$(outcome "$arguments")"
done <"$copy/noticers"

for name in "$@"; do
    patch=$planted/$name.patch
    if ! git apply --check "$patch" >"$log" 2>&1; then
        tell "$name" "" "DOES NOT APPLY"
        continue
    fi
    git apply "$patch"
    noticers "$patch" >"$copy/noticers"
    while read -r arguments; do
        result=$(outcome "$arguments")
        case $result in
            FAILED) result=noticed ;;
            ok) result="NOT NOTICED" ;;
        esac
        tell "$name" "$arguments" "$result"
    done <"$copy/noticers"
    git apply --reverse "$patch"
done
[ "$failures" = 0 ] || {
    echo "$failures of these are not as they should be" >&2
    exit 1
}
