"""What people type, and what it would take down on its host."""

from __future__ import annotations

import shlex
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pgha.master.adhoc.disruption import STACK, taken_down, unit


@pytest.mark.parametrize(
    ("line", "units"),
    [
        # systemd
        ("systemctl stop etcd", {"etcd"}),
        ("systemctl restart etcd.service patroni", {"etcd", "patroni"}),
        ("/usr/bin/systemctl --no-block restart -- postgresql@17-main.service", {"postgresql@17-main"}),
        ("systemctl kill -s KILL etcd", {"etcd"}),
        ("systemctl -s 9 kill etcd", {"etcd"}),
        ("systemctl try-reload-or-restart haproxy", {"haproxy"}),
        ("systemctl disable --now patroni", {"patroni"}),
        ("systemctl mask --now patroni", {"patroni"}),
        ("systemctl stop 'post*'", {"postgresql"}),
        ("systemctl stop 'postgresql@*'", {"postgresql"}),
        ("systemctl restart '*'", {"*"}),
        ("systemctl stop networking", {"*"}),
        ("systemctl stop system.slice", {"*"}),
        ("systemctl stop chrony", {"chrony"}),
        ("systemctl isolate rescue.target", {"*"}),
        ("systemctl reboot -i", {"*"}),
        ("systemctl start reboot.target", {"*"}),
        ("systemctl start systemd-poweroff.service", {"*"}),
        ("service etcd stop", {"etcd"}),
        ("service postgresql restart 17", {"postgresql"}),
        ("service --full-restart etcd", {"etcd"}),
        ("invoke-rc.d patroni stop", {"patroni"}),
        ("/etc/init.d/postgresql stop", {"postgresql"}),
        # the whole host
        ("reboot", {"*"}),
        ("/sbin/reboot -f", {"*"}),
        ("shutdown -r now", {"*"}),
        ("shutdown +5", {"*"}),
        ("poweroff", {"*"}),
        ("halt -p", {"*"}),
        ("init 6", {"*"}),
        ("telinit 0", {"*"}),
        ("kexec -e", {"*"}),
        ("do-release-upgrade", {"*"}),
        ("ip link set eth0 down", {"*"}),
        ("ip -4 addr flush dev eth0", {"*"}),
        ("ifdown eth0", {"*"}),
        ("ifconfig eth0 down", {"*"}),
        ("nmcli networking off", {"*"}),
        ("ufw enable", {"*"}),
        ("ufw --force enable", {"*"}),
        ("iptables -P INPUT DROP", {"*"}),
        # PostgreSQL and Patroni
        ("patronictl restart prod", {"patroni of every member"}),
        ("patronictl -c /etc/patroni/config.yml restart prod --force", {"patroni of every member"}),
        ("patronictl restart prod pg-node2 --force", {"patroni of pg-node2"}),
        ("patronictl restart --role replica prod a b", {"patroni of a", "patroni of b"}),
        ("patronictl restart prod --any", {"patroni of the leader"}),
        ("patronictl reinit prod pg-node2 --force", {"patroni of pg-node2"}),
        ("patronictl switchover prod --leader pg-node1 --candidate pg-node2 --force", {"patroni of the leader"}),
        ("patronictl failover prod --candidate pg-node2", {"patroni of the leader"}),
        ("patronictl remove prod", {"patroni of every member"}),
        ("pg_ctl -D /var/lib/postgresql/17/main stop -m fast", {"postgresql"}),
        ("/usr/lib/postgresql/17/bin/pg_ctl restart -D /data", {"postgresql"}),
        ("pg_ctlcluster 17 main stop", {"postgresql"}),
        ("pg_dropcluster --stop 17 main", {"postgresql"}),
        # packages
        ("apt-get -y install postgresql-17", {"postgresql"}),
        ("apt install --only-upgrade etcd-server=3.5.16-4 patroni", {"etcd", "patroni"}),
        ("apt-get -o Dpkg::Options::=--force-confold -y dist-upgrade", set(STACK)),
        ("apt full-upgrade", set(STACK)),
        ("apt-get -q remove haproxy", {"haproxy"}),
        ("apt-get purge '*'", set(STACK)),
        ("dpkg -i /tmp/postgresql-17_17.5-1_amd64.deb", {"postgresql"}),
        ("dpkg --configure -a", set(STACK)),
        ("unattended-upgrade -v", set(STACK)),
        # processes
        ("pkill etcd", {"etcd"}),
        ("pkill -9 postg", {"postgresql"}),
        ("pkill -u postgres", {"postgresql"}),
        ("pkill -f /usr/bin/patroni", {"patroni"}),
        ("killall -9 etcd patroni", {"etcd", "patroni"}),
        # behind others
        ("sudo reboot", {"*"}),
        ("sudo -u postgres pg_ctl stop", {"postgresql"}),
        ("sudo -n -- systemctl stop etcd", {"etcd"}),
        ("sudo systemctl stop etcd", {"etcd"}),
        ("env LANG=C -u X systemctl stop etcd", {"etcd"}),
        ("timeout 10 systemctl stop etcd", {"etcd"}),
        ("timeout -k 5 10s nice -n 5 systemctl stop etcd", {"etcd"}),
        ("nohup reboot", {"*"}),
        ("flock -n /run/lock/x systemctl stop etcd", {"etcd"}),
        ("flock /run/lock/x systemctl stop etcd", {"etcd"}),
        ("runuser -u postgres -- pg_ctl stop", {"postgresql"}),
        ("systemd-run --on-active=5 reboot", {"*"}),
        ("xargs systemctl stop", {"*"}),
        ("xargs -n 1 systemctl stop etcd", {"*"}),
        ("busybox reboot", {"*"}),
        # in shells
        ("sh -c 'systemctl stop etcd'", {"etcd"}),
        ("bash -lc 'reboot'", {"*"}),
        ("bash -o pipefail -c 'true; systemctl stop etcd'", {"etcd"}),
        ("su postgres -c 'pg_ctl stop'", {"postgresql"}),
        ("su --command=reboot", {"*"}),
        ("sudo sh -c 'systemctl stop etcd && systemctl stop patroni'", {"etcd", "patroni"}),
        ("sh -c 'sleep 5 && reboot || true'", {"*"}),
        ("sh -c 'true;reboot'", {"*"}),
        ("sh -c 'true|sudo reboot'", {"*"}),
        ("sh -c 'sleep 1 & reboot'", {"*"}),
        ("sh -c 'cd /\nsystemctl stop etcd\n'", {"etcd"}),
        ("sh -c 'systemctl \\\n stop etcd'", {"etcd"}),
        ("sh -c 'if true; then reboot; fi'", {"*"}),
        ("sh -c 'while ! false; do reboot; done'", {"*"}),
        ("sh -c '(systemctl stop etcd)'", {"etcd"}),
        ("sh -c '{ systemctl stop etcd; }'", {"etcd"}),
        ("sh -c 'X=1 Y=2 reboot'", {"*"}),
        ("sh -c 'systemctl stop etcd >/dev/null 2>&1'", {"etcd"}),
        ("sh -c 'for u in etcd patroni; do systemctl restart $u; done'", {"*"}),
        ("sh -c 'kill -9 $(pidof etcd)'", {"etcd"}),
        ("sh -c 'kill `cat /run/patroni.pid`'", {"patroni"}),
        ("sh -c 'echo $(echo $(reboot))'", {"*"}),
        ("sh -c 'echo \"$(systemctl stop etcd)\"'", {"etcd"}),
        ("sh -c 'systemctl stop $(cat /tmp/units)'", {"*"}),
        ("""sh -c "sh -c 'sh -c reboot'" """, {"*"}),
        ("""sh -c "eval 'systemctl stop etcd'" """, {"etcd"}),
        ("sh -c \"echo it's; reboot\"", {"*"}),
        ("sh -c 'service etcd restart | cat'", {"etcd"}),
        ("sh -c 'exec systemctl stop etcd'", {"etcd"}),
    ],
)  # fmt: skip
def test_what_takes_something_down_is_recognised(line: str, units: set[str]) -> None:
    assert set(taken_down(shlex.split(line))) == units


