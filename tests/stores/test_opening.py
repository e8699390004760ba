"""From what a person types to a store: the right one, or one clear line without secrets."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import obstore
import pytest
import zarr.storage
from hypothesis import given
from hypothesis import strategies as st

import stores
from stores import (
    BadLocation,
    Denied,
    ForeignStore,
    FsspecStore,
    LocalStore,
    MemoryStore,
    NotFound,
    ObjectStore,
    Store,
    StoreError,
    ZipStore,
    open_store,
)
from stores.urls import redact


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "x.zarr.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("zarr.json", b"{}")
    return path


def refused(location: object, **options: Any) -> str:
    with pytest.raises(BadLocation) as caught:
        open_store(location, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


# -- local paths -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["plain.zarr", "a:b", "a%20b", "with space", "x::y", "s3:", "~", "~nobody-here", "ä", "C:\\d", "?#&"],
)
async def test_a_directory_of_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "zarr.json").write_bytes(b"{}")
    typed = f"./{name}" if name == "~" else name
    for location in (typed, tmp_path / name, str(tmp_path / name), os.fsencode(tmp_path / name)):
        store = open_store(location)
        assert isinstance(store, LocalStore)
        assert not store.read_only
        async with store:
            assert (await store.get("zarr.json"))[0] == b"{}"


async def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/\xff"
    Path(os.fsdecode(raw)).mkdir()
    for location in (raw, os.fsdecode(raw)):
        async with open_store(location) as store:
            assert isinstance(store, LocalStore)


async def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    assert open_store("~/data").location == str(tmp_path / "data")
    with pytest.raises(NotFound):
        open_store(Path("~/data"))  # only what is typed is expanded


@pytest.mark.parametrize("form", ["file://{}", "file:{}", "file://localhost{}", "FILE://{}"])
async def test_a_file_url_is_percent_decoded(tmp_path: Path, form: str) -> None:
    (tmp_path / "a b%c?d#e").mkdir()
    store = open_store(form.format(f"{tmp_path}/a%20b%25c%3fd%23e"))
    assert isinstance(store, LocalStore)
    assert store.location == str(tmp_path / "a b%c?d#e")


def test_a_file_url_of_another_host() -> None:
    assert "write file:///PATH" in refused("file://relative/path")
    assert "write file:///PATH" in refused("file://host")
    assert "NUL" in refused("file:///a%00b")


def test_read_only(tmp_path: Path, archive: Path) -> None:
    for location in (tmp_path, archive, "memory://test-opening", {}, "s3://bucket/x"):
        assert open_store(location, read_only=True).read_only, location


async def test_create(tmp_path: Path) -> None:
    async with open_store("new/one.zarr", create=True) as store:
        assert isinstance(store, LocalStore)
        await store.put("k", b"1")
    assert (tmp_path / "new/one.zarr/k").read_bytes() == b"1"
    async with open_store("new.zip", create=True) as store:
        assert isinstance(store, ZipStore)
        await store.put("k", b"1")
    with zipfile.ZipFile("new.zip") as made:
        assert made.read("k") == b"1"
    assert "leave out one" in refused("other", create=True, read_only=True)


def test_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "era5.zarr").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for location, words in {
        "era.zarr": ["does not exist", "did you mean 'era5.zarr'?", "--create"],
        "quite-another": ["does not exist; --create"],
        "no/such/era5.zarr": ["nor does the directory above it", "--create"],
        "link": ["symbolic link to 'nowhere'"],
        "C:\\data\\x.zarr": ["/mnt/c/"],
        "s3:/bucket/x": ["did you mean s3://bucket/x?"],
        "s3:bucket/x": ["did you mean s3://bucket/x?"],
        "x.zip": ["does not exist", "--create"],
    }.items():
        with pytest.raises(NotFound) as caught:
            open_store(location)
        for word in words:
            assert word in str(caught.value)
        assert "did you mean" in str(caught.value) or "did you mean" not in "".join(words)


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "data.nc").write_bytes(b"CDF\1")
    assert refused("data.nc") == "'data.nc' is a file, not a Zarr directory or zip"
    assert "something above its end is a file" in refused("data.nc/x")
    os.mkfifo(tmp_path / "pipe")
    assert "neither a directory nor a file" in refused("pipe")
    assert "cannot be used" in refused("n" * 300)
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot be used" in refused("loop")


def test_a_directory_that_may_not_be_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(path: Path, **_: object) -> os.stat_result:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patch:  # root may look at everything
        patch.setattr(Path, "stat", refuse)
        with pytest.raises(Denied) as caught:
            open_store(str(tmp_path))
    assert caught.value.os_errno == errno.EACCES


# -- zip archives ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.zip", "x.ozx", "x.ZIP", "x.zarr.zip", "named-otherwise"])
async def test_a_zip(archive: Path, name: str) -> None:
    path = archive.rename(archive.with_name(name))
    for location in (name, path, path.as_uri()):
        store = open_store(location, read_only=True)
        assert isinstance(store, ZipStore)
        async with store:
            assert (await store.get("zarr.json"))[0] == b"{}"


async def test_a_zip_is_writable(archive: Path) -> None:
    async with open_store(archive) as store:
        await store.put("k", b"1")
    with zipfile.ZipFile(archive) as made:
        assert made.read("k") == b"1"


async def test_a_file_called_zip_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"no zip at all" * 100)
    with pytest.raises(StoreError):
        await open_store("x.zip").open()


def test_a_directory_called_zip(tmp_path: Path) -> None:
    (tmp_path / "x.zip").mkdir()
    assert isinstance(open_store("x.zip"), LocalStore)


@pytest.mark.parametrize(
    "url", ["s3://bucket/a/x.zarr.zip", "gs://b/x.ozx", "https://h/x.zip", "az://c/x.zip"]
)
@pytest.mark.parametrize("backend", ["auto", "fsspec"])
def test_a_remote_zip(url: str, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "acct")
    store = open_store(url, backend=backend)
    assert isinstance(store, ZipStore)
    assert store.read_only
    assert store.location.endswith(url.rpartition("/")[2])


@pytest.mark.parametrize("scheme", ["memory"])
async def test_a_zip_in_another_file_system(scheme: str, archive: Path) -> None:
    """A chain reads an archive through fsspec; a ZipStore over the same bytes gives the same."""
    name = "test-opening-chain"
    filesystem = fsspec.filesystem(scheme)
    filesystem.pipe_file(f"/{name}/x.zip", archive.read_bytes())
    try:
        async with ZipStore.over(FsspecStore(filesystem, f"/{name}"), "x.zip") as store:
            assert (await store.get("zarr.json"))[0] == b"{}"
        chain = open_store(f"zip::{scheme}://{name}/x.zip")
        assert isinstance(chain, FsspecStore)
        async with chain:
            assert (await chain.get("zarr.json"))[0] == b"{}"
    finally:
        filesystem.rm(f"/{name}", recursive=True)


def test_a_bucket_is_no_zip() -> None:
    assert "a bucket cannot be a zip archive" in refused("s3://x.zip")


# -- URLs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/a b", "s3a://bucket/x", "gs://bucket/x", "gcs://bucket/x", "az://container/x",
        "abfs://container/x", "abfss://container@acct.dfs.core.windows.net/x", "http://h:8080/x", "https://h/x",
        "S3://bucket/x",
    ],
)  # fmt: skip
def test_object_stores(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "acct")
    for backend in ("auto", "obstore"):
        assert isinstance(open_store(url, backend=backend), ObjectStore)  # type: ignore[arg-type]
    assert isinstance(open_store(url, backend="fsspec"), FsspecStore)


def test_options_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def from_url(url: str, *, storage_options: Any, read_only: bool) -> Store:
        seen.append((url, storage_options, read_only))
        return MemoryStore()

    monkeypatch.setattr(ObjectStore, "from_url", from_url)
    open_store("s3://b/x", storage_options={"anon": False, "region": "r"}, anon=True, read_only=True)
    assert seen == [("s3://b/x", {"anon": True, "region": "r"}, True)]


@pytest.mark.parametrize("url", ["memory://a", "memory://"])
async def test_memory(url: str) -> None:
    first = open_store(url)
    try:
        assert isinstance(first, MemoryStore)
        await first.put("k", b"1")
        assert (await open_store(url).get("k"))[0] == b"1"
        assert isinstance(open_store(url, backend="fsspec"), FsspecStore)
    finally:
        await first.delete("k")


def test_what_fsspec_knows(tmp_path: Path) -> None:
    for url in ("memory://x::y", f"simplecache::file://{tmp_path}", "github://org:repo@main/x"):
        assert isinstance(open_store(url, backend="auto"), FsspecStore), url
    assert "use the backend fsspec" in refused("github://org:repo@main/x", backend="obstore")


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("", "no store is named"),
        (" ", "no store is named"),
        ("a\0b", "NUL"),
        ("s4://bucket/x", "unknown scheme s4://: did you mean s3://"),
        ("htps://h/x", "https://"),
        ("qqqqqq://x", "there are s3://"),
        ("zipp::s3://b/x", "unknown scheme zipp://"),
        ("zip::s4://b/x", "unknown scheme s4://"),
        ("s3://", "no bucket"),
        ("s3:///x", "no bucket"),
        ("https:///x", "no host"),
        ("http://[::1/x", "is no URL"),
        ("https://h/x?sig=abc", "storage options"),
    ],
)
def test_what_is_no_store(location: str, words: str) -> None:
    assert words in refused(location)


def test_what_is_no_option() -> None:
    assert "use auto, obstore or fsspec" in refused("s3://b/x", backend="boto")
    assert "leave out anon" in refused(".", anon=True)
    assert "leave out anon" in refused("memory://x", anon=True)
    assert "leave out anon" in refused({}, anon=True)


SECRET = "hush-hush"


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{SECRET}@h/x", f"https://{SECRET}@h/x", f"https://h/x?sig={SECRET}", f"https://h/x#{SECRET}",
        f"https://user:{SECRET}/z@h/x", f"s4://user:{SECRET}@b/x", f"s3://user:{SECRET}@b/x.zip",
        f"zip::https://user:{SECRET}@h/x.zip", f"zip::s4://user:{SECRET}@h/x.zip", f"sftp://user:{SECRET}@h/x",
        f"ftp://user:{SECRET}@h/x", f"https://user:{SECRET}@[::1]/x", f"https://user:{SECRET}@/x",
        f"s3://user:{SECRET}@", f"https://user:{SECRET}@[::1/x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("backend", ["auto", "fsspec"])
def test_secrets_are_not_told(url: str, backend: Any) -> None:
    assert SECRET not in redact(url)
    try:
        store = open_store(url, backend=backend)
    except StoreError as error:
        told = f"{error} {error!r} {error.key}"
    else:
        told = f"{store!r} {store.location}"
    assert SECRET not in told


@pytest.mark.parametrize(
    "url",
    [
        "s3://b/x@y",
        "http://h:80/a@b",
        "abfs://c@acct.dfs.core.windows.net/x",
        "s3://b/a#b",
        "http://[::1]:80/x",
    ],
)
def test_what_is_no_secret_stays(url: str) -> None:
    assert redact(url) == url


@given(st.text(max_size=30))
def test_any_text_is_a_store_or_one_of_our_errors(text: str) -> None:
    for location in (text, f"s3://{text}", f"file://{text}", f"python:{text}", f"zip::{text}"):
        with suppress(StoreError):
            open_store(location, read_only=True)


# -- python: -----------------------------------------------------------------------------------------

FACTORIES = """
import zarr.storage
from stores.memory import MemoryStore

