"""The local store: the contract, on both ways to resolve names, and what only a disk can do to it."""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
from contextlib import aclosing, suppress
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from stores.errors import (
    AlreadyExists,
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
from stores.local import LocalStore
from stores.local.beneath import MOST_AT_ONCE, RENAME_EXCHANGE, Root, _file_system, rename_at
from stores.local.files import is_temporary, os_error, store_error
from stores.meta import AttributeChange, Capabilities
from stores.testing import StoreConformance, collect, each_raises


class TestLocal(StoreConformance):
    capabilities = Capabilities(
        listable=True,
        ranges=True,
        versions=True,
        create_if_absent=True,
        replace_if_version=True,
        rename=True,
        server_copy=True,
        directories=True,
        posix=True,
        snapshot_reads=True,
    )
    object_and_prefix = False  # a file and a directory of one name cannot both exist

    async def make_store(self, tmp_path):
        self.path = tmp_path / "root"
        return LocalStore(self.path, create=True)


class TestLocalWithoutOpenat2(TestLocal):
    @pytest.fixture(autouse=True)
    def _old_kernel(self, monkeypatch):
        monkeypatch.setattr(Root, "has_openat2", False)


class TestLocalOnANetwork(TestLocal):
    """Where nothing may be asked but by threads."""

    @pytest.fixture(autouse=True)
    def _network(self, monkeypatch):
        monkeypatch.setattr("stores.local.beneath._ON_THIS_MACHINE", frozenset())

    async def test_threads_are_asked(self, store, monkeypatch):
        await store.put("a", b"x")
        reader = await store.open_reader("a")
        asked = without_threads(monkeypatch)
        for call in (store.head("a"), store.get("a"), store.root(), reader.read(0, 1)):
            with pytest.raises(RuntimeError):
                await call
        assert len(asked) == 4
        await reader.aclose()


@pytest.fixture(params=[True, False], ids=["openat2", "walk"])
def resolver(request, monkeypatch):
    monkeypatch.setattr(Root, "has_openat2", request.param)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def outside(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    return outside


@pytest.fixture
async def store(path):
    async with LocalStore(path) as store:
        yield store


def without_threads(monkeypatch):
    """Refuse all work in threads; return a list that grows with each refusal."""
    refused = []

    async def refuse(function, *_args, **_options):
        refused.append(function)
        raise RuntimeError("no threads")

    monkeypatch.setattr("anyio.to_thread.run_sync", refuse)
    return refused


def names_in(directory):
    return sorted(entry.name for entry in directory.iterdir())


def open_files(path):
    """The files and directories at or beneath `path` that this process holds open."""
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(fd.readlink()))
    return [name for name in found if name.startswith(str(path))]


# -- the root --------------------------------------------------------------------------------------


async def test_a_missing_root(tmp_path):
    with pytest.raises(NotFound, match="--create"):
        await LocalStore(tmp_path / "missing").open()
    with pytest.raises(NotFound, match="--create"):
        await LocalStore(tmp_path / "missing").get("a")
    assert not (tmp_path / "missing").exists()
    async with LocalStore(tmp_path / "missing" / "deep", create=True) as store:
        await store.put("a", b"x")
    assert (tmp_path / "missing" / "deep" / "a").read_bytes() == b"x"


@pytest.mark.parametrize("create", [False, True])
async def test_a_root_that_is_a_file(tmp_path, create):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadLocation):
        await LocalStore(tmp_path / "file", create=create).open()


async def test_the_location_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = LocalStore("root/../root", create=True)
    await store.open()
    monkeypatch.chdir("/")
    await store.put("a", b"x")
    await store.aclose()
    assert store.location == str(tmp_path / "root")
    assert (tmp_path / "root" / "a").read_bytes() == b"x"


