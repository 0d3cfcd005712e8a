#!/bin/sh
# Locks as base/thread_safety.h declares them, checked by clang: for `make lint`.
#   sh csrc/tests/thread_safety.sh CLANG_TIDY BUILD     BUILD has compile_commands.json
set -eu
tidy=$1
build=$2
if ! "$tidy" --version >/dev/null 2>&1; then
    echo "locks were not checked: there is no clang-tidy" >&2
    exit 0
fi
cd "$(dirname "$0")/../.."
check() {
    xargs -n 1 -P "$(nproc)" "$tidy" --quiet --allow-no-checks -p "$build" \
        --checks='-*,clang-diagnostic-thread-safety*' --warnings-as-errors='*' \
        --extra-arg=-Wthread-safety --extra-arg=-Wthread-safety-beta 2>&1
}
if echo csrc/tests/unlocked.cc | check >/dev/null; then
    echo "the check of locks finds nothing in csrc/tests/unlocked.cc" >&2
    exit 1
fi
ls csrc/store/*.cc csrc/weights/*.cc | check
