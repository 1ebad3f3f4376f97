import functools
import hashlib
import http.server
import threading
import time
from pathlib import Path

import pytest

from fracture_utils import download
from fracture_utils.config import Config
from fracture_utils.errors import InputError
from fracture_utils.models import backbones

CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT at every address; the address says what goes wrong."""

    def do_GET(self):  # noqa: C901  (a branch a fault)
        self.server.requests.append(self.headers.get("Range"))
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if self.path == "/missing":
            return self.send_error(404)
        if self.path == "/busy" and len(self.server.requests) < 3:
            return self.send_error(503)
        if self.path == "/hangs":
            time.sleep(1.5)
            return None
        if self.path == "/garbage-protocol":
            return self.wfile.write(b"\0\1\2 nonsense\r\n\r\n")
        if self.path in ("/ignores-range", "/wrong"):
            start = 0
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            return self.end_headers()
        content = CONTENT[start:] if self.path != "/wrong" else b"<html>Sign in</html>"
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        if self.path == "/wrong":
            self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.path == "/drips":
            for byte in content[:30]:
                self.wfile.write(bytes([byte]))
                time.sleep(0.05)
            return None
        if self.path in ("/drops", "/ignores-range") and len(self.server.requests) < 4:
            content = content[:300_000]
        return self.wfile.write(content)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """The client left: as intended."""


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "PAUSE", 0.01)
    with Server(("127.0.0.1", 0), Handler) as running:
        running.requests = []
        running.address = f"http://127.0.0.1:{running.server_port}"
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


def test_a_file_comes_once_and_is_checked(server):
    path = download.fetch(f"{server.address}/a", "deep/a.h5", MD5)
    assert Path(path).read_bytes() == CONTENT
    download.fetch(f"{server.address}/a", "deep/a.h5", MD5)
    assert len(server.requests) == 1


def test_a_broken_connection_is_continued(server):
    download.fetch(f"{server.address}/drops", "a", MD5)
    assert Path("a").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    assert {p.name for p in Path().iterdir()} <= {"a", ".a.lock"}


def test_a_later_run_continues_where_the_last_was_killed(server):
    Path(".a.part").write_bytes(CONTENT[:5000])
    download.fetch(f"{server.address}/a", "a", MD5)
    assert server.requests == ["bytes=5000-"]
    Path(".b.part").write_bytes(CONTENT)
    download.fetch(f"{server.address}/b", "b", MD5)
    assert Path("b").read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_starts_again(server):
    download.fetch(f"{server.address}/ignores-range", "a", MD5)
    assert Path("a").read_bytes() == CONTENT


def test_a_stale_beginning_is_thrown_away(server):
    Path(".a.part").write_bytes(b"x" * 100)
    download.fetch(f"{server.address}/a", "a", MD5)
    assert Path("a").read_bytes() == CONTENT
    assert server.requests == ["bytes=100-", None]


def test_a_busy_server_is_asked_again(server):
    download.fetch(f"{server.address}/busy", "a", MD5)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("/missing", "Not Found"),
        ("/wrong", "md5"),
        ("/hangs", "timed out|closed connection"),
        ("/garbage-protocol", "nonsense|BadStatus|Protocol"),
        ("/drips", "fewer than"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(server, monkeypatch, address, reason):
    monkeypatch.setattr(download, "TRIES", 2)
    monkeypatch.setattr(download, "STALL", 0.3)
    started = time.monotonic()
    with pytest.raises(InputError, match=reason) as caught:
        download.fetch(server.address + address, "w/a.h5", MD5, timeout=0.3)
    assert time.monotonic() - started < 5
    text = str(caught.value)
    assert "a.h5" in text
    assert server.address + address in text
    assert str(Path("w").resolve()) in text
    assert not Path("w/a.h5").exists()


def test_without_a_hash_a_web_page_is_refused(server):
    with pytest.raises(InputError, match="a web page came"):
        download.fetch(f"{server.address}/wrong", "a")
    assert not Path("a").exists()


def test_a_file_of_other_content_is_left_alone(server):
    Path("a").write_text("mine")
    with pytest.raises(InputError, match="expected was"):
        download.fetch(f"{server.address}/a", "a", MD5)
    assert Path("a").read_text() == "mine"
    assert server.requests == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y", "nonsense", ""])
def test_only_http(url):
    with pytest.raises(InputError, match="no http or https address"):
        download.fetch(url, "a")


class Proxy(http.server.BaseHTTPRequestHandler):
    """What stands between a hospital and the internet, in three bad moods."""

    def answer(self):
        self.server.requests.append(self.path)
        if self.server.mood == "refuses":
            return self.send_error(403, "Blocked by policy")
        if self.server.mood == "hangs":
            return time.sleep(3)
        return self.wfile.write(b"\x16\x03 nonsense <html>\r\n\r\n" * 1000)

    do_GET = do_CONNECT = answer

    def log_message(self, *_):
        pass


REASONS = {
    "refuses": "Blocked by policy",
    "hangs": "timed out",
    "serves garbage": "nonsense|BadStatus|Protocol",
    "is not there": "refused",
}


@pytest.fixture(params=REASONS)
def proxy(request, monkeypatch):
    """A proxy for http and https on this machine; no request gets past it."""
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "PAUSE", 0.01)
    monkeypatch.setattr(download, "STALL", 0.5)
    with Server(("127.0.0.1", 0), Proxy) as running:
        running.mood, running.requests = request.param, []
        port = 9 if request.param == "is not there" else running.server_port
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_behind_a_bad_proxy_it_gives_up_soon_and_says_what_to_do(proxy, scheme):
    address = f"{scheme}://weights.invalid/a.h5"
    started = time.monotonic()
    with pytest.raises(InputError, match=REASONS[proxy.mood]) as caught:
        download.fetch(address, "w/a.h5", MD5, timeout=0.3)
    assert time.monotonic() - started < 5
    for part in ("a.h5", address, str(Path("w").resolve())):
        assert part in str(caught.value)
    assert not list(Path("w").glob("*.h5"))


def test_behind_a_bad_proxy_one_try_stands_for_all_six_networks(proxy, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(Path("keras").resolve()))
    monkeypatch.setattr(backbones, "RELEASED_DIR", Path("none"))
    monkeypatch.setattr(download, "fetch", functools.partial(download.fetch, timeout=0.3))
    found, missing = backbones.find_weights(Config(source="phantoms"))
    assert {weights.initialisation for weights in found.values()} == {"random"}
    assert not missing
    asked = {path.split("/")[-1] for path in proxy.requests}
    assert len(asked) == (0 if proxy.mood == "is not there" else 1)
    Path("mine/train/normal").mkdir(parents=True)
    Path("mine/train/normal/a.png").touch()
    with pytest.raises(InputError) as caught:
        backbones.find_weights(Config(data_dir="mine", weights_dir="brought"))
    for network in backbones.REGISTRY.values():
        for part in (network.weights_file, network.weights_address, "into brought"):
            assert part in str(caught.value)


def test_an_address_that_is_none_is_one_sentence(server):
    with pytest.raises(InputError, match="could not be fetched"):
        download.fetch("http://[broken/a", "a")


def test_without_a_network_it_gives_up_soon(server, monkeypatch):
    pauses = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    with pytest.raises(InputError, match="could not be fetched"):
        download.fetch("http://127.0.0.1:9/a", "a", MD5)
    assert len(pauses) == 1