async def test_closing_lets_go_of_every_file(path):
    store = LocalStore(path)
    await store.put("d/a", b"x" * 5000)
    await store.copy("d/a", "d/b")
    await store.rename("d/b", "e/b")
    reader = await store.open_reader("d/a")
    await collect(store, recursive=True)
    listing = store.list_dir("d")
    await anext(listing)
    await listing.aclose()
    await each_raises(
        StoreError, store.get("d"), store.put("d", b"x"), store.get("no"), store.put("d/a/b", b"x")
    )
    await store.sync("d/a")
    assert sorted(open_files(path)) == [str(path), str(path / "d" / "a")]
    await reader.aclose()
    assert open_files(path) == [str(path)]
    await store.aclose()
    assert open_files(path) == []


async def test_a_store_that_shares_the_root_goes_on(path):
    store = LocalStore(path)
    await store.put("a", b"x")
    view = store.with_read_only()
    await store.aclose()
    assert (await view.get("a"))[0] == b"x"
    await view.aclose()
    assert open_files(path) == []


# -- ways out --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("resolver")
async def test_links_that_lead_out(store, path, outside):
    (path / "absolute").symlink_to(outside / "secret")
    (path / "upward").symlink_to("../outside/secret")
    (path / "dir").symlink_to(outside)
    (path / "d").mkdir()
    (path / "d" / "up").symlink_to("../../outside")
    (path / "back").symlink_to(f"../{path.name}/a")  # out and in again
    await store.put("a", b"x")
    for key in ("absolute", "upward", "dir/secret", "d/up/secret", "back"):
        await each_raises(
            Denied, store.get(key), store.get_range(key, 0, 1), store.open_reader(key), store.copy(key, "c")
        )
    for directory in ("dir", "d/up"):
        await each_raises(
            Denied,
            store.head(f"{directory}/secret"),
            store.lookup(f"{directory}/secret"),
            store.put(f"{directory}/new", b"x"),
            store.put(f"{directory}/secret", b"x", if_absent=True),
            store.delete(f"{directory}/secret"),
            store.rename("a", f"{directory}/new"),
            store.rename(f"{directory}/secret", "stolen"),
            store.copy("a", f"{directory}/new"),
            store.link("a", f"{directory}/new"),
            store.link(f"{directory}/secret", "stolen"),
            store.make_dir(f"{directory}/new"),
            store.make_dir(f"{directory}/deep/new"),
            store.remove_dir(f"{directory}/secret"),
            store.symlink("x", f"{directory}/new"),
            store.make_node(f"{directory}/new", stat.S_IFIFO | 0o600),
            store.set_attributes(f"{directory}/secret", AttributeChange(mode=0)),
            store.sync(f"{directory}/secret"),
            collect(store, directory),
            collect(store, directory, recursive=True),
        )
    assert {entry.name for entry in outside.iterdir()} == {"secret"}
    assert (outside / "secret").read_bytes() == b"secret"
    assert (outside / "secret").stat().st_mode & 0o777
    assert (await store.get("a"))[0] == b"x"


@pytest.mark.usefixtures("resolver")
async def test_links_that_stay(store, path):
    await store.put("d/e/a", b"x")
    (path / "file").symlink_to("d/e/a")
    (path / "dir").symlink_to("d")
    (path / "d" / "e" / "up").symlink_to("../../dir/./e//a")
    (path / "chain").symlink_to("dir/e/up")
    for key in ("file", "dir/e/a", "d/e/up", "chain"):
        assert (await store.get(key))[0] == b"x"
    await store.put("dir/new", b"y")
    assert (path / "d" / "new").read_bytes() == b"y"
    assert set((await collect(store, "dir")).objects) == {"dir/new"}


@pytest.mark.usefixtures("resolver")
async def test_links_in_a_circle(store, path):
    (path / "a").symlink_to("b")
    (path / "b").symlink_to("a")
    with pytest.raises(Denied) as caught:
        await store.get("a")
    assert caught.value.os_errno == errno.ELOOP
    assert await store.read_link("a") == "b"


@pytest.mark.usefixtures("resolver")
async def test_links_of_the_kernel_are_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    with secret.open("rb") as file:
        async with LocalStore("/proc/self") as store:
            for key in (f"fd/{file.fileno()}", "root/etc/passwd", "cwd/pyproject.toml"):
                with pytest.raises(Denied):
                    await store.get(key)


