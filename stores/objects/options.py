"""From a URL and the options that people know to a store of obstore.

The same thing has many names: ``key`` in s3fs, ``access_key_id`` in obstore, ``aws_access_key_id``
in the configuration of AWS.  All are taken; what is not known is refused, with the nearest name.
"""

from __future__ import annotations

import base64
import configparser
import dataclasses
import difflib
import json
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from obstore import exceptions as obstore_errors
from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

from stores.errors import BadLocation, InvalidKey
from stores.keys import check_prefix
from stores.objects.names import (
    ALIASES,
    BACKOFF,
    CLIENT,
    COMMON,
    IGNORED,
    KINDS,
    NAMES,
    OWN,
    PREFIXES,
    RETRY,
)

__all__ = ["AnyObstore", "Opened", "open_obstore"]

AnyObstore = Any  # obstore's own union exists for type checkers only, and leaves out custom ones


@dataclasses.dataclass(frozen=True, slots=True)
class Opened:
    """A store of obstore, and where in it ours begins."""

    store: AnyObstore
    prefix: str
    location: str
    max_connections: int


def open_obstore(url: str, options: Mapping[str, Any]) -> Opened:
    """Make the obstore store for `url`; nothing is asked of the network.

    Raises
    ------
    BadLocation
        If the URL or an option cannot be used.
    """
    try:
        parts = urlsplit(url)
        kind = KINDS[parts.scheme.lower()]
    except (ValueError, KeyError) as error:
        raise BadLocation("no URL of an object store: s3://, gs://, az:// or https:// is expected") from error
    chosen = _Options.sort(kind, options)
    make = {"s3": _s3, "gcs": _gcs, "azure": _azure, "http": _http}[kind]
    try:
        return make(parts, chosen)
    except obstore_errors.BaseError as error:
        text = str(error).partition("\n\nDebug source:")[0].splitlines()[0]
        if "Invalid Access Key" in text:
            raise BadLocation("the account key is not base64", key="account_key") from error
        raise BadLocation(f"an option cannot be used: {_hide(text, options)}") from error
    except (ValueError, TypeError) as error:
        raise BadLocation(f"an option has a value of the wrong kind: {_hide(str(error), options)}") from error


@dataclasses.dataclass(slots=True)
class _Options:
    """The options of one store, sorted by who takes them."""

    config: dict[str, Any]
    own: dict[str, Any]
    client: dict[str, Any]
    retry: dict[str, Any]
    max_connections: int = 64

    @classmethod
    def sort(cls, kind: str, options: Mapping[str, Any]) -> _Options:
        sorted_out = cls({}, {}, {}, {})
        sorted_out._take(kind, options)
        client = {"connect_timeout": "10s", "timeout": "60s"} | sorted_out.client
        sorted_out.client = {name: _duration(name, value) for name, value in client.items()}
        sorted_out.retry = _retry(sorted_out.retry)
        return sorted_out

    def _take(self, kind: str, options: Mapping[str, Any]) -> None:
        for name, value in options.items():
            bare = str(name).lower()
            bare = bare.removeprefix(PREFIXES[kind]) if bare not in NAMES[kind] else bare
            bare = ALIASES[kind].get(bare, bare)
            if bare in IGNORED or (value is None and (bare in COMMON or self._known(kind, bare))):
                continue
            if bare in ("client_options", "retry_config"):
                given = _mapping(name, value)
                _refuse_unknown(given, CLIENT if bare == "client_options" else RETRY, f"{bare}: ")
                (self.client if bare == "client_options" else self.retry).update(given)
            elif bare == "client_kwargs":
                self._take(kind, _mapping(name, value))
            elif bare == "config_kwargs":
                style = _mapping(name, _mapping(name, value).get("s3", {})).get("addressing_style")
                if style is not None:
                    self.config["virtual_hosted_style_request"] = style == "virtual"
            elif bare == "verify":
                self.client |= {"allow_invalid_certificates": True} if value is False else _trusting(value)
            elif bare == "max_connections":
                self.max_connections = _at_least_one(bare, value)
            elif bare in CLIENT:
                self.client[bare] = value
            elif bare in OWN[kind]:
                self.own[bare] = value
            elif bare in NAMES[kind]:
                self.config[bare] = value
            else:
                _refuse_unknown({name: value}, self._all(kind))

    def _known(self, kind: str, name: str) -> bool:
        return name in self._all(kind)

    @staticmethod
    def _all(kind: str) -> frozenset[str]:
        return NAMES[kind] | OWN[kind] | CLIENT | COMMON | frozenset(ALIASES[kind])

    def anonymous(self) -> bool:
        return _truth(self.config.get("skip_signature", False))


# -- the kinds of store -----------------------------------------------------------------------------


