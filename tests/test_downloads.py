"""The download of the EPFL files, from a local server that misbehaves in every way."""

# ruff: noqa: F811 (a fixture is imported, and an argument's name)

import json
import socket
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from test_volumes import small_epfl  # noqa: F401  (a fixture)
from typer.testing import CliRunner

from synthseg import cli, volumes
from synthseg.volumes import DataError, load


class Server(ThreadingHTTPServer):
    """Serves a folder, counts what was asked for, and breaks off the transfers named in `cut`."""

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=folder))
        self.asked, self.cut = Counter(), Counter()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        name = Path(self.path).name
        self.server.asked[name] += 1
        super().do_GET()

    def copyfile(self, source, outputfile):
        name = Path(self.path).name
        if self.server.cut[name]:
            self.server.cut[name] -= 1
            outputfile.write(source.read(500))  # the header promised more
        else:
            super().copyfile(source, outputfile)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(small_epfl, tmp_path, monkeypatch):
    with Server(small_epfl) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("SYNTHSEG_EPFL_URL", server.url)
        monkeypatch.setattr(volumes.pooch, "os_cache", lambda name: tmp_path / "cache" / name)
        monkeypatch.setattr(volumes, "DOWNLOAD_RETRIES", 0)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(server, tmp_path):
    return tmp_path / "cache" / "synthseg" / "epfl"


def test_download_once_and_remember_the_sha256(server, cache, small_epfl):
    dataset = load("epfl")
    assert dataset.fingerprint == load(str(small_epfl)).fingerprint
    assert f"downloaded from {server.url}/" in dataset.provenance
    recorded = json.loads((cache / "sha256.json").read_text())
    assert recorded == {
        name: volumes._sha256((small_epfl / name).read_bytes()) for name in volumes.EPFL_FILES
    }
    load("epfl")
    assert server.asked == dict.fromkeys(volumes.EPFL_FILES, 1)


def test_an_interrupted_download_keeps_finished_files_and_starts_the_partial_one_again(
    server, cache
):
    server.cut["testing.tif"] = 1
    with pytest.raises(DataError, match=r"testing.tif could not be downloaded .* --data FOLDER"):
        load("epfl")
    arrived = {file.name for file in cache.iterdir()}
    assert arrived == {"training.tif", "training_groundtruth.tif", "sha256.json"}
    load("epfl")
    assert server.asked["training.tif"] == 1
    assert server.asked["testing.tif"] == 2


def test_a_broken_transfer_is_tried_again_by_itself(server, monkeypatch):
    monkeypatch.setattr(volumes, "DOWNLOAD_RETRIES", 1)
    server.cut["training.tif"] = 1
    load("epfl")
    assert server.asked["training.tif"] == 2


@pytest.mark.parametrize("length", [8, 500, -1])
def test_a_file_of_the_wrong_size_is_not_kept(server, cache, small_epfl, length):
    whole = (small_epfl / "training.tif").read_bytes()
    (small_epfl / "training.tif").write_bytes(whole[:length])
    with pytest.raises(
        DataError, match=r"training.tif could not .* bytes arrived instead of .*--da"
    ):
        load("epfl")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"<!DOCTYPE html><html>moved</html>", "no TIFF file: it is a web page"),
        (b"\n  <HTML>", "no TIFF file: it is a web page"),
        (b"Sorry, not today.", "no TIFF file: it is a text file"),
        (b"", "no TIFF file: it is empty"),
    ],
)
@pytest.mark.parametrize("right_size", [False, True])
def test_something_else_instead_of_a_tiff_is_not_kept(
    server, cache, small_epfl, start, message, right_size
):
    page = start.ljust(volumes.EPFL_BYTES) if right_size and start else start
    (small_epfl / "testing.tif").write_bytes(page)
    with pytest.raises(DataError, match=rf"testing.tif could not be downloaded .*{message}"):
        load("epfl")
    assert {file.name for file in cache.glob("*.tif")} == {
        "training.tif",
        "training_groundtruth.tif",
    }


def test_a_good_file_is_never_replaced_by_a_bad_one(server, cache, small_epfl):
    load("epfl")
    good = {file.name: file.read_bytes() for file in cache.iterdir()}
    (cache / "sha256.json").write_text(json.dumps(dict.fromkeys(volumes.EPFL_FILES, "0" * 64)))
    for name in volumes.EPFL_FILES:  # the checksums say "download again", the server is broken
        (small_epfl / name).write_bytes(b"<html>")
    with pytest.raises(DataError, match="could not be downloaded"):
        load("epfl")
    for name in volumes.EPFL_FILES:
        assert (cache / name).read_bytes() == good[name]


def test_a_half_file_of_unknown_origin_is_downloaded_anew(server, cache, small_epfl):
    cache.mkdir(parents=True)
    (cache / "training.tif").write_bytes((small_epfl / "training.tif").read_bytes()[:700])
    assert load("epfl").fingerprint == load(str(small_epfl)).fingerprint


def test_no_network_is_one_sentence(small_epfl, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("SYNTHSEG_EPFL_URL", f"http://127.0.0.1:{port}/")
    monkeypatch.setattr(volumes.pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(volumes, "DOWNLOAD_RETRIES", 0)
    with pytest.raises(DataError, match=r"training.tif could not be downloaded .*--data FOLDER"):
        load("epfl")
    result = CliRunner().invoke(cli.app, ["data", "check", "epfl"])
    assert result.exit_code == 2
    assert "training.tif could not be downloaded" in result.output
    assert "Traceback" not in result.output


def test_a_cache_that_cannot_be_made(server, cache, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(
        DataError, match=r"training.tif cannot be kept in .*; make that folder writ"
    ):
        load("epfl")


@pytest.mark.usefixtures("bound_by_permissions")
def test_a_cache_that_may_not_be_written(server, cache):
    cache.mkdir(parents=True)
    cache.chmod(0o500)
    try:
        with pytest.raises(DataError, match=r"training.tif cannot be kept in .*; make that folder"):
            load("epfl")
    finally:
        cache.chmod(0o700)


def test_a_write_that_is_refused(server, cache, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(cache))

    monkeypatch.setattr(volumes, "_download_whole_file", refuse)
    with pytest.raises(DataError, match=r"training.tif cannot be kept in .*Permission denied"):
        load("epfl")


@pytest.mark.parametrize("record", ["{", "[1, 2]", '{"training.tif": 3}'])
def test_a_damaged_record_of_checksums_is_named(server, cache, record):
    cache.mkdir(parents=True)
    (cache / "sha256.json").write_text(record)
    with pytest.raises(DataError, match=r"sha256.json cannot be read .*; delete it"):
        load("epfl")


def test_a_cached_file_that_changed_is_downloaded_again(server, cache):
    before = load("epfl").fingerprint
    damaged = bytearray((cache / "training.tif").read_bytes())
    damaged[-1] ^= 1
    (cache / "training.tif").write_bytes(damaged)
    assert load("epfl").fingerprint == before
    assert server.asked["training.tif"] == 2


def test_a_server_that_lost_the_files(server, small_epfl):
    (small_epfl / "training_groundtruth.tif").unlink()
    with pytest.raises(DataError, match=r"training_groundtruth.tif could not .*404"):
        load("epfl")


def test_an_incomplete_folder_in_the_environment_is_mentioned(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNTHSEG_DATA", str(tmp_path))
    with pytest.warns(UserWarning, match="holds no training.tif, .*; using the download instead"):
        load("epfl")
