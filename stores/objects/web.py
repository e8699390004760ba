"""What has to be known of a web server that obstore does not ask: is it WebDAV, is that a directory.

A few single requests with the standard library, only where the answers that obstore got leave a
doubt.  They follow no redirect, because the redirect is what is looked for.
"""

from __future__ import annotations

import enum
import http.client
import re
from typing import Any
from urllib.parse import quote, urlsplit

__all__ = ["Found", "find_collection", "is_directory", "is_web_page"]

_TIMEOUT = 10.0
_ENOUGH = 1 << 16  # bytes of an answer about one directory
_COLLECTION = re.compile(rb"<(?:\w+:)?collection\b")


class Found(enum.Enum):
    """What a path is to WebDAV."""

    COLLECTION = "a directory"
    NOTHING = "nothing"
    NO_WEBDAV = "the server knows no WebDAV"


def find_collection(store: Any, path: str) -> Found:
    """Say what `path` is to WebDAV on the server of the obstore HTTPStore `store`.

    Raises
    ------
    OSError
        If the server does not answer.
    """
    status, _, body = _ask("PROPFIND", store, path, {"Depth": "0"})
    if status == http.client.MULTI_STATUS:
        return Found.COLLECTION if _COLLECTION.search(body) else Found.NOTHING
    _, told, _ = _ask("OPTIONS", store, path)
    return Found.NOTHING if "dav" in told else Found.NO_WEBDAV


def is_directory(store: Any, path: str) -> bool:
    """Whether the server redirects `path` to the same with a slash at its end.

    Raises
    ------
    OSError
        If the server does not answer.
    """
    status, told, _ = _ask("HEAD", store, path)
    target = urlsplit(told.get("location", "")).path
    return status // 100 == 3 and target.endswith("/") and target.rstrip("/").endswith(f"/{quote(path)}")


def is_web_page(key: str, media_type: str) -> bool:
    """Whether an answer is a page for people (an index, an error) in place of the object `key`."""
    kind = media_type.partition(";")[0].strip().lower()
    return kind in {"text/html", "application/xhtml+xml"} and not key.lower().endswith(
        (".html", ".htm", ".xhtml")
    )


def _ask(
    method: str, store: Any, path: str, more: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    address = urlsplit(store.url)
    given = (store.client_options or {}).get("default_headers", {})
    headers = {str(name): value if isinstance(value, bytes) else str(value) for name, value in given.items()}
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.hostname or "", address.port, timeout=_TIMEOUT)
    query = f"?{address.query}" if address.query else ""
    try:
        connection.request(method, f"/{quote(path)}{query}", headers={**headers, **(more or {})})
        answer = connection.getresponse()
        told = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, told, answer.read(_ENOUGH)
    except http.client.HTTPException as error:
        raise OSError(f"the answer to {method} was not understood") from error
    finally:
        connection.close()