def ours(**options): return MemoryStore(name=options.get("name"))
def theirs(**options): return zarr.storage.MemoryStore()
async def later(**options): return zarr.storage.MemoryStore()
def no_store(): return 5
def fails(token): raise RuntimeError(f"cannot reach\\n it with {token}")
def leaves(): raise SystemExit("no")
class Place:
    make = staticmethod(ours)
value = 5
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    package = tmp_path / "opening_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "made.py").write_text(FACTORIES)
    (package / "broken.py").write_text("1 / 0\n")
    (package / "lacks.py").write_text("import no_such_library_here\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "python:opening_package.made"
    for name in [name for name in sys.modules if name.partition(".")[0] == "opening_package"]:
        del sys.modules[name]


async def test_factories(factories: str) -> None:
    assert open_store(f"{factories}:ours", name="n").location == "memory://n"
    assert open_store(f"{factories}:Place.make", name="m").location == "memory://m"
    assert open_store(f"{factories}:ours", read_only=True).read_only
    for name in ("theirs", "later"):
        store = open_store(f"{factories}:{name}")
        assert isinstance(store, ForeignStore)
        async with store:
            await store.put("k", b"1")
            assert (await store.get("k"))[0] == b"1"
    assert open_store(f"{factories}:theirs", read_only=True).read_only


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("opening_package.made:none", "has no 'none'"),
        ("opening_package.none:x", "no module 'opening_package.none'"),
        (
            "opening_nowhere.made:x",
            "no module 'opening_nowhere': install it, or put its directory on PYTHONPATH",
        ),
        ("opening_package.lacks:x", "importing 'opening_package.lacks' failed: No module named 'no_such"),
        ("opening_package.broken:x", "raised ZeroDivisionError: division by zero"),
        ("opening_package.made:no_store", "returned a int, which is no store"),
        ("opening_package.made:value", "cannot be called"),
        ("opening_package.made:leaves", "raised SystemExit: no"),
        ("opening_package.made:fails", "raised TypeError"),
        ("opening_package.made", "not of the form python:package.module:factory"),
        ("opening_package.made:a-b", "not of the form"),
        (":x", "not of the form"),
        ("", "not of the form"),
    ],
)
def test_factories_that_fail(factories: str, rest: str, words: str) -> None:
    assert words in refused(f"python:{rest}")


