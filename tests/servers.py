"""Real servers for tests, on loopback, each on a free port and in a directory of its own.

Every server is a context manager: it starts the server, waits until it answers, yields what a
client needs to know, and on the way out, whatever happened, stops it and removes its files::

    with moto_s3() as s3:
        bucket = s3.create()
        ...  # s3.endpoint, s3.key, s3.secret

What a server needs is installed by ``tests/install-servers.sh``; a missing part raises
:class:`MissingServer`, which names the package.  It never skips a test.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

__all__ = [
    "AzureServer",
    "HttpServer",
    "MissingServer",
    "S3Server",
    "ServerFailed",
    "azurite",
    "free_port",
    "moto_s3",
    "nginx_plain",
    "nginx_webdav",
    "radosgw",
]

CHECKOUT = Path(__file__).resolve().parent.parent
INSTALL = "or run tests/install-servers.sh, which installs all of them"


class MissingServer(Exception):
    """A program that a test needs is not installed; the message says how to install it."""


class ServerFailed(Exception):
    """A server did not start; the message ends with the last lines of its log."""


# -- what the servers yield ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class S3Server:
    """An S3 server, and a key that may do anything there."""

    endpoint: str
    key: str
    secret: str
    region: str = "us-east-1"

    def create(self, bucket: str | None = None) -> str:
        """Create a bucket (with a name of its own, if none is given) and return its name."""
        bucket = bucket or _unique()
        client = self.client()
        try:
            client.create_bucket(Bucket=bucket)
        finally:
            client.close()
        return bucket

    def client(self) -> Any:
        """Return a client of S3's own kind; the caller closes it."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name=self.region,
            config=Config(s3={"addressing_style": "path"}),
        )

    @property
    def storage_options(self) -> dict[str, object]:
        """What s3fs and our own stores take as ``storage_options``."""
        return {"key": self.key, "secret": self.secret, "endpoint_url": self.endpoint}


@dataclass(frozen=True, slots=True)
class AzureServer:
    """A server of Azure's blobs; `endpoint` ends with the name of the account."""

    endpoint: str
    account: str
    key: str

    @property
    def connection_string(self) -> str:
        """What Azure's own clients and adlfs take."""
        return (
            f"DefaultEndpointsProtocol=http;AccountName={self.account};"
            f"AccountKey={self.key};BlobEndpoint={self.endpoint};"
        )

    @property
    def storage_options(self) -> dict[str, object]:
        """What adlfs and our own stores take as ``storage_options``."""
        return {"account_name": self.account, "connection_string": self.connection_string}

    def create(self, container: str | None = None) -> str:
        """Create a container (with a name of its own, if none is given) and return its name."""
        from azure.storage.blob import BlobServiceClient

        container = container or _unique()
        with BlobServiceClient.from_connection_string(self.connection_string) as client:
            client.create_container(container)
        return container


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A web server over the directory `root`."""

    endpoint: str
    root: Path

    def create(self, name: str | None = None) -> str:
        """Create a directory below the root and return its address."""
        name = name or _unique()
        (self.root / name).mkdir()
        return f"{self.endpoint}/{name}"


def _unique() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


# -- S3 ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def moto_s3() -> Iterator[S3Server]:
    """Moto's S3: quick to start and correct in its conditions; it believes every key."""
    port = free_port()
    command = [_python_module("moto.server", "moto[server]"), "-m", "moto.server"]
    with _directory("moto") as directory:
        process = _start([*command, "-H", "127.0.0.1", "-p", str(port)], directory, "moto")
        with process:
            process.wait_for(lambda: _answers(f"http://127.0.0.1:{port}/moto-api/"), 60)
            yield S3Server(f"http://127.0.0.1:{port}", "test", "testtest")


@contextlib.contextmanager
def radosgw() -> Iterator[S3Server]:
    """Ceph's RADOS Gateway over one monitor and one object server that keeps all in memory.

    A real S3 server: checks signatures, enforces conditions, pages its listings.  It takes about
    fifteen seconds to start.
    """
    programs = {
        "ceph": "ceph-common",
        "ceph-mon": "ceph-mon",
        "ceph-osd": "ceph-osd",
        "monmaptool": "ceph-common",
        "radosgw": "radosgw",
        "radosgw-admin": "radosgw",
    }
    for program, package in programs.items():
        _program(program, f"apt-get install --no-install-recommends {package}")
    with _directory("radosgw") as directory, contextlib.ExitStack() as daemons:
        port = free_port()
        _start_ceph(directory, port, daemons)
        yield S3Server(f"http://127.0.0.1:{port}", "test", "testtest")


