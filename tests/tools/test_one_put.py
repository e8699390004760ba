"""Programs that write under a temporary name and rename: one put for each file, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from mount.harness import Mounted, mounted
from mount.places import s3_client
from reliability.faulty_proxy import FaultyProxy, faulty_proxy
from servers import radosgw


@pytest.fixture(scope="module")
def gateway() -> Iterator[tuple[FaultyProxy, tuple[str, ...], str, object]]:
    with radosgw() as server, faulty_proxy(server.endpoint) as proxy:
        bucket = server.create()
        options = {"key": server.key, "secret": server.secret}
        words = [word for pair in options.items() for word in ("--storage-option", "=".join(pair))]
        words += ["--endpoint-url", proxy.endpoint, "--region", server.region]
        yield proxy, tuple(words), bucket, s3_client(server, 0)


class Watched:
    """A mount of S3 whose changing requests are seen."""

    def __init__(self, mount: Mounted, proxy: FaultyProxy, bucket: str, client: object) -> None:
        self.mount, self._proxy, self._bucket, self._client = mount, proxy, bucket, client

    def forget(self) -> None:
        """Begin to count anew."""
        self._proxy.asked_for.clear()

    def changes(self) -> Counter[tuple[str, str]]:
        """Return how often each key was put, copied or deleted."""
        start = f"/{self._bucket}/store/"
        return Counter(
            (method, path.removeprefix(start))
            for method, path in self._proxy.asked_for
            if method not in ("GET", "HEAD")
        )

    def stored(self) -> dict[str, bytes]:
        found = self._client.list_objects_v2(Bucket=self._bucket, Prefix="store/")  # type: ignore[attr-defined]
        keys = [entry["Key"] for entry in found.get("Contents", [])]
        read = self._client.get_object  # type: ignore[attr-defined]
        return {key.removeprefix("store/"): read(Bucket=self._bucket, Key=key)["Body"].read() for key in keys}


@pytest.fixture
def watched(gateway: tuple[FaultyProxy, tuple[str, ...], str, object], tmp_path: Path) -> Iterator[Watched]:
    proxy, options, bucket, client = gateway
    with mounted(f"s3://{bucket}/store", tmp_path, *options) as mount:
        watched = Watched(mount, proxy, bucket, client)
        watched.forget()
        yield watched
        mount.sh("rm -rf ./*")


def puts(*keys: str) -> dict[tuple[str, str], int]:
    return {("PUT", key): 1 for key in keys}


def test_zarr_python_writes_an_array(watched: Watched) -> None:
    watched.mount.python("""
        import numpy as np, zarr
        array = zarr.create_array('a', shape=(40, 50), chunks=(10, 10), dtype='f4')
        array[:] = np.arange(2000, dtype='f4').reshape(40, 50)
    """)
    chunks = [f"a/c/{row}/{column}" for row in range(4) for column in range(5)]
    changes = watched.changes()
    del changes["PUT", "a/zarr.json"]
    assert changes == puts(*chunks)
    assert set(watched.stored()) == {"a/zarr.json", *chunks}


def test_zarr_python_writes_only_what_is_not_there(watched: Watched) -> None:
    watched.mount.python("""
        import asyncio
        from zarr.core.buffer import cpu
        from zarr.storage import LocalStore
        async def main():
            store = await LocalStore.open('.')
            for text in b'first', b'second':
                await store.set_if_not_exists('zarr.json', cpu.Buffer.from_bytes(text))
        asyncio.run(main())
    """)
    assert watched.changes()["PUT", "zarr.json"] <= 2  # the second one, if it was sent, was refused
    assert {change[0] for change in watched.changes()} == {"PUT"}
    assert watched.stored() == {"zarr.json": b"first"}


def test_rsync(watched: Watched, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    for name in ("a", "b", "d/c"):
        (source / name).write_text(f"the bytes of {name}")
    watched.mount.sh(f"rsync -a {source}/ .")
    assert watched.changes() == puts("a", "b", "d/c")
    assert watched.stored()["d/c"] == b"the bytes of d/c"


def test_sed_in_place(watched: Watched) -> None:
    watched.mount.sh("echo hello > a")
    watched.forget()
    watched.mount.sh("sed -i s/hello/world/ a")
    assert watched.changes() == puts("a")
    assert watched.stored() == {"a": b"world\n"}


def test_one_that_stays_is_stored_before_the_mount_ends(watched: Watched) -> None:
    watched.mount.sh("echo hello > stays.tmp")
    assert watched.changes() == {}
    watched.mount.sh("sync stays.tmp")
    assert watched.changes() == puts("stays.tmp")
