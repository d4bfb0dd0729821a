# shellcheck shell=bash
# What bin/run, bin/test and bin/bench have in common before Python takes over: Debian packages, the venv, the front end.
# Every step looks first and does nothing when there is nothing to do.

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)"
venv="$root/var/venv"
setup_log="$root/var/log/setup.log"

say() { printf '%s\n' "$*"; }

die() {
    printf '%s\n' "$*" >&2
    exit 1
}

# Runs a command with its output in the setup log; shows the log's end if it fails.
logged() {
    mkdir -p "${setup_log%/*}"
    "$@" >>"$setup_log" 2>&1 </dev/null || {
        tail -n 15 "$setup_log" >&2
        return 1
    }
}

# --- Debian packages ---------------------------------------------------------------------------------------------

# The lines of sections of packages.txt, each a package or alternatives.
listed_packages() {
    awk -v wanted=" $* " '
        /^\[.*\]$/ { inside = index(wanted, " " substr($0, 2, length($0) - 2) " "); next }
        inside && !/^#/ && NF { gsub(/[ \t]*\|[ \t]*/, "|"); print $1 }
    ' "$root/bin/packages.txt"
}

# Lines none of whose alternatives is installed.
missing_packages() {
    local installed line
    installed=" $(dpkg-query -W -f '${db:Status-Status}:${Package} ' 2>/dev/null) "
    while read -r line; do
        local name found=
        for name in ${line//|/ }; do
            [[ $installed == *" installed:$name "* ]] && found=yes
        done
        [[ -n $found ]] || printf '%s\n' "$line"
    done < <(listed_packages "$@")
}

# For each line the first alternative that the package lists offer; the first of all if they offer none, so that apt-get
# says what is missing. Its answer is read whole: a reader that stops early makes it fail, and the package was left out.
choose_packages() {
    local line name chosen
    for line in "$@"; do
        chosen="${line%%|*}"
        for name in ${line//|/ }; do
            if [[ $line == *"|"* && $(apt-cache policy "$name" 2>/dev/null) == *"Candidate: "[^\(]* ]]; then
                chosen="$name"
                break
            fi
        done
        printf '%s\n' "$chosen"
    done
}

as_administrator() {
    if [[ $EUID -eq 0 ]]; then
        "$@"
    else
        sudo "$@"
    fi
}

may_become_administrator() {
    [[ $EUID -eq 0 ]] && return
    command -v sudo >/dev/null || return
    # With a terminal, sudo can ask for the password itself.
    sudo -n true 2>/dev/null || [[ -t 0 && -t 2 ]]
}

show_progress() {
    awk '
        /^Get:/ { next }
        /newly installed/ { total = $3; print "  " $0 }
        /^Setting up / { if (++count % 25 == 0) print "  " count " of " total " set up" }
        { fflush() }
    '
}

apt_install() {
    as_administrator env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get install --yes --no-install-recommends \
        -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 \
        "$@" </dev/null 2>&1 | tee -a "$setup_log" | show_progress
}

# install_packages SECTION...
install_packages() {
    local -a missing chosen
    command -v apt-get >/dev/null || die "This system has no apt-get: Casement installs itself on Debian 12 or 13 and Ubuntu 24.04 (bin/packages.txt lists what it needs)."
    mapfile -t missing < <(missing_packages "$@")
    [[ ${#missing[@]} -gt 0 ]] || return 0
    may_become_administrator ||
        die "These packages are missing, and installing them needs root or sudo; as root, run: apt-get install --no-install-recommends $(choose_packages "${missing[@]}" | tr '\n' ' ')"
    mkdir -p "${setup_log%/*}"
    say "Fetching the package lists…"
    logged as_administrator env LC_ALL=C.UTF-8 apt-get update -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 ||
        die "apt-get update failed (above are its last words): check the network and the lists in /etc/apt, then run this again."
    mapfile -t chosen < <(choose_packages "${missing[@]}")
    say "Installing ${#chosen[@]} packages and what they need: ${chosen[*]}"
    apt_install "${chosen[@]}" || {
        tail -n 15 "$setup_log" >&2
        die "apt-get could not install the packages (above are its last words; all of them are in $setup_log): mend that and run this again."
    }
}

# --- Python ------------------------------------------------------------------------------------------------------

usable_python() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1
}

# The distribution's Python first: its headers are installed with it. Version managers' come after it.
find_python() {
    local candidate
    for candidate in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
        if usable_python "$candidate"; then
            command -v -- "$candidate"
            return
        fi
    done
    return 1
}

no_python() {
    die "Casement needs Python 3.11, 3.12 or 3.13 with its venv module, and python3 here is $(python3 --version 2>&1 | head -n 1): install one of them and run this again."
}

# install_python LOCK...: the last LOCK is installed; those before it count as installed with it, being part of it.
install_python() {
    local lock="${*: -1}" name sum python
    sum="$(sha256sum <"$root/$lock")"
    "$venv/bin/python" -c '' 2>/dev/null && [[ -f "$venv/.installed-$lock" && "$(<"$venv/.installed-$lock")" == "$sum" ]] &&
        return
    python="$(find_python)" || no_python
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        say "Making a Python environment with $("$python" --version)…"
        logged "$python" -m venv --clear "$venv" || die "The Python environment $venv could not be made: see the lines above."
    fi
    say "Installing Python packages from $lock…"
    logged "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --require-hashes -r "$root/$lock" ||
        die "pip could not install $lock (above are its last words; all of them are in $setup_log): check the network and run this again."
    for name in "$@"; do
        sha256sum <"$root/$name" >"$venv/.installed-$name"
    done
}

# --- The front end -----------------------------------------------------------------------------------------------

build_frontend() {
    [[ -x "$root/bin/frontend" ]] || return 0
    "$root/bin/frontend" || die "The front end could not be built: see the lines above."
}

# Only one process at a time changes the environment; the lock ends with the process group's shell.
prepare() {
    local sections="$1"
    shift
    mkdir -p "$root/var"
    [[ -w "$root/var" ]] || die "$root/var is not yours to write: run this as its owner, or make a checkout of your own."
    (
        flock -n 9 || {
            say "Another bin/run or bin/test is installing; waiting for it…"
            flock 9
        }
        # shellcheck disable=SC2086  # Several sections are several words.
        install_packages $sections 9>&-
        install_python "$@" 9>&-
        build_frontend 9>&-
    ) 9>"$root/var/.setup.lock"
}

# tools MODULE ARGUMENT...: one of our Python modules, by the venv's Python or another.
tools() {
    local python="$1"
    shift
    cd "$root" || exit
    PYTHONPATH="$root/bin:$root" exec "$python" -m "$@"
}
