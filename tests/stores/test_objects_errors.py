"""What object stores say when something is wrong: the right kind, one line, and no secrets."""

from __future__ import annotations

import io
import re
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore
import pytest

from stores.base import Store
from stores.errors import (
    BadLocation,
    Denied,
    InvalidKey,
    NoSpace,
    NotFound,
    Precondition,
    ReadOnly,
    StoreError,
    Unavailable,
    Unsupported,
)
from stores.objects import ObjectStore
from stores.testing import collect
from tests.servers import AzureServer, HttpServer, S3Server, free_port

FAST = {"retry_config": {"max_retries": 0}}
SECRET = "s3cr3t/Pass+w0rd"

Answer = tuple[int, str, bytes]


@contextmanager
def answering(answer: Callable[[str, str, dict[str, str]], bytes]) -> Iterator[str]:
    """Serve HTTP, one request a connection; `answer` makes the whole reply."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                method, path, _ = stream.readline().decode().split(" ", 2)
                headers = {}
                while (line := stream.readline().strip()) != b"":
                    name, _, value = line.decode().partition(":")
                    headers[name.lower()] = value.strip()
                stream.read(int(headers.get("content-length", 0)))
                connection.sendall(answer(method, path, headers))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def reply(status: int, body: bytes = b"", **headers: str) -> bytes:
    told = {"Content-Length": str(len(body)), "Connection": "close"}
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    return f"HTTP/1.1 {status} Some Reason\r\n{head}\r\n".encode() + body


def s3_error(status: int, code: str, message: str = "") -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return reply(status, body.encode())


LISTING = b"<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated></ListBucketResult>"


def s3(url: str, endpoint: str, **more: Any) -> ObjectStore:
    options = {"key": "AKIDEXAMPLE", "secret": SECRET, "endpoint_url": endpoint} | FAST | more
    return ObjectStore.from_url(url, storage_options=options)


async def error_of(store: Store, kind: type[StoreError]) -> str:
    """Open a store; return the message of its error, which must be of `kind` and readable."""
    with pytest.raises(StoreError) as caught:
        await store.open()
    assert type(caught.value) is kind, caught.value
    assert_readable(caught.value)
    return str(caught.value)


def assert_readable(error: StoreError) -> None:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 250
    assert SECRET not in "".join(traceback.format_exception(error))
    assert "Debug source" not in text
    assert error.__cause__ is not None


# -- real servers --------------------------------------------------------------------------------


async def test_missing_bucket(rados_gateway: S3Server) -> None:
    url = "s3://no-such-bucket/data.zarr"
    store = ObjectStore.from_url(url, storage_options=rados_gateway.storage_options)
    assert "there is no bucket 'no-such-bucket'" in await error_of(store, NotFound)


async def test_bucket_that_goes(moto_server: S3Server) -> None:
    bucket = moto_server.create()
    store = ObjectStore.from_url(f"s3://{bucket}", storage_options=moto_server.storage_options)
    await store.open()
    moto_server.client().delete_bucket(Bucket=bucket)
    for ask in (store.get("a"), store.put("a", b"x"), store.delete("a"), collect(store)):
        with pytest.raises(Unavailable, match="there is no bucket") as caught:
            await ask
        assert_readable(caught.value)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"secret": SECRET}, "secret does not belong"),
        ({"key": "nobody"}, "access key is not known"),
        ({"anon": True}, "anon=True"),
    ],
)
async def test_wrong_credentials_s3(rados_gateway: S3Server, wrong: dict[str, Any], says: str) -> None:
    options = rados_gateway.storage_options | wrong
    store = ObjectStore.from_url(f"s3://{rados_gateway.create()}", storage_options=options)
    assert says in await error_of(store, Denied)
    store._remote.opened = True  # the same later, when a key is changed while it is in use
    for ask in (store.head("a"), store.get("a"), store.put("a", b"x"), store.delete("a"), collect(store)):
        with pytest.raises(Denied) as caught:
            await ask
        assert_readable(caught.value)


async def test_wrong_credentials_azure(azurite_server: AzureServer) -> None:
    container = azurite_server.create()
    options = {"account_name": "test", "endpoint_url": azurite_server.endpoint}
    for wrong in ({"account_key": "d3Jvbmc="}, {"sas_token": f"sv=2020-01-01&sig={SECRET}"}):
        store = ObjectStore.from_url(f"az://{container}", storage_options=options | wrong)
        await error_of(store, Denied)


async def test_missing_container(azurite_server: AzureServer) -> None:
    store = ObjectStore.from_url("az://no-such-container", storage_options=azurite_server.storage_options)
    assert "there is no container 'no-such-container'" in await error_of(store, NotFound)
    store._remote.opened = True
    for ask in (store.get("a"), store.put("a", b"x"), store.delete("a"), collect(store)):
        with pytest.raises(Unavailable, match="there is no container"):
            await ask


async def test_nobody_listens() -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    azure = {"account_name": "a", "account_key": "c2VjcmV0", "endpoint_url": endpoint}
    for store in (
        s3("s3://b/x", endpoint),
        ObjectStore.from_url("az://b/x", storage_options=azure | FAST),
        ObjectStore.from_url(f"{endpoint}/x", storage_options=FAST),
    ):
        message = await error_of(store, Unavailable)
        assert f"no answer from {endpoint}" in message
        assert "refused" in message
        with pytest.raises(Unavailable):
            await store.head("a")


async def test_no_such_host() -> None:
    message = await error_of(s3("s3://b", "http://host.invalid"), Unavailable)
    assert "http://host.invalid" in message


async def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last resort, the service for virtual machines, is answered by a server of our own."""
    with answering(lambda *_: reply(404)) as metadata:
        store = ObjectStore.from_url(
            "s3://b",
            storage_options={"endpoint_url": metadata, "metadata_endpoint": metadata} | FAST,
        )
        assert "no credentials found" in await error_of(store, Denied)


