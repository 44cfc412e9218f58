"""The download of the EPFL files, from a local server that misbehaves in every way."""

# ruff: noqa: F811 (a fixture is imported, and an argument's name)

import json
import re
import socket
from hashlib import sha256
from pathlib import Path

import pytest
from test_volumes import small_epfl  # noqa: F401  (a fixture)
from werkzeug import Response

from synthseg.stacks import epfl
from synthseg.volumes import DataError, load


class Server:
    """Serves a folder, except for the answers that a test gives it for one request."""

    def __init__(self, folder):
        self.folder, self.asked, self.once = folder, [], {}

    def answer(self, request):
        name = Path(request.path).name
        self.asked.append(name)
        if name in self.once:
            return self.once.pop(name)
        file = self.folder / name
        return Response(file.read_bytes()) if file.exists() else Response(status=404)

    def cut(self, name):
        """Break off the next transfer of a file, whose header promises all of it."""
        whole = (self.folder / name).read_bytes()
        headers = {"Content-Length": str(len(whole)), "Connection": "close"}
        self.once[name] = Response(iter([whole[:500]]), headers=headers)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(epfl.pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(epfl, "DOWNLOAD_RETRIES", 0)
    return tmp_path / "cache" / "synthseg" / "epfl"


@pytest.fixture
def server(httpserver, cache, small_epfl, monkeypatch):
    server = Server(small_epfl)
    httpserver.expect_request(re.compile(".*")).respond_with_handler(server.answer)
    monkeypatch.setenv("SYNTHSEG_EPFL_URL", httpserver.url_for("/"))
    return server


def test_download_once_and_remember_the_sha256(server, cache, small_epfl):
    dataset = load("epfl")
    assert dataset.fingerprint == load(str(small_epfl)).fingerprint
    assert "downloaded from http://" in dataset.provenance
    assert json.loads((cache / "sha256.json").read_text()) == {
        name: sha256((small_epfl / name).read_bytes()).hexdigest() for name in epfl.FILES
    }
    load("epfl")
    assert server.asked == list(epfl.FILES)


def test_an_interrupted_download_goes_on_with_the_file_it_was_in(server, cache):
    server.cut("testing.tif")
    with pytest.raises(DataError, match=r"testing.tif could not be downloaded .* --data FOLDER"):
        load("epfl")
    arrived = {file.name for file in cache.iterdir()}
    assert arrived == {"training.tif", "training_groundtruth.tif", "sha256.json"}
    load("epfl")
    assert (server.asked.count("training.tif"), server.asked.count("testing.tif")) == (1, 2)


def test_a_broken_transfer_is_tried_again_by_itself(server, monkeypatch):
    monkeypatch.setattr(epfl, "DOWNLOAD_RETRIES", 1)
    server.cut("training.tif")
    load("epfl")
    assert server.asked.count("training.tif") == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>moved</html>", "no TIFF file: it is a web page"),
        (b"\n  <HTML>".ljust(3976), "no TIFF file: it is a web page"),
        (b"Sorry, not today.", "no TIFF file: it is a text file"),
        (b"", "no TIFF file: it is empty"),
        (b"II*\0" + bytes(500), "504 bytes arrived instead of"),
    ],
)
def test_something_else_instead_of_the_file_is_not_kept(server, cache, content, message):
    server.once["testing.tif"] = Response(content)
    with pytest.raises(DataError, match=rf"testing.tif could not be downloaded .*{message}"):
        load("epfl")
    kept = {file.name for file in cache.glob("*.tif")}
    assert kept == {"training.tif", "training_groundtruth.tif"}


def test_a_good_file_is_never_replaced_by_a_bad_one(server, cache, small_epfl):
    load("epfl")
    good = {name: (cache / name).read_bytes() for name in epfl.FILES}
    (cache / "sha256.json").write_text(json.dumps(dict.fromkeys(epfl.FILES, "0" * 64)))
    for name in epfl.FILES:  # the checksums say "download again", the server is broken
        (small_epfl / name).write_bytes(b"<html>")
    with pytest.raises(DataError, match="could not be downloaded"):
        load("epfl")
    assert {name: (cache / name).read_bytes() for name in epfl.FILES} == good


def test_a_cached_file_that_changed_is_downloaded_again(server, cache):
    before = load("epfl").fingerprint
    damaged = bytearray((cache / "training.tif").read_bytes())
    damaged[-1] ^= 1
    (cache / "training.tif").write_bytes(damaged)
    assert load("epfl").fingerprint == before
    assert server.asked.count("training.tif") == 2


def test_no_network_is_one_sentence(small_epfl, cache, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("SYNTHSEG_EPFL_URL", f"http://127.0.0.1:{port}/")
    with pytest.raises(DataError, match=r"training.tif could not be downloaded .*--data FOLDER"):
        load("epfl")


def test_a_cache_that_cannot_be_made(server, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(DataError, match=r"training.tif cannot be kept in .*; make that folder wr"):
        load("epfl")


@pytest.mark.parametrize("record", ["{", "[1, 2]"])
def test_a_damaged_record_of_checksums_is_named(server, cache, record):
    cache.mkdir(parents=True)
    (cache / "sha256.json").write_text(record)
    with pytest.raises(DataError, match=r"sha256.json cannot be read .*; delete it"):
        load("epfl")


def test_an_incomplete_folder_in_the_environment_is_mentioned(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNTHSEG_DATA", str(tmp_path))
    with pytest.warns(UserWarning, match="holds no training.tif, .*; using the download instead"):
        load("epfl")
