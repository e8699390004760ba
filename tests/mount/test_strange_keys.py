"""Keys that a directory tree cannot show as they are: nothing crashes, escapes or is lost."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
from mount.harness import Mounted, mounted
from mount.places import s3_client, s3_options

BOTH = {"a": b"the object", "a/b": b"below it"}


def check_both(mount: Mounted) -> None:
    """A name that is an object and a prefix is shown as the directory, and told once."""
    assert "a" in mount.python("result = os.listdir()")
    assert mount.python("result = os.path.isdir('a')")
    assert mount.python("result = os.listdir('a')") == ["b"]
    assert mount.errno_of("open('a', 'rb')") == "EISDIR"
    mount.sh("ls -laR >/dev/null; stat a a/b >/dev/null")
    assert mount.read_log().count("is both an object and a prefix") == 1


def check_only(mount: Mounted, shown: set[str]) -> None:
    """Only usable names are shown; others cannot be reached by any path, and are told once."""
    for _ in range(2):
        assert set(mount.python("result = os.listdir()")) == shown
    mount.sh("find . >/dev/null; ls -la >/dev/null")
    assert mount.read_log().count("cannot be shown as a file") >= 1
    assert "a fault in zarrmount" not in mount.read_log()


def test_a_zip(tmp_path: Path) -> None:
    archive = tmp_path / "store.zip"
    names = ["dir//inner", "../outside", "x/../y", "/absolute", "n" * 300, "good"]
    with zipfile.ZipFile(archive, "w") as file:
        for key, data in BOTH.items():
            file.writestr(key, data)
        for name in names:
            file.writestr(name, name)
    with mounted(archive, tmp_path) as mount:
        check_both(mount)
        check_only(mount, {"a", "dir", "x", "good"})
        assert mount.python("result = open('good').read()") == "good"
        mount.sh("echo new > new")
    assert not (tmp_path / "outside").exists()
    with zipfile.ZipFile(archive) as file:
        assert {*BOTH, *names, "new"} <= set(file.namelist())
        assert all(file.read(key) == data for key, data in BOTH.items())


def test_a_bucket(tmp_path: Path, s3_server: object) -> None:
    server = s3_server()
    bucket = server.create()
    client = s3_client(server, os.getpid())
    names = ["dir//inner", "n" * 300, "good"]
    for key, data in {**BOTH, **{name: name.encode() for name in names}}.items():
        client.put_object(Bucket=bucket, Key=f"store/{key}", Body=data)
    client.put_object(Bucket=bucket, Key="secret", Body=b"not below the prefix")
    with mounted(f"s3://{bucket}/store", tmp_path, *s3_options(server)) as mount:
        check_both(mount)
        check_only(mount, {"a", "dir", "good"})
        assert mount.errno_of("os.stat('../secret')") == "ENOENT"
        # What holds nothing that can be shown is not empty.
        assert mount.python("result = os.listdir('dir')") == []
        assert mount.errno_of("os.rmdir('dir')") == "ENOTEMPTY"
        assert "'dir/'" in mount.read_log()
        # With its last key gone the directory goes too, in time, and the object shows again.
        assert mount.python("os.unlink('a/b'); os.rmdir('a'); result = open('a').read()") == "the object"
    for key, data in {"a": BOTH["a"], **{name: name.encode() for name in names}}.items():
        assert client.get_object(Bucket=bucket, Key=f"store/{key}")["Body"].read() == data


def test_a_foreign_store_in_memory(tmp_path: Path) -> None:
    with mounted("python:mount.failing_stores:both", tmp_path) as mount:
        check_both(mount)
        check_only(mount, {"a", "dir", "x", "good"})
        assert mount.python("result = open('a/b').read()") == "a/b"


def test_a_local_directory(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    Path(os.fsdecode(os.fsencode(store) + b"/caf\xe9")).write_bytes(b"latin 1")
    (store / "good").write_bytes(b"good")
    (store / "out").symlink_to("/etc")
    (store / "up").symlink_to("..")
    with mounted(store, tmp_path) as mount:
        check_only(mount, {"good", "out", "up"})
        assert mount.errno_of("os.stat(b'caf\\xe9')") == "ENOENT"
        assert mount.python("result = os.readlink('out')") == "/etc"
        assert mount.errno_of("os.rmdir('.')") in ("EINVAL", "EBUSY")
    assert Path(os.fsdecode(os.fsencode(store) + b"/caf\xe9")).read_bytes() == b"latin 1"


@pytest.mark.parametrize("name", ["x/..", "../x", ".", ".."])
def test_paths_with_dots_are_the_kernels_to_resolve(tmp_path: Path, name: str) -> None:
    (tmp_path / "store").mkdir()
    with mounted(tmp_path / "store", tmp_path) as mount:
        mount.sh("mkdir x")
        assert mount.python("result = os.path.realpath(name).startswith(str(Path.cwd().parent))", name=name)
        assert mount.errno_of("os.mkdir(name)", name=name) in ("EEXIST", None)
    assert {path.name for path in tmp_path.iterdir()} >= {"store", "mnt"}
