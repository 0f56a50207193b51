#!/usr/bin/env bash
# Sets up everything that building and testing taut needs, from a bare Debian 12 on:
#   1. system packages (installed when root, else the one line to run is printed),
#   2. a virtual environment with the pinned Python packages,
#   3. taut itself, built from this tree and installed into that environment.
# Each part is skipped when nothing it depends on has changed.
#
# Environment:
#   PYTHON  the interpreter (default /usr/bin/python3, else python3 on PATH)
#   VENV    the virtual environment (default .venv)
#   FULL=1  also what `make test FULL=1` needs (valgrind, clang)
#   COMPAT=1  also CPython's own test package
#   BENCH=1   also what `make bench` needs (OpenSSL's headers and command, PostgreSQL, Redis,
#             valgrind), and the rivals of rivals.txt that this machine can install
#   INCIDENTS=1  also the servers of `make incidents` (PostgreSQL, Redis)
#   TESTS=1   also what the C tests link (OpenSSL's headers)
#   FUZZ=1    also what `make fuzz` needs (clang with its libFuzzer, OpenSSL's headers)
#   STAGE   where to stop: system, venv or taut (default)
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C.UTF-8

VENV=${VENV:-.venv}
STAGE=${STAGE:-taut}
say() { printf 'taut: %s\n' "$*"; }
die() { printf 'taut: %s\n' "$*" >&2; exit 1; }

choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" || return 1
    elif [ -x /usr/bin/python3 ]; then
        echo /usr/bin/python3
    else
        command -v python3
    fi
}

