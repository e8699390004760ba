"""Which names are taken for temporary ones: those that programs really make, and no others."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import pytest

from zarrmount.temporary import TEMPORARY_KINDS, is_temporary

MADE = {
    "zarr-python": f"0.{uuid.uuid4().hex}.partial",
    "tensorstore": "zarr.json.__lock",
    "rsync": ".zarr.json.aB3dE6",
    "GLib, GNOME": ".goutputstream-7XK2B1",
    "sed -i": "sedE3YEhh",
    "vim (it only tries whether it may)": "4913",
    "git": "tmp_obj_aB3dE6",
    "Python's tempfile": "tmpx3_kq9ab",
    "NCO and whoever writes NAME.tmp": "out.nc.pid1234.ncks.tmp",
    "downloads": "era5.zip.part",
}


@pytest.mark.parametrize("kind", TEMPORARY_KINDS)
def test_each_kind(kind: str) -> None:
    assert re.fullmatch(TEMPORARY_KINDS[kind], MADE[kind])
    assert is_temporary(MADE[kind])


@pytest.mark.parametrize(
    "name",
    [
        "zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata", "0.0.0", "0", "c", "README.md",
        ".hidden.config", ".zarr.backup", "sediments", "a.partial", "0.1234.partial", "data.tmpl", "template",
        "tmp", "tmp_results", "temperature", "a~", "write.lock", "partial", "x.parts",
    ],
)  # fmt: skip
def test_other_names(name: str) -> None:
    assert not is_temporary(name)


def test_the_document_lists_them() -> None:
    document = (Path(__file__).parents[2] / "docs/SEMANTICS.md").read_text()
    for kind, pattern in TEMPORARY_KINDS.items():
        escaped = pattern.replace("|", "\\|")
        assert f"| {kind} | `{escaped}` |" in document
