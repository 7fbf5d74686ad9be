#!/bin/bash
# pkg_config.sh PKGCONFIG_DIR SOURCE OUTPUT_DIR: builds the C source with what pkg-config says of `infer`, and of `llama`.
set -euo pipefail
export PKG_CONFIG_PATH=$1
for package in infer llama; do
    # The flags are words.
    # shellcheck disable=SC2046
    "${CC:-cc}" -std=c11 -Wall -Wextra -Werror "$2" -o "$3/simple_pkg_config" \
        $(pkg-config --cflags --libs "$package") -Wl,-rpath,"$(pkg-config --variable=libdir "$package")"
done
