"""What mounts with ``--cache`` ask of a real server, one after the other and at once."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mount.harness import Mounted, environment, mounted, wait_for, zarrmount
from mount.places import s3_client, s3_options
from reliability.faults import Schedule
from reliability.faulty_proxy import FaultyProxy, faulty_proxy
from servers import S3Server

from zarrmount import registry

SIZE = 300_000
LARGE = bytes(range(256)) * 20_000
READ_ALL = "for at in a/c/*/*; do sha1sum $at; done; sha1sum a/zarr.json large.nc"


@pytest.fixture
def proxy(s3_server: Callable[[], S3Server]) -> Iterator[FaultyProxy]:
    """A server behind a proxy that counts, with an array in its bucket `kept`."""
    server = s3_server()
    server.create("kept")
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [3, 4 * SIZE],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, SIZE]}},
        "chunk_key_encoding": {"name": "default"},
        "codecs": [{"name": "bytes"}],
        "fill_value": 0,
    }
    client = s3_client(server, 0)
    client.put_object(Bucket="kept", Key="a/zarr.json", Body=json.dumps(document).encode())
    client.put_object(Bucket="kept", Key="large.nc", Body=LARGE)
    for i in range(3):
        for j in range(4):
            client.put_object(Bucket="kept", Key=f"a/c/{i}/{j}", Body=f"{i} {j} ".encode() * (SIZE // 4))
    with faulty_proxy(server.endpoint, Schedule(0, {})) as running:
        yield running


def options(proxy: FaultyProxy) -> list[str]:
    return s3_options(S3Server(proxy.endpoint, "test", "testtest"))


def objects_asked_for(proxy: FaultyProxy) -> Counter[str]:
    """Return how often each method was used on objects, not on listings and directories."""
    objects = re.compile(r"/kept/(a/c/\d/\d|a/zarr.json|large.nc)")
    return Counter(method for method, path in proxy.asked_for if objects.fullmatch(path))


def entries(directory: Path, cache: Path) -> int:
    said = zarrmount("cache", "--dir", cache, environment=environment(directory))
    assert said.returncode == 0, said.stderr
    return int(said.stdout.split()[0])


def wait_for_the_end(mount: Mounted) -> None:
    """Return when the mount's process has written what it had to, which nobody else waits for."""
    wait_for(lambda: str(mount.path) not in {running.mountpoint for running in registry.all_running()})


def test_a_second_mount_gets_no_bytes_that_the_first_one_got(proxy: FaultyProxy, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    arguments = ["--cache", str(cache), *options(proxy)]
    with mounted("s3://kept", tmp_path, *arguments) as mount:
        first = mount.sh(READ_ALL)
        assert objects_asked_for(proxy)["GET"] >= 14
    wait_for_the_end(mount)
    proxy.asked_for.clear()
    with mounted("s3://kept", tmp_path, *arguments) as mount:
        assert mount.sh(READ_ALL) == first
    assert objects_asked_for(proxy)["GET"] == 0
    assert 13 <= objects_asked_for(proxy)["HEAD"] <= 15

    s3_client(S3Server(proxy.endpoint, "test", "testtest"), 0).put_object(
        Bucket="kept", Key="a/c/1/1", Body=b"new!" * (SIZE // 4)
    )
    proxy.asked_for.clear()
    with mounted("s3://kept", tmp_path, *arguments) as mount:
        assert mount.sh("head -c 8 a/c/1/1; head -c 8 a/c/1/2") == "new!new!1 2 1 2 "
    assert objects_asked_for(proxy)["GET"] == 1


def test_a_store_that_does_not_change_is_not_asked_by_the_second_mount(
    proxy: FaultyProxy, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    read = "sha1sum a/c/0/1 a/c/2/3 a/zarr.json large.nc; stat -c %s a/c/0/1 large.nc"
    given = ",".join(["immutable", f"cache={cache}", "max-cache-size=1G", "min_free_space=1M"])
    with mounted("s3://kept", tmp_path, "-o", given, *options(proxy)) as mount:
        first = mount.sh(read)
    wait_for_the_end(mount)
    with mounted("s3://kept", tmp_path, "-o", given, *options(proxy)) as mount:
        proxy.asked_for.clear()
        assert mount.run("bash", "-c", f"cd {mount.path} && {read}").stdout == first
        assert objects_asked_for(proxy) == Counter()
        asked = [path for _, path in proxy.asked_for if "list-type" not in path]
        assert [path for path in asked if not path.rstrip("/").endswith("/kept")] == []


def test_the_command_tells_how_much_there_is_and_removes_it(proxy: FaultyProxy, tmp_path: Path) -> None:
    cache, variables = tmp_path / "cache", environment(tmp_path)
    with mounted("s3://kept", tmp_path, "--cache", str(cache), *options(proxy)) as mount:
        mount.sh("cat a/c/*/* > /dev/null")
        wait_for(lambda: entries(tmp_path, cache) >= 12)
        said = zarrmount("cache", "--dir", cache, "--clear", environment=variables)
        assert said.stdout == "0 entries, 0 bytes\n"
        mount.sh("sha1sum a/c/*/* > /dev/null")
    gone = zarrmount("cache", "--dir", tmp_path / "nowhere", environment=variables)
    assert gone.returncode == 2
    assert "does not exist" in gone.stderr


def test_a_store_on_this_machine_does_without(tmp_path: Path) -> None:
    store, cache = tmp_path / "store", tmp_path / "cache"
    store.mkdir()
    (store / "file").write_bytes(b"bytes")
    with mounted(store, tmp_path, "--cache", str(cache)) as mount:
        assert mount.sh("cat file") == "bytes"
        assert "--cache is not used: the store is on this machine" in mount.read_log()
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_fails_no_read(proxy: FaultyProxy, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "zarrmount-cache-1").write_bytes(b"in the way")
    with mounted("s3://kept", tmp_path, "--cache", str(cache), *options(proxy)) as mount:
        mount.sh(READ_ALL)
        wait_for(lambda: "the cache cannot be" in mount.read_log())
        mount.sh(READ_ALL)
        assert mount.read_log().count("the cache cannot be") <= 2
