"""A directory of a mounted store, and the ways in which real programs are run there."""

from __future__ import annotations

import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mount.harness import DEADLINE, Mounted
from mount.places import Site

__all__ = ["KINDS", "STABLE", "Bench"]

KINDS = ("local", "zip", "memory", "s3")
STABLE = ("local", "zip", "s3")
"""The kinds that outlive a mount."""


@dataclass(frozen=True)
class Bench:
    """An empty directory of a mounted store, for one test.

    Attributes
    ----------
    site : Site
        The mounted store.
    dir : Path
        The directory.
    """

    site: Site
    dir: Path

    @property
    def kind(self) -> str:
        """The kind of the store."""
        return self.site.kind

    @property
    def mount(self) -> Mounted:
        """The mount."""
        assert self.site.mount is not None
        return self.site.mount

    def sh(self, script: str, *, timeout: float = DEADLINE, **variables: object) -> str:
        """Run a shell script (``bash -euo pipefail``) in the directory; return what it printed."""
        return self.mount.sh(self._script(script, variables), timeout=timeout)

    def fails(self, script: str, **variables: object) -> str:
        """Run a shell script that must not succeed; return what it said."""
        words = ("bash", "-euo", "pipefail", "-c", self._script(script, variables))
        done = self.mount.run(*words, check=False)
        assert done.returncode != 0, done.stdout
        return done.stdout + done.stderr

    def python(self, *code: str, timeout: float = DEADLINE, **values: Any) -> Any:
        """Run pieces of Python in the directory, in one process of its own; see `Mounted.python`."""
        program = "\n".join(map(textwrap.dedent, ("os.chdir(HERE)", *code)))
        return self.mount.python(program, timeout=timeout, HERE=str(self.dir), **values)

    def _script(self, script: str, variables: dict[str, object]) -> str:
        assigned = (f"{name}={shlex.quote(str(value))}" for name, value in variables.items())
        return "\n".join((f"cd {shlex.quote(str(self.dir))}", *assigned, script))
