#!/bin/bash
# expect.sh PATTERN COMMAND...: the command must succeed, and its output (lines joined by spaces) match the pattern.
set -uo pipefail
pattern=$1
shift
output=$("$@" </dev/null 2>&1)
status=$?
printf '%s\n' "$output"
[ $status = 0 ] || { echo "expect.sh: exit status $status" >&2; exit 1; }
tr '\n' ' ' <<<"$output" | grep -Eq -- "$pattern" || { echo "expect.sh: the output does not match: $pattern" >&2; exit 1; }
