"""What runs in a guest to open and close a person's files there: one script, one verb a call.

The volume is found by its serial number. It is opened at PLACE, whoever the user is and wherever their home: nothing
there follows a change of name. In the home, and on the Desktop if there is one, lies a link to it. A line in fstab
opens it again when the guest restarts. Every verb may be run again after it was cut off anywhere.

What comes from outside is in the script's arguments, never in its text, and there is no secret among them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from workers.hypervisor.types import CommandResult

PLACE = "/var/lib/casement/files"
LABEL = "casement-profile"


class Said(enum.IntEnum):
    """How a verb ended. Everything else is a fault of the guest's."""

    DONE = 0
    NO_DEVICE = 10
    IN_USE = 11
    NO_TOOLS = 12
    OTHER_DATA = 13
    READ_ONLY = 14
    NO_USER = 15
    LOST = 16
    BUSY = 17


@dataclass(frozen=True, slots=True)
class Program:
    """For `run_in_guest`: the script comes on standard input, and what comes from outside in its arguments."""

    argv: tuple[str, ...]
    stdin: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """`detail` is what the guest printed, cut short: text of a stranger. `used_bytes` is None where it was not told."""

    said: Said | None
    detail: str
    used_bytes: int | None


def format_disk(serial: str, *, may_make: bool) -> Program:
    """Make a file system if `may_make` and there is nothing at all on it. DONE: there is one of ours.

    OTHER_DATA: there is something else, which is left as it is. LOST: there is nothing, and there should be.
    """
    return _program("format", serial, "new" if may_make else "kept")


def open_files(serial: str, user: str) -> Program:
    """Check it, open it, and give it to `user`; where there is no such user, to the first one that is a person.

    READ_ONLY: it is damaged beyond what mends itself, and nothing is written to it.
    """
    return _program("open", serial, user)


def close_files(serial: str, *, force: bool) -> Program:
    """Write out what is to be written, and close it. IN_USE: programs have been told to end, with `force` were ended;
    their names are the answer's detail. Ask again.
    """
    return _program("close", serial, "force" if force else "ask")


def answer_of(result: CommandResult) -> Answer:
    lines = result.stdout.decode(errors="replace").splitlines()
    used = next((line.split()[1] for line in lines if line.startswith("used ")), "")
    rest = " ".join(line for line in lines if not line.startswith("used ")) or result.stderr.decode(errors="replace")
    detail = "".join(letter for letter in " ".join(rest.split()) if letter.isprintable())[:100]
    said = Said(result.exit_code) if result.exit_code in Said._value2member_map_ else None
    return Answer(said, detail, int(used) * 1024 if used.isdecimal() else None)


def _program(*arguments: str) -> Program:
    return Program(("/bin/sh", "-s", "--", PLACE, LABEL, *arguments), SCRIPT.encode())


