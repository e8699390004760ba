"""What a real S3 server is asked when a tree is walked, and when many files are written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mount.harness import Mounted, mounted
from mount.places import s3_client, s3_options
from reliability.faults import Schedule
from reliability.faulty_proxy import FaultyProxy, faulty_proxy
from servers import S3Server

ROWS, COLUMNS = 40, 30
WRITE = """
    from concurrent.futures import ThreadPoolExecutor
    def write(number):
        with open(f"{directory}/{number}", "xb") as file:
            file.write(b"x" * 1000)
    with ThreadPoolExecutor(8) as pool:
        result = len(list(pool.map(write, range(200))))
"""


@pytest.fixture(scope="module")
def proxy(s3_server: Callable[[], S3Server]) -> Iterator[FaultyProxy]:
    server = s3_server()
    server.create("walked")
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [ROWS, COLUMNS],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 1]}},
        "chunk_key_encoding": {"name": "default"},
        "codecs": [{"name": "bytes"}],
        "fill_value": 0,
    }
    client = s3_client(server, 0)
    client.put_object(Bucket="walked", Key="a/zarr.json", Body=json.dumps(document).encode())
    keys = [f"a/c/{i}/{j}" for i in range(ROWS) for j in range(COLUMNS)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: client.put_object(Bucket="walked", Key=key, Body=b"x"), keys))
    with faulty_proxy(server.endpoint, Schedule(0, {})) as running:
        yield running


@pytest.fixture
def mount(proxy: FaultyProxy, tmp_path: Path) -> Iterator[Mounted]:
    server = S3Server(proxy.endpoint, "test", "testtest")
    with mounted("s3://walked", tmp_path, "--metadata-ttl", "20", *s3_options(server)) as running:
        proxy.asked_for.clear()
        yield running


def asked(proxy: FaultyProxy) -> Counter[str]:
    """Return how many requests of each kind there were; listings are asked of the bucket itself."""
    return Counter("LIST" if path in ("/walked", "/walked/") else method for method, path in proxy.asked_for)


def test_a_walk_through_an_array_is_the_pages_of_a_flat_listing(proxy: FaultyProxy, mount: Mounted) -> None:
    lines = mount.sh("find a/c -type f -printf '%p %s\\n' | sort").splitlines()
    assert sorted(lines) == sorted(f"a/c/{i}/{j} 1" for i in range(ROWS) for j in range(COLUMNS))
    counts = asked(proxy)
    # Of the tree: two pages.  Before that: the way down, and the first row.
    assert 2 <= counts["LIST"] <= 12
    assert counts["HEAD"] <= 2
    assert counts["GET"] <= 1


@pytest.mark.parametrize("directory", ["there", "new"])
def test_files_that_are_written_are_one_put_each(proxy: FaultyProxy, mount: Mounted, directory: str) -> None:
    if directory == "there":
        mount.sh("mkdir there; echo x > there/one; ls there")
    else:
        mount.sh("mkdir new")
    proxy.asked_for.clear()
    assert mount.python(WRITE, directory=directory) == 200
    counts = asked(proxy)
    assert counts["PUT"] == 200
    assert sum(counts.values()) <= 210
    mount.sh(f"rm -r {directory}")
