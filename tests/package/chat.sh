#!/bin/bash
# chat.sh COMMAND...: holds a short conversation with the chat example that the command starts.
set -euo pipefail
printf '%s\n' 'What is the capital of France? Answer with one word.' 'Thank you.' | "$@" 'You answer very briefly.'
