"""Which programs a command line runs: behind sudo, env or timeout, and inside `sh -c '...'`. Pure.

It reads what people type and does not interpret: no variable, no function, no script file is followed. Of the words of
a wrapper's options it cannot tell which are values, so a word after an option counts as a command only if it is one of
the `programs` that somebody asks for.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from pathlib import PurePosixPath

UNREAD = "$words"
"""Stands for arguments that are not known yet."""
_DEPTH = 10
_SHELLS: tuple[str, ...] = ("sh", "bash", "dash", "ash", "ksh", "zsh", "su", "runuser")
_WRAPPERS: tuple[str, ...] = (
    "env",
    "sudo",
    "doas",
    "su",
    "runuser",
    "nice",
    "ionice",
    "chrt",
    "taskset",
    "nohup",
    "setsid",
    "stdbuf",
)
_WRAPPERS += ("time", "timeout", "flock", "chroot", "unshare", "nsenter", "systemd-run", "busybox", "xargs", "watch")
_WRAPPERS += ("exec", "command", "builtin", "eval")
_WORD_FIRST = ("timeout", "flock", "chroot", "taskset", "chrt")
"""Wrappers with a word of their own between their options and the command: a duration, a file, a mask."""
_KEYWORDS = ("if", "then", "else", "elif", "do", "while", "until", "!", "{", "}", "fi", "done")
_INIT_D = "/etc/init.d/"
_SUBSTITUTED = re.compile(r"\$\(([^()]*)\)|`([^`]*)`")  # the innermost ones


class TooDeep(Exception):
    """Shells in shells, more than anybody types."""


def commands(argv: Sequence[str], programs: Collection[str], depth: int = _DEPTH) -> Iterator[list[str]]:
    """The simple commands, each with its program's bare name first. Raises TooDeep."""
    if not argv:
        return
    if depth == 0:
        raise TooDeep
    program, arguments = PurePosixPath(argv[0]).name, list(argv[1:])
    script = _script_of(arguments) if program in _SHELLS else None
    if argv[0].startswith(_INIT_D):
        yield ["service", program, *arguments]
    elif script is not None:
        for words in _split(script):
            while words and (words[0] in _KEYWORDS or re.match(r"\w+=", words[0])):
                del words[0]
            yield from commands(words, programs, depth - 1)
    elif program in _WRAPPERS:
        yield from commands(_inner(program, arguments, programs), programs, depth - 1)
    else:
        yield [program, *arguments]


def bundle(word: str, letters: str) -> bool:
    """Whether it is short options written together, such as -qsy, with one of these among them."""
    return word.startswith("-") and word[1:].isalpha() and any(letter in word for letter in letters)


def _script_of(arguments: Sequence[str]) -> str | None:
    """What follows -c, also in a bundle such as -lc."""
    for word, following in zip(arguments, [*arguments, ""][1:], strict=True):
        if word.startswith("--command="):
            return word.partition("=")[2]
        if word == "--command" or bundle(word, "c"):
            return following
    return None


def _inner(wrapper: str, arguments: Sequence[str], programs: Collection[str]) -> list[str]:
    """The command behind options, their values and NAME=VALUE; empty when it is none that is asked for."""
    more = [UNREAD] if wrapper == "xargs" else []
    before, after_option = wrapper in _WORD_FIRST, False
    for index, word in enumerate(arguments):
        name = PurePosixPath(word).name
        if word.startswith("-"):
            after_option = word != "--" and "=" not in word
        elif name in programs or name in _WRAPPERS or name in _SHELLS or word.startswith(_INIT_D):
            return [*arguments[index:], *more]
        elif "=" in word or after_option:
            after_option = False
        elif before:
            before = False
        else:
            return ["sh", "-c", " ".join(arguments[index:])] if wrapper == "eval" else []
    return []


def _split(script: str) -> Iterator[list[str]]:
    """The words of each simple command. What is in $( ) or backticks is a command, and words of the one around it."""
    text = script.replace("\\\n", " ")
    for _ in range(_DEPTH):
        for found in _SUBSTITUTED.finditer(text):
            yield from _simple(found[1] or found[2] or "")
        text, inner = _SUBSTITUTED.subn(lambda found: re.sub(r"[;&|\n]", " ", f" $ {found[1] or found[2]} "), text)
        if not inner:
            break
    else:
        raise TooDeep
    yield from _simple(text)


def _simple(text: str) -> Iterator[list[str]]:
    """A quote that nobody closed is no quote."""
    if not text.strip():
        return
    text = re.sub(r"(?<![0-9])[0-9]*[<>]+&?\s*[^\s;&|()'\"]*", " ", text)  # redirections
    lexer = shlex.shlex(re.sub(r"\n", ";", re.sub(r"[()]", " ", text)), posix=True, punctuation_chars=";&|")
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        tokens = list(lexer)
    except ValueError:
        tokens = re.sub(r"[\n;&|()]+", " ; ", re.sub(r"['\"\\]", " ", text)).split()
    words: list[str] = []
    for token in [*tokens, ";"]:
        if token and not token.strip(";&|"):
            yield words
            words = []
        else:
            words.append(token)
