"""Addresses and options of object stores: every name that people know, and what is refused."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from stores.errors import BadLocation
from stores.objects import ObjectStore

SECRET = "s3cr3tPassw0rd"
AZURE = {"account_name": "acc", "account_key": "c2VjcmV0"}


def made(url: str, **options: Any) -> Any:
    return ObjectStore.from_url(url, storage_options=options)


def config(url: str, **options: Any) -> dict[str, Any]:
    return dict(made(url, **options)._obstore.config)


def client(url: str, **options: Any) -> dict[str, Any]:
    return dict(made(url, **options)._obstore.client_options)


@pytest.mark.parametrize(
    ("url", "options", "location"),
    [
        ("s3://bucket", {}, "s3://bucket"),
        ("s3a://bucket/a/b.zarr/", {}, "s3://bucket/a/b.zarr"),
        ("S3://bucket/a#b?c", {}, "s3://bucket/a#b?c"),
        ("s3://bucket/per%20cent", {}, "s3://bucket/per%20cent"),
        ("gs://bucket/a", {"token": "anon"}, "gs://bucket/a"),
        ("gcs://bucket/a", {"anon": True}, "gs://bucket/a"),
        ("az://box/a", AZURE, "az://box/a"),
        ("abfs://box/a", AZURE, "az://box/a"),
        ("abfss://box@acc.dfs.core.windows.net/a", {"anon": True}, "az://box/a"),
        ("adl://box/a", AZURE, "az://box/a"),
        ("https://example.org/a/", {}, "https://example.org/a"),
        ("http://me:pw@example.org:8080/a?sig=x#y", {}, "http://example.org:8080/a"),
    ],
)
def test_locations(url: str, options: dict[str, Any], location: str) -> None:
    store = made(url, **options)
    assert store.location == location
    assert repr(store) == f"<ObjectStore {location}>"


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        ({"key": "k", "secret": "s"}, "access_key_id", "k"),
        ({"aws_access_key_id": "k", "aws_secret_access_key": "s"}, "access_key_id", "k"),
        ({"access_key_id": "k", "secret_access_key": "s"}, "secret_access_key", "s"),
        ({"key": "k", "secret": "s", "token": "t"}, "session_token", "t"),
        ({"anon": True}, "skip_signature", "true"),
        ({"anon": "true"}, "skip_signature", "true"),
        ({"skip_signature": True}, "skip_signature", "true"),
        ({"region": "eu-west-1"}, "region", "eu-west-1"),
        ({"region_name": "eu-west-1"}, "region", "eu-west-1"),
        ({"client_kwargs": {"region_name": "eu-west-1"}}, "region", "eu-west-1"),
        ({"requester_pays": True}, "request_payer", "true"),
        ({"endpoint_url": "http://h:1/"}, "endpoint", "http://h:1"),
        ({"client_kwargs": {"endpoint_url": "http://h:1"}}, "endpoint", "http://h:1"),
        ({"endpoint_url": "http://h:1"}, "region", "us-east-1"),
        ({"endpoint_url": "http://h:1"}, "virtual_hosted_style_request", "false"),
        (
            {"endpoint_url": "http://b.h", "config_kwargs": {"s3": {"addressing_style": "virtual"}}},
            "virtual_hosted_style_request",
            "true",
        ),
    ],
)
def test_s3_options(options: dict[str, Any], name: str, value: str) -> None:
    assert str(config("s3://b/x", **options)[name]).lower() == value


def test_what_is_none_or_of_no_use_here_is_left_out() -> None:
    told = config("s3://b", key=None, region="r", default_block_size=5, use_listings_cache=True)
    assert "access_key_id" not in told
    assert told["region"] == "r"


def test_time_limits() -> None:
    store = made("s3://b")._obstore
    assert store.client_options["timeout"] == "60s"
    assert store.client_options["connect_timeout"] == "10s"
    assert store.retry_config["max_retries"] == 4
    assert store.retry_config["retry_timeout"] == timedelta(seconds=60)
    store = made("s3://b", timeout=5, retry_config={"max_retries": 1, "retry_timeout": 7})._obstore
    assert store.client_options["timeout"] in ("5s", timedelta(seconds=5))
    assert store.retry_config["max_retries"] == 1
    assert store.retry_config["retry_timeout"] == timedelta(seconds=7)


def test_plain_http_is_allowed_where_it_is_asked_for() -> None:
    assert client("s3://b", endpoint_url="http://h:1")["allow_http"] in (True, "true")
    assert "allow_http" not in client("s3://b", endpoint_url="https://h:1")
    assert client("http://h:1/a")["allow_http"] in (True, "true")


def test_azure_options() -> None:
    text = (
        "DefaultEndpointsProtocol=http;AccountName=acc;AccountKey=c2VjcmV0cw==;BlobEndpoint=http://h:1/acc;"
    )
    told = config("az://box", connection_string=text)
    assert told["account_name"] == "acc"
    assert told["account_key"] == "c2VjcmV0cw=="
    assert told["endpoint"] == "http://h:1/acc"
    told = config(
        "az://box", connection_string="AccountName=acc;AccountKey=YQ==;EndpointSuffix=core.windows.net"
    )
    assert told["endpoint"] == "https://acc.blob.core.windows.net"
    assert config("az://box", account_name="a", sas_token="sv=1&sig=x")["sas_key"] == "sv=1&sig=x"
    assert config("abfs://box@acc.dfs.core.windows.net/x", anon=True)["account_name"] == "acc"


def test_google_options(tmp_path: Path) -> None:
    headers = client("gs://b", token="anon", requester_pays=True, project="p")["default_headers"]
    assert headers["x-goog-user-project"] in ("p", b"p")
    assert config("gs://b", token="anon")["skip_signature"] in (True, "true")
    with pytest.raises(BadLocation):
        made("gs://b", token={"type": "nonsense", "private_key": SECRET})
    file = tmp_path / "account.json"
    file.write_text(json.dumps({"private_key": SECRET}))
    with pytest.raises(BadLocation) as caught:
        made("gs://b", token=str(file))
    assert SECRET not in str(caught.value)


def test_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials, settings = tmp_path / "credentials", tmp_path / "config"
    credentials.write_text(
        "[default]\naws_access_key_id = d\naws_secret_access_key = ds\n"
        "[work]\naws_access_key_id = w\naws_secret_access_key = 50%more\n"
    )
    settings.write_text("[profile work]\nregion = eu-west-1\n[profile role]\nrole_arn = arn:x\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(settings))
    work = config("s3://b", profile="work")
    assert (work["access_key_id"], work["secret_access_key"]) == ("w", "50%more")
    assert work["region"] == "eu-west-1"
    assert config("s3://b")["access_key_id"] == "d"
    assert "access_key_id" not in config("s3://b", anon=True)
    assert config("s3://b", key="k", secret="s")["access_key_id"] == "k"
    mixed = config("s3://b", key="k", secret="s", profile="work")
    assert (mixed["access_key_id"], mixed["region"]) == ("k", "eu-west-1")
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert config("s3://b")["access_key_id"] == "w"
    with pytest.raises(BadLocation, match="no profile 'play'"):
        made("s3://b", profile="play")
    with pytest.raises(BadLocation, match="export-credentials"):
        made("s3://b", profile="role")


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        (
            "s3://b",
            {"endpoint_ulr": "http://h"},
            "'endpoint_ulr': unknown option; did you mean 'endpoint_url'?",
        ),
        ("s3://b", {"account_name": "a"}, "'account_name': unknown option"),
        ("gs://b", {"secret": SECRET}, "'secret': unknown option"),
        ("https://h/a", {"anon": True}, "'anon': unknown option"),
        ("s3://b", {"client_options": {"time_out": "5s"}}, "did you mean 'timeout'?"),
        ("s3://b", {"retry_config": {"max_retry": 5}}, "did you mean 'max_retries'?"),
        ("s3://b", {"client_options": "5s"}, "mapping"),
        ("s3://b", {"timeout": "1 parsec"}, "as Duration"),
        ("s3://b", {"anon": "perhaps", "region": "r"}, "option"),
        ("s3://b", {"secret": [SECRET]}, "wrong kind"),
        ("s3://b", {"endpoint_url": "localhost:9000"}, "http://"),
        ("s3://", {}, "no bucket"),
        ("s3://key:secret@b/x", {}, "do not belong"),
        ("s3://b/a//b", {}, "no path"),
        ("az://box", {}, "no account"),
        ("az:///x", AZURE, "no container"),
        ("az://box", {"account_name": "a", "account_key": "***"}, "not base64"),
        ("az://box", {"connection_string": "nonsense"}, "connection string"),
        ("https:///x", {}, "no host"),
        ("ftp://h/x", {}, "no URL of an object store"),
        ("s3://[b", {}, "no URL"),
    ],
)
def test_refused(url: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(BadLocation) as caught:
        ObjectStore.from_url(url, storage_options=options)
    assert says in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_store_of_obstore() -> None:
    with pytest.raises(BadLocation, match="dict"):
        ObjectStore({})
