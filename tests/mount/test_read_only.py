"""Read-only mounts: every change is EROFS, everything else works."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mount.harness import Mounted, mounted

CHANGES = {
    "create": "os.open('new', os.O_CREAT | os.O_WRONLY)",
    "open for writing": "os.open('file', os.O_WRONLY)",
    "open for both": "os.open('file', os.O_RDWR)",
    "open truncating": "os.open('file', os.O_WRONLY | os.O_TRUNC)",
    "truncate": "os.truncate('file', 1)",
    "unlink": "os.unlink('file')",
    "mkdir": "os.mkdir('new')",
    "rmdir": "os.rmdir('dir')",
    "rename a file": "os.rename('file', 'new')",
    "rename a directory": "os.rename('dir', 'new')",
    "link": "os.link('file', 'new')",
    "symlink": "os.symlink('file', 'new')",
    "mknod": "os.mknod('new')",
    "mkfifo": "os.mkfifo('new')",
    "chmod": "os.chmod('file', 0o600)",
    "chown": "os.chown('file', 1, 1)",
    "utime": "os.utime('file')",
    "setxattr": "os.setxattr('file', 'user.a', b'1')",
    "removexattr": "os.removexattr('file', 'user.a')",
}


@pytest.fixture(
    scope="module",
    params=[
        ("local", ("--read-only",)),
        ("local", ("-o", "ro")),
        ("zip", ("--read-only",)),
        ("local", ("--immutable",)),
        ("local", ("-o", "immutable")),
    ],
    ids=str,
)
def mount(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    kind, options = request.param
    directory = tmp_path_factory.mktemp("read-only")
    if kind == "local":
        store = directory / "store"
        (store / "dir").mkdir(parents=True)
        (store / "dir/inner").write_bytes(b"inner")
        (store / "file").write_bytes(b"12345")
    else:
        store = directory / "store.zip"
        with zipfile.ZipFile(store, "w") as archive:
            archive.writestr("dir/inner", b"inner")
            archive.writestr("file", b"12345")
    before = store.stat().st_mtime_ns
    with mounted(store, directory, *options) as mount:
        yield mount
    assert store.stat().st_mtime_ns == before


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_refused(mount: Mounted, change: str) -> None:
    assert mount.errno_of(change) == "EROFS"


def test_reading_works(mount: Mounted) -> None:
    assert mount.sh("cat file dir/inner") == "12345inner"
    assert sorted(mount.python("result = os.listdir()")) == ["dir", "file"]
    assert mount.python("result = bool(os.statvfs('.').f_flag & os.ST_RDONLY)")
    assert mount.python("result = os.listxattr('file')") != []
    assert not mount.python("result = os.access('file', os.W_OK)")


def test_the_kernel_shows_it_as_read_only(mount: Mounted) -> None:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if str(mount.path) in line:
            assert "ro" in line.split()[3].split(",")