async def test_a_password_in_the_address() -> None:
    seen = []

    def answer(method: str, path: str, headers: dict[str, str]) -> bytes:
        seen.append(headers.get("authorization"))
        return reply(401)

    with answering(answer) as endpoint:
        address = endpoint.replace("://", f"://user:{SECRET.replace('/', '%2F')}@")
        store = ObjectStore.from_url(f"{address}/data?sig={SECRET}", storage_options=FAST)
        assert "user" not in store.location
        assert store.location == f"{endpoint}/data"
        message = await error_of_web(store)
        assert "sig" not in message
    assert seen[0] == "Basic dXNlcjpzM2NyM3QvUGFzcyt3MHJk"


async def error_of_web(store: Store) -> str:
    with pytest.raises(Denied) as caught:
        await store.open()
    assert SECRET not in str(caught.value) + repr(store)
    return str(caught.value)


# -- answers of every sort -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (s3_error(404, "NoSuchKey"), NotFound, "no such object"),
        (s3_error(404, "NoSuchBucket"), Unavailable, "there is no bucket 'b'"),
        (s3_error(403, "AccessDenied", "Access Denied."), Denied, "AccessDenied: Access Denied"),
        (s3_error(403, "RequestTimeTooSkewed"), Denied, "clock"),
        (s3_error(400, "ExpiredToken"), Denied, "expired"),
        (s3_error(401, "Unauthorized"), Denied, "access denied"),
        (s3_error(412, "PreconditionFailed"), Precondition, "version"),
        (s3_error(429, "TooManyRequests"), Unavailable, "slow down"),
        (s3_error(503, "SlowDown", "Please reduce your rate"), Unavailable, "Please reduce your rate"),
        (s3_error(500, "InternalError"), Unavailable, "InternalError"),
        (s3_error(507, "InsufficientStorage"), NoSpace, "full"),
        (s3_error(403, "QuotaExceeded"), NoSpace, "QuotaExceeded"),
        (s3_error(400, "KeyTooLongError"), InvalidKey, "too long"),
        (s3_error(405, "MethodNotAllowed"), Unsupported, "does not allow"),
        (
            reply(400, b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>"),
            BadLocation,
            "region=eu-west-1",
        ),
        (s3_error(301, "PermanentRedirect"), BadLocation, "another region"),
        (reply(301), BadLocation, "another region"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut", Unavailable, "no answer"),
        (b"nonsense\r\n\r\n", Unavailable, "no answer"),
        (b"", Unavailable, "no answer"),
    ],
)
async def test_answers(answer: bytes, kind: type[StoreError], says: str) -> None:
    def serve(method: str, path: str, headers: dict[str, str]) -> bytes:
        return reply(200, LISTING) if "list-type" in path else answer

    with answering(serve) as endpoint:
        store = s3("s3://b/x", endpoint)
        await store.open()
        with pytest.raises(StoreError) as caught:
            await store.get("k")
        assert type(caught.value) is kind, caught.value
        assert says in str(caught.value)
        if kind is not BadLocation:
            assert caught.value.key == "k"
        assert_readable(caught.value)


