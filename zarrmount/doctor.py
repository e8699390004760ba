"""Is FUSE usable here, which backends are there, and what to type where something is missing."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import importlib
import importlib.metadata
import os
import re
import shlex
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

__all__ = ["Finding", "Host", "check", "exit_status", "render"]

State = Literal["ok", "warning", "missing"]

_FILESYSTEM_TYPE = "fuse.zarrmount"
_ANSWER_SECONDS = 2.0
_CAP_SYS_ADMIN = 21
_IN_CONTAINER = "start the container with: --device /dev/fuse --cap-add SYS_ADMIN"
_APPARMOR = "(Docker with AppArmor: --security-opt apparmor:unconfined as well)"

_REQUIRED = ("anyio", "click", "fsspec", "numcodecs", "numpy", "obstore", "rich", "trio")
_OPTIONAL = {
    "zarr": ("zarr", "python: stores, and every store of ours as one of zarr-python's"),
    "s3fs": ("s3", "s3:// with --backend fsspec"),
    "gcsfs": ("gcs", "gs:// with --backend fsspec"),
    "adlfs": ("azure", "az:// and abfs:// with --backend fsspec"),
    "aiohttp": ("http", "http(s):// with --backend fsspec"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
        What.
    state : {"ok", "warning", "missing"}
        ``missing`` means that nothing can be mounted without it.
    detail : str
        What was found.
    remedy : str
        What to type, where there is something to mend.
    """

    name: str
    state: State
    detail: str
    remedy: str = ""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _libfuse_version() -> str | None:
    for name in ("libfuse3.so.4", "libfuse3.so.3"):
        try:
            function = ctypes.CDLL(name).fuse_pkgversion
        except (OSError, AttributeError):
            continue
        function.restype = ctypes.c_char_p
        return str(function().decode())
    return None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where to look; the defaults are this machine, tests give others."""

    root: Path = Path("/")
    uid: int = dataclasses.field(default_factory=os.geteuid)
    search_path: str = dataclasses.field(default_factory=lambda: os.environ.get("PATH", os.defpath))
    python: tuple[int, int, int] = sys.version_info[:3]
    version: Callable[[str], str | None] = _version
    libfuse_version: Callable[[], str | None] = _libfuse_version
    import_module: Callable[[str], object] = importlib.import_module
    probe: Callable[[str], object] = os.stat

    def read(self, path: str) -> str:
        """Return the text of a file below `root`; nothing where it cannot be read."""
        try:
            return (self.root / path.lstrip("/")).read_text(errors="surrogateescape")
        except OSError:
            return ""

    @property
    def is_container(self) -> bool:
        """Whether this looks like a container."""
        return any((self.root / path).exists() for path in (".dockerenv", "run/.containerenv"))

    def install(self, debian: str, fedora: str) -> str:
        """Say how to install packages of the distribution."""
        text = self.read("/etc/os-release")
        found = re.findall(r"^(?:ID|ID_LIKE)=[\"']?([^\"'\n]*)", text, re.MULTILINE)
        names = " ".join(found).split()
        apt, dnf = f"sudo apt-get install {debian}", f"sudo dnf install {fedora}"
        if "debian" in names or "ubuntu" in names:
            return apt
        if "fedora" in names or "rhel" in names:
            return dnf
        return (
            f"Debian, Ubuntu: {apt}; Fedora: {dnf}; elsewhere: the packages of these names, or nearly, "
            "with the system's own package manager"
        )


def check(host: Host | None = None) -> list[Finding]:
    """Look at everything that mounting needs, and at leftovers of earlier mounts."""
    host = host or Host()
    return [
        _device(host),
        _rights(host),
        _fusermount(host),
        _allow_other(host),
        _python(host),
        _pyfuse3(host),
        _libfuse(host),
        *(_required(host, name) for name in _REQUIRED),
        *(_optional(host, name) for name in _OPTIONAL),
        *_mounts(host),
    ]


def exit_status(findings: Iterable[Finding]) -> int:
    """Return 1 if mounting cannot work, else 0."""
    return int(any(finding.state == "missing" for finding in findings))


def render(findings: Iterable[Finding]) -> str:
    """Write one line for each finding, and below it what to type."""
    listed = list(findings)
    width = max((len(finding.name) for finding in listed), default=0)
    lines = []
    for finding in listed:
        lines.append(f"{finding.state:<8} {finding.name:<{width}}  {finding.detail}".rstrip())
        if finding.remedy:
            lines.append(f"{'':<8} {'':<{width}}  -> {finding.remedy}")
    usable = exit_status(listed) == 0
    lines.append("Stores can be mounted here." if usable else "Stores cannot be mounted here yet.")
    return "\n".join(lines) + "\n"


# -- the system ------------------------------------------------------------------------------------


def _device(host: Host) -> Finding:
    name = "FUSE device"
    device = host.root / "dev/fuse"
    try:
        mode = device.stat().st_mode
    except OSError:
        if host.is_container:
            return Finding(name, "missing", "/dev/fuse is not there", f"{_IN_CONTAINER} {_APPARMOR}")
        known = re.search(r"\bfuse$", host.read("/proc/filesystems"), re.MULTILINE)
        detail = "/dev/fuse is not there" + ("" if known else ", and the kernel has not loaded its module")
        remedy = "sudo mknod -m 666 /dev/fuse c 10 229" if known else "sudo modprobe fuse"
        return Finding(name, "missing", detail, remedy)
    if not stat.S_ISCHR(mode):
        return Finding(
            name,
            "missing",
            "/dev/fuse is no device",
            "sudo rm -r /dev/fuse && sudo modprobe -r fuse && sudo modprobe fuse",
        )
    if not os.access(device, os.R_OK | os.W_OK):
        return Finding(
            name, "missing", "/dev/fuse may not be read and written by this user", "sudo chmod 666 /dev/fuse"
        )
    return Finding(name, "ok", "/dev/fuse can be read and written")


def _rights(host: Host) -> Finding:
    """Root mounts by itself and needs the right to; others need a program that may become root."""
    name = "right to mount"
    status = dict(re.findall(r"^(\w+):\s*(\S+)", host.read("/proc/self/status"), re.MULTILINE))
    if host.uid == 0:
        rights = int(status.get("CapEff", "f" * 16), 16)
        if rights >> _CAP_SYS_ADMIN & 1:
            return Finding(name, "ok", "root")
        remedy = f"{_IN_CONTAINER} {_APPARMOR}"
        return Finding(name, "missing", "root without the capability SYS_ADMIN", remedy)
    if status.get("NoNewPrivs") == "1":
        detail = "this process may not gain rights (no_new_privs), and fusermount3 must"
        return Finding(
            name, "missing", detail, "run it without NoNewPrivileges= or --security-opt no-new-privileges"
        )
    return Finding(name, "ok", "by fusermount3")


def _fusermount(host: Host) -> Finding:
    name = "fusermount3"
    program = shutil.which(name, path=host.search_path)
    if program is None:
        # root mounts by itself; others need it
        state: State = "warning" if host.uid == 0 else "missing"
        return Finding(name, state, "is not on PATH", host.install("fuse3", "fuse3"))
    found = Path(program).stat()
    if host.uid != 0 and not (found.st_mode & stat.S_ISUID and found.st_uid == 0):
        detail = f"{program} is not setuid root: only root can mount with it"
        quoted = shlex.quote(program)
        return Finding(name, "missing", detail, f"sudo chown root {quoted} && sudo chmod u+s {quoted}")
    return Finding(name, "ok", program)


def _allow_other(host: Host) -> Finding:
    name = "--allow-other"
    if host.uid == 0:
        return Finding(name, "ok", "root needs no entry in /etc/fuse.conf")
    if re.search(r"^\s*user_allow_other\s*(#.*)?$", host.read("/etc/fuse.conf"), re.MULTILINE):
        return Finding(name, "ok", "user_allow_other is in /etc/fuse.conf")
    detail = "user_allow_other is not in /etc/fuse.conf; only --allow-other and --allow-root need it"
    return Finding(name, "warning", detail, "echo user_allow_other | sudo tee -a /etc/fuse.conf")


def _python(host: Host) -> Finding:
    text = ".".join(map(str, host.python))
    if host.python < (3, 11):
        remedy = host.install("python3.11 python3.11-venv", "python3.11")
        return Finding("Python", "missing", f"{text}; 3.11 or newer is needed", remedy)
    return Finding("Python", "ok", text)


# -- packages --------------------------------------------------------------------------------------


def _pyfuse3(host: Host) -> Finding:
    name = "pyfuse3"
    version = host.version(name)
    build = host.install(
        "fuse3 libfuse3-dev pkg-config gcc python3-dev", "fuse3 fuse3-devel pkgconf gcc python3-devel"
    )
    if version is None:
        return Finding(name, "missing", "is not installed", f"{build}; then: pip install pyfuse3")
    try:
        host.import_module(name)
    except ImportError as error:
        remedy = f"{build}; then: pip install --force-reinstall --no-cache-dir pyfuse3"
        return Finding(name, "missing", f"{version} cannot be imported: {error}", remedy)
    return Finding(name, "ok", version)


def _libfuse(host: Host) -> Finding:
    version = host.libfuse_version()
    if version is None:
        return Finding("libfuse3", "missing", "is not installed", host.install("fuse3", "fuse3-libs fuse3"))
    return Finding("libfuse3", "ok", version)


def _required(host: Host, name: str) -> Finding:
    version = host.version(name)
    if version is None:
        return Finding(name, "missing", "is not installed", "pip install --force-reinstall zarrmount")
    return Finding(name, "ok", version)


def _optional(host: Host, name: str) -> Finding:
    extra, use = _OPTIONAL[name]
    version = host.version(name)
    if version is None:
        return Finding(name, "warning", f"is not installed; for {use}", f"pip install 'zarrmount[{extra}]'")
    return Finding(name, "ok", version)


# -- mounts ----------------------------------------------------------------------------------------


def _mounts(host: Host) -> Iterator[Finding]:
    """Find mounts whose process is gone, or does not answer."""
    for path in _mount_points(host.read("/proc/self/mountinfo")):
        problem = _problem(path, host.probe)
        if problem is None:
            yield Finding("mount", "ok", path)
        else:
            lazy = "-u" if problem == "its process is gone" else "-uz"
            yield Finding("mount", "warning", f"{path}: {problem}", f"fusermount3 {lazy} {shlex.quote(path)}")


def _mount_points(mountinfo: str) -> Iterator[str]:
    for line in mountinfo.splitlines():
        before, mark, after = line.partition(" - ")
        fields = before.split(" ")
        if mark and len(fields) > 4 and after.split(" ")[0] == _FILESYSTEM_TYPE:
            # the kernel writes space, tab, newline and backslash as three octal digits
            yield re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])


def _problem(path: str, probe: Callable[[str], object]) -> str | None:
    """Say what is wrong with a mount; a hung one would hang whoever asks, so a thread asks."""
    answer: list[str | None] = []

    def ask() -> None:
        try:
            probe(path)
        except OSError as error:
            answer.append(
                "its process is gone" if error.errno == errno.ENOTCONN else error.strerror or str(error)
            )
        else:
            answer.append(None)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ANSWER_SECONDS)
    return answer[0] if answer else "it does not answer"
