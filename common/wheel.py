"""pgha as a wheel, made from its own installed files: what `enrol` sends to a host and `self.upgrade` to a minion.

Neither needs the checkout or an index for pgha itself, so nodes always get exactly the code that their master runs.

Rules:
1. Only the package goes in: folders with an `__init__.py`, their sources and the few data files. A checkout that is
   installed in place holds more (tests, documentation), and none of that travels.
2. The same files give the same `digest` everywhere. It is of RECORD, which names the hash of each file, and not of the
   archive, which depends on who compressed it.
3. What was received is believed only after `opened` has compared every file with RECORD.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path

from .errors import HostError, UserError

PROJECT = "pgha"
_KINDS = (".py", ".service", ".sh")
_NAMES = ("py.typed",)
_ABOUT = "Wheel-Version: 1.0\nGenerator: pgha\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_TIME = (1980, 1, 1, 0, 0, 0)  # the oldest that a zip archive can hold
_VERSION = re.compile(r"(\d+(?:\.\d+){0,4})(?:(a|b|rc)(\d+))?(?:\.post(\d+))?(?:\.dev(\d+))?(?:\+[a-z0-9.]{1,60})?")
_MAX_FILES, _MAX_BYTES = 2000, 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Wheel:
    """`requires`: what METADATA asks for besides Python, without the extras."""

    version: str
    digest: str
    requires: tuple[str, ...]
    data: bytes

    @property
    def name(self) -> str:
        return f"{PROJECT}-{self.version}-py3-none-any.whl"

    def file(self, path: str) -> str:
        """The text of one file of the package, such as `minion/pgha-minion.service`; empty when it has none."""
        with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
            try:
                return archive.read(f"{PROJECT}/{path}").decode()
            except KeyError:
                return ""


def installed() -> Wheel:
    """The pgha that runs, as a wheel. Raises HostError when it is not installed as a package, or cannot be read."""
    try:
        dist = metadata.distribution(PROJECT)
        root = Path(__file__).resolve().parents[1]
        files = {str(path.relative_to(root)): path.read_bytes() for path in _files(root)}
        return made(files, dist.read_text("METADATA") or "", dist.read_text("entry_points.txt") or "")
    except metadata.PackageNotFoundError:
        raise HostError(
            "pgha runs here without being installed; install it with pip, in a virtual environment"
        ) from None
    except OSError as error:
        raise HostError(f"pgha's own files cannot be read: {error}") from None


def _files(folder: Path) -> Iterator[Path]:
    """The package's own files below a folder that is a package, in a steady order."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (path / "__init__.py").is_file():
            yield from _files(path)
        elif path.is_file() and (path.suffix in _KINDS or path.name in _NAMES):
            yield path


def made(files: dict[str, bytes], about: str, entry_points: str) -> Wheel:
    """A wheel of these files of the package, `about` being its METADATA. Raises UserError when that is not pgha's."""
    version, requires = _headers(about)
    info = f"{PROJECT}-{version}.dist-info"
    members = {f"{PROJECT}/{path}": content for path, content in files.items()}
    members[f"{info}/METADATA"] = about.encode()
    members[f"{info}/WHEEL"] = _ABOUT.encode()
    members[f"{info}/entry_points.txt"] = entry_points.encode()
    record = _record(members, f"{info}/RECORD")
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**dict(sorted(members.items())), f"{info}/RECORD": record}.items():
            member = zipfile.ZipInfo(name, _TIME)
            member.external_attr = 0o100644 << 16
            archive.writestr(member, content, zipfile.ZIP_DEFLATED)
    return Wheel(version, _digest(record), requires, target.getvalue())


def opened(data: bytes) -> Wheel:
    """A wheel that was received. Raises UserError when it is not one of pgha, or its files are not what RECORD says."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            listed = archive.infolist()
            if len(listed) > _MAX_FILES or sum(member.file_size for member in listed) > _MAX_BYTES:
                raise UserError("this wheel is larger than pgha ever is")
            members = {member.filename: archive.read(member) for member in listed}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError):
        raise UserError("this is no wheel") from None
    found = [re.fullmatch(rf"({PROJECT}-([^/]+)\.dist-info)/RECORD", name) for name in members]
    infos = [match for match in found if match]
    if len(infos) != 1:
        raise UserError("this is no wheel of pgha")
    info, version = infos[0][1], infos[0][2]
    record = members.pop(f"{info}/RECORD")
    said, requires = _headers(members.get(f"{info}/METADATA", b"").decode(errors="replace"))
    inside = all(_is_inside(name, info) for name in members)
    expected = _record(members, f"{info}/RECORD")
    if said != version or not inside or sorted(record.splitlines()) != sorted(expected.splitlines()):
        raise UserError("this wheel's files are not those that it lists; it was damaged, or made by another hand")
    return Wheel(version, _digest(record), requires, data)


def _is_inside(name: str, info: str) -> bool:
    parts = name.split("/")
    return parts[0] in (PROJECT, info) and all(part not in ("", ".", "..") for part in parts) and "\\" not in name


def _record(members: dict[str, bytes], own: str) -> bytes:
    """Source: https://packaging.python.org/en/latest/specifications/recording-installed-packages/"""
    lines = []
    for name, content in sorted(members.items()):
        code = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        lines.append(f"{name},sha256={code},{len(content)}\n")
    return "".join([*lines, f"{own},,\n"]).encode()


def _digest(record: bytes) -> str:
    return hashlib.sha256(record).hexdigest()


def _headers(about: str) -> tuple[str, tuple[str, ...]]:
    """Version and requirements. Raises UserError."""
    headers = HeaderParser().parsestr(about)
    version = str(headers.get("Version", ""))
    if headers.get("Name") != PROJECT or not _VERSION.fullmatch(version):
        raise UserError("this wheel does not say that it is pgha")
    requires = [str(line) for line in headers.get_all("Requires-Dist", [])]
    return version, tuple(line for line in requires if "extra ==" not in line)


def order(version: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """What versions are compared by: `0.9 < 0.10.dev1 < 0.10a1 < 0.10rc1 < 0.10 = 0.10.0 < 0.10.post1`.

    Raises UserError for what is no version.
    """
    match = _VERSION.fullmatch(version)
    if match is None:
        raise UserError(f"{version!r} is no version")
    release = [int(part) for part in match[1].split(".")]
    while len(release) > 1 and not release[-1]:
        release.pop()
    stage = {"a": 1, "b": 2, "rc": 3}.get(match[2] or "", 0 if match[5] and not match[4] else 4)
    last = float(match[5]) if match[5] else float("inf")
    return tuple(release), (stage, float(match[3] or 0), float(match[4] or -1), last)