CEPH_CONF = """\
[global]
fsid = {cluster}
mon host = {monitor}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms bind ipv6 = false
run dir = {dir}/run
log file = {dir}/log/$name.log
admin socket = {dir}/run/$name.$pid.asok
pid file = {dir}/run/$name.pid
crash dir = {dir}/log
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data = {dir}/mon
mon data avail crit = 1
osd data = {dir}/osd
osd objectstore = memstore
osd class load list = *
memstore device bytes = 4294967296
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw dns name = localhost
debug rgw = 0
"""


def _start_ceph(directory: Path, port: int, daemons: contextlib.ExitStack) -> None:
    for name in ("mon", "osd", "log", "run"):
        (directory / name).mkdir()
    cluster, osd = str(uuid.uuid4()), str(uuid.uuid4())
    monitor = f"[v2:127.0.0.1:{free_port()},v1:127.0.0.1:{free_port()}]"
    conf = directory / "ceph.conf"
    conf.write_text(CEPH_CONF.format(cluster=cluster, monitor=monitor, dir=directory, port=port))
    env = {"CEPH_CONF": str(conf)}

    def run(*command: str) -> None:
        _run(command, directory, env)

    def start(name: str, *command: str) -> _Process:
        return daemons.enter_context(_start(command, directory, name, env))

    monmap = str(directory / "monmap")
    run("monmaptool", "--create", "--clobber", "--addv", "a", monitor, "--fsid", cluster, monmap)
    run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
    start("mon", "ceph-mon", "-i", "a", "-f").wait_for(
        lambda: _succeeds(("ceph", "--connect-timeout", "4", "-s"), env), 60
    )
    run("ceph", "osd", "new", osd)
    run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
    start("osd", "ceph-osd", "-i", "0", "-f").wait_for(
        lambda: b"1 up" in _succeeds(("ceph", "--connect-timeout", "4", "osd", "stat"), env), 60
    )
    gateway = start("rgw", "radosgw", "-n", "client.rgw", "-f", "--ms_mon_client_mode=crc")
    gateway.wait_for(lambda: _answers(f"http://127.0.0.1:{port}/"), 120)
    run(
        *("radosgw-admin", "user", "create", "--uid=test", "--display-name=test"),
        *("--access-key=test", "--secret=testtest"),
    )


# -- Azure ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def azurite() -> Iterator[AzureServer]:
    """Azurite, Microsoft's own emulator of Azure's blobs, in memory."""
    program = CHECKOUT / ".tools/node_modules/.bin/azurite-blob"
    if not program.exists():
        raise MissingServer(f"azurite is not installed: npm install --prefix .tools azurite, {INSTALL}")
    node = _program("node", "apt-get install nodejs")
    account, key = "test", base64.b64encode(b"no secret: only for tests").decode()
    port = free_port()
    with _directory("azurite") as directory:
        process = _start(
            [
                *(node, str(program), "--silent", "--inMemoryPersistence", "--disableTelemetry"),
                *("--skipApiVersionCheck", "--blobHost", "127.0.0.1", "--blobPort", str(port)),
            ],
            directory,
            "azurite",
            {"AZURITE_ACCOUNTS": f"{account}:{key}"},
        )
        with process:
            process.wait_for(lambda: _answers(f"http://127.0.0.1:{port}/{account}?comp=list"), 60)
            yield AzureServer(f"http://127.0.0.1:{port}/{account}", account, key)


# -- HTTP ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def nginx_webdav(root: Path) -> Iterator[HttpServer]:
    """nginx over `root` with WebDAV: it lists (PROPFIND) and takes PUT, DELETE, COPY, MOVE."""
    with _nginx(
        root,
        modules=("dav_ext",),
        location=(
            "dav_methods PUT DELETE MKCOL COPY MOVE; dav_ext_methods PROPFIND OPTIONS; "
            "create_full_put_path on; min_delete_depth 0;"
        ),
    ) as server:
        yield server


@contextlib.contextmanager
def nginx_plain(root: Path) -> Iterator[HttpServer]:
    """nginx over `root` as most web servers are: Range and ETag, no listing, nothing to write."""
    with _nginx(root) as server:
        yield server


