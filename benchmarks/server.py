"""A real S3 server, and before it a proxy that adds latency and logs every request."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.places import Place
from benchmarks.processes import end, start, tail
from benchmarks.requests import LOG_FORMAT, Call
from tests.servers import S3Server, free_port, radosgw

LATENCY = 0.020
ROOM = 12 << 30
"""What the object server may keep in memory; it takes what it needs."""

_CONF = """\
load_module /usr/lib/nginx/modules/ndk_http_module.so;
load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;
{user}
daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log;
events {{ worker_connections 4096; }}
http {{
  lua_package_path "/usr/share/lua/5.1/?.lua;;";
  log_format calls '{format}';
  access_log {dir}/access.log calls;
  client_body_temp_path {dir}/tmp;
  proxy_temp_path {dir}/tmp; fastcgi_temp_path {dir}/tmp; uwsgi_temp_path {dir}/tmp; scgi_temp_path {dir}/tmp;
  keepalive_requests 1000000; client_max_body_size 0;
  upstream server {{ server 127.0.0.1:{upstream}; keepalive 128; }}
  server {{
    listen 127.0.0.1:{port};
    location = /__mark {{ return 204; }}
    location / {{
      access_by_lua_block {{ ngx.sleep({latency}) }}
      proxy_pass http://server; proxy_http_version 1.1;
      proxy_set_header Host $http_host; proxy_set_header Connection "";
      proxy_request_buffering off; proxy_buffering off;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class SlowServer:
    """An S3 server behind its latency."""

    server: S3Server
    endpoint: str
    log: Path

    def bucket(self) -> Place:
        """Make a bucket."""
        name = self.server.create(f"bench-{uuid.uuid4().hex[:10]}")
        return Place(
            endpoint=self.endpoint,
            direct=self.server.endpoint,
            bucket=name,
            key=self.server.key,
            secret=self.server.secret,
            region=self.server.region,
        )

    def mark(self) -> int:
        """Return how much of the log there is."""
        return self.log.stat().st_size

    def quiet_since(self, mark: int, patience: float = 5) -> list[Call]:
        """Return the requests since `mark`, once no more are answered: they are logged when they end."""
        deadline, before = time.monotonic() + patience, -1
        while before != (before := self.mark()) and time.monotonic() < deadline:
            time.sleep(5 * LATENCY)
        with self.log.open("rb") as file:
            file.seek(mark)
            return [Call.parse(line) for line in file.read().decode().splitlines()]


@contextlib.contextmanager
def slow_server(latency: float = LATENCY) -> Iterator[SlowServer]:
    """Start Ceph's RADOS Gateway, in memory, and nginx before it."""
    with _environment("CEPH_ARGS", f"--memstore_device_bytes={ROOM}"), radosgw() as server:
        upstream = urlsplit(server.endpoint).port
        assert upstream is not None
        with _delayed(upstream, latency) as (endpoint, log):
            yield SlowServer(server, endpoint, log)


@contextlib.contextmanager
def _delayed(upstream: int, latency: float) -> Iterator[tuple[str, Path]]:
    port = free_port()
    directory = Path(tempfile.mkdtemp(prefix="bench-nginx-"))
    (directory / "tmp").mkdir()
    conf = directory / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    conf.write_text(
        _CONF.format(
            user=user, dir=directory, format=LOG_FORMAT, upstream=upstream, port=port, latency=latency
        )
    )
    with (directory / "out").open("wb") as output:
        process = start(["nginx", "-e", str(directory / "error.log"), "-c", str(conf)], output=output)
    try:
        deadline = time.monotonic() + 30
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"nginx did not start (apt-get install libnginx-mod-http-lua): {tail(directory / 'out')}"
                )
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", directory / "access.log"
    finally:
        end(process)
        shutil.rmtree(directory, ignore_errors=True)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
