"""Everything that can be wrong with what was typed: one clear line, and nothing left behind."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from mount.harness import clear, environment, is_mounted, mounted, zarrmount
from mount.places import s3_options
from servers import free_port

from zarrmount import registry

SECRET = "s3cr3t-w0rd"


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "mnt"
    made.mkdir()
    yield made
    clear(made)


def refused(tmp_path: Path, *words: str | Path, says: tuple[str, ...]) -> None:
    """Assert that ``zarrmount mount`` refuses with one line that says `says`, leaving nothing behind."""
    done = zarrmount("mount", *words, environment=environment(tmp_path))
    assert done.returncode != 0
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("zarrmount: ")
    assert "Traceback" not in done.stderr
    for text in says:
        assert text.lower() in done.stderr.lower(), done.stderr
    logs = "".join(path.read_text() for path in (tmp_path / "state").rglob("*.log"))
    assert SECRET not in done.stderr + logs
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    assert not [mount for mount in registry.all_running() if mount.mountpoint.startswith(str(tmp_path))]
    assert not _processes_with(str(tmp_path))


def _processes_with(text: str) -> list[str]:
    """Return the command lines of processes (but this one) that mention `text`."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                line = (process / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if text in line and "zarrmount" in line.split("\0"):
                found.append(line)
    return found


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("nonsense://somewhere/x", ("nonsense",)),
        ("missing.zarr", ("missing.zarr", "--create")),
        ("file:///nowhere/at/all.zarr", ("/nowhere/at/all.zarr",)),
        ("missing.zarr.zip", ("missing.zarr.zip",)),
        ("python:no.such.module:factory", ("'no'",)),
        ("python:mount.failing_stores:missing", ("missing",)),
        ("python:nocolon", ("python:",)),
        ("s3://", ("s3://",)),
        ("", ("",)),
    ],
)
def test_a_location_that_names_no_store(
    tmp_path: Path, mountpoint: Path, location: str, says: tuple[str, ...]
) -> None:
    refused(tmp_path, location, mountpoint, says=says)


def test_a_bucket_that_does_not_exist(tmp_path: Path, mountpoint: Path, s3_server: object) -> None:
    server = s3_server()
    refused(tmp_path, "s3://no-such-bucket/x", mountpoint, *s3_options(server), says=("no-such-bucket",))


def test_a_server_that_does_not_listen(tmp_path: Path, mountpoint: Path) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    words = ["--endpoint-url", endpoint, "--storage-option", "key=a", "--storage-option", f"secret={SECRET}"]
    refused(tmp_path, "s3://bucket/x", mountpoint, *words, says=(endpoint, "refused"))


class _Refuses(BaseHTTPRequestHandler):
    """Answers as S3 does to a key that it does not know."""

    def do_GET(self) -> None:
        body = b"<Error><Code>InvalidAccessKeyId</Code><Message>No such key id.</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_PUT = do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_wrong_credentials(tmp_path: Path, mountpoint: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refuses) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            endpoint = f"http://127.0.0.1:{server.server_port}"
            words = ["--storage-option", "key=a", "--storage-option", f"secret={SECRET}"]
            words += ["--endpoint-url", endpoint, "--region", "us-east-1"]
            refused(tmp_path, "s3://bucket/x", mountpoint, *words, says=("access key",))
        finally:
            server.shutdown()
            thread.join()


def test_a_file_that_is_no_zip(tmp_path: Path, mountpoint: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"this is no archive" * 100)
    refused(tmp_path, tmp_path / "x.zip", mountpoint, says=("x.zip", "zip"))


