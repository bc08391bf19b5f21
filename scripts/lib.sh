# shellcheck shell=bash
# Shared by the scripts of this folder; sourced, never run.
#
# Two rules are kept here: nothing is built as root in a user's tree, and root is asked
# for only by the steps that need it.

set -euo pipefail

root_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Everything that the scripts fetch or make, apart from cargo's own output.
# shellcheck disable=SC2034
build_dir=$root_dir/.build
cd "$root_dir"

say() { printf '%s\n' "$*"; }
warn() { printf '%s\n' "$*" >&2; }
die() { warn "error: $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# A login shell has these in PATH; make, CI and sudo often do not.
PATH=$PATH:$HOME/.cargo/bin:/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin
export PATH

# as_root COMMAND…: runs it as root, with our PATH (sudo has one of its own).
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo; then
        sudo env "PATH=$PATH" "$@"
    else
        die "this step needs root and there is no sudo: run it again as root ($*)"
    fi
}

# Whether as_root can work without asking anybody.
can_be_root() { [ "$(id -u)" = 0 ] || { have sudo && sudo -n true 2>/dev/null; } || { have sudo && [ -t 0 ]; }; }

# as_owner COMMAND…: runs it as the owner of the tree. Under `sudo make` that is the user
# who called, so that target/ and .build/ stay that user's.
as_owner() {
    local uid
    uid=$(stat -c %u "$root_dir")
    if [ "$(id -u)" != 0 ] || [ "$uid" = 0 ]; then
        "$@"
    else
        local name home
        name=$(id -un "$uid")
        home=$(getent passwd "$uid" | cut -d: -f6)
        setpriv --reuid "$uid" --regid "$(id -g "$name")" --init-groups \
            env "HOME=$home" "USER=$name" "PATH=$home/.cargo/bin:$PATH" "$@"
    fi
}

# The names of all plugins: a folder each, and the name of the binary in it.
plugins() {
    local dir
    for dir in "$root_dir"/plugins/*/ "$root_dir"/ipam/*/; do
        if [ -f "${dir}Cargo.toml" ]; then basename "$dir"; fi
    done
}

# The machine's own architecture, as Rust spells it.
host_triple() { as_owner rustc -vV | sed -n 's/^host: //p'; }

# The target that binaries for this machine are built for.
native_target() {
    local host
    host=$(host_triple)
    say "${host%%-*}-unknown-linux-musl"
}

# Whether the standard library of a target is there, or can be fetched.
have_target() {
    local libs
    libs=$(as_owner rustc --print target-libdir --target "$1" 2>/dev/null) || return 1
    if [ -d "$libs" ] && ls "$libs"/libstd-*.rlib >/dev/null 2>&1; then return 0; fi
    as_owner sh -c 'command -v rustup >/dev/null' || return 1
    say "adding the Rust target $1"
    as_owner rustup target add "$1" || return 1
}

# Cargo's output folder, also where the environment moves it.
target_dir() { say "${CARGO_TARGET_DIR:-$root_dir/target}"; }

# Prints the paths of the programs of the crate `tests`, compiled if need be; what cargo says goes to stderr.
test_programs() {
    local built
    built=$(as_owner cargo test ${CI:+--locked} -p tests --no-run --message-format=json-render-diagnostics) || return
    sed -n '/"overflow_checks":[a-z]*,"test":true/s/.*"executable":"\([^"]*\)".*/\1/p' <<<"$built" | grep . ||
        die "cargo built no test program"
}

# new_report FILE: an empty one for the rows of this run, which its owner and root can add to.
new_report() {
    export OXBRIDGE_REPORT=$1
    as_owner mkdir -p "${1%/*}"
    rm -f "$1"
    as_owner touch "$1"
}

# not_here WHAT: it cannot be run here. That is said; CI is to run everything, and fails.
not_here() {
    if [ -n "${CI:-}" ]; then die "$*"; fi
    say "skipped: $*"
}

# report_row KIND NAME VERSION WHAT RESULT COUNTS: a row for docs/compatibility.md, as the tests leave it
# (tests/src/report.rs), where OXBRIDGE_REPORT names a file for it. No quotes in the values.
report_row() {
    if [ -z "${OXBRIDGE_REPORT:-}" ]; then return; fi
    local optional=false
    if [ -n "${OXBRIDGE_OPTIONAL:-}" ]; then optional=true; fi
    printf '{"kind":"%s","name":"%s","version":"%s","what":"%s","result":"%s","counts":"%s","optional":%s}\n' \
        "$@" "$optional" >>"$OXBRIDGE_REPORT"
}

# counts_of FILE: what test programs say at their ends, added up: "passed failed skipped expected-to-fail", or nothing.
# A test that is skipped, or fails as expected, says so in a line of its own; its program takes it for passed.
counts_of() {
    awk '
        { sub(/\r$/, "") }
        /^test result: / || /: [0-9]+ passed, [0-9]+ failed/ {
            for (i = 2; i <= NF; i++) {
                if ($i ~ /^passed/) passed += $(i - 1)
                if ($i ~ /^failed/) failed += $(i - 1)
            }
            any = 1
        }
        /^skipped: [a-z0-9_:]+: / { skipped++ }
        /^expected failure: / { expected++ }
        END { if (any) print passed - skipped - expected, failed + 0, skipped + 0, expected + 0 }
    ' "$1"
}

# any_passed FILE: whether a test in it passed. A run that skips all it has, or has none, shows nothing.
any_passed() {
    local counts
    counts=$(counts_of "$1")
    counts=${counts:-0}
    [ "${counts%% *}" -gt 0 ]
}

# in_words PASSED FAILED SKIPPED EXPECTED: the counts that are not 0, and the first.
in_words() {
    local words="$1 passed"
    if [ "$2" != 0 ]; then words="$words, $2 failed"; fi
    if [ "$3" != 0 ]; then words="$words, $3 skipped"; fi
    if [ "$4" != 0 ]; then words="$words, $4 failed as expected"; fi
    say "$words"
}