@pytest.mark.usefixtures("resolver")
async def test_a_directory_exchanged_for_a_link_during_writes(store, path, outside):
    """Who swaps directories all the time gets nothing out, and nothing in."""
    (path / "d").mkdir()
    (path / "swap").symlink_to(outside)
    stop = threading.Event()
    swaps = 0

    def swap():
        nonlocal swaps
        fd = os.open(path, os.O_PATH)
        while not stop.is_set():
            rename_at(fd, b"d", fd, b"swap", RENAME_EXCHANGE)
            swaps += 1
        os.close(fd)

    done = denied = 0
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for number in range(1500):
            for attempt in (
                store.put(f"d/{number}", b"x"),
                store.get("d/secret"),
                store.make_dir(f"d/dir{number}"),
                store.delete("d/secret"),
            ):
                try:
                    await attempt
                except Denied:
                    denied += 1
                except NotFound:
                    pass  # of "secret", in the directory that belongs there
                else:
                    done += 1
    finally:
        stop.set()
        thread.join()
    assert swaps
    assert done
    assert denied
    assert {entry.name for entry in outside.iterdir()} == {"secret"}
    # every put went into the real directory or failed: nothing half done is left
    (real,) = (path / name for name in ("d", "swap") if not (path / name).is_symlink())
    assert not [name for name in names_in(real) if is_temporary(name)]


# -- writing ---------------------------------------------------------------------------------------


class Failing(io.BytesIO):
    """Gives some bytes, then fails."""

    def read(self, size=-1, /):
        raise RuntimeError("no more")


async def test_a_failed_put_leaves_no_file(store, path):
    await store.put("d/a", b"old")
    meta = await store.head("d/a")
    with pytest.raises(RuntimeError, match="no more"):
        await store.put("d/a", Failing())
    with pytest.raises(Precondition):
        await store.put("d/a", b"new", if_version="other")
    with pytest.raises(AlreadyExists):
        await store.put("d/a", b"new", if_absent=True)
    with pytest.raises(StoreError):
        await store.copy("d/a", "d")
    assert names_in(path) == ["d"]
    assert names_in(path / "d") == ["a"]
    assert await store.head("d/a") == meta


