"""Every example of docs/SEMANTICS.md, run as it is written there, on every kind of store that it names.

An example is a fenced block.  The first word after the fence says how it is run: ``console``, by
``sh``, or ``pycon``, by Python.  The others say on which kinds of store it holds.  It begins in a
fresh directory of a mount of that kind; or, with the word ``unmounted``, in a directory with the
empty directories ``mnt`` and ``other``, and a new store at ``$STORE``.
"""

from __future__ import annotations

import dataclasses
import doctest
import os
import re
import select
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from mount.child import in_child
from mount.harness import clear, environment, is_mounted
from mount.places import Site, open_site
from servers import S3Server, free_port

DOCUMENT = Path(__file__).parents[2] / "docs/SEMANTICS.md"
SITES = {"local": "local", "zip": "zip", "object": "s3", "memory": "memory"}
"""The kinds of store that the document speaks of, and how places.py calls them."""

LANGUAGES = ("console", "pycon")
UNMOUNTED = "unmounted"
DEADLINE = 60.0
PROGRAMS = {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "LC_ALL": "C",
    "TZ": "UTC",
}

# -- the document ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """A fenced block; `number` counts those of one section, `line` is that of its fence."""

    section: str
    number: int
    line: int
    info: tuple[str, ...]
    text: str

    @property
    def language(self) -> str:
        return self.info[0] if self.info else ""

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(word for word in self.info[1:] if word != UNMOUNTED)

    @property
    def begins_unmounted(self) -> bool:
        return UNMOUNTED in self.info

    @property
    def name(self) -> str:
        return f"{re.sub('[^a-z0-9]+', '-', self.section.lower()).strip('-')}-{self.number}"


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """What a Markdown text has of examples, of calls (the first column of its tables) and of kinds."""

    examples: tuple[Example, ...]
    calls: tuple[str, ...]
    kinds: frozenset[str]

    @classmethod
    def of(cls, text: str) -> Document:
        tokens = MarkdownIt("commonmark").enable("table").parse(text)
        examples: list[Example] = []
        calls: list[str] = []
        section, counted, columns = "", Counter[str](), []
        for number, token in enumerate(tokens):
            following = tokens[number + 1].content if number + 1 < len(tokens) else ""
            if token.type == "heading_open":
                section = _plain(following)
            elif token.type == "fence":
                counted[section] += 1
                line = (token.map or [0])[0] + 1
                info = tuple(token.info.split())
                examples.append(Example(section, counted[section], line, info, token.content))
            elif token.type == "thead_open":
                columns = []
            elif token.type == "th_open":
                columns.append(_plain(following))
            elif token.type == "tr_open" and columns[:1] == ["call"]:
                calls.append(_plain(tokens[number + 2].content))
        named = re.findall(r"^- \*(\w+)\*", text, re.MULTILINE)
        return cls(tuple(examples), tuple(calls), frozenset(named))

    def problems(self) -> Iterator[str]:
        """Tell what keeps the examples from being a test of all that the document speaks of."""
        for example in self.examples:
            where = f"line {example.line}"
            if example.language not in LANGUAGES:
                yield f"{where}: an example begins with one of {', '.join(LANGUAGES)}"
            elif not example.kinds:
                yield f"{where}: it does not say on which kinds of store it holds"
            for kind in set(example.kinds) - SITES.keys():
                yield f"{where}: there is no kind {kind!r}"
            if example.language == "console":
                try:
                    commands(example.text)
                except ValueError as error:
                    yield f"{where}: {error}"
        for kind in sorted(self.kinds ^ SITES.keys()):
            yield f"the document and this test do not speak of the same kinds: {kind}"
        for kind in sorted(self.kinds - {kind for example in self.examples for kind in example.kinds}):
            yield f"no example is of the kind {kind}"
        if len(self.examples) < len(self.calls) or not self.calls:
            yield f"{len(self.examples)} examples are too few for {len(self.calls)} calls"
        for call in self.calls:
            covered = {kind for one in self.examples if one.section == call for kind in one.kinds}
            for kind in ("local", "zip", "object"):
                if kind not in covered:
                    yield f"{call}: no example of the kind {kind}"


def _plain(markdown: str) -> str:
    """Return the text of a heading or a cell, without the marks of code and links."""
    return re.sub(r"\[(.*)\]\(.*\)", r"\1", markdown).replace("`", "").replace("\\", "")


