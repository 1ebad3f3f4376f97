"""Fetch a file over http(s): resumed after a break, checked against its hash, never half done.

Why not pooch: version 1.9.0 deletes what came before a break and begins again at the first byte.
"""

import contextlib
import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from fracture_utils import files
from fracture_utils.errors import InputError

CHUNK = 2**18
TRIES = 5
PAUSE = 1.0
"""Seconds before the second try; doubled for each further one."""
STALL = 60.0
"""Longest time, in seconds, for CHUNK bytes: a server that drips for ever is given up."""
FINAL = (400, 401, 403, 404, 407, 410, 451)
"""HTTP answers that another try will not change."""


def fetch(url: str, path: Path, md5: str | None = None, timeout: float = 30.0) -> Path:
    """Bring the file at `url` to `path`, unless it lies there already, and return `path`.

    What came before a break is kept beside `path` as `.NAME.part` and continued. `timeout` is
    the longest wait for the server, in seconds. Raises InputError that names file, address and
    folder where the file cannot be had or is another than that of `md5`.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    if not url.lower().startswith(("http://", "https://")):
        raise InputError(f"{url} is no http or https address; {path.name} was not fetched.")
    try:
        if path.is_file():
            _check(path, md5)
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(part.with_suffix(".lock"), timeout=timeout):
            if not path.is_file():  # another process may have been faster
                _fetch_in_tries(url, part, md5, timeout)
                part.replace(path)
    except (OSError, ValueError, Timeout, http.client.HTTPException, _WrongError) as error:
        raise InputError(
            f"{path.name} could not be fetched from {url}: {getattr(error, 'reason', error)}. Try "
            f"again, or bring the file by other means into the folder {path.parent.resolve()}."
        ) from None
    return path


class _WrongError(Exception):
    """What came, or what lies there, is not what was asked for."""


def _check(path: Path, md5: str | None) -> None:
    if md5 and (found := files.md5(path)) != md5.lower():
        raise _WrongError(f"{path} has the md5 {found}, expected was {md5}")


def _fetch_in_tries(url: str, part: Path, md5: str | None, timeout: float) -> None:
    for attempt in range(TRIES):
        try:
            _continue(url, part, timeout, hashed=bool(md5))
            try:
                _check(part, md5)
            except _WrongError:
                part.unlink()  # nothing of it can be continued
                raise
            return
        except (OSError, http.client.HTTPException, _WrongError) as error:
            unreachable = type(error) is urllib.error.URLError and attempt > 0
            if attempt + 1 == TRIES or unreachable or getattr(error, "code", None) in FINAL:
                raise
        time.sleep(PAUSE * 2**attempt)


def _continue(url: str, part: Path, timeout: float, hashed: bool) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "fracture-detection", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(url, headers=headers)
    try:
        answer = urllib.request.build_opener().open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if hashed and error.headers.get("Content-Range") == f"bytes */{have}":
                return  # it was complete already
            part.unlink()
        raise
    with contextlib.closing(answer):
        if not hashed and answer.headers.get_content_type() == "text/html":
            raise _WrongError("a web page came instead of a file")
        resumed = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if resumed and answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        total = have + int(answer.headers.get("Content-Length") or 0)
        with part.open("ab" if have else "wb") as file:
            _copy(answer, file, have, total)


def _copy(answer: http.client.HTTPResponse, file: BinaryIO, done: int, total: int) -> None:
    begun, mark = time.monotonic(), done
    while block := answer.read1(CHUNK):
        file.write(block)
        done += len(block)
        if done - mark >= CHUNK:
            begun, mark = time.monotonic(), done
        elif time.monotonic() - begun > STALL:
            raise _WrongError(f"fewer than {CHUNK:,} bytes came in {STALL:g} seconds")
    if done < total:
        raise _WrongError(f"the connection broke after {done:,} of {total:,} bytes")