async def test_a_full_disk(store, path, monkeypatch):
    await store.put("a", b"old")

    def full(fd, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("stores.local.files.os.write", full)
        with pytest.raises(NoSpace) as caught:
            await store.put("a", b"new")
    assert (caught.value.key, caught.value.os_errno) == ("a", errno.ENOSPC)
    assert isinstance(caught.value.__cause__, OSError)
    assert names_in(path) == ["a"]
    assert (path / "a").read_bytes() == b"old"


@pytest.fixture
def umask():
    old = os.umask(0o027)
    yield
    os.umask(old)


@pytest.mark.usefixtures("umask")
async def test_modes_of_new_files(store, path):
    await store.put("a", b"x")
    assert (path / "a").stat().st_mode & 0o7777 == 0o640
    await store.put("b", b"x", attributes=AttributeChange(mode=0o666))
    assert (path / "b").stat().st_mode & 0o7777 == 0o666
    await store.put("c", b"x", if_absent=True, attributes=AttributeChange(mode=0o000))
    assert (path / "c").stat().st_mode & 0o7777 == 0
    await store.put("d/a", b"x")
    assert (path / "d").stat().st_mode & 0o7777 == 0o750
    await store.make_dir("e", 0o1777)
    assert (path / "e").stat().st_mode & 0o7777 == 0o1750


async def test_what_a_replaced_file_keeps(store, path):
    file = path / "a"
    file.write_bytes(b"old")
    file.chmod(0o4710)
    os.setxattr(file, "user.note", b"kept")
    if os.geteuid() == 0:
        os.chown(file, 12, 34)
        file.chmod(0o4710)
    before = file.stat()
    await store.put("a", b"new")
    after = file.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert os.getxattr(file, "user.note") == b"kept"
    await store.put("a", b"newer", attributes=AttributeChange(mode=0o600, uid=os.getuid()))
    after = file.stat()
    assert after.st_mode & 0o7777 == 0o600
    assert (after.st_uid, after.st_gid) == (os.getuid(), before.st_gid)


async def test_a_put_replaces_a_link_and_not_its_target(store, path):
    await store.put("a", b"x")
    await store.symlink("a", "link")
    await store.put("link", b"y")
    assert not (path / "link").is_symlink()
    assert (path / "a").read_bytes() == b"x"
    assert (path / "link").stat().st_mode & 0o111 == 0


async def test_file_systems_without_renameat2(store, path, monkeypatch):
    def old(source_dir, source, target_dir, target, flags):
        if flags:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        rename_at(source_dir, source, target_dir, target, flags)

    monkeypatch.setattr("stores.local.replacing.rename_at", old)
    meta = await store.put("a", b"x", if_absent=True)
    assert meta.posix.nlink == 1
    with pytest.raises(AlreadyExists):
        await store.put("a", b"y", if_absent=True)
    assert (path / "a").read_bytes() == b"x"
    assert names_in(path) == ["a"]


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP])
async def test_file_systems_without_copy_file_range(store, monkeypatch, number):
    data = bytes(range(256)) * 20_000
    await store.put("a", data)

    def refuse(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("stores.local.files.os.copy_file_range", refuse)
    await store.copy("a", "b")
    assert (await store.get("b"))[0] == data


async def test_two_stores_of_one_directory_replace_a_version_once(path):
    async with LocalStore(path) as one, LocalStore(path) as other:
        for _ in range(20):
            version = (await one.put("a", b"start")).version
            won = []

            async def replace(store, data, version=version, won=won):
                with suppress(Precondition):
                    await store.put("a", data, if_version=version)
                    won.append(data)

            async with anyio.create_task_group() as group:
                for number in range(6):
                    group.start_soon(replace, (one, other)[number % 2], b"%d" % number)
            assert len(won) == 1
            assert (path / "a").read_bytes() == won[0]


async def test_a_cancelled_put_leaves_no_unfinished_file(store, path):
    with anyio.CancelScope() as scope:
        scope.cancel()
        await store.put("a", b"x")
    assert scope.cancelled_caught
    assert [name for name in names_in(path) if name != "a"] == []


# -- versions and readers --------------------------------------------------------------------------


async def test_versions_differ_though_times_are_set_and_inodes_used_again(store):
    change = AttributeChange(mtime_ns=0)
    versions = [(await store.put("a", b"%03d" % number, attributes=change)).version for number in range(100)]
    assert all(earlier != later for earlier, later in pairwise(versions))
    if (await store.head("a")).version.startswith("0x"):  # a file system without handles
        return
    assert len(set(versions)) == 100


async def test_a_writer_in_place_is_noticed(store, path):
    await store.put("a", b"old")
    meta = await store.head("a")
    reader = await store.open_reader("a")
    (path / "a").write_bytes(b"longer")
    with pytest.raises(Precondition):
        await reader.read(0, 3)
    await reader.aclose()
    with pytest.raises(Precondition):
        await store.put("a", b"new", if_version=meta.version)
    with pytest.raises(Precondition):
        await store.get_range("a", 0, 3, if_version=meta.version)
    reader = await store.open_reader("a")
    found = (path / "a").stat()
    (path / "a").write_bytes(b"LONGER")
    os.utime(path / "a", ns=(0, found.st_mtime_ns + 1))
    with pytest.raises(Precondition):
        await reader.read(0, 6)
    await reader.aclose()
    reader = await store.open_reader("a")
    os.truncate(path / "a", 0)
    with pytest.raises(Precondition):
        await reader.read(0, 6)
    await reader.aclose()


async def test_modes_and_names_are_no_bytes(store):
    meta = await store.put("a", b"x")
    reader = await store.open_reader("a")
    await store.set_attributes("a", AttributeChange(mode=0o600, atime_ns=1))
    await store.link("a", "b")
    await store.rename("a", "c")
    assert (await store.head("c")).version == meta.version
    assert (await store.head("b")).version == meta.version
    assert await reader.read(0, 1) == b"x"
    await store.put("c", b"y", if_version=meta.version)
    await reader.aclose()
    with pytest.raises(ValueError, match="closed"):
        await reader.read(0, 1)


# -- what else a directory holds --------------------------------------------------------------------


async def test_names_that_are_not_utf_8(store, path):
    Path(os.fsdecode(bytes(path) + b"/d\xff")).mkdir()
    Path(os.fsdecode(bytes(path) + b"/d\xff/in\xfe")).write_bytes(b"x")
    Path(os.fsdecode(bytes(path) + b"/f\xfd")).write_bytes(b"xx")
    listing = await collect(store)
    assert {key: meta.size for key, meta in listing.objects.items()} == {"f\udcfd": 2}
    assert set(listing.prefixes) == {"d\udcff"}
    assert set((await collect(store, recursive=True)).objects) == {"f\udcfd", "d\udcff/in\udcfe"}
    await store.symlink("to\udcff", "link")
    assert await store.read_link("link") == "to\udcff"


TEMPORARY = ".name.0123456789abcdef.zarrmount-tmp"


async def test_unfinished_files_are_not_shown(store, path):
    (path / "d").mkdir()
    (path / "d" / TEMPORARY).write_bytes(b"half")
    assert await collect(store, "d") == ({}, {})
    assert await collect(store, recursive=True) == ({}, {})
    await each_raises(
        InvalidKey,
        store.put(f"d/{TEMPORARY}", b"x"),
        store.put(f"{TEMPORARY}/a", b"x"),
        store.head(f"d/{TEMPORARY}"),
        store.rename("a", TEMPORARY),
        store.copy("a", TEMPORARY),
        store.link("a", TEMPORARY),
        store.rename_dir("d", TEMPORARY),
        collect(store, TEMPORARY),
    )
    await store.put(".zarrmount-tmp", b"x")  # a name like it is like any other
    assert set((await collect(store)).objects) == {".zarrmount-tmp"}


async def test_unfinished_files_of_dead_writers_do_not_keep_a_directory(store, path):
    (path / "d").mkdir()
    (path / "d" / TEMPORARY).write_bytes(b"half")
    with pytest.raises(StoreError) as caught:
        await store.remove_dir("d")  # its writer may be at work
    assert caught.value.os_errno == errno.ENOTEMPTY
    os.utime(path / "d" / TEMPORARY, (0, 0))
    (path / "d" / "a").write_bytes(b"x")
    with pytest.raises(StoreError):
        await store.remove_dir("d")
    assert (path / "d" / TEMPORARY).exists()
    (path / "d" / "a").unlink()
    await store.remove_dir("d")
    assert not (path / "d").exists()


async def test_device_nodes(store):
    """Only some may make them; what was made tells its number and is not read."""
    device = os.makedev(1, 3)
    try:
        meta = await store.make_node("null", stat.S_IFCHR | 0o600, device)
    except Denied as denied:
        refused = denied.os_errno
    else:
        refused = None
        assert stat.S_ISCHR(meta.posix.mode)
        assert meta.posix.rdev == device
        with pytest.raises(Denied):
            await store.get("null")
    assert refused in (None, errno.EPERM)


async def test_the_root_has_attributes(store, path):
    await store.set_attributes("", AttributeChange(mode=0o711))
    assert path.stat().st_mode & 0o777 == 0o711
    assert (await store.root()).posix.mode & 0o777 == 0o711


async def test_errors_keep_their_errno(store):
    await store.put("a", b"x")
    await store.make_dir("d")
    for ask, kind, number in (
        (store.put("d", b"x"), StoreError, errno.EISDIR),
        (store.put("a/b", b"x"), StoreError, errno.ENOTDIR),
        (store.head("a/b"), NotFound, errno.ENOTDIR),
        (store.head("d"), NotFound, errno.EISDIR),
        (store.delete("d"), NotFound, errno.EISDIR),
        (store.head("b"), NotFound, errno.ENOENT),
        (store.make_dir("a"), AlreadyExists, errno.EEXIST),
        (store.rename("a", "d"), StoreError, errno.EISDIR),
        (store.rename_dir("d", "a"), StoreError, errno.ENOTDIR),
        (store.rename_dir("d", "d/e/f"), StoreError, errno.EINVAL),
        (store.set_attributes("link", AttributeChange(mode=0)), NotFound, errno.ENOENT),
    ):
        with pytest.raises(kind) as caught:
            await ask
        assert caught.value.os_errno == number
    assert await collect(store, "d") == ({}, {})
    await store.symlink("a", "link")
    with pytest.raises(Unsupported) as caught:
        await store.set_attributes("link", AttributeChange(mode=0o600))
    assert caught.value.os_errno == errno.EOPNOTSUPP


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, Denied),
        (errno.EROFS, ReadOnly),
        (errno.EDQUOT, NoSpace),
        (errno.ENAMETOOLONG, InvalidKey),
        (errno.EIO, Unavailable),
        (errno.ESTALE, Unavailable),
        (errno.EMFILE, Unavailable),
        (None, Unavailable),
    ],
)
def test_every_errno_has_its_error(number, kind):
    error = store_error(OSError(number, "text"), "key")
    assert type(error) is kind
    assert (error.key, error.os_errno) == ("key", number)


