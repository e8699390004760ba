"""Four mounts of one bucket, each in a network namespace of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mount.harness import DEADLINE, clear, environment
from mount.places import S3Backdoor, s3_options
from reliability.faulty_proxy import faulty_proxy
from reliability.tally import SOAK, TALLY
from servers import S3Server

HOSTS = 4
TTL = 1.0
FILES = 200 if SOAK else 25
ROUNDS = 60 if SOAK else 8
TAG = f"zm{os.getpid() % 100_000}"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=DEADLINE)


@contextlib.contextmanager
def hosts() -> Iterator[tuple[str, list[str]]]:
    """Make namespaces on a bridge; give the bridge's address and the names of the namespaces."""
    subnet = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
    bridge = f"{TAG}b"
    with contextlib.ExitStack() as undo:
        ip("link", "add", bridge, "type", "bridge")
        undo.callback(ip, "link", "del", bridge)
        ip("addr", "add", f"{subnet}.1/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        names = []
        for number in range(HOSTS):
            name, outside, inside = f"{TAG}n{number}", f"{TAG}v{number}", f"{TAG}p{number}"
            ip("netns", "add", name)
            undo.callback(ip, "netns", "del", name)
            ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", name)
            ip("link", "set", outside, "master", bridge, "up")
            for words in (
                ("addr", "add", f"{subnet}.{number + 10}/24", "dev", inside),
                ("link", "set", inside, "up"),
                ("link", "set", "lo", "up"),
            ):
                ip("-n", name, *words)
            names.append(name)
        yield f"{subnet}.1", names


@dataclasses.dataclass
class Host:
    """A mount in a namespace."""

    root: Path
    backdoor: S3Backdoor


@pytest.fixture
def mounts(gateway: S3Server, tmp_path: Path) -> Iterator[list[Host]]:
    bucket = gateway.create()
    backdoor = S3Backdoor(gateway, bucket, "store/")
    backdoor.write("shared/start", b"")
    with contextlib.ExitStack() as undo:
        address, names = undo.enter_context(hosts())
        server = undo.enter_context(faulty_proxy(gateway.endpoint, host=address))
        options = s3_options(dataclasses.replace(gateway, endpoint=server.endpoint))
        found = []
        for name in names:
            directory = tmp_path / name
            root = directory / "mnt"
            root.mkdir(parents=True)
            inside = ["nsenter", f"--net=/run/netns/{name}", sys.executable, "-m", "zarrmount"]
            undo.callback(clear, root)
            subprocess.run(
                [
                    *(*inside, "mount", f"s3://{bucket}/store", root),
                    *("--log-file", directory / "log", "--metadata-ttl", f"{TTL:g}", *options),
                ],
                env=environment(directory),
                check=True,
                timeout=DEADLINE,
            )
            found.append(Host(root, backdoor))
        yield found
        for name, host in zip(names, found, strict=True):
            ended = subprocess.run(
                [sys.executable, "-m", "zarrmount", "umount", host.root],
                env=environment(tmp_path / name),
                timeout=DEADLINE,
                capture_output=True,
                text=True,
                check=False,
            )
            assert ended.returncode == 0, ended.stdout + ended.stderr
        assert server.requests > 0


def at_once(mounts: list[Host], program: str, **values: object) -> list[object]:
    """Run a program on every host at once; it knows `root` and `host`, and sets `result`."""

    def run(number: int) -> object:
        given = {"root": str(mounts[number].root), "host": number, **values}
        code = "import errno, json, os, sys, time\nglobals().update(json.loads(sys.argv[1]))\n" + program
        done = subprocess.run(
            [sys.executable, "-I", "-c", code + "\nprint(json.dumps(result))", json.dumps(given)],
            cwd="/",
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    with ThreadPoolExecutor(len(mounts)) as pool:
        return list(pool.map(run, range(len(mounts))))


DIFFERENT = """
import hashlib
os.makedirs(f"{root}/shared/sub", exist_ok=True)
result = {}
for number in range(files):
    data = f"{host} {number} ".encode() + os.urandom(1000 * (number % 7))
    for name in (f"shared/{host}-{number}", f"shared/sub/{number}-{host}"):
        with open(f"{root}/{name}", "wb") as file:
            file.write(data)
        result[name] = hashlib.sha256(data).hexdigest()
"""
SHOWN = """
import hashlib
result = {}
for name in names:
    with open(f"{root}/{name}", "rb") as file:
        result[name] = hashlib.sha256(file.read()).hexdigest()
result["listed"] = len(os.listdir(f"{root}/shared"))
"""


def test_different_keys_at_once(mounts: list[Host]) -> None:
    written: dict[str, str] = {}
    for told in at_once(mounts, DIFFERENT, files=FILES):
        written |= told  # type: ignore[operator]
    assert len(written) == HOSTS * FILES * 2
    backdoor = mounts[0].backdoor
    assert backdoor.keys("") == {*written, "shared/start"}
    assert {key: hashlib.sha256(backdoor.read(key)).hexdigest() for key in written} == written
    time.sleep(TTL + 0.2)
    for shown in at_once(mounts, SHOWN, names=sorted(written)):
        assert shown == {**written, "listed": HOSTS * FILES + 2}  # also `start` and `sub`
    TALLY.add("files written by four mounts at once", len(written))


SAME = """
import random
result = []
for turn in range(rounds):
    data = (f"{host}.{turn} " * (20_000 + 5_000 * host)).encode()
    said = "ok"
    try:
        file = os.open(f"{root}/shared/contended", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    except OSError as error:
        result.append([turn, errno.errorcode[error.errno]])
        continue
    try:
        os.write(file, data)
    finally:
        try:
            os.close(file)
        except OSError as error:
            said = errno.errorcode[error.errno]
    if said == "ESTALE":  # its bytes are kept until somebody says that they are not wanted
        os.unlink(f"{root}/shared/contended")
    result.append([turn, said])
"""


def test_the_same_key_at_once(mounts: list[Host]) -> None:
    told = at_once(mounts, SAME, rounds=ROUNDS)
    said = [answer for host in told for _, answer in host]  # type: ignore[attr-defined]
    assert set(said) <= {"ok", "ESTALE", "ENOENT"}, said
    assert "ok" in said
    backdoor = mounts[0].backdoor
    if "shared/contended" in backdoor.keys(""):
        _whole(backdoor.read("shared/contended").decode(), told)
    TALLY.add("closes of one file by four mounts at once", len(said))
    TALLY.add("of them ESTALE", said.count("ESTALE"))


def _whole(text: str, told: list[object]) -> None:
    """Assert that a content is of one acknowledged close, from its first byte to its last."""
    words = text.split()
    assert len(set(words)) == 1, f"a mixture of {sorted(set(words))}"
    host, turn = (int(number) for number in words[0].split("."))
    assert len(words) == 20_000 + 5_000 * host
    assert [turn, "ok"] in told[host]  # type: ignore[operator]


def test_close_to_open(mounts: list[Host]) -> None:
    for turn in range(ROUNDS // 4):
        writer, *readers = mounts[turn % HOSTS :] + mounts[: turn % HOSTS]
        program = "result = open(f'{root}/shared/turns', 'rb').read().decode()"
        if turn:
            at_once(mounts, program)  # everybody has the old one at hand
        at_once([writer], f"open(f'{{root}}/shared/turns', 'w').write('turn {turn} ' * 1000)\nresult = 0")
        time.sleep(TTL + 0.2)
        assert at_once(readers, program) == [f"turn {turn} " * 1000] * len(readers)
        TALLY.add("opens after a close elsewhere", len(readers))
