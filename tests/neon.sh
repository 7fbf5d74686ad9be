#!/bin/bash
# neon.sh [FILTER...]: runs the crate's unit tests for 64-bit ARM under qemu-user; by default those of the backends and
# the formats. Called by `make test-neon`.
#
# The compiler is Debian's rustc-web, whose standard library comes for arm64 too. It is unpacked in the cache, not
# installed: that needs no foreign architecture in dpkg and leaves the machine's own toolchain alone.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${INFER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/infer}
root=$cache/rust-arm64
filters=("$@")
[ ${#filters[@]} -gt 0 ] || filters=(backend quant)

fetch_compiler() {
    local work
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/.part-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work"/{lists/partial,cache/archives/partial,debs,root}
    cat >"$work/apt.conf" <<EOF
APT::Architecture "amd64";
APT::Architectures { "amd64"; "arm64"; };
APT::Sandbox::User "";
Dir::State::lists "$work/lists";
Dir::Cache "$work/cache";
EOF
    export APT_CONFIG=$work/apt.conf
    apt-get update -q >&2

    # The packages' names carry versions: the newest compiler says which it needs.
    depends() { apt-cache show --no-all-versions "$1" | sed -n 's/^Depends: //p' | grep -o "$2" | head -n 1; }
    local runtime llvm
    runtime=$(depends libstd-rust-web-dev 'libstd-rust-web-[0-9.]*[0-9]')
    llvm=$(depends "$runtime" 'libllvm[0-9]*')
    (cd "$work/debs" && apt-get download -q rustc-web "$llvm" \
        libstd-rust-web-dev "$runtime" libstd-rust-web-dev:arm64 "$runtime:arm64" >&2)
    for package in "$work"/debs/*.deb; do
        dpkg-deb -x "$package" "$work/root"
    done
    mv -T "$work/root" "$root" 2>/dev/null || [ -d "$root" ] # another run was faster
    rm -rf "$work"
    trap - EXIT
    unset APT_CONFIG
}

if [ "$(uname -m)" = aarch64 ]; then
    exec cargo test --locked --lib -- "${filters[@]}"
fi
[ -x "$root/usr/bin/rustc" ] || fetch_compiler

# Only the compiler itself may see its libraries.
mkdir -p target/neon
cat >target/neon/rustc <<EOF
#!/bin/sh
LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu exec $root/usr/bin/rustc "\$@"
EOF
chmod +x target/neon/rustc

export RUSTC=$PWD/target/neon/rustc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
cargo test --locked --lib --target aarch64-unknown-linux-gnu --target-dir target/neon -- "${filters[@]}" |
    tee target/neon/output
if grep -q '^running 0 tests' target/neon/output; then
    echo "error: no test matches: ${filters[*]}" >&2
    exit 1
fi
