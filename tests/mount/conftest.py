"""Fixtures of the tests that go through the kernel."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from mount.child import in_child
from mount.harness import is_mounted
from mount.places import KINDS, Place, Site, open_site
from servers import S3Server, moto_s3

_COUNTER = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers of these tests."""
    config.addinivalue_line("markers", "kinds(*kinds): the kinds of store that a test of `place` is for")
    config.addinivalue_line("markers", "seconds(n): how long a test of `place` may take")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of a place on every kind of store, or on those that it names."""
    if "site" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("kinds")
        kinds = marker.args if marker is not None else KINDS
        metafunc.parametrize("site", kinds, indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run the tests of a place in a process that can be killed."""
    if "place" not in pyfuncitem.fixturenames:
        return None
    marker = pyfuncitem.get_closest_marker("seconds")
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    in_child(lambda: pyfuncitem.obj(**arguments), *(marker.args if marker is not None else ()))
    return True


@pytest.fixture(scope="session")
def s3_server() -> Iterator[object]:
    """A function that gives an S3 server, started when it is first called."""
    with ExitStack() as stack:

        @cache
        def start() -> S3Server:
            return stack.enter_context(moto_s3())

        yield start


@pytest.fixture(scope="session")
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, s3_server: object
) -> Iterator[Site]:
    """A store of one kind, mounted for all the tests of it."""
    with open_site(request.param, tmp_path_factory.mktemp(request.param), s3_server) as opened:
        yield opened


@pytest.fixture
def place(site: Site, request: pytest.FixtureRequest) -> Iterator[Place]:
    """An empty directory in a mounted store; afterwards the mount must be there and without fault."""
    directory = site.root / f"{request.node.originalname}-{next(_COUNTER)}"
    logged = len(site.mount.read_log()) if site.mount is not None else 0
    in_child(directory.mkdir)
    yield Place(site, directory)
    if site.backdoor is not None:
        site.backdoor.clear(directory.name)
    if site.mount is None:
        return
    assert is_mounted(site.root), site.mount.read_log()[logged:]
    assert "a fault in zarrmount" not in (said := site.mount.read_log()[logged:]), said


@pytest.fixture
def again(place: Place, tmp_path: Path) -> Iterator[Path]:
    """The place once more: the same directory of the same store, through a second mount."""
    with place.site.again(tmp_path) as root:
        there = root / place.prefix
        in_child(lambda: there.mkdir(exist_ok=True))  # an empty directory is not in every store
        if place.kind == "s3":  # for the time to live it is known to be empty, because it was made here
            time.sleep(1.05)
        yield there
