"""Real servers for the tests of stores, each started once, when the first test asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests import servers

AMBIENT = ("AWS_", "AZURE_", "GOOGLE_")


@pytest.fixture(autouse=True)
def no_ambient_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test depend on, or use, what the person who runs it has set up."""
    for name in list(os.environ):
        if name.startswith(AMBIENT):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)


@pytest.fixture(scope="session")
def moto_server() -> Iterator[servers.S3Server]:
    with servers.moto_s3() as server:
        yield server


@pytest.fixture(scope="session")
def rados_gateway() -> Iterator[servers.S3Server]:
    with servers.radosgw() as server:
        yield server


@pytest.fixture(scope="session")
def azurite_server() -> Iterator[servers.AzureServer]:
    with servers.azurite() as server:
        yield server


@pytest.fixture(scope="session")
def webdav_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.HttpServer]:
    with servers.nginx_webdav(tmp_path_factory.mktemp("webdav")) as server:
        yield server


@pytest.fixture(scope="session")
def web_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.HttpServer]:
    with servers.nginx_plain(tmp_path_factory.mktemp("web")) as server:
        yield server
