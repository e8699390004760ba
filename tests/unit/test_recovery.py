"""`zarrmount recover`: what waits is told, stored, saved or discarded, and leaves only when it is safe."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from stores import LocalStore
from stores.meta import AttributeChange, ObjectMeta
from zarrmount.cli import main
from zarrmount.identity import identity
from zarrmount.objects.journal import Contents, Entry, Journal, journal_directory


class Ran(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "data.zarr"
    path.mkdir()
    return path


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return tmp_path / "staging"


@pytest.fixture
def run(staging: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> Ran:
        with pytest.raises(SystemExit) as ended:
            main(["recover", "--staging-dir", str(staging), *map(str, arguments)])
        said = capsys.readouterr()
        return Ran(int(ended.value.code or 0), said.out, said.err)

    return run


def open_journal(staging: Path, store: Path | str) -> Journal:
    return Journal.open(journal_directory(staging, identity(str(store), {})), str(store))


def put(journal: Journal, key: str, content: bytes, base: ObjectMeta | None = None, **more) -> None:
    path = journal.new_data()
    path.write_bytes(content)
    closed = time.time_ns()
    journal.record(Entry(key=key, size=len(content), data=path.name, base=base, closed_ns=closed, **more))


@pytest.fixture
def waiting(staging: Path, store: Path) -> Path:
    """Three files that wait; where their journal is."""
    journal = open_journal(staging, store)
    put(journal, "zarr.json", b"{}")
    put(journal, "a/c/0", b"zero")
    put(journal, "a/c/1", b"one", attributes=AttributeChange(mtime_ns=1_000_000_000))
    journal.close()
    return journal.directory


def keys_in(directory: Path) -> list[str]:
    return [entry.key for entry in Journal.peek(directory)]


def files_in(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


# -- listing ---------------------------------------------------------------------------------------


def test_without_anything(run: Run, store: Path) -> None:
    assert run() == Ran(0, "", "")
    assert run(store) == Ran(0, "nothing waits to be stored\n", "")
    assert run(store, "--upload") == Ran(0, "nothing waits to be stored\n", "")
    assert run(store, "key").status != 0


def test_all_journals_are_listed(run: Run, staging: Path, store: Path, waiting: Path) -> None:
    journal = open_journal(staging, "s3://user:secret@bucket/x")
    put(journal, "key", b"")
    journal.close()
    status, out, _ = run()
    assert status == 0
    assert f"{store}: 3 files, 9 bytes\n    {waiting}\n" in out
    assert "s3://bucket/x: 1 file, 0 bytes\n" in out
    assert "secret" not in out


def test_what_waits_for_one_store_is_listed(run: Run, staging: Path, store: Path, waiting: Path) -> None:
    journal = open_journal(staging, store)
    put(journal, "zarr.json", b"[]", ObjectMeta("zarr.json", 17, 1_000_000_000, "v"))
    put(journal, "any\nname", b"", anyway=True)
    journal.close()
    status, out, _ = run(store)
    lines = out.splitlines()
    assert (status, lines[0]) == (0, "4 files, 9 bytes")
    assert re.fullmatch(r" +4 bytes  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  a/c/0  \(a new file\)", lines[1])
    assert re.search(r"zarr.json  \(replaces 17 bytes of (1970|1969)", lines[3])
    assert lines[4].endswith("'any\\nname'  (replaces whatever is there)")
    assert run(waiting) == run(store) == run(f"file://{store}")
    assert len(run(store, "a/c").out.splitlines()) == 3
    assert "'nope': nothing of that name waits" in run(store, "nope").err


def test_other_options_are_hinted_at(run: Run, staging: Path) -> None:
    told = {"endpoint_url": "http://127.0.0.1:9000"}
    journal = Journal.open(journal_directory(staging, identity("s3://b/x", told)), "s3://b/x")
    put(journal, "key", b"")
    journal.close()
    assert run("s3://b/x", "--endpoint-url", "http://127.0.0.1:9000/").out.startswith("1 file")
    status, _, err = run("s3://b/x")
    assert status == 1
    assert "--endpoint-url" in err
    assert str(journal.directory) in err


def test_what_cannot_be_understood_hides_nothing_else(run: Run, staging: Path, waiting: Path) -> None:
    (waiting.parent / "other").mkdir()
    (waiting.parent / "other" / "log").write_bytes(b"?")
    status, out, _ = run()
    assert status == 0
    assert "cannot be understood" in out
    assert "3 files" in out


# -- storing ---------------------------------------------------------------------------------------


def test_upload_stores_all_and_removes_the_journal(run: Run, store: Path, waiting: Path) -> None:
    assert run(store, "--upload") == Ran(0, "stored: 3 files, 9 bytes\n", "")
    assert files_in(store) == {"zarr.json": b"{}", "a/c/0": b"zero", "a/c/1": b"one"}
    assert not waiting.exists()


def test_upload_of_some_leaves_the_others(run: Run, store: Path, waiting: Path) -> None:
    assert run(store, "a/c/1", "zarr.json", "--upload").out == "stored: 2 files, 5 bytes\n"
    assert files_in(store) == {"zarr.json": b"{}", "a/c/1": b"one"}
    assert keys_in(waiting) == ["a/c/0"]


def test_a_conflict_is_told_and_overwritten_on_demand(staging: Path, store: Path) -> None:
    def run(*arguments: object) -> Ran:
        command = [sys.executable, "-m", "zarrmount", "recover", "--staging-dir", staging, *arguments]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        return Ran(done.returncode, done.stdout, done.stderr)

    async def store_first() -> ObjectMeta:
        async with LocalStore(store) as opened:
            return await opened.put("changed", b"first")

    base = trio.run(store_first)
    journal = open_journal(staging, store)
    put(journal, "changed", b"mine", base)
    put(journal, "free", b"free")
    journal.close()
    (store / "changed").write_bytes(b"somebody else's")

    status, out, err = run(store, "--upload")
    assert status == 1
    assert out.startswith("changed\tsomebody else")
    assert err == "zarrmount: 1 of 2 files are left\n"
    assert files_in(store) == {"changed": b"somebody else's", "free": b"free"}
    assert keys_in(journal.directory) == ["changed"]

    assert run(store, "--upload", "--overwrite").status == 0
    assert files_in(store)["changed"] == b"mine"
    assert not journal.directory.exists()


def test_a_store_that_is_missing_is_one_line(run: Run, store: Path, waiting: Path) -> None:
    store.rmdir()
    status, out, err = run(store, "--upload")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert len(keys_in(waiting)) == 3


def test_upload_does_not_take_a_journal_for_a_store(run: Run, waiting: Path) -> None:
    before = files_in(waiting)
    assert run(waiting, "--upload").status == 2
    assert files_in(waiting) == before


# -- saving ----------------------------------------------------------------------------------------


def test_save_writes_plain_files_for_the_owner_only(
    run: Run, store: Path, waiting: Path, tmp_path: Path
) -> None:
    target = tmp_path / "new" / "saved"
    assert run(store, "--save", target) == Ran(0, "saved: 3 files, 9 bytes\n", "")
    assert files_in(target) == {"zarr.json": b"{}", "a/c/0": b"zero", "a/c/1": b"one"}
    assert {path.stat().st_mode & 0o777 for path in target.rglob("*") if path.is_file()} == {0o600}
    assert (target / "a/c/1").stat().st_mtime_ns == 1_000_000_000
    assert not waiting.exists()
    assert not files_in(store)


def test_save_touches_nothing_that_exists(run: Run, store: Path, waiting: Path, tmp_path: Path) -> None:
    target = tmp_path / "saved"
    (target / "a").mkdir(parents=True)
    (target / "a" / "c").symlink_to(store)
    (target / "zarr.json").write_bytes(b"mine")
    status, out, err = run(store, "--save", target)
    assert status == 1
    assert f"zarr.json\tthere is '{target}/zarr.json' already\n" in out
    assert "a/c/0\ta symbolic link leads out" in out
    assert err == "zarrmount: 3 of 3 files are left\n"
    assert (target / "zarr.json").read_bytes() == b"mine"
    assert not files_in(store)
    assert len(keys_in(waiting)) == 3


@pytest.mark.parametrize("key", ["../escaped", "a/../../escaped", "/escaped", "a//b"])
def test_no_key_escapes(run: Run, staging: Path, store: Path, tmp_path: Path, key: str) -> None:
    journal = open_journal(staging, store)
    put(journal, key, b"x")
    journal.close()
    status, out, _ = run(store, "--save", tmp_path / "deep" / "saved")
    assert status == 1
    assert key in out
    assert not list(tmp_path.rglob("escaped"))
    assert keys_in(journal.directory) == [key]


def test_a_full_disk_leaves_no_half_file(
    run: Run, store: Path, waiting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", fail)
    status, out, _ = run(store, "a", "--save", tmp_path / "saved")
    assert status == 1
    assert "a/c/0\t[Errno 28] No space left on device" in out
    assert files_in(tmp_path / "saved") == {}
    assert len(keys_in(waiting)) == 3


# -- discarding ------------------------------------------------------------------------------------


def test_discard_asks(run: Run, store: Path, waiting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda text: asked.append(text) or "n")
    assert run(store, "--discard").status == 130
    assert len(keys_in(waiting)) == 3
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda text: "y")
    assert run(store, "a", "--discard").out == "deleted: 2 files, 7 bytes\n"
    assert keys_in(waiting) == ["zarr.json"]
    assert run(store, "--discard", "--yes").status == 0
    assert not waiting.exists()
    assert not files_in(store)


# -- damage ----------------------------------------------------------------------------------------


def test_damage_is_told_and_can_only_be_discarded(
    run: Run, staging: Path, store: Path, waiting: Path, tmp_path: Path
) -> None:
    entry = Journal.peek(waiting)[0]
    (waiting / entry.data).write_bytes(b"{")
    assert "zarr.json  (its bytes in the journal are missing or cut short)" in run(store).out
    for action in (["--upload"], ["--save", tmp_path / "saved"]):
        status, out, _ = run(store, "zarr.json", *action)
        assert (status, out) == (1, "zarr.json\tits bytes in the journal are missing or cut short\n")
    assert run(store, "--upload").status == 1
    assert set(files_in(store)) == {"a/c/0", "a/c/1"}
    assert run(store, "--discard", "--yes").status == 0
    assert not waiting.exists()


def test_bytes_without_a_name_are_told_until_they_are_discarded(run: Run, store: Path, waiting: Path) -> None:
    log = (waiting / "log").read_bytes()
    (waiting / "log").write_bytes(log.replace(b'"a/c/0"', b'"a/c/X"'))
    status, out, _ = run(store, "--upload")
    assert status == 1
    contents = Contents.of(waiting)
    assert contents is not None
    assert [path.read_bytes() for path in contents.lost] == [b"zero"]
    assert out == f"{contents.lost[0]}\tthe name of the file with these bytes is lost\n"
    assert "1 file without a name" in run().out
    assert run(store, "--discard", "--yes").status == 0
    assert not waiting.exists()


# -- who may ---------------------------------------------------------------------------------------

HOLDER = """
import sys
from pathlib import Path
from zarrmount.objects.journal import Journal
journal = Journal.open(Path(sys.argv[1]), "memory://x")
print("has it", flush=True)
sys.stdin.read()
"""


def test_a_mount_at_work_is_not_disturbed(run: Run, store: Path, waiting: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, waiting]
    mount = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert mount.stdout is not None
    assert mount.stdout.readline() == b"has it\n"
    try:
        assert f"a mount is at work on it (pid {mount.pid})" in run().out
        assert f"(pid {mount.pid})" in run(store).out
        for action in (["--upload"], ["--save", tmp_path / "saved"], ["--discard", "--yes"]):
            status, out, err = run(store, *action)
            assert (status, out, err.count("\n")) == (1, "", 1)
            assert f"is used by another mount (pid {mount.pid})" in err
    finally:
        mount.communicate()
    assert len(keys_in(waiting)) == 3
    assert run(store, "--upload").status == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--upload"],
        ["STORE", "--upload", "--discard"],
        ["STORE", "--save", "x", "--upload"],
        ["STORE", "--overwrite"],
        ["STORE", "--yes"],
        ["STORE", "--discard", "--overwrite"],
    ],
)
def test_what_makes_no_sense_is_refused(run: Run, store: Path, waiting: Path, arguments: list[str]) -> None:
    status, out, err = run(*(store if argument == "STORE" else argument for argument in arguments))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert len(keys_in(waiting)) == 3
