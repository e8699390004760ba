"""The benchmarks, in their small form: they run, they notice wrong bytes, they leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import job, report
from benchmarks.cases import CASES
from benchmarks.contenders.floor import Floor
from benchmarks.content import WrongBytes
from benchmarks.interface import Case, Target
from benchmarks.mounting import DidNotMount, Mount, answers, mounted
from benchmarks.places import Place
from benchmarks.requests import Call, tally
from benchmarks.results import Outcome, Record, load, save

CHECKOUT = Path(__file__).resolve().parent.parent.parent
READING = [case for case in CASES if not case.writes]
COMPARED = [case for case in READING if not case.name.startswith("list-")]
WRITING = [case for case in CASES if case.writes]


def named(case: type[Case]) -> str:
    return case.name


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """The only place where a run may leave anything."""
    room = tmp_path / "room"
    room.mkdir()
    return room


def start(room: Path, *arguments: str | Path, output: Path) -> subprocess.Popen[bytes]:
    with output.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks", "--scale", "smoke", *map(str, arguments)],
            cwd=CHECKOUT,
            env=os.environ | {"TMPDIR": str(room), "BENCH_LOCAL_DIR": str(room)},
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def left_in(room: Path) -> list[str]:
    """Return what is left of a run: files, mounts, processes."""
    left = [str(path) for path in room.iterdir()]
    left += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(room) in line]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(room) in command:
            left.append(f"{process.name}: {command}")
    return left


def test_every_case_runs_small(tmp_path: Path, room: Path) -> None:
    results, output = tmp_path / "results.json", tmp_path / "output"
    status = start(room, "--results", results, output=output).wait(240)
    assert status == 0, output.read_text()
    records = load(results)
    assert list(records) == [case.name for case in CASES]
    for record in records.values():
        contenders = ["zarrmount", "C floor"] if record.place == "local" else ["zarrmount"]
        assert [outcome.contender for outcome in record.outcomes] == contenders
        for outcome in record.outcomes:
            assert len(outcome.runs) == 1
            assert outcome.median(record.figure), record
            assert outcome.median("part") == 1
            assert outcome.median("peak_mb")
            assert outcome.median("ready_s")
            assert (outcome.median("requests") or 0) > 0 or record.place == "local"
    assert left_in(room) == []


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, room: Path) -> None:
    output = tmp_path / "output"
    process = start(room, "--cases", "grid", output=output)
    # Interrupted when a mount is there, and with it the server and its proxy.
    while f"{room}/" not in Path("/proc/self/mountinfo").read_text():
        assert process.poll() is None, output.read_text()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, output.read_text()
    assert left_in(room) == []


def hanging(mount: Mount) -> Path:
    """Stop the server of a mount, and return a path in it that the kernel has not heard of."""
    mount.process.send_signal(signal.SIGSTOP)
    return mount.path / "never asked for"


def test_work_on_a_mount_that_hangs_is_killed(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "small-chunks")
    place = prepared(case, tmp_path / "store")
    command = Floor().command(place, tmp_path / "mnt", tmp_path, read_only=True)
    with mounted(command, tmp_path, tmp_path / "mnt", {}) as mount:
        order = job.Order(case.name, True, "run", place, str(hanging(mount)))
        with pytest.raises(job.RunFailed, match="killed after 1 s"):
            job.do(order, tmp_path / "job", 1, mount.process)
    assert not mount.path.exists()


def test_a_mount_that_hangs_from_the_start_is_killed(tmp_path: Path) -> None:
    place = prepared(CASES[0], tmp_path / "store")
    command = Floor().command(place, tmp_path / "mnt", tmp_path, read_only=True)
    with mounted(command, tmp_path, tmp_path / "mnt", {}) as mount:
        with pytest.raises(DidNotMount, match="hangs"):
            answers(hanging(mount), 1, mount.process)
    assert not mount.path.exists()


def test_a_mount_that_fails_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(DidNotMount, match="ended with 3: no such bucket"),
        mounted(["sh", "-c", "echo no such bucket; exit 3"], tmp_path, tmp_path / "mnt", {}),
    ):
        pass
    assert not (tmp_path / "mnt").exists()


def prepared(case: type[Case], directory: Path) -> Place:
    directory.mkdir()
    place = Place(directory=str(directory))
    case(smoke=True).prepare(place)
    return place


def run_on_files(case: type[Case], place: Place, log: Path) -> dict[str, float]:
    """Run a case on a directory in place of a mount."""
    assert place.directory is not None
    return job.do(job.Order(case.name, True, "run", place, place.directory), log, 60, None)


@pytest.mark.parametrize("case", COMPARED, ids=named)
def test_wrong_bytes_are_noticed(case: type[Case], tmp_path: Path) -> None:
    place = prepared(case, tmp_path / "store")
    assert run_on_files(case, place, tmp_path / "job")["part"] == 1
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file() and path.name != "zarr.json":
            path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(job.RunFailed, match=r"WrongBytes: .*other (bytes|values)"):
        run_on_files(case, place, tmp_path / "job")


@pytest.mark.parametrize("case", [case for case in READING if case not in COMPARED], ids=named)
def test_wrong_listings_are_noticed(case: type[Case], tmp_path: Path) -> None:
    place = prepared(case, tmp_path / "store")
    assert run_on_files(case, place, tmp_path / "job")["part"] == 1
    file = next(path for path in (tmp_path / "store").rglob("0") if path.is_file())
    size = file.stat().st_size
    file.write_bytes(bytes(size + 1))
    with pytest.raises(job.RunFailed, match="WrongBytes"):
        run_on_files(case, place, tmp_path / "job")
    file.unlink()
    with pytest.raises(job.RunFailed, match="WrongBytes"):
        run_on_files(case, place, tmp_path / "job")


@pytest.mark.parametrize("case", WRITING, ids=named)
def test_what_is_not_stored_is_noticed(case: type[Case], tmp_path: Path) -> None:
    place = prepared(case, tmp_path / "store")
    figures = run_on_files(case, place, tmp_path / "job")
    case(smoke=True).verify(place, figures)
    file = next(path for path in (tmp_path / "store").rglob("1") if path.is_file())
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(WrongBytes, match="other bytes"):
        case(smoke=True).verify(place, figures)
    file.unlink()
    with pytest.raises(WrongBytes, match="is not stored"):
        case(smoke=True).verify(place, figures)


def test_requests_are_told_apart() -> None:
    lines = [
        'GET "/bucket/a/c/0" "-" "-" 200 100',
        'GET "/bucket/a/c/0" "bytes=0-9" "-" 206 10',
        'GET "/bucket?list-type=2&prefix=a%2F" "-" "-" 200 500',
        'GET "/bucket/?delimiter=%2F&prefix=" "-" "-" 200 500',
        'HEAD "/bucket/a" "-" "-" 404 0',
        'PUT "/bucket/b" "-" "/bucket/a" 200 90',
        'PUT "/bucket/b" "-" "-" 200 0',
        'GET "/__mark" "-" "-" 204 0',
    ]
    assert tally([Call.parse(line) for line in lines]) == {
        "requests": 7,
        "fetched_mb": 110 / 1e6,
        "requests_get": 2,
        "requests_list": 2,
        "requests_head": 1,
        "requests_copy": 1,
        "requests_put": 1,
    }


def test_what_is_written_by_hand_stays(tmp_path: Path) -> None:
    record = Record(
        case="one",
        title="one thing",
        place="local",
        figure="rate",
        unit="files/s",
        date="2001-01-01",
        machine={"cores": "2"},
        targets=[
            Target("1.5 x the best peer", at_least=1.5, of="best peer"),
            Target("under 300 MB", figure="peak_mb", at_most=300),
        ],
        outcomes=[
            Outcome("zarrmount", "1", False, [{"rate": 90, "peak_mb": 400}, {"rate": 120}, {"rate": 100}]),
            Outcome("slow", "1", True, [{"rate": 40, "part": 0.1}]),
            Outcome("fast", "1", True, [{"rate": 50}]),
            Outcome("dead", "", True, note="killed after 60 s"),
        ],
    )
    path = tmp_path / "BENCHMARKS.md"
    report.write(path, [record], [])
    path.write_text(path.read_text() + "\n## Why\n")
    save(tmp_path / "results.json", {"one": record})
    report.write(path, list(load(tmp_path / "results.json").values()), [])
    text = path.read_text()
    assert text.endswith("\n## Why\n")
    assert "| one | 1.5 x the best peer | 2 x fast (at least 1.50) | yes |" in text
    assert "| one | under 300 MB | 400 (at most 300) | **no** |" in text
    assert "| slow | 40 | 2.50 x |  | 1 | stopped after 10% of it |" in text
    assert "| dead |  |  |  | 0 | killed after 60 s |" in text
