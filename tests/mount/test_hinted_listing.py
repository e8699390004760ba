"""The listing of an array whose server cannot list: names that could be there, and no memory for them."""

from __future__ import annotations

import itertools
import json
import os
import stat
from pathlib import Path

from mount.harness import mounted
from servers import nginx_plain

from zarrmount import registry

CHUNKS = 100_000_000


def document(shape: list[int], separator: str) -> bytes:
    return json.dumps(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": shape,
            "data_type": "uint8",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1] * len(shape)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": separator}},
            "codecs": [{"name": "bytes"}],
            "fill_value": 0,
        }
    ).encode()


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_hundred_million_chunks_take_no_memory(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "huge").mkdir(parents=True)
    (root / "huge/zarr.json").write_bytes(document([10_000, 10_000], "."))
    (root / "huge/c.0.7").write_bytes(b"x")
    with nginx_plain(root) as server, mounted(f"{server.endpoint}/", tmp_path, "--read-only") as mount:
        running = registry.find(mount.path)
        assert running is not None
        with os.scandir(mount.path / "huge") as entries:
            first = list(itertools.islice(entries, 1000))
            before = resident(running.pid)
            names = {entry.name for entry in itertools.islice(entries, 300_000)}
            grown = resident(running.pid) - before
        assert len(names) == 300_000
        assert grown < 20_000_000  # an inode of each would be more than a hundred
        assert all(entry.is_file(follow_symlinks=False) for entry in first)
        assert {"zarr.json", "c.0.7"} <= {entry.name for entry in first}
        assert all(entry.inode() for entry in first)
        # What could be there is looked for when somebody wants it.
        assert (mount.path / "huge/c.0.7").read_bytes() == b"x"
        assert stat.S_ISREG(os.stat(mount.path / "huge/c.0.7").st_mode)
        assert mount.errno_of("os.stat('huge/c.0.8')") == "ENOENT"
        assert mount.errno_of("open('huge/c.0.9')") == "ENOENT"
        listed = mount.sh("{ ls -U huge || true; } | head -n 5").split()
        assert len(listed) == 5


def test_directories_are_told_from_files(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a/zarr.json").write_bytes(document([3, 2], "/"))
    with nginx_plain(root) as server, mounted(f"{server.endpoint}/", tmp_path, "--read-only") as mount:
        found = mount.sh("find a -printf '%y %P\\n'").splitlines()
        assert sorted(found) == sorted(
            ["d ", "f zarr.json", "d c"]
            + [f"d c/{i}" for i in range(3)]
            + [f"f c/{i}/{j}" for i in range(3) for j in range(2)]
        )