@pytest.mark.parametrize(
    "line",
    [
        "", "df -h", "true", "systemctl", "systemctl status etcd", "systemctl start etcd", "systemctl reload patroni",
        "systemctl enable --now etcd", "systemctl disable etcd", "systemctl list-units --state=failed",
        "systemctl daemon-reload", "systemctl stop", "systemctl reboot --help", "service etcd status",
        "service --status-all", "shutdown -c", "init 3", "kexec -l /boot/vmlinuz", "ip addr show",
        "ip link set eth0 up",
        "ip route flush cache", "ufw status", "ufw allow 22", "ufw disable", "ufw --dry-run enable",
        "iptables -A INPUT -s 10.0.0.1 -j DROP", "patronictl list", "patronictl reload prod", "patronictl pause prod",
        "patronictl -c /etc/patroni/config.yml show-config", "pg_ctl status", "pg_ctlcluster 17 main reload",
        "apt-get update", "apt-get -s dist-upgrade", "apt-get -qs upgrade", "apt-get --simulate install etcd-server",
        "apt-get install -d postgresql-17", "apt-get install htop", "apt-get install postgresql-client-17",
        "apt-cache policy postgresql-17", "apt-get install -f", "dpkg -l", "dpkg -s etcd-server", "dpkg -i htop.deb",
        "unattended-upgrade --dry-run", "pkill -0 etcd", "pkill nginx", "kill 1234", "kill -9 -1234", "kill -l",
        "echo reboot", "echo systemctl stop etcd", "grep reboot /var/log/syslog", "sudo -u postgres psql -c select",
        "sudo grep reboot /var/log/syslog", "timeout 5 echo reboot", "sudo", "env", "env PAGER=reboot true", "sh",
        "sh -c", "sh -c ''", "sh script.sh", "sh -c 'echo reboot'", "sh -c 'grep -c etcd /etc/passwd'",
        "sh -c \"psql -c 'select 1 > 0'\"", "sh -c 'uptime; df -h | sort'", "sh -c 'echo $((1 + 2))'",
        "xargs echo", "nice -n 5 sleep 1", "flock /tmp/x echo reboot", "eval", "man reboot", "which systemctl",
    ],
)  # fmt: skip
def test_what_takes_nothing_down_is_let_through(line: str) -> None:
    assert taken_down(shlex.split(line)) == frozenset()