# -- without waiting -------------------------------------------------------------------------------


async def test_what_is_in_memory_needs_no_thread(store, path, monkeypatch):
    (path / "d").mkdir()
    (path / "d/a").write_bytes(b"12345")
    await store.head("d/a")  # now it is in memory
    without_threads(monkeypatch)
    assert (await store.lookup("d/a")).object == await store.head("d/a")
    assert (await store.lookup("d")).prefix.prefix == "d"
    assert (await store.root()).prefix == ""
    reader = await store.open_reader("d/a")
    assert reader.meta.size == 5
    await reader.aclose()


async def test_what_is_in_memory_is_told_without_waiting(store, path, monkeypatch):
    await store.put("d/a", b"12345")
    meta = await store.head("d/a")
    without_threads(monkeypatch)
    assert store.lookup_now("d/a").object == meta
    assert store.lookup_now("d").prefix.prefix == "d"
    reader = store.open_reader_now("d/a", if_version=meta.version)
    assert reader.meta == meta
    assert reader.read_now(1, 99) == b"2345"
    (path / "d/a").write_bytes(b"changed")
    for read in (
        lambda: reader.read_now(0, 5),
        lambda: store.open_reader_now("d/a", if_version=meta.version),
    ):
        with pytest.raises(Precondition):
            read()
    await reader.aclose()
    with pytest.raises(ValueError, match="closed"):
        reader.read_now(0, 1)
    for call in (store.lookup_now, store.open_reader_now):
        with suppress(NotFound):  # what is not there may not be in memory either
            assert call("none") is None
    with pytest.raises(InvalidKey):
        store.lookup_now(f".a.{'0' * 16}.zarrmount-tmp")


