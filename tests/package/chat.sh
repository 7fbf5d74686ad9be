#!/bin/bash
# chat.sh N COMMAND...: says the first N lines of a short conversation to the chat example that the command starts.
set -euo pipefail
n=$1
shift
head -n "$n" <<<'What is the capital of France? Answer with one word.
Thank you.' | "$@" 'You answer very briefly.'
