"""Large objects: in parts, on a condition, in bounded memory, and nothing is left of what failed."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.lowlevel
import pytest
from obstore.store import LocalStore
from proxies import proxy_before

from stores.bodies import BodyFailed, GivenUp
from stores.errors import AlreadyExists, Precondition, Unavailable
from stores.meta import Body
from stores.objects import ObjectStore, puts, sending
from stores.objects.errors import translate
from stores.objects.sending import LARGE, Sending
from stores.testing import collect
from tests.servers import S3Server

PART = 6 << 20
PARTS = 6
SIZE = (30 << 20) + 77  # six parts of a little more than 5 MiB, which is the least that S3 takes, and 5 bytes
OTHERS = b"what somebody else stored"


def pattern(size: int) -> bytes:
    """Bytes of which no two parts are alike."""
    return b"".join(number.to_bytes(8, "big") * (PART // 8) for number in range(size // PART + 1))[:size]


DATA = pattern(SIZE)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As large as the servers demand, so that the tests need not send more."""
    monkeypatch.setattr(sending, "PART", PART)
    monkeypatch.setattr(sending, "LARGE", 4 * PART)
    monkeypatch.setattr(puts, "LARGE", 4 * PART)


class ObservedFile(io.BytesIO):
    """A file that calls `then` before it gives the byte at an offset (the last one)."""

    def __init__(self, data: bytes, then: Callable[[], object], offset: int | None = None) -> None:
        super().__init__(data)
        self.offset = len(data) - 1 if offset is None else offset
        self.then = then

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and self.tell() <= self.offset < self.tell() + size:
            self.then()
        return super().read(size)


class Bucket:
    """A bucket on a real server, seen by our store and by the server's own client."""

    def __init__(self, server: S3Server, **options: Any) -> None:
        self.name = server.create()
        self.options = server.storage_options | options
        self.store = ObjectStore.from_url(f"s3://{self.name}", storage_options=self.options)
        self.client = server.client()

    def uploads(self) -> list[str]:
        """The uploads that are not finished."""
        found = self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])
        return [upload["UploadId"] for upload in found]

    def parts(self, key: str) -> int:
        """How many parts the one unfinished upload has on the server."""
        (upload,) = self.uploads()
        return len(self.client.list_parts(Bucket=self.name, Key=key, UploadId=upload).get("Parts", []))

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()


@pytest.fixture(params=["moto_server", "rados_gateway"])
def bucket(request: pytest.FixtureRequest) -> Iterator[Bucket]:
    with Bucket(request.getfixturevalue(request.param)) as bucket:
        yield bucket


def file_of(data: bytes) -> io.BytesIO:
    file = io.BytesIO(data)
    file.seek(5)  # a body is taken from its start, wherever it stands
    return file