async def test_what_has_to_be_waited_for_is_not_told_at_once(store, monkeypatch):
    await store.put("a", b"12345")
    reader = await store.open_reader("a")
    monkeypatch.setattr(os, "preadv", refuse(errno.EAGAIN))
    assert reader.read_now(0, 5) is None
    assert await reader.read(0, 5) == b"12345"
    await reader.aclose()
    monkeypatch.setattr("stores.local.beneath._syscall", lambda *_: refuse(errno.EAGAIN)())
    assert store.lookup_now("a") is None
    assert store.open_reader_now("a") is None


async def test_a_closed_store_tells_nothing_at_once(path):
    assert LocalStore(path).lookup_now("a") is None


@pytest.mark.parametrize("is_memory", [True, False])
async def test_file_systems_in_memory_are_read_without_asking_whether_they_have_it(
    path, monkeypatch, is_memory
):
    kinds = frozenset({os_kind(path)}) if is_memory else frozenset()
    monkeypatch.setattr("stores.local.beneath._MEMORY", kinds)
    asked = []
    preadv = os.preadv

    def noted(fd, buffers, start, flags):
        asked.append(flags)
        return preadv(fd, buffers, start)

    monkeypatch.setattr(os, "preadv", noted)
    async with LocalStore(path) as store:
        await store.put("a", b"12345")
        reader = store.open_reader_now("a")
        assert reader.read_now(0, 5) == b"12345"
        assert (await store.get("a"))[0] == b"12345"
        await reader.aclose()
    assert asked == [0 if is_memory else os.RWF_NOWAIT] * 2


