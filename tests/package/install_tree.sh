#!/bin/bash
# install_tree.sh PREFIX LIBDIR: the install tree has what README promises, and every library name leads to one file.
set -euo pipefail
cd "$1/$2"

version=$(ls libinfer.so.*.*.* | sed 's/^libinfer\.so\.//')
file=libinfer.so.$version
soname=libinfer.so.${version%%.*}

fail() {
    echo "install_tree.sh: $*" >&2
    exit 1
}

readelf -d "$file" | grep -q "SONAME.*\[$soname\]" || fail "$file has not the SONAME $soname"
[ "$(readlink libinfer.so)" = "$soname" ] || fail "libinfer.so is no link to $soname"
[ "$(readlink "$soname")" = "$file" ] || fail "$soname is no link to $file"
for name in llama ggml ggml-base ggml-cpu; do
    for link in lib$name.so lib$name.so.0; do
        [ "$(readlink "infer/compat/$link")" = "../../$soname" ] || fail "compat/$link is no relative link to $soname"
        [ "infer/compat/$link" -ef "$file" ] || fail "compat/$link is not $file"
    done
done
[ -f libinfer.a ] || fail "libinfer.a is missing"
for header in llama.h ggml.h infer.h; do
    [ -f "$1/include/$header" ] || fail "$header is missing"
done