@pytest.mark.parametrize("server", ["moto_server", "rados_gateway", "azurite_server", "local"])
async def test_conditions(server: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if server == "local":
        store = ObjectStore(LocalStore(tmp_path))
    else:
        where = request.getfixturevalue(server)
        scheme = "az" if server == "azurite_server" else "s3"
        store = ObjectStore.from_url(f"{scheme}://{where.create()}", storage_options=where.storage_options)
    created = await store.put("a", file_of(DATA), if_absent=True)
    assert created.size == SIZE
    assert created.version == (await store.head("a")).version
    assert (await store.get("a", if_version=created.version))[0] == DATA
    with pytest.raises(AlreadyExists):
        await store.put("a", DATA[1:], if_absent=True)
    replaced = await store.put("a", memoryview(DATA)[::-1])
    assert (await store.get("a", if_version=replaced.version))[0] == DATA[::-1]
    if not store.capabilities.replace_if_version:
        return
    with pytest.raises(Precondition):
        await store.put("a", DATA[1:], if_version=created.version)
    assert (await store.head("a")).version == replaced.version
    again = await store.put("a", bytearray(DATA), if_version=replaced.version)
    assert (await store.get("a", if_version=again.version))[0] == DATA
    await store.delete("a")
    with pytest.raises(Precondition):
        await store.put("a", DATA, if_version=again.version)
    assert not (await collect(store)).objects


async def test_the_condition_is_looked_at_when_all_parts_are_stored(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = []
    look = bucket.store._puts._check_condition

    def looked(*args: Any) -> None:
        stored.append(bucket.parts("a") if bucket.uploads() else 0)
        look(*args)

    monkeypatch.setattr(bucket.store._puts, "_check_condition", looked)
    await bucket.store.put("a", DATA, if_absent=True)
    assert stored == [0, PARTS]  # the few bytes that remain are sent after that


@pytest.mark.parametrize("there", [True, False])
async def test_what_changed_meanwhile_is_not_replaced(bucket: Bucket, there: bool) -> None:
    condition: dict[str, Any] = {"if_absent": True}
    if there:
        condition = {"if_version": (await bucket.store.put("a", b"old")).version}
    body = ObservedFile(DATA, lambda: bucket.put("a", OTHERS))
    with pytest.raises(Precondition if there else AlreadyExists):
        await bucket.store.put("a", body, **condition)
    assert (await bucket.store.get("a"))[0] == OTHERS
    assert not bucket.uploads()


async def test_what_was_deleted_meanwhile_is_not_replaced(bucket: Bucket) -> None:
    version = (await bucket.store.put("a", b"old")).version
    body = ObservedFile(DATA, lambda: bucket.client.delete_object(Bucket=bucket.name, Key="a"))
    with pytest.raises(Precondition):
        await bucket.store.put("a", body, if_version=version)
    assert not (await collect(bucket.store)).objects
    assert not bucket.uploads()


async def test_a_conflict_that_is_known_before_costs_no_upload(bucket: Bucket) -> None:
    def refuse() -> None:
        raise AssertionError("it was read")

    await bucket.store.put("a", b"old")
    with pytest.raises(AlreadyExists):
        await bucket.store.put("a", ObservedFile(DATA, refuse), if_absent=True)


# -- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", [{}, {"if_absent": True}])
async def test_a_body_that_fails(bucket: Bucket, condition: dict[str, Any]) -> None:
    def fail() -> None:
        raise OSError(5, "the disk of the body failed")

    with pytest.raises(OSError, match="disk of the body"):
        await bucket.store.put("a", ObservedFile(DATA, fail), **condition)
    assert not (await collect(bucket.store)).objects
    assert not bucket.uploads()


async def test_a_body_that_shrinks(bucket: Bucket) -> None:
    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() >= PART:
                self.truncate(2 * PART - 1)
            return super().read(size)

    with pytest.raises(EOFError, match=f"after {2 * PART - 1} bytes"):
        await bucket.store.put("a", Shrinking(DATA))
    assert not (await collect(bucket.store)).objects
    assert not bucket.uploads()


async def test_a_part_that_is_corrupted_on_the_way(rados_gateway: S3Server) -> None:
    with (
        proxy_before(rados_gateway) as proxy,
        Bucket(rados_gateway, endpoint_url=proxy.endpoint) as there,
    ):
        version = (await there.store.put("a", b"old")).version
        proxy.blocked = "corrupt_request"
        with pytest.raises(Unavailable, match="SHA256"):
            await there.store.put("a", DATA, if_version=version)
        proxy.blocked = ""
        assert (await there.store.get("a"))[0] == b"old"
        assert not there.uploads()


async def test_a_put_that_is_cancelled(bucket: Bucket) -> None:
    version = (await bucket.store.put("a", b"old")).version
    reads: list[int] = []
    reached, go_on = threading.Event(), threading.Event()

    class SlowFile(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            reads.append(self.tell())
            if len(reads) == 3:
                reached.set()
                go_on.wait()
            return super().read(size)

    body = SlowFile(DATA)
    async with anyio.create_task_group() as group:
        group.start_soon(_put_if_version, bucket.store, "a", body, version)
        await anyio.to_thread.run_sync(reached.wait)
        assert bucket.uploads()
        group.cancel_scope.cancel()
        go_on.set()
    body.close()  # nobody reads it any more
    seen = len(reads)
    await bucket.store.aclose()
    assert not bucket.uploads()
    assert len(reads) == seen
    assert (await bucket.store.get("a"))[0] == b"old"


async def _put_if_version(store: ObjectStore, key: str, body: Body, version: str | None) -> None:
    await store.put(key, body, if_version=version)


async def test_a_put_that_is_cancelled_while_the_server_is_silent(rados_gateway: S3Server) -> None:
    with (
        proxy_before(rados_gateway) as proxy,
        Bucket(rados_gateway, endpoint_url=proxy.endpoint) as there,
    ):
        body = ObservedFile(DATA, lambda: setattr(proxy, "blocked", "stall_request"), 2 * PART)
        async with anyio.create_task_group() as group:
            group.start_soon(there.store.put, "a", body)
            while not proxy.struck:
                await anyio.lowlevel.checkpoint()
            proxy.blocked = ""
            group.cancel_scope.cancel()
        await there.store.aclose()
        assert not there.uploads()
        assert not (await collect(there.store)).objects


@pytest.mark.parametrize(("code", "status"), [("NoSuchUpload", 404), ("InvalidBlockList", 400)])
def test_parts_that_are_gone_tell_nothing_of_the_key(code: str, status: int) -> None:
    """They are gone too when the upload was completed, and the answer was lost."""
    told = f"Server returned non-2xx status code: {status}: <Error><Code>{code}</Code></Error>"
    error = translate(FileNotFoundError(told), "a", place="s3://b", endpoint="http://h", bucket="bucket 'b'")
    assert type(error) is Unavailable
    assert "it may be stored, or not" in str(error)


# -- memory --------------------------------------------------------------------------------------


def test_the_window_of_parts() -> None:
    """A part is read when another is freed, and the end comes when all are."""
    parts = Sending(io.BytesIO(DATA)).parts(SIZE, PART, 3)
    held = [next(parts) for _ in range(3)]
    assert [bytes(part[:8]) for part in held] == [n.to_bytes(8, "big") for n in range(3)]

    rest: list[bytes] = []

    def take() -> None:
        for part in parts:
            rest.append(bytes(part))
            del part

    taker = threading.Thread(target=take)
    taker.start()
    taker.join(0.2)
    assert taker.is_alive()
    assert not rest
    held.pop()
    gc.collect()
    deadline = time.monotonic() + 60
    while len(rest) < SIZE // PART - 2 and time.monotonic() < deadline:
        taker.join(0.01)
    assert b"".join(rest) == DATA[3 * PART :]
    assert taker.is_alive()  # two parts are held still
    held.clear()
    taker.join(60)
    assert not taker.is_alive()


def test_what_is_given_up_ends() -> None:
    for taken in (0, 1, 2):
        given_up = Sending(io.BytesIO(DATA))
        parts = given_up.parts(SIZE, PART, 2)
        held = [next(parts) for _ in range(taken)]
        given_up.give_up()
        with pytest.raises(GivenUp):
            next(parts)
        with pytest.raises(GivenUp):
            given_up.body.whole()
        del held


@pytest.mark.parametrize("size", [LARGE, LARGE + 1, 10 << 30, (80 << 30) + 1, 1 << 40, 5 << 40])
def test_portions_keep_the_limits_of_s3(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    part, in_flight = sending._portions(size, 8)
    assert -(-size // part) <= 10_000
    assert size % part < 10_000
    assert 5 << 20 <= part <= 5 << 30
    assert in_flight >= 2
    if size <= 64 << 30:
        assert in_flight == 8
        assert part * in_flight <= LARGE


@pytest.mark.parametrize(
    "body",
    [memoryview(DATA[1:]).cast("I"), memoryview(DATA)[::2], bytearray(DATA)],
    ids=["I", "step", "array"],
)
def test_a_body_of_another_shape(body: memoryview | bytearray) -> None:
    expected = bytes(body)
    source = Sending(body)
    assert source.body.size() == len(expected)
    assert source.part(3, PART) + source.part(PART, PART + 7) == expected[3 : PART + 7]
    assert source.body.whole() == expected
    with pytest.raises(BodyFailed):
        list(Sending(file_of(b"short")).parts(6, 6, 1))


PUT_AND_MEASURE = """
import json, re, sys
from pathlib import Path
import anyio
from stores.objects import ObjectStore

url, path, size, options = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])

def peak():  # ru_maxrss would be the parent's, if that was larger when it forked
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

async def main():
    async with ObjectStore.from_url(url, storage_options=options) as store:
        small = await store.put("a", b"old")
        before = peak()
        with open(path, "rb") as body:
            meta = await store.put("a", body, if_version=small.version)
        assert meta.size == size
        assert meta.version == (await store.head("a")).version
        print(before, peak())

anyio.run(main)
"""


async def test_the_memory_of_a_large_put(rados_gateway: S3Server, tmp_path: Path) -> None:
    size = 384 << 20
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        for offset in range(0, size, 48 << 20):
            file.seek(offset)
            file.write(offset.to_bytes(8, "big") * 1000)
        file.truncate(size)
    with Bucket(rados_gateway) as there:
        command = [sys.executable, "-c", PUT_AND_MEASURE, f"s3://{there.name}", str(path), str(size)]
        options = json.dumps(rados_gateway.storage_options)
        ran = await anyio.to_thread.run_sync(
            lambda: subprocess.run([*command, options], capture_output=True, text=True, check=False)
        )
        assert ran.returncode == 0, ran.stderr
        before, after = map(int, ran.stdout.split())
        assert after - before < 2 * LARGE
        assert not there.uploads()
        meta = await there.store.head("a")
        digest = hashlib.sha256()
        for start in range(0, size, 32 << 20):
            digest.update(
                await there.store.get_range("a", start, start + (32 << 20), if_version=meta.version)
            )
        with path.open("rb") as file:
            assert digest.digest() == hashlib.file_digest(file, "sha256").digest()