def _s3(parts: SplitResult, options: _Options) -> Opened:
    bucket, prefix = _bucket(parts), _prefix(parts)
    config = options.config
    profile = _aws_profile(options)
    for name, value in profile.items():
        config.setdefault(name, value)
    endpoint = (
        config.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    )
    if endpoint:
        _allow_http(endpoint, options)
        config["endpoint"] = endpoint.rstrip("/")
        config.setdefault("virtual_hosted_style_request", False)
        if not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
            config.setdefault("region", "us-east-1")
    # One request for one key; servers that are not AWS often lack the other kind.
    config.setdefault("disable_bulk_delete", True)
    store = S3Store(bucket, config=config, client_options=options.client, retry_config=options.retry)  # type: ignore[arg-type]
    return Opened(store, prefix, f"s3://{_joined(bucket, prefix)}", options.max_connections)


def _azure(parts: SplitResult, options: _Options) -> Opened:
    prefix = _prefix(parts)
    config, own = options.config, options.own
    if "connection_string" in own:
        for name, value in _connection_string(own["connection_string"]).items():
            config.setdefault(name, value)
    container, _, host = parts.netloc.rpartition("@")
    if not container:
        container, host = host, ""
    if host:
        config.setdefault("account_name", host.partition(".")[0])
    if "account_host" in own:
        config.setdefault("endpoint", f"https://{own['account_host']}")
        config.setdefault("account_name", str(own["account_host"]).partition(".")[0])
    if not container or ":" in container:
        raise BadLocation("no container is named: az://CONTAINER/PATH is expected, keys go into options")
    if not (
        config.get("account_name")
        or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
        or _truth(config.get("use_emulator", False))
    ):
        raise BadLocation("no account is named: pass account_name=... or connection_string=...")
    if config.get("endpoint"):
        _allow_http(config["endpoint"], options)
    store = AzureStore(container, config=config, client_options=options.client, retry_config=options.retry)  # type: ignore[arg-type]
    return Opened(store, prefix, f"az://{_joined(container, prefix)}", options.max_connections)


def _gcs(parts: SplitResult, options: _Options) -> Opened:
    bucket, prefix = _bucket(parts), _prefix(parts)
    config, own = options.config, options.own
    token = own.get("token")
    if isinstance(token, Mapping):
        config["service_account_key"] = json.dumps(dict(token))
    elif token == "anon":  # noqa: S105 - the word that gcsfs takes
        config["skip_signature"] = True
    elif isinstance(token, str) and Path(token).is_file():
        config["service_account"] = token
    elif token not in (None, "google_default", "cloud", "cache", "browser"):
        config["bearer_token"] = token
    if _truth(own.get("requester_pays", False)):
        project = own.get("project") or own["requester_pays"]
        headers = {"x-goog-user-project": str(project)}
        options.client["default_headers"] = headers | dict(options.client.get("default_headers", {}))
    if config.get("base_url"):
        _allow_http(config["base_url"], options)
    store = GCSStore(bucket, config=config, client_options=options.client, retry_config=options.retry)  # type: ignore[arg-type]
    return Opened(store, prefix, f"gs://{_joined(bucket, prefix)}", options.max_connections)


def _http(parts: SplitResult, options: _Options) -> Opened:
    if not parts.hostname:
        raise BadLocation("no host is named: https://HOST/PATH is expected")
    headers = dict(options.client.get("default_headers", {})) | dict(options.own.get("headers", {}))
    user, at, host = parts.netloc.rpartition("@")
    if at:
        # In the address, a password would stand in every message about it.
        login = base64.b64encode(unquote(user).encode()).decode()
        headers.setdefault("Authorization", f"Basic {login}")
    if headers:
        options.client["default_headers"] = headers
    path = parts.path.rstrip("/")
    url = urlunsplit((parts.scheme.lower(), host, path, parts.query, ""))
    _allow_http(url, options)
    store = HTTPStore.from_url(url, client_options=options.client, retry_config=options.retry)  # type: ignore[arg-type]
    return Opened(store, "", urlunsplit((parts.scheme.lower(), host, path, "", "")), options.max_connections)


# -- parts of URLs and options ----------------------------------------------------------------------


def _bucket(parts: SplitResult) -> str:
    if "@" in parts.netloc:
        raise BadLocation("keys do not belong into the URL: pass key=... and secret=...")
    if not parts.netloc:
        raise BadLocation(f"no bucket is named: {parts.scheme}://BUCKET/PATH is expected")
    return parts.netloc


def _prefix(parts: SplitResult) -> str:
    # What looks like a query or a fragment belongs to the key: nothing here has either.
    path = urlunsplit(("", "", parts.path, parts.query, parts.fragment)).strip("/")
    try:
        return check_prefix(path)
    except InvalidKey as error:
        raise BadLocation(f"no path in a bucket: {error}") from error


