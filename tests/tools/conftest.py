"""Mounted stores for real programs: one of each kind, shared by all tests."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from mount.harness import is_mounted
from mount.places import Site, open_site
from servers import S3Server, radosgw
from tools.bench import Bench

_COUNTER = itertools.count()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A RADOS Gateway."""
    with radosgw() as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def quiet_tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the configuration of whoever runs the tests away from the tools, and their words English."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("LC_ALL", "C.UTF-8")
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        for name in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{name}_NAME", "A Scientist")
            patch.setenv(f"GIT_{name}_EMAIL", "scientist@example.org")
        yield


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A store of one kind, mounted; the kind is the test's parameter."""
    directory = tmp_path_factory.mktemp(request.param)
    with open_site(request.param, directory, lambda: request.getfixturevalue("s3_server")) as opened:
        yield opened


@pytest.fixture(scope="session")
def another(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One more mounted store, in memory."""

    def no_server() -> S3Server:
        raise AssertionError("memory needs no server")

    with open_site("memory", tmp_path_factory.mktemp("another"), no_server) as opened:
        yield opened


@pytest.fixture
def bench(site: Site, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """An empty directory of a mounted store; afterwards the mount must be there and without fault."""
    with _bench(site, request) as bench:
        yield bench


@pytest.fixture
def other(another: Site, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """An empty directory of a second mounted store."""
    with _bench(another, request) as bench:
        yield bench


@contextmanager
def _bench(site: Site, request: pytest.FixtureRequest) -> Iterator[Bench]:
    mount = site.mount
    assert mount is not None
    directory = site.root / f"{request.node.originalname}-{next(_COUNTER)}"
    logged = len(mount.read_log())
    mount.run("mkdir", directory)
    yield Bench(site, directory)
    said = mount.read_log()[logged:]
    assert is_mounted(site.root), said
    assert "a fault in zarrmount" not in said, said
