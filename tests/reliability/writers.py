"""Processes that write below a mount, and note down outside of it what was acknowledged.

``python writers.py ROOT MANIFEST SEED``: one process; it ends when the mount dies, or
after its operation at SIGTERM.

Each operation gives two lines in the manifest: what is about to be done, and ``ok`` or the errno.  A
line is one ``write(2)``, so that a killed mount never leaves half of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

NAMES = 12
SIZES = (0, 10, 5_000, 70_000, 400_000)


class Writer:
    """One writer with keys of its own."""

    def __init__(self, root: Path, manifest: Path, seed: int) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.log = os.open(manifest, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(self, **what: Any) -> None:
        os.write(self.log, json.dumps(what).encode() + b"\n")

    def content(self, key: str) -> bytes:
        size = self.random.choice(SIZES)
        return f"{key} {self.random.getrandbits(64):x} ".encode() + self.random.randbytes(size)

    def write(self, key: str, data: bytes, *, fsync: bool) -> None:
        file = os.open(self.root / key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            for start in range(0, len(data), 100_000):
                os.write(file, data[start : start + 100_000])
            if fsync:
                os.fsync(file)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is noted
                os.close(file)
            raise
        os.close(file)

    def step(self, directory: str) -> None:
        key = f"{directory}/{self.random.randrange(NAMES)}"
        kind = self.random.choices(
            ("put", "fsync", "replace", "partial", "move", "unlink"), (5, 2, 3, 3, 1, 1)
        )[0]
        data = self.content(key)
        digest = hashlib.sha256(data).hexdigest()
        if kind in ("put", "fsync"):
            self.do({"put": key, "sha": digest}, lambda: self.write(key, data, fsync=kind == "fsync"))
        elif kind == "replace":
            new = f"{key}.new"
            self.do({"put": new, "sha": digest}, lambda: self.write(new, data, fsync=False))
            self.do({"move": new, "to": key}, lambda: os.rename(self.root / new, self.root / key))
        elif kind == "partial":
            # What zarr-python does; only the rename says that it is stored.
            new = f"{key}.{uuid.UUID(int=self.random.getrandbits(128)).hex}.partial"
            self.write(new, data, fsync=False)
            self.do({"put": key, "sha": digest}, lambda: os.rename(self.root / new, self.root / key))
        elif kind == "move":
            other = f"{directory}/{self.random.randrange(NAMES)}"
            if other != key and (self.root / key).exists():
                self.do({"move": key, "to": other}, lambda: os.rename(self.root / key, self.root / other))
        elif (self.root / key).exists():
            self.do({"unlink": key}, lambda: os.unlink(self.root / key))

    def do(self, intent: dict[str, str], call: Any) -> None:
        self.note(**intent)
        try:
            call()
        except OSError as error:
            self.note(errno=error.errno)
            raise
        self.note(ok=True)


def main() -> None:
    root, manifest, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    writer = Writer(root, manifest, seed)
    directory = manifest.stem
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        (root / directory).mkdir(exist_ok=True)
        while not stop.is_set():
            writer.step(directory)
    except OSError as error:
        sys.exit(f"{error}")  # the mount is dead, which the tests want


if __name__ == "__main__":
    main()
