"""Fetch one large file over HTTP: resumed where it broke, checked before anyone sees it, with progress.

The bytes go to `NAME.part` and become `NAME` only when their SHA-256 is right, so a file that is there is whole.
"""

import contextlib
import errno
import os
import shutil
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import httpx

from core.artifacts import file_sha256
from core.errors import ChangedBytes, SettingError, Unavailable

Echo = Callable[[str], None]

ATTEMPTS = 6
_STALLED_S = 30.0


class Rejected(Unavailable):
    """The server answered, and will not give us the file: asking again does not help.

    Args:
        status: of the HTTP answer.
    """

    def __init__(self, message: str, next_step: str = "", *, status: int) -> None:
        super().__init__(message, next_step)
        self.status = status


def download(url: str, target: Path, *, sha256: str, size: int, echo: Echo, pause_s: float = 1.0) -> None:
    """Fetch `url` (http, https or file) to `target`.

    Args:
        size: bytes, for progress and for the message about a full disk.
        pause_s: wait before the second attempt; doubled before each further one.

    Raises:
        ChangedBytes: what came is not what was asked for; nothing of it is kept.
        Rejected: the server refuses.
        Unavailable: the network gave up; the next call goes on where this one stopped.
        SettingError: the disk is full.
    """
    part = target.with_name(target.name + ".part")
    try:
        if urlsplit(url).scheme == "file":
            shutil.copyfile(url2pathname(urlsplit(url).path), part)
        else:
            _fetch(url, part, size, echo, pause_s)
        found = file_sha256(part)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise SettingError(
            f"The disk of {target.parent} is full.",
            f"Free {size >> 20} MB there and start again: the download goes on where it stopped.",
        ) from error
    if found != sha256:
        part.unlink()
        raise ChangedBytes(
            f"{target.name} came with SHA-256 {found[:16]}…, expected {sha256[:16]}…. It was deleted.",
            "Start again; if it happens twice, check the mirror or proxy that pip is configured for.",
        )
    part.replace(target)


def _fetch(url: str, part: Path, size: int, echo: Echo, pause_s: float) -> None:
    """Fill `part`, going on after each break."""
    with _progress(target=part.stem, size=size, echo=echo) as show:
        for attempt in range(1, ATTEMPTS + 1):
            before = part.stat().st_size if part.exists() else 0
            try:
                with httpx.Client(
                    follow_redirects=True, timeout=httpx.Timeout(_STALLED_S), verify=_certificates()
                ) as client:
                    _fetch_rest(client, url, part, show)
                return
            except httpx.TransportError as error:
                progressed = part.exists() and part.stat().st_size > before
                if attempt == ATTEMPTS:
                    raise Unavailable(
                        f"{urlsplit(url).hostname} cannot be reached: {error or type(error).__name__}.",
                        "Check the network and start again: the download goes on where it stopped.",
                    ) from error
                time.sleep(pause_s if progressed else pause_s * 2 ** (attempt - 1))


def _fetch_rest(client: httpx.Client, url: str, part: Path, show: Callable[[int], None]) -> None:
    """One request for what `part` still lacks."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {"Accept-Encoding": "identity"}
    with client.stream("GET", url, headers=headers) as answer:
        if answer.status_code == 416:  # nothing is left to send, or the part is longer than the file
            if answer.headers.get("Content-Range") == f"bytes */{have}":
                return
            part.unlink()
            raise httpx.ReadError("the file is shorter than what is here already", request=answer.request)
        if answer.status_code >= 500 or answer.status_code == 429:
            raise httpx.ReadError(f"HTTP {answer.status_code}", request=answer.request)
        if answer.status_code not in (200, 206):
            raise Rejected(
                f"{answer.url.host} answered HTTP {answer.status_code} for {part.stem}.",
                "Check the index that pip is configured for (python -m pip config list).",
                status=answer.status_code,
            )
        resumed = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-") and answer.status_code == 206
        done = have if resumed else 0
        with part.open("ab" if resumed else "wb") as file:
            for chunk in answer.iter_bytes():  # as it comes: a break loses nothing that arrived
                file.write(chunk)
                done += len(chunk)
                show(done)


def _certificates() -> ssl.SSLContext:
    """Trust what the system trusts, and what pip was told to trust."""
    context = httpx.create_ssl_context()
    with contextlib.suppress(OSError, ssl.SSLError):
        context.load_default_certs()
    for name in ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        path = os.environ.get(name)
        if path:
            with contextlib.suppress(OSError, ssl.SSLError):
                context.load_verify_locations(path)
    return context


@contextlib.contextmanager
def _progress(target: str, size: int, echo: Echo) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, else a line for every tenth."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(target, total=size)
            yield lambda done: bar.update(task, completed=done)
        return
    shown = -1

    def line(done: int) -> None:
        nonlocal shown
        tenth = 10 * done // size
        if tenth > shown:
            shown = tenth
            echo(f"{target}: {done >> 20} of {size >> 20} MB")

    yield line
