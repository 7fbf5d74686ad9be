#!/bin/bash
# expect_failure.sh PATTERN COMMAND...: the command must fail by itself, not by a signal, with output that matches.
set -uo pipefail
pattern=$1
shift
output=$("$@" </dev/null 2>&1)
status=$?
printf '%s\n' "$output"
if [ $status = 0 ] || [ $status -ge 126 ]; then
    echo "expect_failure.sh: exit status $status" >&2
    exit 1
fi
grep -Eq -- "$pattern" <<<"$output" || { echo "expect_failure.sh: the output does not match: $pattern" >&2; exit 1; }
