"""The servers that tests start clean up after themselves, and say what they need."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests import servers


@pytest.mark.parametrize(
    ("start", "package"),
    [(servers.radosgw, "ceph-common"), (servers.azurite, "azurite"), (servers.nginx_plain, "nginx")],
)
def test_what_is_missing_is_named(
    start: object, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(servers, "CHECKOUT", tmp_path)
    arguments = (tmp_path,) if start is servers.nginx_plain else ()
    with pytest.raises(servers.MissingServer, match=f"install.*{package}"), start(*arguments):  # type: ignore[operator]
        pass


def test_a_server_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers.tempfile, "tempdir", str(tmp_path))
    broken = servers.NGINX_CONF.replace("daemon off;", "nonsense;")
    monkeypatch.setattr(servers, "NGINX_CONF", broken)
    with pytest.raises(servers.ServerFailed, match="nonsense"), servers.nginx_plain(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_when_the_test_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").write_bytes(b"x")
    monkeypatch.setattr(servers.tempfile, "tempdir", str(tmp_path))
    seen = []

    def use() -> None:
        with servers.nginx_plain(root) as server:
            seen.append(f"{server.endpoint}/a")
            with urllib.request.urlopen(seen[0]) as answer:
                assert answer.read() == b"x"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(seen[0])
    assert list(tmp_path.iterdir()) == [root]
