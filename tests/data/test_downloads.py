"""Files fetched from a server of this machine, which fails as servers do."""

import hashlib
import os
import subprocess
import sys
import threading
import time
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest

from jnn.data import DataError, MissingDataError, datasets

CONTENT = bytes(range(256)) * 400
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A function: serve(answer, ...) -> an address at which request i is given answer i, and those behind the last that one."""
    monkeypatch.delenv("JNN_DATA_DIR", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(pooch.core, "time", types.SimpleNamespace(sleep=lambda seconds: None))  # between attempts
    running = []

    def serve(*answers):
        class Handler(BaseHTTPRequestHandler):
            asked = 0

            def do_GET(self):
                answer = answers[min(Handler.asked, len(answers) - 1)]
                Handler.asked += 1
                answer(self)

            def log_message(self, format, *args):
                pass

        running.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=running[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{running[-1].server_port}/file.bin", Handler

    yield serve
    for one in running:
        one.shutdown()
        one.server_close()


def whole(request, content=CONTENT, length=None):
    request.send_response(200)
    request.send_header("Content-Length", str(len(content) if length is None else length))
    request.end_headers()
    request.wfile.write(content)


def failing(request):
    request.send_error(503)


def cut(request):
    whole(request, CONTENT[:1000], len(CONTENT))


def wrong(request):
    whole(request, CONTENT[:-1] + b"!")


def hanging_up(request):
    request.connection.close()


def cached(tmp_path):
    return {path.name: path.read_bytes() for path in (tmp_path / "cache" / "jnn" / "set").iterdir()}


@pytest.mark.parametrize("answer", [failing, cut, wrong, hanging_up])
def test_a_server_that_fails_twice_is_asked_again(answer, server, tmp_path):
    address, handler = server(answer, answer, whole)
    path = datasets._fetch("set", "file.bin", SHA256, address)
    assert path.read_bytes() == CONTENT
    assert handler.asked == 3
    assert cached(tmp_path) == {"file.bin": CONTENT}
    assert datasets._fetch("set", "file.bin", SHA256, address) == path
    assert handler.asked == 3


@pytest.mark.parametrize("answer", [failing, cut, hanging_up])
def test_what_cannot_be_had_is_missing_and_leaves_nothing(answer, server, tmp_path):
    address, handler = server(answer)
    with pytest.raises(MissingDataError, match=rf"^set is missing: file.bin .* could it be fetched from {address} \("):
        datasets._fetch("set", "file.bin", SHA256, address)
    assert handler.asked == 3
    assert cached(tmp_path) == {}


def test_another_file_than_it_should_be_is_refused_and_leaves_nothing(server, tmp_path, raises):
    address, _ = server(wrong)
    text = f"file.bin as fetched from {address} is not the file it should be (its SHA-256 is not {SHA256})"
    with raises(DataError, text):
        datasets._fetch("set", "file.bin", SHA256, address)
    assert cached(tmp_path) == {}


def test_two_processes_that_fetch_at_once_get_the_whole_file_both(server, tmp_path):
    both, begun = threading.Barrier(2, timeout=60), []

    def slow(request):
        begun.append(time.monotonic())
        both.wait()  # neither has anything before both have asked
        request.send_response(200)
        request.send_header("Content-Length", str(len(CONTENT)))
        request.end_headers()
        for i in range(0, len(CONTENT), 20_480):
            request.wfile.write(CONTENT[i : i + 20_480])
            request.wfile.flush()
            time.sleep(0.01 * len(begun))

    address, handler = server(slow)
    code = (
        f"import pathlib, pooch; pooch.os_cache = lambda name: pathlib.Path({str(tmp_path / 'cache')!r}) / name\n"
        f"from jnn.data import datasets; print(datasets._fetch('set', 'file.bin', {SHA256!r}, {address!r}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    paths = set()
    for process in running:
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        paths.add(out.strip())
    assert paths == {str(tmp_path / "cache" / "jnn" / "set" / "file.bin")}
    assert handler.asked == 2
    assert cached(tmp_path) == {"file.bin": CONTENT}
