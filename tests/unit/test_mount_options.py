"""The ``-o`` options."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, strategies

from stores.base import Store
from stores.errors import BadLocation
from zarrmount.cli import cli
from zarrmount.mount_options import parse_mount_options


def test_each_option_goes_where_it_belongs() -> None:
    options = parse_mount_options(
        [
            "ro,allow_other,uid=1000",
            "dir-mode=755,anon,storage_option.client_kwargs=x=y,endpoint_url=http://h:1",
        ]
    )
    assert options.flags == {"ro"}
    assert options.kernel == {"allow_other"}
    assert options.values == {"uid": "1000", "dir_mode": "755", "endpoint_url": "http://h:1"}
    assert options.storage == {"anon": "true", "client_kwargs": "x=y"}


@pytest.mark.parametrize(
    "text", ["defaults", "rw", "_netdev", "nofail", "x-systemd.automount", "comment=a", "", " ", ",,"]
)
def test_what_mount_uses_itself_is_ignored(text: str) -> None:
    options = parse_mount_options([text])
    assert [options.flags, options.values, options.storage, options.kernel] == [set(), {}, {}, set()]


@pytest.mark.parametrize(
    ("text", "hint"),
    [("alow_other", "did you mean allow_other"), ("uid", "needs a value"), ("ttl=3", "unknown")],
)
def test_an_unknown_option_is_named(text: str, hint: str) -> None:
    with pytest.raises(BadLocation, match=hint) as caught:
        parse_mount_options(["ro", text])
    assert text.partition("=")[0] in str(caught.value)


@given(strategies.lists(strategies.text()))
def test_whatever_is_typed_is_read_or_refused(texts: list[str]) -> None:
    with suppress(BadLocation):
        parse_mount_options(texts)


@pytest.mark.parametrize("text", ["secret=hunter2", "storage_option.token=hunter2"])
def test_secrets_are_not_in_messages(text: str) -> None:
    parse_mount_options([text])
    with pytest.raises(BadLocation) as caught:
        parse_mount_options([text.replace("=", "x=").replace("storage_option", "storage")])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], 64),
        (["--max-connections", "7"], 7),
        (["-o", "max_connections=8"], 8),
        (["-o", "max-connections=8", "--max-connections", "9"], 9),
    ],
)
def test_as_many_connections_as_were_asked_for(
    words: list[str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Store] = []
    monkeypatch.setattr("zarrmount.logs.configure_logging", lambda *_: None)
    monkeypatch.setattr("zarrmount.mount.run_mount", lambda _config, store, **_: opened.append(store) or 0)
    done = CliRunner().invoke(cli, ["mount", "-f", "s3://bucket/x", str(tmp_path), *words])
    assert done.exit_code == 0, done.output
    assert [store.max_connections for store in opened] == [expected]


@pytest.mark.parametrize(
    "words", [["--max-connections", "0"], ["-o", "max_connections=0"], ["-o", "max_connections=x"]]
)
def test_no_connections_are_refused(words: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["mount", "s3://bucket/x", str(tmp_path), *words])
    assert done.exit_code == 2
    assert "max-connections" in done.output
