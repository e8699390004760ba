"""The first thing anybody does: mount a local store, read it, write it, unmount it."""

from __future__ import annotations

from pathlib import Path

from mount.harness import mounted


def test_a_local_store_is_mounted_read_and_written(tmp_path: Path) -> None:
    store = tmp_path / "store.zarr"
    (store / "a").mkdir(parents=True)
    (store / "a" / "zarr.json").write_text("{}")
    with mounted(store, tmp_path) as mount:
        assert mount.sh("cat a/zarr.json") == "{}"
        mount.sh("mkdir b; printf hello > b/c; cat b/c")
    assert (store / "b" / "c").read_bytes() == b"hello"