async def test_a_full_store_when_written() -> None:
    def serve(method: str, path: str, headers: dict[str, str]) -> bytes:
        return s3_error(403, "QuotaExceeded") if method == "PUT" else reply(200, LISTING)

    with answering(serve) as endpoint, pytest.raises(NoSpace):
        await s3("s3://b", endpoint).put("k", b"x")


async def test_a_server_that_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        store = s3("s3://b", endpoint, client_options={"timeout": 0.2})
        assert "took too long" in await error_of(store, Unavailable)


async def test_ranges_ignored_by_the_server() -> None:
    """200 in place of 206: the right bytes, and the capability is known to be lacking."""
    asked = []

    def serve(method: str, path: str, headers: dict[str, str]) -> bytes:
        if "list-type" in path:
            return reply(200, LISTING)
        asked.append(headers.get("range"))
        return reply(200, b"0123456789", ETag='"e"', Last_Modified="Sun, 22 Nov 2026 18:04:10 GMT")

    with answering(serve) as endpoint:
        store = s3("s3://b", endpoint)
        assert store.capabilities.ranges
        assert await store.get_range("k", 2, 5) == b"234"
        assert not store.capabilities.ranges
        assert await store.get_range("k", 8, 50) == b"89"
        assert asked == ["bytes=2-4", None, None]


async def test_conditions_ignored_by_the_server() -> None:
    """A read of one version is one request, and its answer is looked at."""
    asked = []

    def serve(method: str, path: str, headers: dict[str, str]) -> bytes:
        if "list-type" in path:
            return reply(200, LISTING)
        asked.append((method, headers.get("if-match"), headers.get("range")))
        return reply(
            206,
            b"234",
            ETag='"new"',
            Content_Range="bytes 2-4/10",
            Last_Modified="Sun, 22 Nov 2026 18:04:10 GMT",
        )

    with answering(serve) as endpoint:
        store = s3("s3://b", endpoint)
        assert await store.get_range("k", 2, 5, if_version="new") == b"234"
        with pytest.raises(Precondition):
            await store.get_range("k", 2, 5, if_version="old")
        assert asked == [("GET", '"new"', "bytes=2-4"), ("GET", '"old"', "bytes=2-4")]


# -- writing -------------------------------------------------------------------------------------


async def test_quotes_of_etags_are_learned(rados_gateway: S3Server) -> None:
    """Old RADOS Gateways refuse the quotes: found out once, and a real conflict stays one."""
    url = f"s3://{rados_gateway.create()}"
    store = ObjectStore.from_url(url, storage_options=rados_gateway.storage_options)
    first = await store.put("a", b"1")
    with pytest.raises(Precondition):
        await store.put("a", b"x", if_version="0" * 32)
    assert not store._puts.bare_etags
    second = await store.put("a", b"2", if_version=first.version)
    assert store._puts.bare_etags
    with pytest.raises(Precondition):
        await store.put("a", b"x", if_version=first.version)
    await store.put("a", b"3", if_version=second.version)
    assert (await store.get("a"))[0] == b"3"


class UnreadableFile(io.BytesIO):
    """Gives nothing."""

    def read(self, size: int | None = -1, /) -> bytes:
        raise OSError(5, "the disk of the body failed")


async def test_the_error_of_a_body_is_not_the_store_s() -> None:
    store = ObjectStore(obstore.store.MemoryStore())
    for size in (10, 40 << 20):
        with pytest.raises(OSError, match="disk of the body"):
            await store.put("a", UnreadableFile(bytes(size)))


async def test_how_many_requests_a_call_costs() -> None:
    """Each of the calls that a mount makes for every file is one request, a lookup two at once."""
    asked = []

    def serve(method: str, path: str, headers: dict[str, str]) -> bytes:
        asked.append(f"{method} {'list' if 'list-type' in path else path}")
        if "list-type" in path:
            return reply(200, LISTING)
        body = b"x" if method == "GET" else b""
        return reply(200, body, ETag='"e"', Last_Modified="Sun, 22 Nov 2026 18:04:10 GMT")

    with answering(serve) as endpoint:
        store = s3("s3://b", endpoint)
        for ask, cost in (
            (store.open, ["GET list"]),
            (store.open, []),
            (lambda: store.head("k"), ["HEAD /b/k"]),
            (lambda: store.get("k"), ["GET /b/k"]),
            (lambda: store.get("k", if_version="e"), ["GET /b/k"]),
            (lambda: store.put("k", b"x"), ["PUT /b/k"]),
            (lambda: store.put("k", b"x", if_absent=True), ["PUT /b/k"]),
            (lambda: store.put("k", b"x", if_version="e"), ["PUT /b/k"]),
            (lambda: store.delete("k"), ["DELETE /b/k"]),
            (lambda: store.lookup("k"), ["GET list", "HEAD /b/k"]),
            (lambda: collect(store), ["GET list"]),
        ):
            asked.clear()
            await ask()
            assert sorted(asked) == cost


