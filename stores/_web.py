"""What has to be known of a web server that obstore does not ask: is it WebDAV, is that a directory.

A few single requests with the standard library, only where the answers that obstore got leave a
doubt.  They follow no redirect, because the redirect is what is looked for.
"""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

__all__ = ["Collection", "find_collection", "is_directory", "is_web_page"]

_TIMEOUT = 10.0


class Collection:
    """What an address is to WebDAV."""

    FOUND = "found"
    MISSING = "missing"
    NO_WEBDAV = "no WebDAV"


def find_collection(url: str, headers: Mapping[str, str]) -> str:
    """Say what `url` is to WebDAV: one of the attributes of :class:`Collection`.

    Raises
    ------
    OSError
        If the server does not answer.
    """
    status, _ = _ask("PROPFIND", url, {**headers, "Depth": "0"})
    if status == http.client.MULTI_STATUS:
        return Collection.FOUND
    _, told = _ask("OPTIONS", url, headers)
    return Collection.MISSING if "dav" in told else Collection.NO_WEBDAV


def is_directory(base: str, key: str, headers: Mapping[str, str]) -> bool:
    """Whether the server redirects `key` below `base` to the same with a slash at its end."""
    address = urlsplit(base)
    path = f"{address.path.rstrip('/')}/{quote(key)}"
    try:
        status, told = _ask("HEAD", address._replace(path=path).geturl(), headers)
    except OSError:
        return False
    target = urlsplit(told.get("location", "")).path
    return status // 100 == 3 and target.endswith("/") and target.rstrip("/") == path


def is_web_page(key: str, media_type: str) -> bool:
    """Whether an answer is a page for people (an index, an error) in place of the object `key`."""
    kind = media_type.partition(";")[0].strip().lower()
    return kind in {"text/html", "application/xhtml+xml"} and not key.lower().endswith(
        (".html", ".htm", ".xhtml")
    )


def _ask(method: str, url: str, headers: Mapping[str, str]) -> tuple[int, dict[str, str]]:
    address = urlsplit(url)
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.hostname or "", address.port, timeout=_TIMEOUT)
    path = f"{address.path or '/'}?{address.query}" if address.query else address.path or "/"
    try:
        connection.request(method, path, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}
    except http.client.HTTPException as error:
        raise OSError(f"the answer to {method} was not understood") from error
    finally:
        connection.close()
