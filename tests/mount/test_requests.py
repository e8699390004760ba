"""What a real S3 server is asked when a program reads an array through the kernel."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mount.harness import Mounted, mounted
from mount.places import s3_client, s3_options
from reliability.faults import Schedule
from reliability.faulty_proxy import FaultyProxy, faulty_proxy
from servers import S3Server

GRID = (6, 7)
SIZE = 300_000
READ_ALL = """
    for i, j in order:
        with open(f"a/c/{i}/{j}", "rb") as file:
            data = file.read()
        assert data == f"{i} {j} ".encode() * (len(data) // 4), (i, j)
    result = None
"""


def chunk(i: int, j: int) -> bytes:
    return f"{i} {j} ".encode() * (SIZE // 4)


@pytest.fixture(scope="module")
def proxy(s3_server: Callable[[], S3Server]) -> Iterator[FaultyProxy]:
    """A server behind a proxy that counts, with an array in its bucket `arrays`."""
    server = s3_server()
    server.create("arrays")
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [GRID[0], GRID[1] * SIZE],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, SIZE]}},
        "chunk_key_encoding": {"name": "default"},
        "codecs": [{"name": "bytes"}],
        "fill_value": 0,
    }
    client = s3_client(server, 0)
    client.put_object(Bucket="arrays", Key="a/zarr.json", Body=json.dumps(document).encode())
    for i, j in itertools.product(*map(range, GRID)):
        client.put_object(Bucket="arrays", Key=f"a/c/{i}/{j}", Body=chunk(i, j))
    with faulty_proxy(server.endpoint, Schedule(0, {})) as running:
        yield running


@pytest.fixture
def mount(proxy: FaultyProxy, tmp_path: Path) -> Iterator[Mounted]:
    server = S3Server(proxy.endpoint, "test", "testtest")
    with mounted("s3://arrays", tmp_path, "--metadata-ttl", "60", *s3_options(server)) as running:
        yield running


def chunk_requests(proxy: FaultyProxy) -> Counter[tuple[str, str]]:
    """Return how often each chunk was asked for, by method."""
    return Counter(
        (method, path.removeprefix("/arrays/a/c/"))
        for method, path in proxy.asked_for
        if path.startswith("/arrays/a/c/")
    )


ALL = list(itertools.product(*map(range, GRID)))


@pytest.mark.parametrize(
    "order", [ALL, ALL[::-1], sorted(ALL, key=lambda at: at[::-1])], ids=["c order", "reversed", "f order"]
)
def test_a_whole_array_is_one_get_for_each_chunk(
    proxy: FaultyProxy, mount: Mounted, order: list[tuple[int, int]]
) -> None:
    mount.sh("cat a/zarr.json")
    proxy.asked_for.clear()
    mount.python(READ_ALL, order=order)
    asked = chunk_requests(proxy)
    assert {asked["GET", f"{i}/{j}"] for i, j in ALL} == {1}
    directories = {key for key in asked if "/" not in key[1]}
    assert set(asked) - directories == {("GET", f"{i}/{j}") for i, j in ALL}
    # A directory is asked for, by HEAD and LIST, only if it is entered before the walk is known.
    assert len(directories) <= 3
    # With `c` that makes one more, and another comes of Python, which lists where it is started.
    lists = [path for _, path in proxy.asked_for if path in ("/arrays", "/arrays/")]
    assert len(lists) <= len(directories) + 2


def test_one_cold_chunk_is_one_get(proxy: FaultyProxy, mount: Mounted) -> None:
    mount.sh("cat a/zarr.json; cat a/c/2/3 > /dev/null")
    proxy.asked_for.clear()
    mount.sh("cmp a/c/2/5 a/c/2/5; test $(stat -c %s a/c/2/5) = 300000; test ! -e a/c/2/77")
    assert chunk_requests(proxy)["GET", "2/5"] == 1
    assert chunk_requests(proxy)["HEAD", "2/5"] == 0


def test_an_immutable_store_is_asked_once(proxy: FaultyProxy, tmp_path: Path) -> None:
    server = S3Server(proxy.endpoint, "test", "testtest")
    with mounted("s3://arrays", tmp_path, "--immutable", *s3_options(server)) as mount:
        look = "cat a/zarr.json a/c/0/*; stat a/c/0/2; ! cat a/.zarray; ! cat a/.zattrs; ls -lR a > /dev/null"
        mount.sh(look)
        mount.sh("sleep 1.5")  # longer than answers hold otherwise
        proxy.asked_for.clear()
        mount.sh(look)
        assert proxy.asked_for == []
        assert mount.errno_of("open('a/c/0/0', 'wb')") == "EROFS"