def test_shells_in_shells_without_end_count_as_the_whole_host() -> None:
    line = "true"
    for _ in range(12):
        line = f"sh -c {shlex.quote(line)}"
    assert taken_down(shlex.split(line)) == {"*"}
    assert taken_down(["sh", "-c", "$(" * 30 + "true" + ")" * 30]) == {"*"}
    assert taken_down(["sudo"] * 50 + ["true"]) == {"*"}


def test_a_long_line_is_read_at_once() -> None:
    since = time.monotonic()
    for text in ("1" * 100_000, "-" + "c" * 100_000 + "!", "$(" * 50_000, "`" * 100_001, "a=" * 50_000, "(" * 100_000):
        taken_down(["sh", "-c", text])
        taken_down(["sh", text])
        taken_down(["sudo", text, "apt", text])
    assert time.monotonic() - since < 10.0


@pytest.mark.parametrize(
    ("name", "units"),
    [
        ("etcd", {"etcd"}),
        ("etcd.service", {"etcd"}),
        ("*", {"*"}),
        ("", {"*"}),
        ("pgha*", {"pgha*"}),
        ("e?cd", {"etcd"}),
    ],
)
def test_a_unit_is_named_without_its_ending(name: str, units: set[str]) -> None:
    assert unit(name) == units


PIECES = """
sudo env sh bash -c -lc ; && | ( ) $( ` ' " -- -u X=1 xargs eval timeout 5 systemctl stop restart etcd patroni.service
reboot kill $(pidof etcd) apt-get upgrade -s patronictl prod ip link down > 2>&1 \\
"""
WORDS = st.sampled_from([*PIECES.split(), "\n", ""])


@given(st.lists(WORDS | st.text(max_size=8), max_size=12))
def test_whatever_is_typed_is_read_without_an_error(argv: list[str]) -> None:
    for line in (argv, ["sh", "-c", " ".join(argv)]):
        assert all(isinstance(found, str) and found for found in taken_down(line))


PLAIN = st.sampled_from(["systemctl stop etcd", "reboot", "patronictl restart prod", "pkill postgres", "apt upgrade"])
AROUND = st.sampled_from(
    ["sudo {}", "sudo -n {}", "env A=1 {}", "timeout 9 {}", "nice -n 3 {}", "nohup {}", "sh -c {q}", "bash -lc {q}"]
)


@given(PLAIN, st.lists(AROUND, max_size=4))
def test_what_stands_around_a_command_hides_nothing(plain: str, around: list[str]) -> None:
    line = plain
    for form in around:
        line = form.format(line, q=shlex.quote(line))
    assert taken_down(shlex.split(line)) == taken_down(plain.split())


@given(PLAIN, st.sampled_from([";", "&&", "||", "|", "\n", " & "]), st.sampled_from(["true", "df -h", "cd /tmp"]))
def test_what_stands_beside_a_command_hides_nothing(plain: str, between: str, other: str) -> None:
    for script in (f"{plain}{between}{other}", f"{other}{between}{plain}"):
        assert taken_down(["sh", "-c", script]) == taken_down(plain.split())