NGINX_CONF = """\
{modules}
{user}
daemon off;
worker_processes 1;
pid {dir}/nginx.pid;
error_log {dir}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log {dir}/access.log;
  client_body_temp_path {dir}/tmp;
  proxy_temp_path {dir}/tmp; fastcgi_temp_path {dir}/tmp; uwsgi_temp_path {dir}/tmp; scgi_temp_path {dir}/tmp;
  client_max_body_size 0;
  keepalive_requests 1000000;
  server {{
    listen 127.0.0.1:{port};
    root {root};
    location / {{ {location} }}
  }}
}}
"""


@contextlib.contextmanager
def _nginx(root: Path, *, modules: Sequence[str] = (), location: str = "") -> Iterator[HttpServer]:
    program = _program("nginx", "apt-get install nginx")
    load = []
    for module in modules:
        path = Path(f"/usr/lib/nginx/modules/ngx_http_{module}_module.so")
        if not path.exists():
            package = f"libnginx-mod-http-{module.replace('_', '-')}"
            raise MissingServer(f"{path.name} is not installed: apt-get install {package}, {INSTALL}")
        load.append(f"load_module {path};")
    port = free_port()
    with _directory("nginx") as directory:
        (directory / "tmp").mkdir()
        conf = directory / "nginx.conf"
        conf.write_text(
            NGINX_CONF.format(
                modules=" ".join(load),
                # As root, its workers would become another user that cannot read the tests' files.
                user="user root;" if os.geteuid() == 0 else "",
                dir=directory,
                root=root,
                port=port,
                location=location,
            )
        )
        with _start(
            [program, "-e", str(directory / "error.log"), "-c", str(conf)], directory, "nginx"
        ) as process:
            process.wait_for(lambda: _answers(f"http://127.0.0.1:{port}/"), 30)
            yield HttpServer(f"http://127.0.0.1:{port}", root)


# -- processes -----------------------------------------------------------------------------------


def free_port() -> int:
    """Return a TCP port of the loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Process:
    """A child in a session of its own, its output in a log; leaving the context ends it for sure."""

    def __init__(self, command: Sequence[str], log: Path, cwd: Path, env: Mapping[str, str]) -> None:
        self._log = log
        with log.open("wb") as output:
            self._child = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command],  # it ends with a test run that is killed
                cwd=cwd,
                env=os.environ | dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for how, patience in ((signal.SIGTERM, 15), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, how)
            try:
                self._child.wait(patience)
            except subprocess.TimeoutExpired:
                continue
            return

    def wait_for(self, answers: Callable[[], object], seconds: float) -> None:
        """Return as soon as `answers()` is true; ServerFailed if the child ends or time is up."""
        deadline = time.monotonic() + seconds
        while not answers():
            if self._child.poll() is not None:
                raise ServerFailed(f"{self._child.args} ended ({self._child.returncode}){self._tail()}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self._child.args} did not answer within {seconds} s{self._tail()}")
            time.sleep(0.05)

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-15:]
        return "".join(f"\n  {line}" for line in lines)


def _start(
    command: Sequence[str], directory: Path, name: str, env: Mapping[str, str] | None = None
) -> _Process:
    return _Process(command, directory / f"{name}.out", directory, env or {})


def _run(command: Sequence[str], directory: Path, env: Mapping[str, str]) -> None:
    done = subprocess.run(
        command,
        cwd=directory,
        env=os.environ | dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise ServerFailed(f"{command} failed ({done.returncode}): {done.stdout.decode(errors='replace')}")


def _succeeds(command: Sequence[str], env: Mapping[str, str]) -> bytes:
    """Return what `command` prints, nothing if it fails or takes too long."""
    try:
        return subprocess.run(
            command,
            env=os.environ | dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
            check=True,
        ).stdout
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return b""


def _answers(url: str) -> bool:
    """Whether an HTTP server answers at `url`, be it with an error."""
    try:
        # No proxy of the environment may stand between a test and its own machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(url, timeout=5).close()
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False
    return True


def _program(name: str, install: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise MissingServer(f"{name} is not installed: {install}, {INSTALL}")
    return path


def _python_module(name: str, package: str) -> str:
    from importlib.util import find_spec

    try:
        found = find_spec(name) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise MissingServer(f"{name} is not installed: pip install '{package}'")
    return sys.executable


@contextlib.contextmanager
def _directory(name: str) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)
