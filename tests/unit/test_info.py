"""Info: the values of zarr-python's own ``.info`` and ``.tree()``, and what a mount cannot show."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import numcodecs
import numpy as np
import pytest
import zarr
from rich.console import Console

from stores.errors import Denied, NotFound, Unavailable
from stores.memory import MemoryStore
from stores.meta import Capabilities, ListPage
from zarrmount.info import collect, render, show
from zarrmount.zarr import hierarchy
from zarrmount.zarr.hierarchy import read_node, walk
from zarrmount.zarr.metadata import MetadataError

FORMATS = pytest.mark.parametrize("zarr_format", [2, 3])


def fill(zarr_format: Any, *, consolidated: bool = False) -> tuple[zarr.Group, dict[str, bytes]]:
    """Write a hierarchy with zarr-python, and give back its bytes too."""
    held: dict[str, Any] = {}
    store = zarr.storage.MemoryStore(held)
    top = zarr.create_group(store, zarr_format=zarr_format, attributes={"title": "x", "max": float("nan")})
    deep = top.create_group("sub").create_group("deep")
    top["sub"].create_group("empty")
    array = top.create_array("temp", shape=(10, 7), chunks=(4, 3), dtype="f4", fill_value=-1.5)
    array[:5, :5] = 1
    deep.create_array("n", shape=(3,), dtype="i8")[:] = 1
    deep.create_array("when", shape=(3,), dtype="M8[s]")
    if zarr_format == 3:
        shards = top.create_array("shards", shape=(10, 7), chunks=(4, 3), shards=(8, 6), dtype="<i2")
        shards[:] = np.arange(70).reshape(10, 7)
    else:
        top.create_array(
            "old", shape=(5,), chunks=(2,), dtype=">f8", order="F", filters=[numcodecs.Delta(">f8")]
        )[:3] = 1
    if consolidated:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(store)
    return zarr.open_group(store), {key: value.to_bytes() for key, value in held.items()}


def fields(text: object) -> dict[str, str]:
    return {
        label.strip(): value.strip()
        for label, mark, value in (line.partition(" : ") for line in str(text).splitlines())
        if mark
    }


def chunks_of(info: dict[str, str]) -> dict[str, str]:
    """Take off what we tell beyond the count: ``4 of 9``."""
    return {
        label: value.split(" of ")[0] if label.endswith("Initialized") else value
        for label, value in info.items()
    }


@FORMATS
async def test_arrays_as_zarr_tells_them(zarr_format: int) -> None:
    group, held = fill(zarr_format)
    store = MemoryStore(held)
    arrays = [path for path, node in group.members(max_depth=None) if isinstance(node, zarr.Array)]
    assert len(arrays) == 4
    for path in arrays:
        ours = fields(render(await collect(store, path)))
        theirs = fields(repr(group[path].info_complete()))
        # named as numpy names it, not by a class
        assert ours.pop("Data type") == str(group[path].dtype)
        del theirs["Data type"]
        if zarr_format == 3:  # their repr of an enumeration
            assert ours.pop("Serializer") == "BytesCodec(endian='little')"
            told = theirs.pop("Serializer")  # newer releases write it as plainly as we do
            assert told.replace("<Endian.little: 'little'>", "'little'") == "BytesCodec(endian='little')"
        assert ours.pop("Name") == f"/{path}"
        ours.pop("No. chunks", None)
        assert chunks_of(ours) == theirs


@FORMATS
async def test_chunks_initialized(zarr_format: int) -> None:
    _, held = fill(zarr_format)
    info = await collect(MemoryStore(held), "temp")
    assert (info["objects_initialized"], info["objects"], info["chunks"]) == (4, 9, 9)
    assert "Chunks Initialized : 4 of 9" in render(info)


async def test_shards_initialized() -> None:
    _, held = fill(3)
    info = await collect(MemoryStore(held), "shards")
    assert (info["objects_initialized"], info["objects"], info["chunks"]) == (4, 4, 9)
    assert "Shards Initialized : 4 of 4" in render(info)


@FORMATS
@pytest.mark.parametrize("consolidated", [False, True])
@pytest.mark.parametrize("path", ["", "sub", "sub/deep", "sub/empty"])
async def test_groups_as_zarr_tells_them(zarr_format: int, consolidated: bool, path: str) -> None:
    group, held = fill(zarr_format, consolidated=consolidated)
    node = group[path] if path else group
    ours = fields(render(await collect(MemoryStore(held), path)))
    assert ours.pop("Consolidated metadata") == str(consolidated and not path)
    assert ours.pop("Name") == f"/{path}"
    theirs = fields(repr(node.info_complete()))
    theirs.pop("Name", None)
    assert ours == theirs


@FORMATS
@pytest.mark.parametrize("consolidated", [False, True])
@pytest.mark.parametrize("path", ["", "sub"])
async def test_the_tree_as_zarr_draws_it(zarr_format: int, consolidated: bool, path: str) -> None:
    group, held = fill(zarr_format, consolidated=consolidated)
    info = await collect(MemoryStore(held), path)
    assert render(info, tree=True) == repr((group[path] if path else group).tree())


@FORMATS
async def test_it_is_json(zarr_format: int) -> None:
    _, held = fill(zarr_format)
    for path in ("", "temp", "sub"):
        info = await collect(MemoryStore(held), path)
        assert json.loads(json.dumps(info, allow_nan=False)) == info
    assert (await collect(MemoryStore(held)))["attributes"] == {"title": "x", "max": "NaN"}


class Watched(MemoryStore):
    """Counts what it is asked, and fails where it is told to."""

    def __init__(self, data: dict[str, bytes], failures: dict[str, Exception] | None = None) -> None:
        super().__init__(data)
        self.listed: list[str] = []
        self.got: list[str] = []
        self.failures = failures or {}

    async def _get_range(self, key: str, start: int, stop: int, if_version: str | None) -> bytes:
        self.got.append(key)
        if key in self.failures:
            raise self.failures[key]
        return await super()._get_range(key, start, stop, if_version)

    async def _list_dir(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        self.listed.append(prefix)
        async for page in super()._list_dir(prefix):
            yield page


@FORMATS
async def test_arrays_are_not_listed(zarr_format: int) -> None:
    _, held = fill(zarr_format)
    store = Watched(held)
    tree = await walk(store)
    assert sorted(store.listed) == ["", "sub", "sub/deep", "sub/empty"]
    assert tree.source == "listing"
    assert "sub/deep/n" in tree.nodes


@FORMATS
async def test_consolidated_metadata_costs_no_listing(zarr_format: int) -> None:
    _, held = fill(zarr_format, consolidated=True)
    store = Watched(held)
    info = await collect(store)
    assert store.listed == []
    assert len(store.got) == 5
    assert info["consolidated_metadata"] is True
    assert info["notes"] == []


class Unlistable(MemoryStore):
    capabilities = Capabilities(ranges=True, versions=True)


@FORMATS
async def test_a_store_that_cannot_list(zarr_format: int) -> None:
    _, held = fill(zarr_format, consolidated=True)
    store = Unlistable(held)
    assert (await collect(store))["arrays"] == 4
    below = await collect(store, "sub")  # known from the root
    assert [node["path"] for node in below["tree"]] == ["", "deep", "deep/n", "deep/when", "empty"]
    array = await collect(store, "temp")
    assert (array["bytes_stored"], array["objects_initialized"]) == (None, None)
    assert "cannot list" in array["notes"][0]


@FORMATS
async def test_a_store_that_cannot_list_without_consolidated_metadata(zarr_format: int) -> None:
    _, held = fill(zarr_format)
    info = await collect(Unlistable(held))
    assert info["members"] is None
    assert "cannot list" in info["notes"][0]
    assert "No. members" not in render(info)


async def test_a_store_that_is_no_zarr() -> None:
    info = await collect(MemoryStore({"a": b"1", "b": b"2", "d/e": b"3"}))
    assert (info["type"], info["keys"], info["prefixes"]) == (None, 2, 1)
    text = render(info, tree=True)
    assert text.startswith(
        "There is no Zarr group or array at memory://: 2 keys and 1 directory on its first"
    )
    assert render(await collect(MemoryStore({}))).startswith("There is no Zarr group or array")


async def test_what_is_not_there() -> None:
    _, held = fill(3)
    with pytest.raises(NotFound):
        await collect(MemoryStore(held), "nothing")
    with pytest.raises(NotFound):
        await walk(MemoryStore(held), "nothing")
    assert "single key" in render(await collect(MemoryStore(held), "temp/c/0/0"))


async def test_keys_that_cannot_be_shown() -> None:
    _, held = fill(3)
    held |= {"..": b"", "/x": b"", "sub/" + "n" * 256: b"", "temp": b"shadowed", "sub/deep/..": b""}
    info = await collect(MemoryStore(held))
    reasons = {found["key"]: found["reason"] for found in info["hidden_keys"]}
    assert set(reasons) == {"..", "/", "sub/" + "n" * 256, "temp", "sub/deep/.."}
    assert reasons["temp"] == "is also a directory: the directory is shown, the object is hidden"
    assert "means a directory" in reasons[".."]
    shown = render(info).partition("Keys that cannot be shown:\n")[2].splitlines()
    assert shown[0] == "  '..': the name '..' in it means a directory, not a file"
    assert shown[1] == "  '/': the name '' in it is empty"


async def test_keys_of_an_array_that_cannot_be_shown() -> None:
    _, held = fill(3)
    held |= {"temp/c/0": b"shadowed", "temp/a//b": b"", "temp/../x": b""}
    info = await collect(MemoryStore(held), "temp")
    assert {found["key"] for found in info["hidden_keys"]} == {"temp/c/0", "temp/a//b", "temp/../x"}
    assert info["objects_initialized"] == 4


async def test_hidden_keys_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hierarchy, "_MAX_HIDDEN", 3)
    _, held = fill(3)
    held |= {f"temp/{number}/..": b"" for number in range(10)}
    assert len((await collect(MemoryStore(held), "temp"))["hidden_keys"]) == 3


async def test_damaged_nodes_are_told_and_the_others_shown() -> None:
    _, held = fill(3)
    held["sub/zarr.json"] = b"{"
    info = await collect(Watched(held, {"shards/zarr.json": Denied("no right", key="shards/zarr.json")}))
    assert [node["path"] for node in info["tree"]] == ["", "temp"]
    assert len(info["notes"]) == 2
    assert any("not JSON" in note for note in info["notes"])
    assert any("no right" in note for note in info["notes"])
    with pytest.raises(MetadataError, match=r"sub/zarr\.json"):
        await collect(MemoryStore(held), "sub")


async def test_unreachable_is_not_missing() -> None:
    _, held = fill(3)
    with pytest.raises(Unavailable):
        await collect(Watched(held, {"temp/zarr.json": Unavailable("down")}))
    with pytest.raises(Unavailable):
        await collect(Watched(held, {"zarr.json": Unavailable("down")}))


@FORMATS
async def test_damaged_consolidated_metadata_is_told_and_the_store_listed(zarr_format: int) -> None:
    _, held = fill(zarr_format, consolidated=True)
    if zarr_format == 2:
        held[".zmetadata"] = b"[]"
    else:
        document = json.loads(held["zarr.json"])
        document["consolidated_metadata"]["metadata"]["temp"]["shape"] = "?"
        held["zarr.json"] = json.dumps(document).encode()
    info = await collect(MemoryStore(held))
    assert info["consolidated_metadata"] is False
    assert info["arrays"] == 4
    assert "cannot be used" in info["notes"][0]


async def test_hostile_names_in_consolidated_metadata() -> None:
    group = {"zarr_format": 3, "node_type": "group"}
    names = ["../up", "a//b", "x/y/z", "q\x1b[2J\nfake", "\ud800"]
    document = {**group, "consolidated_metadata": {"metadata": dict.fromkeys(names, group)}}
    info = await collect(MemoryStore({"zarr.json": json.dumps(document).encode()}))
    assert {found["key"] for found in info["hidden_keys"]} == {"../up", "a//b", "\ud800"}
    text = render(info, tree=True)
    assert text.splitlines()[:3] == ["/", "├── q\\x1b[2J\\nfake", "└── x/y/z"]
    text.encode()
    assert "\x1b" not in text


async def test_a_metadata_document_that_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hierarchy, "_FIRST_READ", 1000)
    monkeypatch.setattr(hierarchy, "MAX_METADATA_BYTES", 5000)
    group = b'{"zarr_format": 3, "node_type": "group"}'
    store = MemoryStore({"zarr.json": group + b" " * 3000, "big/zarr.json": group + b" " * 6000})
    assert await read_node(store) is not None
    with pytest.raises(MetadataError, match="larger"):
        await read_node(store, "big")


def test_it_runs_under_asyncio() -> None:
    _, held = fill(3)
    info = anyio.run(collect, MemoryStore(held), backend="asyncio")
    assert len(info["tree"]) == 8


async def test_a_walk_ends_at_its_limit() -> None:
    group = b'{"zarr_format": 3, "node_type": "group"}'
    held = {"zarr.json": group} | {f"g{number}/zarr.json": group for number in range(50)}
    info = await collect(MemoryStore(held), max_nodes=10)
    assert len(info["tree"]) <= 26  # one round of workers more at most
    assert "there are more than the 10 nodes that were looked at" in info["notes"]
    assert len((await collect(MemoryStore(held)))["tree"]) == 51


async def test_both_formats_at_one_place() -> None:
    _, held = fill(3)
    held |= {".zgroup": b'{"zarr_format": 2}'}
    assert (await collect(MemoryStore(held)))["zarr_format"] == 3


async def test_huge_numbers_are_written() -> None:
    document = {
        "zarr_format": 2, "shape": [2**63 - 1] * 20, "chunks": [2**63 - 1] * 20, "dtype": "<f8",
        "fill_value": 10**400, "order": "C", "filters": None, "compressor": None,
    }  # fmt: skip
    info = await collect(MemoryStore({".zarray": json.dumps(document).encode(), "x": b"1"}))
    assert "Chunks Initialized : 0 of 1" in render(info)


async def test_show() -> None:
    _, held = fill(3)
    info = await collect(MemoryStore(held))
    out = io.StringIO()
    show(info, Console(file=out, force_terminal=False, width=20), tree=True)
    assert out.getvalue() == render(info, tree=True)
    styled = io.StringIO()
    show(info, Console(file=styled, force_terminal=True, color_system="standard"))
    assert "\x1b[1mType" in styled.getvalue()