# True when the interpreter comes from the distribution, so that its headers and its venv module
# are packages of their own.
is_distribution_python() {
    case "$(readlink -f "$1")" in /usr/bin/*) return 0 ;; *) return 1 ;; esac
}

missing_packages() {
    local python tag
    command -v gcc >/dev/null && echo 'int main(void){return 0;}' |
        gcc -x c -fsanitize=address,undefined - -o /dev/null 2>/dev/null || echo gcc libc6-dev
    command -v nm >/dev/null || echo binutils
    if python=$(choose_python) && [ -n "$python" ]; then
        tag=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        if is_distribution_python "$python"; then
            "$python" - <<'P' || echo python3-dev
import os.path, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))
P
            "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
            if [ -n "${COMPAT:-}" ]; then
                "$python" -c 'import test.test_asyncio' 2>/dev/null || echo "libpython$tag-testsuite"
            fi
        fi
    else
        echo python3 python3-dev python3-venv
    fi
    if [ -n "${FULL:-}" ]; then
        command -v valgrind >/dev/null || echo valgrind
        command -v clang >/dev/null || echo clang
    fi
    if [ -n "${TESTS:-}${FUZZ:-}${BENCH:-}" ]; then
        echo '#include <openssl/ssl.h>' | gcc -E -x c - -o /dev/null 2>/dev/null || echo libssl-dev
    fi
    [ -z "${BENCH:-}" ] || command -v openssl >/dev/null || echo openssl
    if [ -n "${BENCH:-}${INCIDENTS:-}" ]; then
        command -v redis-server >/dev/null || echo redis-server
        command -v postgres >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/postgres' \
            >/dev/null || echo postgresql
    fi
    if [ -n "${BENCH:-}" ]; then
        command -v valgrind >/dev/null || [ -n "${FULL:-}" ] || echo valgrind
    fi
    if [ -n "${FUZZ:-}" ]; then
        [ -n "${FULL:-}" ] || command -v clang >/dev/null || echo clang
        echo 'int LLVMFuzzerTestOneInput(void){return 0;}' |
            clang -x c -fsanitize=fuzzer,address,undefined - -o /dev/null 2>/dev/null ||
            echo libclang-rt-dev
    fi
}

install_system_packages() {
    local want before=
    while want=$(missing_packages | tr '\n' ' ' | sed 's/ *$//'); [ -n "$want" ]; do
        if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
            die "system packages are missing; run this line, then make again:
  sudo apt-get update && sudo apt-get install -y $want"
        fi
        [ "$want" != "$before" ] || die "still missing after the installation: $want"
        say "installing system packages: $want"
        [ -n "$before" ] || apt-get update -qq </dev/null
        # shellcheck disable=SC2086 # a list of names
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $want \
            </dev/null >/dev/null || die "apt-get could not install: $want"
        before=$want # what came may show what else is missing: a new Python's test package
    done
}

digest() { sha256sum | cut -d' ' -f1; }

make_venv() {
    local python stamp now requirements=()
    python=$(choose_python) || die "no Python found (PYTHON=${PYTHON:-})"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$("$python" -V) is too old: taut needs 3.11 or later (PYTHON=... chooses another)"
    for f in tools/requirements-*.txt tests/requirements.txt; do
        [ ! -f "$f" ] || requirements+=("$f")
    done
    stamp=$VENV/taut-venv.stamp
    now=$({ readlink -f "$python"; "$python" -VV; pwd; cat "${requirements[@]}"; } | digest)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$now" ]; then
        return 0
    fi
    say "creating $VENV with $("$python" -V) ($python)"
    rm -rf "$VENV"
    "$python" -m venv "$VENV"
    mkdir -p build
    # shellcheck disable=SC2046 # a list of options
    "$VENV/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
        --only-binary ':all:' $(printf -- '-r %s ' "${requirements[@]}") \
        </dev/null >build/venv.log 2>&1 ||
        { cat build/venv.log >&2; die "pip could not install the pinned packages"; }
    echo "$now" >"$stamp"
}

# Rivals without a wheel for this machine are not compared; that they are missing is said once.
install_rivals() {
    local stamp=$VENV/taut-rivals.stamp now rival
    now=$(cat "$VENV/taut-venv.stamp" tools/rivals.txt | digest)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$now" ]; then
        return 0
    fi
    while read -r rival; do
        case $rival in '' | '#'*) continue ;; esac
        "$VENV/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
            --only-binary ':all:' "$rival" </dev/null >build/rivals.log 2>&1 ||
            say "not compared, since it does not install here: $rival"
    done <tools/rivals.txt
    echo "$now" >"$stamp"
}

install_taut() {
    local stamp=$VENV/taut-install.stamp log tag now now_venv
    now_venv=$(cat "$VENV/taut-venv.stamp")
    now=$({ find src python meson.build meson.options pyproject.toml README.md LICENSE -type f \
        ! -name '*.pyc' ! -name '*.so' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
        echo "$now_venv"; } | digest)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$now" ]; then
        return 0
    fi
    tag=$("$VENV/bin/python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
    mkdir -p build
    log=build/install-$tag.log
    say "building and installing taut for Python $tag"
    # A release build without link-time optimisation, which would double the time for nothing that
    # a test sees; the build directory is kept, so that the next build is incremental.
    rebuild() {
        PATH="$(realpath "$VENV/bin"):$PATH" "$VENV/bin/python" -m pip install --quiet --no-input \
            --disable-pip-version-check --no-build-isolation --no-deps --force-reinstall \
            --config-settings=build-dir="build/py-$tag" \
            --config-settings=setup-args=-Db_lto=false . </dev/null >"$log" 2>&1
    }
    # A directory configured by another version of the tools, or elsewhere, is of no use.
    local origin="$now_venv $PWD"
    [ "$(cat "build/py-$tag.origin" 2>/dev/null)" = "$origin" ] || rm -rf "build/py-$tag"
    echo "$origin" >"build/py-$tag.origin"
    rebuild || { cat "$log" >&2; die "the build failed (see $log)"; }
    echo "$now" >"$stamp"
}

install_system_packages
[ "$STAGE" != system ] || exit 0
make_venv
[ -z "${BENCH:-}" ] || install_rivals
[ "$STAGE" != venv ] || exit 0
install_taut
