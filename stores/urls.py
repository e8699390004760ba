"""URLs as they may be shown."""

from __future__ import annotations

import re

__all__ = ["AZURE_SCHEMES", "redact"]

AZURE_SCHEMES = ("az", "abfs", "abfss", "adl")
"""Schemes whose URLs name a container before an ``@``."""

_HALF_A_PASSWORD = re.compile(r"^[^:\[]+:(?![0-9]*$)")


def redact(url: str) -> str:
    """Return `url` without what may be secret: user and password, query and fragment.

    The container in ``abfs://container@account...`` is no secret and stays.
    """
    return "::".join(_redact_link(link) for link in url.split("::"))


def _redact_link(link: str) -> str:
    start, mark, rest = link.partition("://")
    if not mark:
        return link
    rest, query, _ = rest.partition("?")
    host = rest.partition("/")[0]
    if "@" in host:
        user, _, after = host.rpartition("@")
        if not (start.lower() in AZURE_SCHEMES and ":" not in user):
            rest = after + rest[len(host) :]
    elif _HALF_A_PASSWORD.search(host):  # it holds a slash: user:pass/word@host
        rest = rest.rpartition("@")[2] if "@" in rest else host.partition(":")[0]
    if start.lower() in ("http", "https"):
        rest = rest.partition("#")[0]
    return f"{start}://{rest}{'?...' if query else ''}"