# -- what others put into a bucket ---------------------------------------------------------------


async def test_markers_of_directories(rados_gateway: S3Server) -> None:
    """A key with a slash at its end, as consoles make it, is an empty directory and no object."""
    bucket = rados_gateway.create()
    client = rados_gateway.client()
    for key in ("empty/", "full/", "full/a"):
        client.put_object(Bucket=bucket, Key=key, Body=b"")
    store = ObjectStore.from_url(f"s3://{bucket}", storage_options=rados_gateway.storage_options)
    assert set((await collect(store)).prefixes) == {"empty", "full"}
    assert not (await collect(store)).objects
    assert set((await collect(store, "full")).objects) == {"full/a"}
    assert await collect(store, "empty") == ({}, {})
    assert set((await collect(store, recursive=True)).objects) == {"full/a"}
    for name in ("empty", "full"):
        found = await store.lookup(name)
        assert found.prefix is not None
        assert found.object is None


# -- web servers ---------------------------------------------------------------------------------


async def test_a_web_page_is_no_object() -> None:
    def serve(method: str, path: str, headers: dict[str, str]) -> bytes:
        if method == "PROPFIND":
            return reply(501)
        body = b"" if method == "HEAD" else b"<html>"
        return reply(200, body, Content_Type="text/html; charset=utf-8")

    with answering(serve) as endpoint:
        store = ObjectStore.from_url(endpoint, storage_options=FAST)
        await store.open()
        assert not store.capabilities.listable
        for ask in (store.head("c/0"), store.get("c/0"), store.get_range("c/0", 0, 3), store.lookup("c")):
            with pytest.raises(NotFound):
                await ask
        assert (await store.get("index.html"))[0] == b"<html>"


@pytest.mark.parametrize("status", [400, 403, 404, 405, 500, 501])
async def test_servers_without_webdav(status: int) -> None:
    def serve(method: str, path: str, headers: dict[str, str]) -> bytes:
        return reply(status) if method in {"PROPFIND", "OPTIONS"} else reply(200, b"x")

    with answering(serve) as endpoint:
        store = ObjectStore.from_url(f"{endpoint}/data", storage_options=FAST)
        assert not store.read_only
        with pytest.raises(ReadOnly):
            await store.put("a", b"x")
        assert store.read_only
        assert not store.capabilities.listable
        assert (await store.get("a"))[0] == b"x"


async def test_a_missing_webdav_directory(webdav_server: HttpServer) -> None:
    store = ObjectStore.from_url(f"{webdav_server.endpoint}/missing", storage_options={})
    with pytest.raises(NotFound, match="no such directory"):
        await store.open()


async def test_a_web_address_with_odd_characters(web_server: HttpServer) -> None:
    place = web_server.root / "with space %"
    place.mkdir()
    (place / "a").write_bytes(b"x")
    store = ObjectStore.from_url(f"{web_server.endpoint}/with%20space%20%25/", storage_options={})
    assert (await store.get("a"))[0] == b"x"


async def test_an_obstore_http_store_with_a_path(webdav_server: HttpServer) -> None:
    address = webdav_server.create()
    inner = obstore.store.HTTPStore(address, client_options={"allow_http": True})
    store = ObjectStore(inner)
    assert store.location == address
    await store.put("d/a", b"x")
    assert set((await collect(store, recursive=True)).objects) == {"d/a"}


# -- closing and cancelling ----------------------------------------------------------------------


async def test_a_call_that_hangs_can_be_cancelled() -> None:
    import anyio

    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        store = s3("s3://b", endpoint, client_options={"timeout": 2})
        with anyio.move_on_after(0.1) as scope:
            await store.head("a")
        assert scope.cancelled_caught


async def test_views_share_what_is_learned(moto_server: S3Server) -> None:
    url = f"s3://{moto_server.create()}/p"
    store = ObjectStore.from_url(url, storage_options=moto_server.storage_options)
    view = store.with_read_only()
    await view.open()
    assert store._remote.opened
    assert re.fullmatch(r"<ObjectStore s3://test-\w+/p read-only>", repr(view))


async def test_disk_errors_are_told(tmp_path: Path) -> None:
    store = ObjectStore(obstore.store.LocalStore(tmp_path))
    with pytest.raises(InvalidKey):
        await store.put("n" * 254, b"x")
    with pytest.raises(InvalidKey):
        await store.put("a#1", b"x")
