"""Large files through fsspec: in parts, in bounded memory, and nothing is left of what failed."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import anyio
import anyio.lowlevel
import pytest
from proxies import proxy_before

from stores import bridge
from stores.errors import AlreadyExists
from stores.filesystems import FsspecStore, files, puts
from stores.filesystems.kinds import KINDS, PART
from stores.testing import collect
from tests.servers import S3Server

DATA = b"".join(number.to_bytes(8, "big") for number in range(5 * PART // 16)) + b"the rest"
"""Of a little more than two parts and a half."""


@pytest.fixture(autouse=True)
def close_the_bridge() -> Iterator[None]:
    yield
    bridge.Bridge.shared().close()


@pytest.fixture(autouse=True)
def large_from_two_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGE", 2 * PART)
    monkeypatch.setattr(puts, "LARGE", 2 * PART)


@pytest.fixture
def client(rados_gateway: S3Server) -> Iterator[Any]:
    client = rados_gateway.client()
    yield client
    client.close()


@pytest.fixture(params=["local", "moto_server", "azurite_server", "rados_gateway"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FsspecStore:
    if request.param == "local":
        (tmp_path / "root").mkdir()
        return FsspecStore.from_url(f"file://{tmp_path}/root")
    server = request.getfixturevalue(request.param)
    scheme = "az" if request.param == "azurite_server" else "s3"
    return FsspecStore.from_url(f"{scheme}://{server.create()}", storage_options=server.storage_options)


@pytest.fixture
def body(tmp_path: Path) -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        file.write(DATA)
        file.seek(5)  # a body is taken from its start, wherever it stands
        yield file


@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
async def test_large_files(store: FsspecStore, body: BinaryIO) -> None:
    async with store:
        created = await store.put("d/a", body, if_absent=True)
        assert created.size == len(DATA)
        assert created.version == (await store.head("d/a")).version
        assert (await store.get("d/a"))[0] == DATA
        with pytest.raises(AlreadyExists):
            await store.put("d/a", body, if_absent=True)
        body.write(b"more")
        body.seek(0)
        body.write(b"not flushed")
        await store.put("d/a", body)
        body.seek(0)
        assert (await store.get("d/a"))[0] == body.read()
        await store.put("d/a", io.BytesIO(DATA[::-1]))
        assert (await store.get("d/a"))[0] == DATA[::-1]
        assert set((await collect(store, "d")).objects) == {"d/a"}


async def test_a_file_in_disguise(moto_server: S3Server, tmp_path: Path) -> None:
    """The descriptor of a file of gzip is that of the compressed file."""
    path = tmp_path / "a.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(DATA)
    url = f"s3://{moto_server.create()}"
    async with FsspecStore.from_url(url, storage_options=moto_server.storage_options) as store:
        with gzip.open(path, "rb") as unpacked:
            await store.put("a", unpacked)
        with gzip.open(path, "rb") as unpacked, io.BufferedReader(unpacked) as buffered:  # type: ignore[arg-type]
            await store.put("b", buffered)
        assert (await store.get("a"))[0] == DATA
        assert (await store.get("b"))[0] == DATA


class BrokenFile(io.BytesIO):
    """Fails in its second half."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > len(DATA) // 2:
            raise OSError(5, "the disk of the body failed")
        return super().read(size)


async def test_a_body_that_fails(tmp_path: Path) -> None:
    store = FsspecStore.from_url(f"file://{tmp_path}")
    await store.put("a", b"old")
    for key in ("a", "d/new"):
        with pytest.raises(OSError, match="disk of the body"):
            await store.put(key, BrokenFile(DATA))
    assert (await store.get("a"))[0] == b"old"
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]


async def test_a_cancelled_put_lets_go_of_the_body(tmp_path: Path) -> None:
    reached, go_on = threading.Event(), threading.Event()
    reads = []

    class SlowFile(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            reads.append(self.tell())
            if len(reads) == 3:
                reached.set()
                go_on.wait()
            return super().read(size)

    store = FsspecStore.from_url(f"file://{tmp_path}")
    body = SlowFile(DATA)
    async with anyio.create_task_group() as group:
        group.start_soon(store.put, "a", body)
        await anyio.to_thread.run_sync(reached.wait)
        group.cancel_scope.cancel()
        go_on.set()
    body.close()
    seen = len(reads)
    while list(tmp_path.iterdir()):  # what was written beside the name
        await anyio.lowlevel.checkpoint()
    assert len(reads) == seen


async def test_a_cancelled_put_leaves_no_parts(rados_gateway: S3Server, client: Any, body: BinaryIO) -> None:
    bucket = rados_gateway.create()
    with proxy_before(rados_gateway) as proxy:
        options = rados_gateway.storage_options | {"endpoint_url": proxy.endpoint}
        async with FsspecStore.from_url(f"s3://{bucket}", storage_options=options) as store:
            await store.put("a", b"old")
            async with anyio.create_task_group() as group:
                group.start_soon(store.put, "a", body)
                while not client.list_multipart_uploads(Bucket=bucket).get("Uploads"):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
            while client.list_multipart_uploads(Bucket=bucket).get("Uploads"):
                await anyio.lowlevel.checkpoint()
            assert (await store.get("a"))[0] == b"old"


def test_parts_keep_the_limits_of_s3() -> None:
    for size in (100 << 20, (80 << 30) + 1, 5 << 40):
        options = files.in_parts(KINDS["s3"], size)
        assert -(-size // options["chunksize"]) <= 10_000
        assert options["chunksize"] % (256 << 10) == 0
    assert files.in_parts(KINDS["az"], 5 << 40) == KINDS["az"].parts


PUT_AND_MEASURE = """
import json, re, sys
from pathlib import Path
import anyio
from stores.filesystems import FsspecStore

def peak():  # ru_maxrss would be the parent's, if that was larger when it forked
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

async def main(path, url, options):
    async with FsspecStore.from_url(url, storage_options=json.loads(options)) as store:
        await store.put("a", b"small")
        before = peak()
        with open(path, "rb") as body:
            meta = await store.put("b", body, if_absent=True)
        print(before, peak(), meta.size)

anyio.run(main, *sys.argv[1:])
"""


@pytest.mark.parametrize("where", ["local", "s3"])
def test_the_memory_of_a_large_put(where: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    size = 384 << 20
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(size)
    url, options = f"file://{tmp_path}", {}
    if where == "s3":
        server = request.getfixturevalue("rados_gateway")
        url, options = f"s3://{server.create()}", server.storage_options
    command = [sys.executable, "-c", PUT_AND_MEASURE, str(path), url, json.dumps(options)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    before, after, told = map(int, ran.stdout.split())
    assert told == size
    assert after - before < size // 2
