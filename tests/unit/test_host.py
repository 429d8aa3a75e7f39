"""The real host, in a temporary folder: files, programs, certificates, and what is written for systemd and apt."""

from __future__ import annotations

import datetime
import getpass
import grp
import os
import stat
import threading
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pgha.common.errors import ActionFailed
from pgha.common.paths import Paths
from pgha.common.secret import Secret
from pgha.minion import apt, disk, restapi, revert, survey, units
from pgha.minion.host import Host, execute
from pgha.states.action import IssueCertificate, MakeDirectory, MakeSymlink, Remove, Run, SetAttributes, WriteFile
from pgha.states.converge import MemoryDebts, converge
from pgha.states.resources.certificate import Certificate
from pgha.states.resources.files import Absent, Directory, File, Symlink
from pgha.states.system import Output
from pgha.states.testing import YEAR_S

ME = getpass.getuser()
GROUP = grp.getgrgid(os.getgid()).gr_name


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(lambda cluster, name, csr: "", lambda seconds: True, Paths(tmp_path / "root"))


def written(path: Path, content: str, **more: object) -> WriteFile:
    return WriteFile(str(path), content, ME, GROUP, **more)  # type: ignore[arg-type]


def test_a_file_is_written_with_owner_and_mode_and_its_parents(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "a/b/c.conf"
    host.perform(written(path, "key={{p}}\n", mode=0o640, secrets=(("p", Secret("hunter2")),)))
    facts = host.file(str(path))
    assert (facts.kind, facts.content, facts.owner, facts.mode) == ("file", "key=hunter2\n", ME, 0o640)
    assert [entry.name for entry in path.parent.iterdir()] == ["c.conf"]


def test_what_pgha_did_not_write_is_kept_once(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "app.conf"
    path.write_text("the user's\n")
    host.perform(written(path, "first\n"))
    host.perform(written(path, "second\n"))
    assert path.read_text() == "second\n"
    assert (tmp_path / "app.conf.pgha-orig").read_text() == "the user's\n"


def test_a_file_that_pgha_made_leaves_no_original_behind(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "app.conf"
    host.perform(written(path, "first\n"))
    host.perform(written(path, "second\n"))
    assert not (tmp_path / "app.conf.pgha-orig").exists()


def test_a_refused_version_leaves_the_old_file_and_shows_no_secret(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "app.conf"
    path.write_text("old\n")
    check = ("sh", "-c", "cat %s >&2; echo in %s >&2; exit 1")
    with pytest.raises(ActionFailed) as error:
        host.perform(written(path, "password={{p}}\n", check=check, secrets=(("p", Secret("hunter2")),)))
    assert path.read_text() == "old\n"
    assert "hunter2" not in str(error.value)
    assert f"in {path}" in str(error.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["app.conf"]


def test_the_check_sees_the_new_version(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "app.conf"
    host.perform(written(path, "new\n", check=("grep", "-q", "new", "%s")))
    assert path.read_text() == "new\n"


def test_a_symlink_is_replaced_and_not_followed(host: Host, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("untouched")
    link = tmp_path / "link"
    link.symlink_to(target)
    host.perform(written(link, "mine\n"))
    assert target.read_text() == "untouched"
    assert host.file(str(link)).kind == "file"
    (tmp_path / "other").symlink_to(target)
    before = stat.S_IMODE(target.stat().st_mode)
    with pytest.raises(ActionFailed, match="symbolic link"):
        host.perform(SetAttributes(str(tmp_path / "other"), ME, GROUP, 0o600))
    assert stat.S_IMODE(target.stat().st_mode) == before


def test_a_folder_in_the_way_is_named(host: Host, tmp_path: Path) -> None:
    with pytest.raises(ActionFailed, match="there is a folder of that name"):
        host.perform(written(tmp_path, "x"))


def test_an_unknown_owner_is_named(host: Host, tmp_path: Path) -> None:
    with pytest.raises(ActionFailed, match="no user nobody-of-that-name"):
        host.perform(WriteFile(str(tmp_path / "a"), "x", "nobody-of-that-name"))
    assert not (tmp_path / "a").exists()


def test_a_folder_with_something_in_it_goes_only_as_a_tree(host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    host.perform(MakeDirectory(str(folder), ME, GROUP, 0o700))
    (folder / "file").write_text("x")
    with pytest.raises(ActionFailed, match="not empty"):
        host.perform(Remove(str(folder)))
    host.perform(Remove(str(folder), tree=True))
    assert host.file(str(folder)).kind == "absent"


def test_a_folder_near_the_root_is_never_removed_as_a_tree(host: Host) -> None:
    with pytest.raises(ActionFailed, match="too near the root"):
        host.perform(Remove("/var/lib", tree=True))
    assert Path("/var/lib").is_dir()


def test_a_symlink_is_moved_to_its_new_target(host: Host, tmp_path: Path) -> None:
    link = str(tmp_path / "link")
    host.perform(MakeSymlink(link, "a"))
    host.perform(MakeSymlink(link, "b"))
    assert host.attributes(link).target == "b"


def test_what_is_no_text_or_too_large_has_no_content(host: Host, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large").write_bytes(b"a" * (1024 * 1024 + 1))
    (tmp_path / "full").write_bytes(b"a" * (1024 * 1024))
    assert host.file(str(tmp_path / "binary")).content is None
    assert host.file(str(tmp_path / "large")).content is None
    assert host.file(str(tmp_path / "full")).content is not None
    assert host.attributes(str(tmp_path / "full")).content is None


def test_a_pipe_does_not_hold_the_look_up(host: Host, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert host.file(str(tmp_path / "pipe")).kind == "other"


def test_a_file_is_read_to_its_end_whatever_size_it_was_said_to_have(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "grown"
    for size in (0, 1, disk.PIECE, disk.PIECE + 1, disk.MAX_BYTES):
        path.write_bytes(b"x" * size)
        assert host.file(str(path)).content == "x" * size
        for said in (0, 1, size // 2, size + 1):
            assert disk._read(str(path), said) == "x" * size
    path.write_bytes(b"x" * (disk.MAX_BYTES + 1))
    assert disk._read(str(path), 5) is None


def test_the_name_of_an_owner_is_asked_again_after_a_second_and_after_anything_is_performed(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {os.getuid(): "before"}

    class Users:
        pw_name = property(lambda self: names[os.getuid()])

    def asked(uid: int) -> Users:
        if uid not in names:
            raise KeyError(uid)
        return Users()

    monkeypatch.setattr("pwd.getpwuid", asked)
    path, now = tmp_path / "file", [100.0]
    path.touch()
    seen, kept = path.lstat(), disk.Names(lambda: now[0])
    assert kept.of(seen)[0] == "before"
    names[os.getuid()] = "after"
    now[0] += disk.KEPT_S - 0.1
    assert kept.of(seen)[0] == "before"
    now[0] += 0.1
    assert kept.of(seen)[0] == "after"

    assert host.attributes(str(path)).owner == "after"
    del names[os.getuid()]
    host.perform(Run(("true",)))
    assert host.attributes(str(path)).owner == str(os.getuid())
    names[os.getuid()] = "made meanwhile"
    assert host.attributes(str(path)).owner == "made meanwhile"  # that there was none is not kept


def test_a_marker_of_an_older_pgha_still_counts(host: Host, tmp_path: Path) -> None:
    """It was a file; it is a link that is never followed."""
    path, kept = tmp_path / "app.conf", tmp_path / "root/var/lib/pgha/files"
    host.perform(written(path, "first\n"))
    (marker,) = kept.iterdir()
    assert str(marker.readlink()) == str(path)
    marker.unlink()
    marker.write_text(f"{path}\n")
    host.perform(written(path, "second\n"))
    path.unlink()
    host.perform(written(path, "third\n"))
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != "root"] == ["app.conf"]
    assert marker.read_text() == f"{path}\n"


def test_a_kernel_parameter_has_its_content(host: Host) -> None:
    assert (host.file("/proc/sys/kernel/ostype").content or "").strip() == "Linux"


def test_a_program_is_killed_with_its_children_at_the_deadline(tmp_path: Path) -> None:
    since = time.monotonic()
    said = execute(("sh", "-c", f"sleep 30 & echo $! > {tmp_path}/pid; wait"), 0.5)
    assert said.rc == 124
    assert time.monotonic() - since < 10
    child = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    deadline = time.monotonic() + 5
    while child.exists() and child.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    assert not child.exists() or child.read_text().split()[2] == "Z"


def test_a_program_that_is_not_there_is_rc_127() -> None:
    assert execute(("pgha-no-such-program",), 1.0).rc == 127


def test_a_failing_program_is_told_without_what_it_was_given(host: Host) -> None:
    with pytest.raises(ActionFailed) as error:
        host.perform(Run(("sh", "-c", "cat >&2; exit 7"), stdin=Secret("hunter2")))
    assert "exit code 7" in str(error.value)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(("free_after", "timeout_s", "done"), [(2, 30.0, True), (10**6, 3.0, False)])
def test_a_program_that_gave_way_to_another_is_run_again_until_its_time_is_over(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_after: int, timeout_s: float, done: bool
) -> None:
    monkeypatch.setattr("pgha.minion.host.BUSY_S", 0.01)
    count = tmp_path / "count"
    script = f'echo >> {count}; [ "$(wc -l < {count})" -gt {free_after} ] || {{ echo locked >&2; exit 50; }}'
    run = Run(("sh", "-c", script), timeout_s=timeout_s, busy=(50,))
    if done:
        host.perform(run)
        assert len(count.read_text().splitlines()) == free_after + 1
        return
    with pytest.raises(ActionFailed, match="exit code 50"):
        host.perform(run)
    assert len(count.read_text().splitlines()) > 1


def test_files_folders_and_links_converge_on_a_real_disk(host: Host, tmp_path: Path) -> None:
    base = str(tmp_path / "app")
    (tmp_path / "gone").write_text("x")
    wanted = [
        Directory(path=base, owner=ME, group=GROUP, mode=0o750),
        File(path=f"{base}/a.conf", content="a\n", owner=ME, group=GROUP, mode=0o640),
        Symlink(path=f"{base}/b.conf", target="a.conf"),
        Absent(path=str(tmp_path / "gone")),
    ]
    assert [r.status.value for r in converge(wanted, host, MemoryDebts())] == ["changed"] * 4
    assert [r.status.value for r in converge(wanted, host, MemoryDebts())] == ["unchanged"] * 4


class Authority:
    """A throw-away authority that signs whatever it is asked to."""

    def __init__(self, folder: Path) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.now = datetime.datetime.now(datetime.timezone.utc)
        self.cert = (
            self._builder(self.name, self.key.public_key())
            .add_extension(x509.BasicConstraints(True, 0), True)
            .sign(self.key, hashes.SHA256())
        )
        (folder / "ca.crt").write_bytes(self.cert.public_bytes(Encoding.PEM))

    def _builder(self, subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - datetime.timedelta(minutes=10))
            .not_valid_after(self.now + datetime.timedelta(seconds=YEAR_S))
        )

    def sign(self, cluster: str, name: str, csr_pem: str) -> str:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        public = csr.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        assert not list(csr.extensions)
        cert = (
            self._builder(csr.subject, public)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("pg-node1")]), False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
            .sign(self.key, hashes.SHA256())
        )
        return cert.public_bytes(Encoding.PEM).decode()

    @property
    def fingerprint(self) -> str:
        return self.cert.fingerprint(hashes.SHA256()).hex()


def certificate(folder: Path, authority: Authority, **more: object) -> Certificate:
    wanted = {
        "name": "etcd-server",
        "cluster": "prod",
        "directory": str(folder),
        "basename": "server",
        "owner": ME,
        "group": GROUP,
        "common_name": "pg-node1",
        "sans": ("pg-node1",),
        "usages": ("server",),
        "renew_before_s": 86400.0,
        "ca_fingerprint": authority.fingerprint,
    }
    return Certificate.model_validate(wanted | more)


@pytest.mark.skipif(os.geteuid() != 0, reason="a bundle belongs to root")
def test_a_certificate_is_issued_once_with_its_bundle(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    host = Host(authority.sign, lambda seconds: True, Paths(tmp_path / "root"))
    wanted = certificate(tmp_path, authority, bundle=True)
    first = list(converge([wanted], host, MemoryDebts()))
    assert (first[0].status.value, first[0].reason) == ("changed", "")
    assert host.attributes(str(tmp_path / "server.key")).mode == 0o640
    assert host.attributes(str(tmp_path / "server.pem")).mode == 0o600
    assert next(iter(converge([wanted], host, MemoryDebts()))).status.value == "unchanged"


def test_each_reason_for_a_new_certificate_is_told(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    host = Host(authority.sign, lambda seconds: True, Paths(tmp_path / "root"))
    host.perform(IssueCertificate("x", "prod", str(tmp_path), "server", ME, GROUP, "pg-node1"))

    def planned(**more: object) -> list[str]:
        wanted = certificate(tmp_path, authority, **more)
        return [change.what for change in wanted.plan(wanted.observe(host))]

    assert planned() == []
    assert planned(renew_before_s=YEAR_S + 1) == ["validity"]
    assert planned(ca_fingerprint="00" * 32) == ["authority"]
    assert planned(sans=("pg-node1", "10.77.1.11")) == ["names"]
    assert planned(usages=("server", "client")) == ["usages"]
    assert planned(common_name="pg-node2") == ["common name"]
    assert planned(bundle=True) == ["bundle"]
    Authority(tmp_path)
    assert planned() == ["authority"]
    (tmp_path / "server.key").write_text("no key\n")
    assert planned() == ["authority", "key"]


def test_a_certificate_of_another_key_is_not_written(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    stray = authority.sign("prod", "x", _request())
    host = Host(lambda cluster, name, csr: stray, lambda seconds: True, Paths(tmp_path / "root"))
    with pytest.raises(ActionFailed, match="another key"):
        host.perform(IssueCertificate("x", "prod", str(tmp_path), "server", ME, GROUP, "pg-node1"))
    assert not (tmp_path / "server.key").exists()


def _request() -> str:
    from pgha.minion import leaf

    return leaf.make("stray")[1]


def test_packages_start_nothing_while_they_are_installed(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    with apt.services_kept_off(policy):
        assert execute((str(policy),), 5.0).rc == 101
    assert not policy.exists()
    with pytest.raises(ActionFailed), apt.services_kept_off(policy):
        raise ActionFailed("apt broke")
    assert not policy.exists()


def test_a_policy_of_the_users_stays(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 0\n")
    with apt.services_kept_off(policy):
        pass
    assert policy.read_text() == "#!/bin/sh\nexit 0\n"


def test_a_policy_left_by_a_killed_run_goes(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    run = apt.services_kept_off(policy)
    run.__enter__()
    with apt.services_kept_off(policy):
        pass
    assert not policy.exists()


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (
            "Err:1 http://deb\n  Temporary failure resolving 'deb'\nE: Failed to fetch x",
            "cannot reach the package mirror",
        ),
        ("dpkg: error: cannot copy: No space left on device", "the disk is full"),
        ("E: Unable to locate package patroni", "no package source"),
        ("E: dpkg was interrupted, you must manually run", "dpkg --configure -a"),
    ],
)
def test_apt_failures_say_what_to_do(output: str, said: str) -> None:
    assert said in str(apt.failure("installing patroni", Output(100, output)))


def test_what_a_killed_package_run_left_behind_is_taken_away_and_a_policy_of_the_users_stays(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    apt.let_services_start(policy)
    with apt.services_kept_off(policy):
        apt.let_services_start(policy)
        assert not policy.exists()
    policy.write_text("#!/bin/sh\nexit 0\n")
    apt.let_services_start(policy)
    assert policy.exists()


def test_an_upgrade_that_would_move_a_held_package_is_not_begun(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(apt, "LISTS_STAMP", str(tmp_path / "stamp"))
    ran: list[tuple[str, ...]] = []

    def run(argv: tuple[str, ...], timeout_s: float) -> Output:
        ran.append(argv)
        tool = "Inst tool [1] (2 Debian-Security:13/stable-security [amd64])\n"
        return Output(0, tool + ("Inst etcd-server [1] (2 Debian:13/stable [amd64])\n" if "install" in argv else ""))

    with pytest.raises(ActionFailed, match="apt would upgrade etcd-server along"):
        apt.upgrade(run, "security", ("etcd-server",))
    assert not [argv for argv in ran if "install" in argv and "-s" not in argv]


def test_a_unit_of_systemd_is_read() -> None:
    facts = units.parse(
        "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nActiveEnterTimestampMonotonic=5000000\n"
        "NeedDaemonReload=yes\nConditionResult=yes\nConditionTimestampMonotonic=5000000\n"
    )
    assert (facts.load, facts.active, facts.enabled) == ("loaded", "active", "enabled")
    assert facts.started_at == pytest.approx(time.time() - time.monotonic() + 5.0, abs=1.0)
    assert facts.needs_daemon_reload and facts.condition_met


def test_a_condition_counts_only_when_it_was_tried() -> None:
    never = "LoadState=loaded\nActiveState=inactive\nConditionResult=no\nConditionTimestampMonotonic=0\n"
    assert units.parse(never).condition_met
    assert not units.parse(never.replace("Monotonic=0", "Monotonic=5000000")).condition_met


def test_nothing_is_asked_of_systemctl_that_the_one_of_ubuntu_22_04_does_not_know() -> None:
    assert not [word for word in units.SHOW if word.startswith("--timestamp")]


def test_the_way_back_is_quoted_for_systemd() -> None:
    text = revert.service((("ufw", "--force", "disable"), ("cp", "a b", 'c"$d%')))
    assert 'ExecStart=-"ufw" "--force" "disable"\n' in text
    assert r'ExecStart=-"cp" "a b" "c\"$$d%%"' in text


def test_an_armed_way_back_leaves_nothing_when_disarmed(tmp_path: Path) -> None:
    ran: list[tuple[str, ...]] = []

    def run(argv: tuple[str, ...], timeout_s: float) -> Output:
        ran.append(argv)
        return Output(0)

    armed = revert.Revert.arm(run, (("ufw", "reload"),), 30.0, tmp_path)
    assert "OnActiveSec=90s" in (tmp_path / f"{armed.name}.timer").read_text()
    armed.disarm()
    assert list(tmp_path.iterdir()) == []
    assert ("systemctl", "stop", f"{armed.name}.timer") in ran
    assert ("systemctl", "start", f"{armed.name}.service") not in ran


def test_patronis_own_file_tells_how_to_reach_it(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(
        "restapi:\n  listen: 0.0.0.0:8009\n  certfile: /x\n  authentication:\n    username: patroni\n"
        "    password: hunter2\npostgresql:\n  listen: 0.0.0.0:5499\n"
    )
    at = restapi.settings(path)
    assert (at.port, at.tls, at.username, at.password.reveal(), at.postgresql_port) == (
        8009,
        True,
        "patroni",
        "hunter2",
        5499,
    )
    assert "hunter2" not in repr(at)
    assert restapi.settings(tmp_path / "none").port == 8008


def test_a_containers_memory_is_its_limit() -> None:
    assert survey.memory(8 * 2**30, "max") == 8 * 2**30
    assert survey.memory(8 * 2**30, str(2**30)) == 2**30
    assert survey.memory(8 * 2**30, str(2**63)) == 8 * 2**30


def test_the_survey_of_this_host_has_what_documents_need() -> None:
    facts = survey.survey("1.2.3")
    assert facts.cpus > 0 and facts.memory_bytes > 0 and facts.hostname and facts.pgha_version == "1.2.3"
    assert all(not address.startswith("127.") for address in facts.addresses)