def test_the_options_of_a_factory_are_not_told(factories: str) -> None:
    assert refused(f"{factories}:fails", token=SECRET).endswith("RuntimeError: cannot reach it with ***")


# -- objects -----------------------------------------------------------------------------------------


async def test_objects(tmp_path: Path) -> None:
    ours = MemoryStore()
    assert open_store(ours) is ours
    assert open_store(ours, read_only=True).read_only
    held = {"k": b"1"}
    async with open_store(held) as store:
        await store.put("m", b"2")
    assert held["m"] == b"2"
    filesystem = fsspec.filesystem("memory", skip_instance_cache=True)
    for found, kind in [
        (zarr.storage.MemoryStore(), ForeignStore),
        (zarr.storage.LocalStore(tmp_path), LocalStore),
        (filesystem, FsspecStore),
        (obstore.store.MemoryStore(), ObjectStore),
    ]:
        assert type(open_store(found)) is kind
        assert open_store(found, read_only=True).read_only
    mapper = fsspec.FSMap("/opening-map", filesystem)
    async with open_store(mapper) as store:
        await store.put("k", b"1")
    assert mapper["k"] == b"1"
    mapper.clear()


async def test_a_store_of_ours_that_was_lent_to_zarr() -> None:
    ours = MemoryStore()
    assert open_store(stores.as_zarr_store(ours)) is ours


