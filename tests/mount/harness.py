"""Real mounts in subprocesses, with deadlines, that never stay behind.

A test must not touch a mount from its own process without a deadline: a mount
that hangs would hang the test for good.  `Mounted.run` runs a command, and
`Mounted.python` a piece of Python, in a subprocess that is killed in time.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zarrmount import registry

DEADLINE = 60.0
TESTS = Path(__file__).parent.parent


class Mounted:
    """One mount that a test made.

    Attributes
    ----------
    path : Path
        Where it is mounted.
    log : Path
        What it logs.
    """

    def __init__(self, path: Path, log: Path, environment: dict[str, str]) -> None:
        self.path = path
        self.log = log
        self.environment = environment

    def run(
        self, *command: str | Path, timeout: float = DEADLINE, check: bool = True, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the mount; its output is text."""
        done = subprocess.run(
            [str(word) for word in command],
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            input=input,
            env=self.environment,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}\n"
                f"--- log\n{self.read_log()}"
            )
        return done

    def sh(self, script: str, timeout: float = DEADLINE, check: bool = True) -> str:
        """Run a shell script (``bash -euo pipefail``) in the mount and return what it printed."""
        return self.run("bash", "-euo", "pipefail", "-c", script, timeout=timeout, check=check).stdout

    def python(self, code: str, timeout: float = DEADLINE, **values: Any) -> Any:
        """Run Python code in the mount; `values` are its globals; return what it set `result` to."""
        program = (
            "import json, sys, os, errno\nfrom pathlib import Path\n"
            "globals().update(json.loads(sys.argv[1]))\nresult = None\n"
            + textwrap.dedent(code)
            + "\nprint('\\0' + json.dumps(result))\n"
        )
        done = self.run(sys.executable, "-c", program, json.dumps(values), timeout=timeout)
        return json.loads(done.stdout.rpartition("\0")[2])

    def errno_of(self, code: str, **values: Any) -> str | None:
        """Run Python code in the mount and return the name of the errno that it failed with."""
        return self.python(
            "try:\n"
            + textwrap.indent(textwrap.dedent(code), "    ")
            + "\nexcept OSError as error:\n    result = errno.errorcode[error.errno]\n",
            **values,
        )

    def read_log(self) -> str:
        """Return what the mount has logged so far."""
        return self.log.read_text() if self.log.exists() else ""


def zarrmount(
    *arguments: str | Path, environment: dict[str, str], timeout: float = DEADLINE, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the zarrmount command."""
    return subprocess.run(
        [sys.executable, "-m", "zarrmount", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=environment,
        cwd=cwd,
    )


def environment(directory: Path) -> dict[str, str]:
    """Return an environment in which everything that zarrmount keeps is below `directory`."""
    state = directory / "state"
    state.mkdir(exist_ok=True)
    return {
        **os.environ,
        "XDG_STATE_HOME": str(state),
        "XDG_RUNTIME_DIR": str(directory),
        "PYTHONPATH": f"{TESTS.parent}:{TESTS}",  # for `python:` locations that are made for tests
    }


@contextlib.contextmanager
def mounted(location: str | Path, directory: Path, *options: str, umount: bool = True) -> Iterator[Mounted]:
    """Mount a store below `directory`, and unmount it afterwards whatever happens.

    With `umount`, an end that does not store everything fails the test.
    """
    mountpoint = directory / "mnt"
    mountpoint.mkdir(parents=True, exist_ok=True)
    log = directory / "log"
    variables = environment(directory)
    done = zarrmount(
        "mount", location, mountpoint, "--log-file", log, *options, environment=variables, timeout=DEADLINE
    )
    if done.returncode != 0:
        raise AssertionError(
            f"did not mount: {done.stdout}{done.stderr}\n{log.read_text() if log.exists() else ''}"
        )
    mount = Mounted(mountpoint, log, variables)
    try:
        yield mount
        if umount:
            ended = zarrmount("umount", mountpoint, environment=variables, timeout=DEADLINE)
            assert ended.returncode == 0, f"{ended.stdout}{ended.stderr}\n{mount.read_log()}"
            assert not is_mounted(mountpoint)
    finally:
        clear(mountpoint)


@contextlib.contextmanager
def in_foreground(
    store: Path | str, mountpoint: Path, tmp_path: Path, *options: str
) -> Iterator[subprocess.Popen[str]]:
    """Run ``zarrmount mount -f`` until it is mounted; kill it afterwards."""
    with subprocess.Popen(
        [sys.executable, "-m", "zarrmount", "mount", "-f", str(store), str(mountpoint), *options],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_for(lambda: is_mounted(mountpoint) or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            yield process
        finally:
            process.kill()


def is_mounted(path: Path) -> bool:
    """Tell whether the kernel has something mounted on a directory."""
    return any(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


def clear(mountpoint: Path) -> None:
    """Take a mount off by force, if it is still there, and its process with it."""
    for mount in registry.all_running():
        if mount.mountpoint == str(mountpoint):
            with contextlib.suppress(ProcessLookupError):
                os.kill(mount.pid, signal.SIGKILL)
            registry.withdraw(mount.pid)
    for _ in range(3):
        if not is_mounted(mountpoint):
            return
        subprocess.run(["fusermount3", "-u", "-z", str(mountpoint)], check=False, timeout=DEADLINE)


def wait_for(condition: Any, timeout: float = DEADLINE) -> None:
    """Return as soon as `condition()` is true; fail after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)
