"""What the mount showed is what the store has when it is unmounted."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
from mount.harness import Mounted, mounted
from mount.places import S3Backdoor, s3_options

WORK = """
import random
source = random.Random(1)
for number in range(60):
    path = Path(f"group-{number % 5}") / f"c/{number % 7}" / str(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(source.randbytes(source.randrange(200_000)))
files = [path for path in Path(".").rglob("*") if path.is_file()]
files.sort()
for path in files[::5]:
    path.unlink()
for path in files[1::5]:
    path.rename(path.with_name(path.name + "-renamed"))
for path in files[2::5]:
    with open(path, "r+b") as file:
        file.seek(50_000)
        file.write(b"changed")
for path in files[3::5]:
    os.truncate(path, 1000)
os.rename("group-0", "group-moved")
keep = open("never-closed", "wb", buffering=0)
keep.write(b"by the end of its process")
"""

SHOWN = """
import hashlib
result = {str(path): hashlib.md5(path.read_bytes()).hexdigest()
          for path in Path(".").rglob("*") if path.is_file()}
"""


def shown_after_work(mount: Mounted) -> dict[str, str]:
    mount.python(WORK)
    shown = mount.python(SHOWN)
    assert len(shown) == 49
    return shown


def digest(data: bytes) -> str:
    import hashlib

    return hashlib.md5(data).hexdigest()


def test_local(tmp_path: Path) -> None:
    store = tmp_path / "store.zarr"
    with mounted(store, tmp_path, "--create") as mount:
        shown = shown_after_work(mount)
    stored = {str(p.relative_to(store)): digest(p.read_bytes()) for p in store.rglob("*") if p.is_file()}
    assert stored == shown


def test_zip(tmp_path: Path) -> None:
    store = tmp_path / "store.zarr.zip"
    with mounted(store, tmp_path, "--create") as mount:
        shown = shown_after_work(mount)
        mount.sh("mkdir -p empty/directory")
    with zipfile.ZipFile(store) as archive:
        assert archive.testzip() is None
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        assert len(set(names)) == len(names)
        assert {name: digest(archive.read(name)) for name in names} == shown
    with mounted(store, tmp_path) as mount:
        assert mount.python(SHOWN) == shown
        assert mount.python("result = os.path.isdir('empty/directory')")


def test_s3(tmp_path: Path, s3_server: object) -> None:
    server = s3_server()
    bucket = server.create()
    backdoor = S3Backdoor(server, bucket, "store/")
    with mounted(f"s3://{bucket}/store", tmp_path, *s3_options(server)) as mount:
        shown = shown_after_work(mount)
    assert {key: digest(backdoor.read(key)) for key in backdoor.keys("")} == shown


@pytest.mark.parametrize("kind", ["local", "zip"])
def test_an_unmount_stores_what_no_close_did(tmp_path: Path, kind: str) -> None:
    store = tmp_path / ("store" if kind == "local" else "store.zip")
    with mounted(store, tmp_path, "--create") as mount:
        # Closed and stored at once; the point is that `umount` comes after it, and waits.
        mount.sh("for i in $(seq 20); do head -c 100000 /dev/urandom > f$i; done")
        sums = mount.sh("md5sum f*")
    with mounted(store, tmp_path, "--read-only") as mount:
        assert mount.sh("md5sum f*") == sums
    assert os.path.exists(store)
