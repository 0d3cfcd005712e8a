#!/bin/sh
# The C++ tests under AddressSanitizer + UBSan, then under ThreadSanitizer.
#   sh csrc/tests/sanitize.sh [PYTHON]     cmake and ninja are installed there if they are missing
set -eu
python=$(command -v "${1:-python3}")
PATH=$(dirname "$python"):$PATH
cd "$(dirname "$0")/../.."
if ! command -v cmake >/dev/null || ! command -v ninja >/dev/null; then
    "$python" -m pip install -q --disable-pip-version-check cmake ninja
fi
for sanitizers in address,undefined thread; do
    build=build/sanitize-$sanitizers
    cmake -S . -B "$build" -G Ninja -DNSPJAX_SANITIZE="$sanitizers"
    ninja -C "$build" -j "$(nproc)"
    UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1 \
        ctest --test-dir "$build" --output-on-failure
done