def os_kind(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return _file_system(fd)
    finally:
        os.close(fd)


def refuse(number):
    def preadv(*_):
        raise os_error(number)

    return preadv


def nothing_more(fd, buffers, start, _flags):
    """Give half of what is wanted."""
    data = os.pread(fd, len(buffers[0]) // 2, start)
    buffers[0][: len(data)] = data
    return len(data)


@pytest.mark.parametrize(
    "preadv",
    [refuse(errno.EAGAIN), refuse(errno.EOPNOTSUPP), nothing_more],
    ids=["not in memory", "cannot tell", "half in memory"],
)
async def test_what_is_not_in_memory_is_read_by_threads(store, path, monkeypatch, preadv):
    content = os.urandom(100_000)
    (path / "a").write_bytes(content)
    async with aclosing(await store.open_reader("a")) as reader:
        monkeypatch.setattr("stores.local.beneath.os.preadv", preadv)
        for _ in range(2):
            assert await reader.read(10, 50_000) == content[10:50_010]
            assert await reader.read(99_000, 5_000) == content[99_000:]
            assert (await store.get("a"))[0] == content
            assert await store.get_range("a", 99_990, 200_000) == content[99_990:]
    assert open_files(path / "a") == []


async def test_a_reader_closed_while_it_waits_for_the_disk(store, path, monkeypatch):
    (path / "a").write_bytes(b"12345")
    reader = await store.open_reader("a")
    read, asked = [], anyio.Event()

    def preadv(*_):
        asked.set()
        raise os_error(errno.EAGAIN)

    monkeypatch.setattr("stores.local.beneath.os.preadv", preadv)

    async def go_on():
        read.append(await reader.read(0, 5))

    async with anyio.create_task_group() as group:
        group.start_soon(go_on)
        await asked.wait()
        await reader.aclose()
    assert read == [b"12345"]
    assert open_files(path) == [str(path)]


async def test_errors_of_the_disk_are_told(store, path, monkeypatch):
    (path / "a").write_bytes(b"12345")
    async with aclosing(await store.open_reader("a")) as reader:
        monkeypatch.setattr("stores.local.beneath.os.preadv", refuse(errno.EIO))
        with pytest.raises(Unavailable):
            await reader.read(0, 5)
        with pytest.raises(Unavailable):
            await store.get("a")


async def test_reads_of_any_size(store, path):
    content = os.urandom(2 * MOST_AT_ONCE + 5)
    (path / "a").write_bytes(content)
    async with aclosing(await store.open_reader("a")) as reader:
        for size in (1, MOST_AT_ONCE, MOST_AT_ONCE + 1, len(content), len(content) + 10):
            assert await reader.read(3, size) == content[3 : 3 + size]
        assert await reader.read(len(content), 5) == b""
    assert (await store.get("a"))[0] == content


async def test_other_file_systems_beneath_the_root_are_asked_by_threads():
    root = Root.at(Path("/"))
    assert root.cached is not None
    with pytest.raises(BlockingIOError):
        root.cached.open("proc/version", os.O_PATH)
    root.close()
    async with LocalStore("/", read_only=True) as store:
        assert (await store.head("proc/version")).key == "proc/version"
        assert (await store.open_reader("proc/version"))._may_be_in_memory is False


async def test_a_way_out_is_no_secret_to_be_told_at_once(path, outside):
    (path / "out").symlink_to(outside)
    root = Root.at(path)
    with pytest.raises(BlockingIOError):
        root.cached.open("out/secret", os.O_RDONLY)
    with pytest.raises(OSError, match=os.strerror(errno.EXDEV)):
        root.open("out/secret", os.O_RDONLY)


async def test_a_listing_of_several_pages(store, path):
    for number in range(2000):
        (path / str(number)).touch()
    async with aclosing(store.list_dir()) as pages:
        sizes = [len(page.objects) async for page in pages]
    assert sizes == [1000, 1000]