@pytest.mark.parametrize("what", [5, None, [], io.BytesIO()], ids=repr)
def test_what_is_no_object(what: object) -> None:
    assert f"a {type(what).__name__} is no store" in refused(what)


# -- import ------------------------------------------------------------------------------------------

HEAVY = ["fsspec", "obstore", "zarr", "numpy", "s3fs", "gcsfs", "adlfs", "aiohttp", "asyncio", "zipfile"]


def loaded(code: str) -> set[str]:
    program = f"import sys, json\n{code}\nprint(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_import_loads_nothing_heavy() -> None:
    assert loaded("import stores") == set()
    heavy = {"fsspec", "obstore", "zarr", "numpy"}
    assert not loaded("import stores; stores.open_store('.')") & heavy
    assert not loaded("import stores; stores.open_store('memory://x')") & heavy
    assert not loaded("import stores; stores.open_store('s3://b/x')") & {"fsspec", "zarr", "s3fs"}


def test_every_name_is_there() -> None:
    for name in stores.__all__:
        assert getattr(stores, name) is not None
        assert name in dir(stores)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = stores.nothing


async def test_a_store_that_does_not_open_is_closed() -> None:
    class Broken(MemoryStore):
        closed = False

        async def open(self) -> None:
            raise NotFound("no such bucket")

        async def aclose(self) -> None:
            self.closed = True

    store = Broken()
    with pytest.raises(NotFound):
        async with store:
            pytest.fail("it opened")
    assert store.closed