def commands(text: str) -> list[tuple[str, str]]:
    """Split a console's text into commands and what they are to print."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif not found:
            raise ValueError("it begins with something that is no command")
        elif line.startswith("> ") and not found[-1][1]:
            found[-1] = (f"{found[-1][0]}\n{line[2:]}", "")
        else:
            found[-1] = (found[-1][0], f"{found[-1][1]}{line}\n")
    if not found:
        raise ValueError("it is empty")
    return found


# -- running them ----------------------------------------------------------------------------------


class Shell:
    """One ``sh`` for the commands of an example."""

    _END = "\0end of the output\n"

    def __init__(self, directory: Path, variables: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["sh"],
            cwd=directory,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, command: str) -> str:
        """Return what a command prints; AssertionError if it does not end in time."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\000end of the output\\n'\n".encode())
        stdin.flush()
        printed, until = "", time.monotonic() + DEADLINE
        while not printed.endswith(self._END):
            ready, _, _ = select.select([stdout], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"it did not end within {DEADLINE:g} s: {command}\n{printed}"
            read = os.read(stdout.fileno(), 1 << 16).decode(errors="replace")
            assert read, f"the shell ended: {command}\n{printed}"
            printed += read
        return printed.removesuffix(self._END)

    def kill(self) -> None:
        """End it and whatever it started that has not left its session."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
        self._process.wait(10)


def run_console(example: Example, directory: Path, variables: Mapping[str, str]) -> None:
    checker = doctest.OutputChecker()
    shell = Shell(directory, {**variables, **PROGRAMS})
    try:
        for command, expected in commands(example.text):
            printed = shell.run(command)
            if printed and not printed.endswith("\n"):
                printed += "\n"
            assert checker.check_output(expected, printed, doctest.ELLIPSIS), (
                f"{DOCUMENT.name}:{example.line}\n$ {command}\n"
                f"--- it says\n{expected}--- it printed\n{printed}"
            )
    finally:
        shell.kill()


def run_python(example: Example, directory: Path) -> None:
    said: list[str] = []

    def work() -> None:
        os.chdir(directory)
        test = doctest.DocTestParser().get_doctest(
            example.text, {}, example.name, DOCUMENT.name, example.line
        )
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        runner.run(test, out=said.append)
        os.chdir("/")
        assert runner.summarize(verbose=False).failed == 0, "".join(said)

    in_child(work, DEADLINE)


# -- where they run --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site_of(
    tmp_path_factory: pytest.TempPathFactory, s3_server: Callable[[], S3Server]
) -> Iterator[Callable[[str], Site]]:
    """A function that gives the one mount of a kind of store that examples share."""
    with ExitStack() as stack:

        @cache
        def open_once(kind: str) -> Site:
            return stack.enter_context(open_site(SITES[kind], tmp_path_factory.mktemp(kind), s3_server))

        yield open_once


@contextmanager
def shared_mount(example: Example, site: Site) -> Iterator[tuple[Path, Mapping[str, str]]]:
    assert site.mount is not None
    directory = site.root / example.name
    logged = len(site.mount.read_log())
    in_child(directory.mkdir)
    yield directory, site.mount.environment
    said = site.mount.read_log()[logged:]
    assert is_mounted(site.root), said
    assert "a fault in zarrmount" not in said, said


@contextmanager
def nothing_mounted(
    kind: str, directory: Path, s3_server: Callable[[], S3Server]
) -> Iterator[tuple[Path, Mapping[str, str]]]:
    mountpoints = [directory / "mnt", directory / "other"]
    for path in mountpoints:
        path.mkdir()
    try:
        store = new_store(kind, directory, s3_server)
        yield directory, environment(directory) | store | {"PORT": str(free_port())}
    finally:
        for path in mountpoints:
            clear(path)


def new_store(kind: str, directory: Path, s3_server: Callable[[], S3Server]) -> dict[str, str]:
    """Make an empty store, and return the variables that tell programs where it is."""
    if kind == "local":
        (directory / "store.zarr").mkdir()
        return {"STORE": "store.zarr"}
    if kind == "zip":
        zipfile.ZipFile(directory / "store.zarr.zip", "w").close()
        return {"STORE": "store.zarr.zip"}
    if kind == "memory":
        return {"STORE": "memory://store.zarr"}
    server = s3_server()
    bucket = server.create()
    return {
        "STORE": f"s3://{bucket}/store.zarr",
        "BUCKET": bucket,
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": server.key,
        "AWS_SECRET_ACCESS_KEY": server.secret,
        "AWS_DEFAULT_REGION": server.region,
    }


# -- the tests -------------------------------------------------------------------------------------

TEXT = DOCUMENT.read_text()
RUNS = [(example, kind) for example in Document.of(TEXT).examples for kind in example.kinds if kind in SITES]


@pytest.mark.parametrize(("example", "kind"), RUNS, ids=[f"{example.name}-{kind}" for example, kind in RUNS])
def test_example(
    example: Example,
    kind: str,
    tmp_path: Path,
    site_of: Callable[[str], Site],
    s3_server: Callable[[], S3Server],
) -> None:
    with ExitStack() as stack:
        if example.begins_unmounted:
            place = nothing_mounted(kind, tmp_path, s3_server)
        else:
            place = shared_mount(example, site_of(kind))
        directory, variables = stack.enter_context(place)
        if example.language == "pycon":
            run_python(example, directory)
        else:
            run_console(example, directory, variables)


def test_every_example_is_run_and_every_call_has_one() -> None:
    assert list(Document.of(TEXT).problems()) == []


# -- that they can fail ----------------------------------------------------------------------------

EXAMPLE = "### mkdir\n\n```console local zip object memory\n$ mkdir a\n```\n"
COMPLETE = (
    "- *local*: a\n- *zip*: b\n- *object*: c\n- *memory*: d\n\n"
    "| call | local |\n| --- | --- |\n| [`mkdir`](#mkdir) | real |\n\n" + EXAMPLE
)


def test_a_document_may_be_without_problems() -> None:
    assert list(Document.of(COMPLETE).problems()) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("console local zip object memory", "console", "does not say on which kinds"),
        ("console local zip object memory", "console unmounted", "does not say on which kinds"),
        ("console local zip object memory", "", "begins with one of"),
        ("console local zip object memory", "sh local zip object memory", "begins with one of"),
        ("console local zip object memory", "console local zip object memory tape", "no kind 'tape'"),
        ("console local zip object memory", "console local zip object", "no example is of the kind memory"),
        (
            "console local zip object memory",
            "console local object memory",
            "mkdir: no example of the kind zip",
        ),
        ("- *memory*: d\n", "- *memory*: d\n- *tape*: e\n", "do not speak of the same kinds: tape"),
        ("- *memory*: d\n", "", "do not speak of the same kinds: memory"),
        ("| real |\n", "| real |\n| `rmdir` | real |\n", "1 examples are too few for 2 calls"),
        ("| [`mkdir`](#mkdir) | real |\n", "", "too few for 0 calls"),
        ("### mkdir", "### rmdir", "mkdir: no example of the kind local"),
        ("$ mkdir a", "mkdir a", "begins with something that is no command"),
        ("$ mkdir a\n", "", "it is empty"),
    ],
)
def test_an_incomplete_document_is_told(old: str, new: str, problem: str) -> None:
    assert COMPLETE.count(old) == 1
    assert any(problem in told for told in Document.of(COMPLETE.replace(old, new)).problems())


def _example(language: str, text: str) -> Example:
    return Example("a section", 1, 1, (language, "local"), text)


def test_commands_share_one_shell_and_may_be_continued(tmp_path: Path) -> None:
    text = "$ mkdir a; cd a; pwd\n.../a\n$ cat <<END\n> one\n> two\n> END\none\ntwo\n$ false; echo $?\n1\n"
    run_console(_example("console", text), tmp_path, os.environ)


@pytest.mark.parametrize(
    "text",
    [
        "$ echo one\ntwo\n",
        "$ echo one\n",
        "$ true\none\n",
        "$ printf 'one\\ntwo\\n'\none\n",
        "$ echo one >&2\n",
        "$ exit\n",
        "$ echo one\none\n$ echo two\n2\n",
    ],
)
def test_output_that_differs_fails(tmp_path: Path, text: str) -> None:
    with pytest.raises(AssertionError):
        run_console(_example("console", text), tmp_path, os.environ)


@pytest.mark.parametrize("text", [">>> 1 + 1\n3\n", ">>> 1 / 0\n", ">>> import os; os.getcwd()\n'/'\n"])
def test_python_that_differs_fails(tmp_path: Path, text: str) -> None:
    with pytest.raises(AssertionError):
        run_python(_example("pycon", text), tmp_path)