def _joined(bucket: str, prefix: str) -> str:
    return f"{bucket}/{prefix}" if prefix else bucket


def _allow_http(endpoint: str, options: _Options) -> None:
    scheme = urlsplit(str(endpoint)).scheme.lower()
    if scheme not in {"http", "https"}:
        raise BadLocation("an endpoint begins with http:// or https://")
    if scheme == "http":
        options.client.setdefault("allow_http", True)


def _trusting(value: object) -> dict[str, Any]:
    return {"root_certificate": Path(value).read_bytes()} if isinstance(value, (str, Path)) else {}


def _mapping(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise BadLocation(f"the option {name!r} must be a mapping of names to values", key=name)
    return dict(value)


def _refuse_unknown(given: Mapping[str, Any], known: frozenset[str], where: str = "") -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), sorted(known), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise BadLocation(f"{where}unknown option{hint}", key=str(name))


def _at_least_one(name: str, value: object) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = 0
    if number < 1:
        raise BadLocation(f"{value!r} is no number of connections: at least 1 is expected", key=name)
    return number


def _truth(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().lower() not in {"", "0", "false", "no", "off"}
    return bool(value)


def _duration(name: str, value: object) -> object:
    """Give obstore a number of seconds as it wants it."""
    if name.endswith("timeout") and isinstance(value, (int, float)) and not isinstance(value, bool):
        return timedelta(seconds=value)
    return value


def _retry(given: Mapping[str, Any]) -> dict[str, Any]:
    def span(value: object) -> object:
        return timedelta(seconds=value) if isinstance(value, (int, float)) else value

    backoff = _mapping("backoff", given.get("backoff") or {})
    _refuse_unknown(backoff, BACKOFF, "backoff: ")
    return {
        "max_retries": int(given.get("max_retries", 4)),
        "retry_timeout": span(given.get("retry_timeout", 60)),
        "backoff": {
            "init_backoff": span(backoff.get("init_backoff", 0.1)),
            "max_backoff": span(backoff.get("max_backoff", 5)),
            "base": backoff.get("base", 2),
        },
    }


def _connection_string(text: str) -> dict[str, str]:
    fields = dict(item.partition("=")[::2] for item in text.split(";") if item)
    names = {"AccountName": "account_name", "AccountKey": "account_key", "SharedAccessSignature": "sas_key"}
    found = {ours: fields[theirs] for theirs, ours in names.items() if theirs in fields}
    if "BlobEndpoint" in fields:
        found["endpoint"] = fields["BlobEndpoint"].rstrip("/")
    elif "EndpointSuffix" in fields and "AccountName" in fields:
        scheme = fields.get("DefaultEndpointsProtocol", "https")
        found["endpoint"] = f"{scheme}://{fields['AccountName']}.blob.{fields['EndpointSuffix']}"
    if not found:
        raise BadLocation("a connection string is NAME=VALUE;NAME=VALUE...", key="connection_string")
    return found


def _aws_profile(options: _Options) -> dict[str, str]:
    """Return what the AWS configuration files say, where nothing else gives credentials."""
    name = options.own.get("profile") or os.environ.get("AWS_PROFILE")
    given = "access_key_id" in options.config or options.anonymous()
    if not name and (given or "AWS_ACCESS_KEY_ID" in os.environ):
        return {}
    home = Path("~/.aws").expanduser()
    secrets, config = configparser.RawConfigParser(), configparser.RawConfigParser()
    try:
        secrets.read(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", home / "credentials"))
        config.read(os.environ.get("AWS_CONFIG_FILE", home / "config"))
    except configparser.Error as error:
        raise BadLocation("the configuration files of AWS cannot be parsed", key="profile") from error
    section = name or "default"
    found: dict[str, str] = {}
    for parser, title in (
        (config, section if section == "default" else f"profile {section}"),
        (secrets, section),
    ):
        if parser.has_section(title):
            found |= dict(parser.items(title))
    if name and not found:
        raise BadLocation(f"the configuration of AWS has no profile {name!r}", key="profile")
    if name and not given and "aws_access_key_id" not in found:
        raise BadLocation(
            f"the profile {name!r} holds no keys (single sign-on and roles are not followed): set the "
            "variables that `aws configure export-credentials --format env` prints",
            key="profile",
        )
    names = {"region": "region", "endpoint_url": "endpoint"}
    if not given:
        names |= {f"aws_{part}": part for part in ("access_key_id", "secret_access_key", "session_token")}
    return {ours: found[theirs] for theirs, ours in names.items() if theirs in found}


def _hide(text: str, options: Mapping[str, Any]) -> str:
    """Return one line of `text` without the values of the options: they may be secret."""
    for value in options.values():
        if isinstance(value, Mapping):
            text = _hide(text, value)
        elif len(str(value)) > 3:
            text = text.replace(str(value), "***")
    return " ".join(text.split())
