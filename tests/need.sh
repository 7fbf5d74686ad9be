#!/bin/sh
# need.sh COMMAND=PACKAGE... : installs the Debian packages whose commands are missing, or says which to install.
# A word without "=" is a command that has its package's name; a word that starts with "/" is a file instead of a command.
set -eu

missing=
for word in "$@"; do
    what=${word%%=*}
    package=${word#*=}
    case $what in
    /*) [ -e "$what" ] || missing="$missing $package" ;;
    *) command -v "$what" >/dev/null 2>&1 || missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0

sudo=
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null 2>&1 || ! sudo -n true 2>/dev/null; then
        echo "error: missing:$missing. As root: apt-get install$missing" >&2
        exit 1
    fi
    sudo=sudo
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "error: missing (names are Debian's):$missing" >&2
    exit 1
fi
echo "Installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
# The list of packages may be old or absent: one more try after an update. $missing is a list of words.
install() { $sudo apt-get install -y -q --no-install-recommends $missing </dev/null >&2; }
install || { $sudo apt-get update -q </dev/null >&2 && install; }