SCRIPT = r"""
PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin
export PATH LC_ALL=C
place=$1 label=$2 verb=$3 serial=$4 word=$5
umask 022

device=
for block in /sys/block/*; do
    [ "$(cat "$block/serial" 2>/dev/null)" = "$serial" ] && device=/dev/${block##*/} && break
done

# One at a time: what was given up on may still be at work in here.
exec 9>/run/casement-files.lock
if command -v flock >/dev/null; then flock -n 9 || exit 17; fi

places_of() { awk -v d="$1" '$1 == d { print $2 }' /proc/mounts; }
device_at() { awk -v p="$1" '$2 == p { d = $1 } END { print d }' /proc/mounts; }
used() { df -kP "$place" 2>/dev/null | awk 'NR == 2 { print "used " $3 }'; }

forget_line() {
    grep -q " $place " /etc/fstab 2>/dev/null || return 0
    # Over the file and not in its place, so that it keeps its owner and mode.
    grep -v " $place " /etc/fstab >/run/casement-fstab
    cat /run/casement-fstab >/etc/fstab && rm -f /run/casement-fstab
    [ -d /run/systemd/system ] && systemctl daemon-reload 9>&- 2>/dev/null
    return 0
}

keep_line() {
    line="/dev/disk/by-id/virtio-$serial $place ext4 nosuid,nodev,nofail,x-systemd.device-timeout=10s 0 2"
    grep -qxF "$line" /etc/fstab 2>/dev/null && return 0
    forget_line
    echo "$line" >>/etc/fstab
}

verb_format() {
    [ -b "$device" ] || exit 10
    command -v mkfs.ext4 >/dev/null && command -v blkid >/dev/null || exit 12
    found=$(blkid -c /dev/null "$device" 2>/dev/null)
    case $found in
        *"LABEL=\"$label\""* | *TYPE=\"ext4\"*) exit 0 ;;
        ?*) echo "$found"; exit 13 ;;
    esac
    [ "$word" = new ] || exit 16
    mkfs.ext4 -q -F -L "$label" -m 0 "$device" >/dev/null || exit 1
    sync
}

verb_open() {
    [ -b "$device" ] || exit 10
    command -v e2fsck >/dev/null || exit 12
    entry=$(grep "^$word:" /etc/passwd | head -n 1)
    [ -n "$entry" ] || entry=$(awk -F: '$3 >= 1000 && $3 < 60000' /etc/passwd | sort -t: -k3n | head -n 1)
    [ -n "$entry" ] || exit 15
    id=$(echo "$entry" | cut -d: -f3) group=$(echo "$entry" | cut -d: -f4) home=$(echo "$entry" | cut -d: -f6)
    mkdir -p "$place"
    at=$(device_at "$place")
    # Of a volume that was taken away under it.
    if [ -n "$at" ] && [ "$at" != "$device" ]; then umount -l "$place"; at=; fi
    if [ -z "$at" ]; then
        mode=rw
        # 0: clean, 1: mended. Anything else is for a person to look at, and must not get worse.
        e2fsck -p "$device" >/dev/null 2>&1
        [ $? -le 1 ] || mode=ro,noload
        mount -t ext4 -o "$mode,nosuid,nodev" "$device" "$place" || exit 1
    fi
    writable=no
    awk -v p="$place" '$2 == p { o = $4 } END { exit o !~ /^rw/ }' /proc/mounts && writable=yes
    if [ $writable = yes ]; then
        keep_line
        # It may have grown while it was away.
        command -v resize2fs >/dev/null && resize2fs "$device" >/dev/null 2>&1
        rmdir "$place/lost+found" 2>/dev/null
        give
    fi
    for folder in "$home" "$home/Desktop"; do
        [ -d "$folder" ] && ! [ -L "$folder" ] || continue
        [ -e "$folder/Files" ] || [ -L "$folder/Files" ] || {
            ln -s "$place" "$folder/Files" && chown -h "$id:$group" "$folder/Files"
        }
    done
    used
    [ $writable = yes ] || exit 14
}

# The folder itself comes last: its owner says that all that is in it has been given.
give() {
    owner=$(ls -ldn "$place" | awk '{ print $3 }')
    [ "$owner" = "$id" ] && return 0
    [ "$owner" = 0 ] || find "$place" -xdev -user "$owner" ! -path "$place" -exec chown -h "$id:$group" {} +
    chmod 700 "$place" && chown "$id:$group" "$place"
}

# Who has a file of it open, stands in it, or runs from it; but no system program and not this.
holders() {
    for at in $(places_of "$device"); do
        ls -l /proc/[0-9]*/cwd /proc/[0-9]*/root /proc/[0-9]*/exe /proc/[0-9]*/fd/* 2>/dev/null |
            sed -n "s|.* /proc/\([0-9]*\)/.* -> $at\(/.*\)*$|\1|p"
        grep -l " $at/" /proc/[0-9]*/maps 2>/dev/null | cut -d/ -f3
    done | sort -un | grep -vx -e 1 -e "$$"
}

verb_close() {
    forget_line
    [ -n "$device" ] && [ -n "$(places_of "$device")" ] || exit 0
    used
    sync
    for at in $(places_of "$device"); do umount "$at" 2>/dev/null; done
    [ -z "$(places_of "$device")" ] && exit 0
    signal=TERM
    [ "$word" = force ] && signal=KILL
    for process in $(holders); do
        cat "/proc/$process/comm" 2>/dev/null
        kill -s "$signal" "$process" 2>/dev/null
    done
    [ "$word" = force ] && sleep 1
    for at in $(places_of "$device"); do umount "$at" 2>/dev/null; done
    [ -z "$(places_of "$device")" ] || exit 11
}

# The script itself stands on standard input: nothing that it runs may read it.
"verb_$verb" </dev/null
"""
