"""What is the same store, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from zarrmount.identity import identity

SERVER = {"endpoint_url": "http://127.0.0.1:9000"}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AZURE_STORAGE_ACCOUNT_NAME"):
        monkeypatch.delenv(name, raising=False)


def test_local_paths_are_where_they_lead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "a.zarr"
    store.mkdir()
    (tmp_path / "link").symlink_to(store)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    same = [str(store), f"{store}/", "a.zarr", "./a.zarr", "link", "~/a.zarr", f"file://{store}"]
    assert {identity(location, {}) for location in same} == {str(store)}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("s3://b/x", {}), ("S3A://b/x/", {})),
        (("gs://b/x", {}), ("gcs://b/x", {"project": "mine"})),
        (("s3://b/x", {}), ("s3://b/x", {"region": "eu-west-1", "anon": True, "profile": "p"})),
        (("s3://b/x", {}), ("s3://b/x", {"key": "K", "secret": "S", "client_kwargs": {"region_name": "r"}})),
        (("s3://b/x", SERVER), ("s3://b/x", {"client_kwargs": {"endpoint_url": "http://127.0.0.1:9000/"}})),
        (("s3://b/x", SERVER), ("s3://b/x", {"aws_endpoint": "http://127.0.0.1:9000"})),
        (
            ("az://c/x", {"account_name": "a"}),
            ("az://c/x", {"azure_storage_account_name": "a", "sas_key": "k"}),
        ),
        (
            ("az://c/x", {"account_name": "a"}),
            (
                "az://c/x",
                {"connection_string": "AccountName=a;AccountKey=Zm9v;EndpointSuffix=core.windows.net"},
            ),
        ),
        (("ssh://me:one@host/x", {}), ("ssh://me:two@host/x", {"password": "three"})),
        (("zip::s3://b/x.zip", {"s3": {"key": "1"}}), ("zip::s3://b/x.zip", {"s3": {"key": "2"}})),
        (("python:m:f", {"path": "a", "token": "1"}), ("python:m:f", {"path": "a", "token": "2"})),
    ],
)
def test_the_same_store(one: tuple, other: tuple) -> None:
    assert identity(*one) == identity(*other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("s3://b/x", {}), ("s3://b/y", {})),
        (("s3://b/x", {}), ("gs://b/x", {})),
        (("s3://b/x", {}), ("s3://b/x", SERVER)),
        (("az://c/x", {"account_name": "a"}), ("az://c/x", {"account_name": "b"})),
        (
            ("az://c/x", {"connection_string": "AccountName=a"}),
            ("az://c/x", {"connection_string": "AccountName=b"}),
        ),
        (("ssh://me@host/x", {}), ("ssh://you@host/x", {})),
        (("ssh://host/x", {"port": 22}), ("ssh://host/x", {"port": 23})),
        (("zip::s3://b/x.zip", {"s3": SERVER}), ("zip::s3://b/x.zip", {})),
        (("python:m:f", {"path": "a"}), ("python:m:f", {"path": "b"})),
    ],
)
def test_another_store(one: tuple, other: tuple) -> None:
    assert identity(*one) != identity(*other)


def test_the_environment_may_name_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    amazon, azure = identity("s3://b/x", {}), identity("az://c/x", {})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000/")
    assert identity("s3://b/x", {}) == identity("s3://b/x", SERVER) != amazon
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "a")
    assert identity("az://c/x", {}) == identity("az://c/x", {"account_name": "a"}) != azure


def test_it_tells_no_secrets() -> None:
    options = {
        "key": "SECRET",
        "account_key": "SECRET",
        "sas_token": "SECRET",
        "client_kwargs": {"aws_session_token": "SECRET"},
        "connection_string": "AccountName=a;AccountKey=SECRET",
        "password": "SECRET",
        "target": "ssh://me:SECRET@host/",
    }
    for location in ("s3://b/x", "az://c/x", "ssh://me:SECRET@host/x", "python:m:f", "zip::s3://b/x.zip"):
        assert "SECRET" not in identity(location, options)
