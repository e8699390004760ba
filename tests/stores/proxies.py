"""Proxies before real servers."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from reliability.faulty_proxy import FaultyProxy, faulty_proxy

from tests.servers import S3Server


@contextmanager
def proxy_before(server: S3Server) -> Iterator[FaultyProxy]:
    """A proxy whose connections are cut with it, whatever they were passing on."""
    with faulty_proxy(server.endpoint) as proxy:
        yield proxy
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()
