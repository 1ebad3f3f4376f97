"""Archives of published data sets: judged member by member, then unpacked once."""

import functools
import itertools
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from fracture_utils import files
from fracture_utils.data import folders, reader
from fracture_utils.data.sources import published
from fracture_utils.errors import InputError

MAX_MEMBER_BYTES = 2 * 2**30
MAX_ARCHIVE_BYTES = 200 * 2**30
TABLES = (".csv", ".json", ".xml", ".zip")
"""What is unpacked beside pictures; the rest of an archive is of no use here."""


def opened(source: Path, store: Path) -> published.Upstream:
    """The files of the folder or archive `source`; archives are unpacked below `store`, which lies
    in the folder that the pictures go to.

    InputError where there is no such file, or an archive is unsafe or damaged.
    """
    if source.is_dir():
        inner = _zips(source)
        left = [_unpack(path, store / path.relative_to(source).with_suffix("")) for path in inner]
        roots = [source, store] if inner else [source]
    elif source.is_file():
        left, roots = [_unpack(source, store)], [store]
        inner = _zips(store)
        left += [_unpack(path, path.with_suffix("")) for path in inner]
    else:
        raise InputError(f"There is no file or folder {source}; name the data set as published.")
    return published.Upstream(roots, store.parent, itertools.chain(*left), inner)


def _zips(folder: Path) -> list[Path]:
    return [
        path
        for path, reason in folders.walk(folder)
        if path.suffix.lower() == ".zip"
        and not (reason or folders.hidden(path.relative_to(folder)))
    ]


def _unpack(archive: Path, folder: Path) -> list[tuple[str, str]]:
    """Unpack pictures and TABLES, after every member has been checked; members already there stay.
    Returns what was not unpacked, and why.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                members = [(m.filename, m.file_size, _zip_kind(m), m) for m in opened.infolist()]
                return _unpack_members(folder, _checked(archive, members), opened.open)
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as opened:
                inside = ((m.name, m.size, _tar_kind(m), m) for m in opened)
                return _unpack_members(folder, _checked(archive, inside), opened.extractfile)
        raise InputError(f"{archive} is neither a folder nor a zip or tar archive.")
    except (OSError, EOFError, RuntimeError, NotImplementedError, ValueError, zipfile.BadZipFile,
            tarfile.TarError) as error:  # fmt: skip
        raise InputError(f"{archive} cannot be unpacked ({error}). Fetch it again.") from None


def _zip_kind(member: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if member.is_dir():
        return "folder"
    return "file" if kind in (0, stat.S_IFREG) else "link"


def _tar_kind(member: tarfile.TarInfo) -> str:
    return "file" if member.isreg() else "folder" if member.isdir() else "link"


def _checked(archive: Path, members: Iterable[tuple]) -> list[tuple]:
    """The members (name, size, kind, member), none of them hostile. Judged one by one, because
    a tar archive is read on the way, and by what they declare.
    """
    total, checked = 0, []
    for name, size, kind, member in members:
        total += size
        if re.search(r"^/|(^|/)\.\.(/|$)|[\\:\0]", name):
            problem = "leads out of its folder"
        elif kind == "link":
            problem = "is a link or a device"
        elif size > MAX_MEMBER_BYTES or total > MAX_ARCHIVE_BYTES:
            problem = f"is absurdly large ({size:,} bytes)"
        else:
            checked.append((name, size, kind, member))
            continue
        raise InputError(f"{archive} was not unpacked: its member {name!r} {problem}.")
    return checked


def _unpack_members(
    folder: Path, members: list[tuple], open_member: Callable
) -> list[tuple[str, str]]:
    left = []
    for name, size, kind, member in members:
        if kind == "folder":
            continue
        inside, target = PurePosixPath(name), folder / name
        there = target.exists() and target.stat().st_size == size
        with open_member(member) as stream:
            head = stream.read(reader.HEAD)
            reason = published.refusal(inside, functools.partial(bytes, head))
            if reason == published.NO_PICTURE and inside.suffix.lower() in TABLES:
                reason = ""
            if reason:
                left.append((name, reason))
            elif not there:
                with files.replacing(target) as temporary, temporary.open("wb") as file:
                    file.write(head)
                    shutil.copyfileobj(stream, file)  # no more than the member declares
    return left
