"""A download that breaks goes on; one that is wrong leaves nothing behind."""

import errno
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import ChangedBytes, SettingError, Unavailable
from integrations.huggingface import download as module
from integrations.huggingface.download import ATTEMPTS, Rejected, download

DATA = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(DATA).hexdigest()


class Mirror(http.server.ThreadingHTTPServer):
    """Serves DATA on loopback, as badly as it is told to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.data = DATA
        self.breaks: list[int] = []  # bytes to send before the connection is cut, request by request
        self.statuses: list[int] = []
        self.ranges = True
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/a.whl"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        mirror = self.server
        wanted = self.headers.get("Range")
        mirror.asked.append(wanted)
        if mirror.statuses:
            self.send_response(mirror.statuses.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and mirror.ranges else 0
        if start >= len(mirror.data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(mirror.data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = mirror.data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(mirror.data) - 1}/{len(mirror.data)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: mirror.breaks.pop(0)] if mirror.breaks else body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    server = Mirror()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(url: str, target: Path, said: list[str] | None = None) -> None:
    said = [] if said is None else said
    download(url, target, sha256=SHA256, size=len(DATA), echo=said.append, pause_s=0.001)


def test_it_fetches_and_shows_progress(mirror: Mirror, tmp_path: Path) -> None:
    said: list[str] = []
    fetch(mirror.url, tmp_path / "a.whl", said)
    assert (tmp_path / "a.whl").read_bytes() == DATA
    assert said[-1] == "a.whl: 1 of 1 MB"
    assert [path.name for path in tmp_path.iterdir()] == ["a.whl"]


def test_it_goes_on_where_the_connection_broke(mirror: Mirror, tmp_path: Path) -> None:
    mirror.breaks = [len(DATA) // 2, 1000]
    fetch(mirror.url, tmp_path / "a.whl")
    assert (tmp_path / "a.whl").read_bytes() == DATA
    assert mirror.asked == [None, f"bytes={len(DATA) // 2}-", f"bytes={len(DATA) // 2 + 1000}-"]


def test_the_next_start_goes_on_where_this_one_gave_up(mirror: Mirror, tmp_path: Path) -> None:
    mirror.breaks = [300_000, *[0] * (ATTEMPTS - 1)]
    with pytest.raises(Unavailable, match="goes on where it stopped"):
        fetch(mirror.url, tmp_path / "a.whl")
    assert not (tmp_path / "a.whl").exists()
    mirror.asked.clear()
    fetch(mirror.url, tmp_path / "a.whl")
    assert mirror.asked == ["bytes=300000-"]
    assert (tmp_path / "a.whl").read_bytes() == DATA


def test_a_server_without_ranges_is_read_from_the_start(mirror: Mirror, tmp_path: Path) -> None:
    mirror.ranges, mirror.breaks = False, [500_000]
    fetch(mirror.url, tmp_path / "a.whl")
    assert (tmp_path / "a.whl").read_bytes() == DATA


def test_wrong_bytes_are_deleted(mirror: Mirror, tmp_path: Path) -> None:
    mirror.data = DATA[:-1] + b"?"
    with pytest.raises(ChangedBytes, match="deleted.*Start again"):
        fetch(mirror.url, tmp_path / "a.whl")
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_is_whole_needs_no_byte_more(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "a.whl.part").write_bytes(DATA)
    fetch(mirror.url, tmp_path / "a.whl")
    assert (tmp_path / "a.whl").read_bytes() == DATA


def test_a_part_that_is_too_long_is_begun_anew(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "a.whl.part").write_bytes(DATA + b"more")
    fetch(mirror.url, tmp_path / "a.whl")
    assert (tmp_path / "a.whl").read_bytes() == DATA


def test_a_tired_server_is_asked_again(mirror: Mirror, tmp_path: Path) -> None:
    mirror.statuses = [503, 429]
    fetch(mirror.url, tmp_path / "a.whl")
    assert (tmp_path / "a.whl").read_bytes() == DATA


def test_a_refusal_is_told_at_once(mirror: Mirror, tmp_path: Path) -> None:
    mirror.statuses = [403]
    with pytest.raises(Rejected, match="HTTP 403") as refused:
        fetch(mirror.url, tmp_path / "a.whl")
    assert refused.value.status == 403
    assert len(mirror.asked) == 1


def test_no_network(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="Check the network"):
        fetch("http://127.0.0.1:9/a.whl", tmp_path / "a.whl")


def test_a_file_is_copied_and_checked(tmp_path: Path) -> None:
    (tmp_path / "a mirror").mkdir()
    source = tmp_path / "a mirror" / "a.whl"
    source.write_bytes(DATA)
    fetch(source.as_uri(), tmp_path / "b.whl")
    assert (tmp_path / "b.whl").read_bytes() == DATA
    source.write_bytes(b"other")
    with pytest.raises(ChangedBytes):
        fetch(source.as_uri(), tmp_path / "c.whl")


def test_a_full_disk(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_fetch_rest", full)
    with pytest.raises(SettingError, match="is full.*Free 1 MB"):
        fetch(mirror.url, tmp_path / "a.whl")