def test_a_damaged_zip(tmp_path: Path, mountpoint: Path) -> None:
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        for number in range(20):
            archive.writestr(f"key-{number}", b"x" * 1000)
    data = (tmp_path / "whole.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[:-200])
    refused(tmp_path, tmp_path / "cut.zip", mountpoint, says=("cut.zip",))
    (tmp_path / "bent.zip").write_bytes(data[:-700] + b"\xff" * 100 + data[-600:])
    refused(tmp_path, tmp_path / "bent.zip", mountpoint, says=("bent.zip",))


def test_a_file_that_is_neither(tmp_path: Path, mountpoint: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path, tmp_path / "notes.txt", mountpoint, says=("notes.txt",))


# -- where to mount --------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Path:
    made = tmp_path / "store"
    made.mkdir()
    return made


def test_a_mount_point_that_is_missing(tmp_path: Path, store: Path) -> None:
    refused(tmp_path, store, tmp_path / "missing", says=("missing", "mkdir"))


def test_a_mount_point_that_is_a_file(tmp_path: Path, store: Path) -> None:
    (tmp_path / "file").touch()
    refused(tmp_path, store, tmp_path / "file", says=("file", "not a directory"))


def test_a_mount_point_that_is_not_empty(tmp_path: Path, store: Path, mountpoint: Path) -> None:
    (mountpoint / "hidden").write_bytes(b"1")
    refused(tmp_path, store, mountpoint, says=("not empty", "--nonempty"))
    with mounted(store, tmp_path, "--nonempty") as mount:
        assert mount.python("result = os.listdir()") == []
    assert (mountpoint / "hidden").read_bytes() == b"1"


def test_a_mount_point_that_is_taken(tmp_path: Path, store: Path) -> None:
    with mounted(store, tmp_path) as mount:
        done = zarrmount("mount", store, mount.path, environment=mount.environment)
        assert done.returncode != 0
        assert len(done.stderr.splitlines()) == 1
        assert "already" in done.stderr
        assert "umount" in done.stderr
        mount.sh("echo still there > file")


def test_a_mount_point_inside_the_store(tmp_path: Path, store: Path) -> None:
    (store / "inside").mkdir()
    refused(tmp_path, store, store / "inside", says=("inside the store",))
    refused(tmp_path, store, store, says=("inside the store",))
    (tmp_path / "link").symlink_to(store / "inside")
    refused(tmp_path, f"file://{store}", tmp_path / "link", says=("inside the store",))


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-o", "nonsense"], ["nonsense"]),
        (["-o", "read_onyl"], ["read_onyl"]),
        (["-o", "noatimes"], ["noatime"]),
        (["-o", "uid"], ["uid"]),
        (["-o", "uid=many"], ["many"]),
        (["-o", "umask=9"], ["9"]),
        (["-o", "metadata_ttl=soon"], ["soon"]),
        (["-o", f"secrett={SECRET}"], ["secrett"]),
        (["--uid", "many"], ["many"]),
        (["--umask", "888"], ["888"]),
        (["--file-mode", "rw"], ["rw"]),
        (["--metadata-ttl", "-1"], ["-1"]),
        (["--metadata-ttl", "nan"], ["nan"]),
        (["--storage-option", "novalue"], ["novalue"]),
        (["--backend", "magic"], ["magic"]),
        (["--log-format", "xml"], ["xml"]),
        (["--no-such-option"], ["--no-such-option"]),
        (["one", "too", "many"], ["one"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_options(
    tmp_path: Path, store: Path, mountpoint: Path, words: list[str], says: list[str]
) -> None:
    refused(tmp_path, store, mountpoint, *words, says=tuple(says))


def test_secrets_are_not_repeated(tmp_path: Path, mountpoint: Path) -> None:
    for location in (
        f"s3://user:{SECRET}@bucket/x",
        f"https://127.0.0.1:1/x.zip?sig={SECRET}",
        f"nope://u:{SECRET}@h/x",
    ):
        refused(tmp_path, location, mountpoint, says=())


def test_missing_arguments(tmp_path: Path) -> None:
    for words in (["mount"], ["mount", "x"], ["umount"], ["info"], ["nonsense"]):
        done = zarrmount(*words, environment=environment(tmp_path))
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "--help" in done.stderr


# -- bad, but good enough to be mounted ------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "{", '{"zarr_format": 99}', '{"zarr_format": 3, "node_type": "array"}', "[]", "\0\1\2"]
)
def test_a_malformed_zarr_json_is_a_file_like_any_other(tmp_path: Path, store: Path, text: str) -> None:
    (store / "zarr.json").write_text(text)
    (store / "c").mkdir()
    (store / "c/0").write_bytes(b"chunk")
    with mounted(store, tmp_path) as mount:
        assert mount.python("result = open('zarr.json').read()") == text
        assert mount.sh("cat c/0; ls -la >/dev/null; getfattr -d . 2>/dev/null || true").startswith("chunk")
        assert mount.python("result = os.listxattr('.')") != []
        assert "a fault in zarrmount" not in mount.read_log()


def test_a_store_that_is_no_zarr_at_all(tmp_path: Path, store: Path) -> None:
    (store / "notes.txt").write_text("hello")
    with mounted(store, tmp_path) as mount:
        assert mount.sh("cat notes.txt") == "hello"
        mount.sh("echo more >> notes.txt")
    assert (store / "notes.txt").read_text() == "hellomore\n"


def test_nothing_is_mounted_by_a_test_that_failed_to(tmp_path: Path, mountpoint: Path) -> None:
    assert not is_mounted(mountpoint)
