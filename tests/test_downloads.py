"""Downloads: whole and checked, or one clear error and nothing kept."""

import errno
import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from dualtl_lib import cli as command
from dualtl_lib.models import download, weights


class Server(BaseHTTPRequestHandler):
    """Serves `content`; `mode` names its fault."""

    content, mode, requests = b"", "whole", 0

    def do_GET(self):
        cls = type(self)
        cls.requests += 1
        if cls.mode == "missing":
            self.send_error(404)
            return
        body = b"<html>sign in" if cls.mode == "portal" else cls.content
        self.send_response(200)
        if cls.mode != "unnumbered":
            self.send_header("Content-Length", "many" if cls.mode == "misnumbers" else str(len(body)))
        self.end_headers()
        if cls.mode == "hangs up":
            return
        self.wfile.write(body[: len(body) // 3] if cls.mode in ("cut", "stalls") else body)
        if cls.mode == "stalls":
            self.wfile.flush()
            self.server.pause.wait(2)

    def log_message(self, *args):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A source 'made-up' behind a server on this machine, and an empty cache; gives the server's class."""

    class Mine(Server):
        content = np.random.default_rng(0).bytes(1_000_000)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Mine)
    server.pause = threading.Event()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    source = weights.Source(
        title="made up",
        order="pool-norm",
        licence="none",
        url=f"http://127.0.0.1:{server.server_port}/made_up.caffemodel",
        checksum="sha1:" + hashlib.sha1(Mine.content).hexdigest(),
        size=len(Mine.content),
    )
    monkeypatch.setitem(weights.SOURCES, "made-up", source)
    monkeypatch.setenv("DUALTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    yield Mine
    server.pause.set()
    server.shutdown()
    server.server_close()


def kept(tmp_path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "cache").iterdir())


@pytest.mark.parametrize("mode", ["whole", "unnumbered"])
def test_fetch_downloads_once(served, tmp_path, mode, capsys):
    served.mode = mode
    for _ in range(2):
        assert command.main(["weights", "fetch", "made-up"]) == 0
    assert (tmp_path / "cache" / "made_up.caffemodel").read_bytes() == served.content
    assert kept(tmp_path) == ["made_up.caffemodel"] and served.requests == 1
    assert "B/s" in capsys.readouterr().err  # a progress bar


@pytest.mark.parametrize("mode", ["missing", "portal", "hangs up", "cut", "stalls", "misnumbers"])
def test_a_server_that_does_not_give_the_file(served, tmp_path, mode):
    served.mode = mode
    with pytest.raises(ConnectionError, match=r"/made_up.caffemodel: "):
        weights.fetch("made-up")
    assert kept(tmp_path) == []
    served.mode = "whole"
    assert weights.fetch("made-up").read_bytes() == served.content


def test_nobody_listens(served, tmp_path):
    with pytest.raises(ConnectionError, match=r"http://127.0.0.1:9/m"):
        weights.fetch("made-up", "http://127.0.0.1:9/m")
    assert kept(tmp_path) == []


@pytest.mark.parametrize("url", ["dl.caffe.org/m.caffemodel", "http://127.0.0.1:x/m", "http://[::1/m", "ftp://host/m"])
def test_an_address_that_is_none(served, tmp_path, url):
    with pytest.raises(ValueError, match="expected an address") as error:
        weights.fetch("made-up", url)
    assert url in str(error.value) and kept(tmp_path) == []


def test_a_wrong_checksum_keeps_nothing(served, tmp_path):
    served.content = served.content[:-1] + b"?"
    found = hashlib.sha1(served.content).hexdigest()
    expected = weights.SOURCES["made-up"].checksum.removeprefix("sha1:")
    with pytest.raises(ValueError, match=rf"/made_up.caffemodel: expected sha1 {expected}, found {found}.*--url"):
        weights.fetch("made-up")
    assert kept(tmp_path) == []


def test_a_folder_that_cannot_be_written(served, tmp_path):
    (tmp_path / "cache").write_text("a file in its place")
    with pytest.raises(OSError, match=r"DUALTL_CACHE.*cache'"):
        weights.fetch("made-up")
    assert not served.requests


def test_a_disk_that_fills_up_keeps_nothing(served, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(download, "_receive", full)
    with pytest.raises(OSError, match=r"No space left.*DUALTL_CACHE.*cache'") as error:
        weights.fetch("made-up")
    assert error.value.errno == errno.ENOSPC and kept(tmp_path) == []


def test_a_source_without_an_address(served):
    with pytest.raises(ValueError, match=r"'embedded'.*bvlc-caffenet"):
        weights.fetch("embedded")
    with pytest.raises(FileNotFoundError, match="weights fetch made-up"):
        weights.load_trunk("made-up")
