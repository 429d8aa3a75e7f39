"""How differences of files are shown, and that no secret is."""

from __future__ import annotations

from pgha.common.secret import Secret
from pgha.states.resource import Change
from pgha.states.resources.files import DIFF_LINES, File
from pgha.states.system import FileFacts

SECRET = File(
    path="/etc/patroni/config.yml",
    content="user: a\npassword: {{p}}\nport: 1\n",
    secrets={"p": Secret("hunter2")},
)


def on(content: str | None, mode: int = 0o644, owner: str = "root") -> FileFacts:
    return FileFacts("file", content, owner, "root", mode)


def everything(changes: list[Change]) -> str:
    return " ".join(repr(change) + repr(change.view()) for change in changes)


def test_a_difference_in_the_text_is_a_diff() -> None:
    (change,) = File(path="/a", content="a\nb\nc\n").plan(on("a\nx\nc\n"))
    assert (change.what, change.diff) == ("content", "@@ -1,3 +1,3 @@\n a\n-x\n+b\n c")


def test_owner_and_mode_are_differences_of_their_own() -> None:
    changes = File(path="/a", content="a\n", mode=0o640).plan(on("a\n", 0o600, "app"))
    assert [(c.what, c.before, c.after) for c in changes] == [
        ("owner", "app:root", "root:root"),
        ("mode", "0600", "0640"),
    ]


def test_a_long_diff_is_cut_and_says_so() -> None:
    (change,) = File(path="/a", content="\n".join(map(str, range(500)))).plan(on(""))
    assert change.diff.splitlines()[-1].startswith("... 301 more lines (")
    (other,) = File(path="/a", content="\n".join(map(str, [*range(499), "x"]))).plan(on(""))
    assert other.diff != change.diff  # though they differ only in what is not shown
    assert len(change.diff.splitlines()) == DIFF_LINES + 1


def test_only_another_secret_is_told_without_a_diff() -> None:
    (change,) = SECRET.plan(on("user: a\npassword: old-secret\nport: 1\n"))
    assert (change.what, change.diff) == ("secret value", "")


def test_neither_the_new_nor_an_old_secret_is_shown() -> None:
    changes = SECRET.plan(on("user: b\npassword: old-secret\nold-bare-secret\nb2xkLXNlY3JldA==\nport: 1\n"))
    shown = everything(changes)
    assert changes[0].diff.splitlines() == [
        "@@ -1,5 +1,3 @@",
        "-user: ********",
        "-password: ********",
        "-********",
        "-********",
        "+user: a",
        "+password: ********",
        " port: 1",
    ]
    for secret in ("hunter2", "old-secret", "old-bare-secret", "b2xk"):
        assert secret not in shown


def test_a_secret_that_stands_already_is_hidden_in_the_lines_around_a_difference() -> None:
    (change,) = SECRET.plan(on("user: b\npassword: hunter2\nport: 1\n"))
    assert " password: ********" in change.diff.splitlines()


def test_a_secret_of_many_lines_stays_hidden_line_by_line() -> None:
    file = File(path="/k", content="begin\n{{key}}\nend\n", secrets={"key": Secret("aaa\nbbb")})
    (change,) = file.plan(on("begin\naaa\nbbb\nfin\n"))
    assert change.diff.splitlines()[1:4] == [" begin", " ********", " ********"]


def test_marks_that_are_no_secrets_stay_as_they_are() -> None:
    file = File(path="/a", content="{{ not }} {{other}}\n", secrets={"p": Secret("x")})
    assert file.plan(on("{{ not }} {{other}}\n")) == []
