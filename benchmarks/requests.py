"""The requests that the server saw, from its log."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

LOG_FORMAT = '$request_method "$request_uri" "$http_range" "$http_x_amz_copy_source" $status $body_bytes_sent'
MARK = "/__mark"
_LINE = re.compile(r'(\w+) "([^"]*)" "([^"]*)" "([^"]*)" (\d+) (\d+)')


@dataclass(frozen=True)
class Call:
    """One request.

    Attributes
    ----------
    kind : str
        GET, HEAD, LIST, PUT, COPY, POST or DELETE; MARK for one that the benchmark itself made.
    path : str
        The path, as it was sent.
    status, size : int
        What was answered, and the bytes of its body.
    """

    kind: str
    path: str
    status: int
    size: int

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read one line of the log."""
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise ValueError(f"not a line of the log: {line!r}")
        method, uri, _, source, status, size = found.groups()
        path, _, query = uri.partition("?")
        if path == MARK:
            method = "MARK"
        elif (
            method == "GET"
            and path.strip("/").count("/") == 0
            and ("prefix=" in query or "list-type=" in query)
        ):
            method = "LIST"
        elif method == "PUT" and source not in ("", "-"):
            method = "COPY"
        return cls(method, path, int(status), int(size))


def tally(calls: Sequence[Call]) -> dict[str, float]:
    """Return figures: all requests, each kind, and the bytes of objects that were fetched."""
    kinds = Counter(call.kind for call in calls if call.kind != "MARK")
    return {
        "requests": kinds.total(),
        "fetched_mb": sum(call.size for call in calls if call.kind == "GET") / 1e6,
        **{f"requests_{kind.lower()}": n for kind, n in sorted(kinds.items())},
    }
