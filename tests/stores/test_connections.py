"""How many requests are under way at once: as many as may be, and never more."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import pytest

from stores import open_store
from stores.errors import BadLocation
from stores.filesystems import FsspecStore
from stores.objects import ObjectStore, puts, sending

LIMIT = 4


class Counting(BaseHTTPRequestHandler):
    """As much of S3 as puts need; uploads of data are held until `LIMIT` of them are here at once."""

    protocol_version = "HTTP/1.1"
    lock = threading.Lock()
    full: threading.Barrier
    under_way = 0
    most = 0

    def handle_one(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        cls = type(self)
        with cls.lock:
            cls.under_way += 1
            cls.most = max(cls.most, cls.under_way)
        try:
            self._wait_for_others()
            status, body = self._answer()
        finally:
            with cls.lock:  # before it answers: then the client may send the next one
                cls.under_way -= 1
        self.send_response(status)
        self.send_header("ETag", '"0123456789abcdef0123456789abcdef"')
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.send_header("Content-Length", str(len(body) if self.command != "HEAD" else 1000))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_GET = do_HEAD = do_POST = do_DELETE = handle_one

    def _wait_for_others(self) -> None:
        if self.command == "PUT":
            type(self).full.wait(20)
            time.sleep(0.02)  # long enough for more to be seen, if there were any

    def _answer(self) -> tuple[int, bytes]:
        if self.command == "GET":
            return (
                200,
                b"<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>",
            )
        if self.command == "POST" and re.search(r"[?&]uploads", self.path):
            told = "<Bucket>b</Bucket><Key>k</Key><UploadId>1</UploadId>"
            return 200, f"<InitiateMultipartUploadResult>{told}</InitiateMultipartUploadResult>".encode()
        if self.command == "POST":
            told = "<Bucket>b</Bucket><Key>k</Key><ETag>&quot;1&quot;</ETag>"
            return 200, f"<CompleteMultipartUploadResult>{told}</CompleteMultipartUploadResult>".encode()
        return 200, b""

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[Counting]]]:
    handler = type("Handler", (Counting,), {"full": threading.Barrier(LIMIT), "lock": threading.Lock()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}", handler
        finally:
            handler.full.abort()
            listening.shutdown()
            thread.join()


def s3(endpoint: str, backend: Any) -> Any:
    options = {"key": "k", "secret": "s", "endpoint_url": endpoint}
    return open_store("s3://b/x", backend=backend, max_connections=LIMIT, storage_options=options)


@pytest.mark.parametrize("backend", ["obstore", "fsspec"])
async def test_uploads_of_many_writers_overlap_up_to_the_limit(
    server: tuple[str, type[Counting]], backend: str
) -> None:
    endpoint, counting = server
    async with s3(endpoint, backend) as store, anyio.create_task_group() as writers:
        assert store.max_connections == LIMIT
        for number in range(5 * LIMIT):
            writers.start_soon(store.put, f"k{number}", b"x" * 1000)
    assert counting.most == LIMIT


async def test_parts_of_large_puts_count(
    server: tuple[str, type[Counting]], monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, counting = server
    monkeypatch.setattr(puts, "LARGE", 1 << 20)
    monkeypatch.setattr(sending, "PART", 1 << 18)
    async with s3(endpoint, "obstore") as store, anyio.create_task_group() as writers:
        for number in range(3):
            writers.start_soon(store.put, f"large{number}", b"x" * (8 << 18))
    assert counting.most == LIMIT
    counting.full = threading.Barrier(1)  # now none waits for others
    async with s3(endpoint, "obstore") as store, anyio.create_task_group() as writers:
        for number in range(3):
            writers.start_soon(store.put, f"large{number}", b"x" * (8 << 18))
        for number in range(6 * LIMIT):
            writers.start_soon(store.put, f"k{number}", b"x" * 1000)
    assert counting.most == LIMIT


def test_what_is_given_reaches_the_store() -> None:
    assert open_store("s3://b/x", max_connections=7).max_connections == 7
    assert open_store("s3://b/x").max_connections == 64
    assert (
        open_store("s3://b/x", max_connections=7, storage_options={"max_connections": "9"}).max_connections
        == 9
    )
    assert open_store("s3://b/x.zip", max_connections=7).max_connections == 7
    assert open_store({}, max_connections=7).max_connections is None
    assert open_store("memory://here", backend="fsspec", max_connections=7).max_connections == 7


@pytest.mark.parametrize(("given", "pool"), [({}, 7), ({"max_pool_connections": 3}, 3)])
async def test_s3fs_has_as_many_connections(given: dict[str, int], pool: int) -> None:
    store = open_store(
        "s3://b/x", backend="fsspec", max_connections=7, storage_options={"config_kwargs": given}
    )
    assert isinstance(store, FsspecStore)
    fs, _ = await store._calls.filesystem()
    assert fs.config_kwargs["max_pool_connections"] == pool
    await store.aclose()


@pytest.mark.parametrize("number", [0, -1])
def test_less_than_one_is_refused(number: int) -> None:
    for make in (
        partial(open_store, "s3://b/x", max_connections=number),
        partial(ObjectStore.from_url, "s3://b/x", storage_options={"max_connections": number}),
        partial(ObjectStore.from_url, "s3://b/x", storage_options={"max_connections": "many"}),
    ):
        with pytest.raises(BadLocation, match="connections"):
            make()
