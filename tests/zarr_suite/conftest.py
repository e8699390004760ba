"""Servers and the bridge for zarr-python's suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stores.bridge import Bridge
from tests import servers


@pytest.fixture(scope="session")
def moto_server() -> Iterator[servers.S3Server]:
    with servers.moto_s3() as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def close_the_bridge() -> Iterator[None]:
    yield
    Bridge.shared().close()
