"""A store that only its own library can open: an Icechunk snapshot as plain files."""

from __future__ import annotations

from pathlib import Path

import icechunk
import numpy
import zarr
from mount.harness import mounted


def test_a_snapshot_is_mounted(tmp_path: Path) -> None:
    data = numpy.arange(60, dtype="i4").reshape(6, 10)
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repo")))
    session = repository.writable_session("main")
    zarr.create_group(session.store).create_array("x", data=data, chunks=(3, 5))
    session.commit("first")

    options = ["--storage-option", f"path={tmp_path / 'repo'}", "--read-timeout", "20"]
    with mounted("python:tools.snapshots:snapshot", tmp_path, *options) as mount:
        assert mount.sh("find . -type f | sort").split() == [
            "./x/c/0/0",
            "./x/c/0/1",
            "./x/c/1/0",
            "./x/c/1/1",
            "./x/zarr.json",
            "./zarr.json",
        ]
        assert mount.errno_of("open('no such key').close()") == "ENOENT"
        assert mount.errno_of("open('new', 'w').close()") == "EROFS"
        read = mount.python("import zarr\nresult = zarr.open_array('x', mode='r')[:].tolist()")
        assert numpy.array_equal(read, data)
        assert "[6, 10]" in mount.sh("getfattr -n user.zarr.shape x")
