"""Names of files, by the kernel, on every kind of store."""

from __future__ import annotations

import errno
import os

import pytest
from mount.child import fails_with
from mount.places import Place

NAMES = [
    "with a space",
    " leading and trailing ",
    "percent%20%2F%",
    "hash#and?question&equals=plus+",
    "back\\slash",
    "quotes'\"`",
    "star*[brackets]{braces}",
    "semi;colon:pipe|<less>",
    "-dash",
    "~tilde",
    "...",
    "..two",
    ".hidden",
    "umlauts äöü ß",
    "日本語",
    "emoji 🧊🌡️",
    "e\u0301 decomposed",
    "é composed",
    "UPPER",
    "upper",
    "c.0.0",
    "0",
    "$dollar",
    "@at!bang^caret",
    "a" * 255,
    "ä" * 127,
]
CONTROLS = ["new\nline", "tab\tand\rreturn", "\x01control\x7f"]


@pytest.mark.parametrize("what", ["file", "dir"])
def test_names_round_trip(place: Place, what: str) -> None:
    names = NAMES + CONTROLS if place.traits.controls else NAMES
    for number, name in enumerate(names):
        if what == "dir":
            (place / name).mkdir()
            (place / name / "file").write_bytes(b"%d" % number)
        else:
            (place / name).write_bytes(b"%d" % number)
    assert sorted(os.listdir(place.dir)) == sorted(names)
    end = "/file" if what == "dir" else ""
    for number, name in enumerate(names):
        assert (place / f"{name}{end}").read_bytes() == b"%d" % number
        if place.site.backdoor is not None:
            assert place.stored(f"{name}{end}") == b"%d" % number
    for name in names:
        if what == "dir":
            (place / name).rename(place / f"r{name}"[:120])
            (place / f"r{name}"[:120] / "file").unlink()
            (place / f"r{name}"[:120]).rmdir()
        else:
            (place / name).rename(place / f"r{name}"[:120])
            (place / f"r{name}"[:120]).unlink()
    assert os.listdir(place.dir) == []


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.kinds("s3")
def test_control_characters_are_refused_where_the_store_cannot_have_them(place: Place, name: str) -> None:
    (place / "file").write_bytes(b"1")
    with fails_with(errno.ENOENT):
        (place / name).stat()
    with fails_with(errno.EINVAL):
        (place / name).touch()
    with fails_with(errno.EINVAL):
        (place / name).mkdir()
    with fails_with(errno.EINVAL):
        (place / "file").rename(place / name)
    assert os.listdir(place.dir) == ["file"]


def test_names_that_are_too_long(place: Place) -> None:
    (place / "file").write_bytes(b"1")
    for name in ("a" * 256, "ä" * 128):
        path = place / name
        with fails_with(errno.ENAMETOOLONG):
            path.stat()
        with fails_with(errno.ENAMETOOLONG):
            path.write_bytes(b"1")
        with fails_with(errno.ENAMETOOLONG):
            path.mkdir()
        with fails_with(errno.ENAMETOOLONG):
            (place / "file").rename(path)
        with fails_with(errno.ENAMETOOLONG):
            os.link(place / "file", path)
    assert os.listdir(place.dir) == ["file"]


@pytest.mark.kinds("local", "zip", "memory", "s3")
def test_names_that_are_not_utf8_are_refused(place: Place) -> None:
    path = os.fsencode(place.dir) + b"/caf\xe9"
    with fails_with(errno.ENOENT):
        os.stat(path)
    with fails_with(errno.EINVAL):
        os.open(path, os.O_CREAT | os.O_WRONLY)
    with fails_with(errno.EINVAL):
        os.mkdir(path)
    (place / "file").write_bytes(b"1")
    with fails_with(errno.EINVAL):
        os.rename(place / "file", path)
    assert os.listdir(place.dir) == ["file"]
