#!/bin/sh
# Installs pgha-minion on a Debian or Ubuntu host and enrols it: what `pgha-master enrol` runs here, as root.
#
#   install.sh FOLDER CLIENT     FOLDER: what the master sent along; CLIENT: the address that the connection comes from
#
# Rules:
# 1. Nothing that was sent becomes a word of this script: each value stands in a file of its own.
# 2. What is right already stays as it is, so running it again is safe, also after a failure in the middle.
# 3. The enrolment comes last: a host that could not be prepared never asked for anything.
# A line `pgha: TEXT` on stdout tells what was done. The exit code says which step failed: master/ssh/installer.py knows them.
set -u
umask 022
cd /
from=$1 client=$2
home=/opt/pgha python=/opt/pgha/bin/python
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
export PATH LANG DEBIAN_FRONTEND NEEDRESTART_SUSPEND

say() { printf 'pgha: %s\n' "$*"; }
die() { code=$1; shift; printf '%s\n' "$*" >&2; exit "$code"; }
value() { cat "$from/$1"; }
logged() { "$@" >"$from/log" 2>&1 </dev/null || { code=$?; tail -n 8 "$from/log" >&2; return "$code"; }; }

# ---- is this a host for pgha, and for nobody else

[ "$(id -u)" = 0 ] || die 70 "this user is not root"
[ -e /etc/debian_version ] || die 71 "$(sed -n 's/^PRETTY_NAME=//p' /etc/os-release 2>/dev/null)"
[ -d /run/systemd/system ] || die 72 "systemd does not run here"
known=/etc/pgha/minion.yml
if [ -e "$known" ]; then
    grep -qxF "fingerprint: $(value fingerprint)" "$known" || die 73 "its master is $(sed -n 's/^master: //p' "$known")"
    grep -qxF "name: $(value name)" "$known" || die 74 "$(sed -n 's/^name: //p' "$known")"
fi
master=$(value master)
if [ -z "$master" ]; then
    case $client in
    '' | *[!0-9a-fA-F.:]*) die 75 "the connection comes from '$client'" ;;
    *:*) master="[$client]:$(value port)" ;;
    *) master="$client:$(value port)" ;;
    esac
fi
say "master $master"

# ---- Python, and a virtual environment of pgha's own

venv_package() { logged apt-get -q -y -o DPkg::Lock::Timeout=120 --no-install-recommends install python3-venv; }
if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    say "installing python3-venv"
    venv_package 2>/dev/null || { logged apt-get -q -o DPkg::Lock::Timeout=120 update && venv_package; } || exit 76
fi
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || die 77 "$(python3 --version)"
if ! "$python" -m pip --version >/dev/null 2>&1; then
    if [ -e "$home" ] && [ ! -e "$home/pyvenv.cfg" ] && [ -n "$(ls -A "$home")" ]; then
        die 78 "$home is no virtual environment"
    fi
    parent=/opt
    if [ -d "$home" ]; then parent=$home; fi
    free=$(df -Pk "$parent" | awk 'NR == 2 { print int($4 / 1024) }')
    [ "$free" -ge 200 ] || die 87 "$free MiB are free"
    say "making $home"
    logged python3 -m venv --clear "$home" || exit 79
fi

# ---- pgha itself

have=$("$home/bin/pgha-minion" --version 2>/dev/null | sed 's/.* //')
digest=$("$python" -c 'from pgha.common.wheel import installed; print(installed().digest)' 2>/dev/null)
if [ "$digest" = "$(value digest)" ]; then
    say "pgha $have is installed already"
else
    if [ -n "$have" ] && dpkg --compare-versions "$have" gt "$(value version)"; then die 80 "$have"; fi
    say "installing pgha $(value version)${have:+ over $have}"
    set -- "$python" -m pip install -q --no-input --disable-pip-version-check
    if [ -d "$from/wheels" ]; then set -- "$@" --no-index --find-links "$from/wheels"; fi
    logged "$@" "$from"/pgha-*.whl || exit 81
    # over the same version pip has done nothing: what counts is what the files are
    if [ -n "$have" ]; then logged "$@" --no-deps --force-reinstall "$from"/pgha-*.whl || exit 81; fi
    logged "$home/bin/pgha-minion" --version || exit 82
fi
link=/usr/bin/pgha-minion
if [ -e "$link" ] && [ ! -L "$link" ]; then die 83 "$link is not a link to $home/bin/pgha-minion"; fi
ln -sfn "$home/bin/pgha-minion" "$link" || exit 84
unit=/etc/systemd/system/pgha-minion.service
if ! cmp -s "$from/unit" "$unit"; then
    cp "$from/unit" "$unit" && chmod 0644 "$unit" && systemctl daemon-reload || exit 84
fi

# ---- enrol

before=no
if [ -e "$known" ]; then before=yes; fi
said=$("$home/bin/pgha-minion" enrol --master "$master" --fingerprint "$(value fingerprint)" --name "$(value name)" \
    --token-from "$from/token" --no-start 2>"$from/log" </dev/null)
code=$?
state=$(printf '%s\n' "$said" | awk 'NR == 1 { print $3 }')
if [ "$code" != 0 ] || [ "$state" != accepted ]; then
    if [ "$before" = no ]; then rm -f "$known"; fi
    die 85 "$(cat "$from/log")$said"
fi
say "accepted with the key $(printf '%s\n' "$said" | awk 'NR == 1 { print $2 }')"
logged systemctl -q enable pgha-minion.service || exit 86
logged systemctl restart pgha-minion.service || exit 86
