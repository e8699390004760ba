"""What makes two mounts mounts of the same store."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping

from stores.opening import local_path
from stores.urls import redact

__all__ = ["identity"]

_SAME_SCHEMES = {"s3a": "s3", "gcs": "gs"}
_OBJECT_SCHEMES = ("s3", "gs", "az", "abfs", "abfss", "adl", "http", "https", "memory")

_SERVERS = re.compile(
    r"(?:aws_|azure_storage_|azure_|google_)?"
    r"(?:(?P<endpoint>endpoint(?:_url(?:_s3)?)?|base_url|account_host)"
    r"|(?P<account>account(?:_name)?)|(?P<host>host(?:name)?)|(?P<port>port)|(?P<user>user(?:name)?))"
)
"""Options that tell which of the places with one name is meant."""

_SECRETS = re.compile(
    r"key|secret|token|pass|credential|connection|sas|sign|auth|session|cert", re.IGNORECASE
)


def identity(location: str, storage_options: Mapping[str, object]) -> str:
    """Return a text that is the same for the same store, without secrets.

    Two stores must not have one identity: what waits for one would be stored in the other.  So what
    may tell them apart counts, also where it rarely does.

    Parameters
    ----------
    location : str
        As it was typed; a local path is made absolute.
    storage_options : mapping
        Of which only what names a place counts, not regions, credentials or timeouts.

    Returns
    -------
    str
        The location in its first line.
    """
    path = local_path(location)
    if path is not None:
        return os.path.realpath(path)
    scheme, _, rest = location.partition("://")
    scheme = _SAME_SCHEMES.get(scheme.lower(), scheme.lower())
    if scheme not in _OBJECT_SCHEMES:  # a factory, or something of fsspec's: any option may name its place
        told = {
            name: redact(str(value)) for name, value in _leaves(storage_options) if not _SECRETS.search(name)
        }
        return _joined(redact(location), told | _user(location))
    told = {}
    for name, value in _leaves(storage_options):
        found = _SERVERS.fullmatch(name.rpartition(".")[2].lower())
        if found is not None and found.lastgroup is not None:
            told[found.lastgroup] = str(value).rstrip("/")
        elif name.rpartition(".")[2].lower().endswith("connection_string"):
            told |= _from_connection_string(str(value))
    return _joined(f"{scheme}://{redact(f'{scheme}://{rest}')[len(scheme) + 3 :]}", _around(scheme, told))


def _around(scheme: str, told: dict[str, str]) -> dict[str, str]:
    """Add what the environment says where the options do not."""
    environment = os.environ
    if scheme == "s3" and "endpoint" not in told:
        endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
        return told | ({"endpoint": endpoint.rstrip("/")} if endpoint else {})
    if scheme.startswith(("az", "abfs", "adl")) and "account" not in told:
        account = environment.get("AZURE_STORAGE_ACCOUNT_NAME")
        return told | ({"account": account} if account else {})
    return told


def _leaves(options: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    """Iterate over options, and over those in mappings among them, with their paths."""
    for name, value in sorted(options.items()):
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name}.")
        elif value is not None:
            yield f"{above}{name}", value


def _user(location: str) -> dict[str, str]:
    """Return the name in ``ssh://name:password@host``, which may tell whose home is meant."""
    login, at, _ = location.partition("://")[2].partition("/")[0].rpartition("@")
    return {"user": login.partition(":")[0]} if at else {}


def _from_connection_string(text: str) -> dict[str, str]:
    fields = dict(item.partition("=")[::2] for item in text.split(";"))
    names = {"AccountName": "account", "BlobEndpoint": "endpoint"}
    return {ours: fields[theirs].rstrip("/") for theirs, ours in names.items() if fields.get(theirs)}


def _joined(location: str, told: Mapping[str, str]) -> str:
    return "\n".join([location.rstrip("/"), *(f"{name}={told[name]}" for name in sorted(told))])
