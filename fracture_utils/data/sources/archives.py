"""Archives of published data sets: judged member by member, then unpacked once."""

import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from fracture_utils import files
from fracture_utils.data import folders, reader
from fracture_utils.data.sources import published
from fracture_utils.errors import InputError

MAX_MEMBER_BYTES = 2 * 2**30
MAX_ARCHIVE_BYTES = 200 * 2**30
KEPT = (*reader.SUFFIXES, ".csv", ".json", ".xml", ".zip")
"""What is unpacked; the rest of an archive is of no use here."""


def opened(source: Path, store: Path) -> published.Upstream:
    """The files of the folder or archive `source`; archives are unpacked below `store`.

    InputError where there is no such file, or an archive is unsafe or damaged.
    """
    if source.is_dir():
        inner = sorted(source.glob("*.zip"))
        for archive in inner:
            _unpack(archive, store / archive.stem)
        return published.Upstream([source, store] if inner else [source], store.parent)
    if not source.is_file():
        raise InputError(f"There is no file or folder {source}; name the data set as published.")
    _unpack(source, store)
    for archive in [path for path, _ in folders.walk(store) if path.suffix == ".zip"]:
        _unpack(archive, archive.with_suffix(""))
    return published.Upstream([store], store.parent)


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack what is KEPT, after every member has been checked; members already there stay."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                members = [(m.filename, m.file_size, _zip_kind(m), m) for m in opened.infolist()]
                _unpack_members(folder, _checked(archive, members), opened.open)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as opened:
                members = ((m.name, m.size, _tar_kind(m), m) for m in opened)
                _unpack_members(folder, _checked(archive, members), opened.extractfile)
        else:
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


def _unpack_members(folder: Path, members: list[tuple], open_member: Callable) -> None:
    for name, size, kind, member in members:
        target = folder / name
        unwanted = published.hidden(PurePosixPath(name)) or target.suffix.lower() not in KEPT
        if kind == "folder" or unwanted:
            continue
        if not target.exists() or target.stat().st_size != size:
            with files.replacing(target) as temporary, open_member(member) as stream:
                _copy_bytes(stream, temporary, size)


def _copy_bytes(stream: BinaryIO, target: Path, size: int) -> None:
    with target.open("wb") as file:
        while block := stream.read(2**20):
            size -= len(block)
            if size < 0:
                raise ValueError("a member is larger than it declares")
            file.write(block)
