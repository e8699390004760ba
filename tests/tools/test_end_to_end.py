"""The whole promise: real data in every kind of store, mounted, read, copied to every kind, and equal.

``ZARRMOUNT_TEST_DATA`` may name netCDF files, separated by colons, to be used beside the sample.
"""

from __future__ import annotations

import json
import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from mount.harness import Mounted, mounted
from mount.places import s3_options
from servers import S3Server
from tools.bench import STABLE

pytestmark = [
    pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part"),
    # What zarr-python does to a zip when it sets a key again; the last entry counts.
    pytest.mark.filterwarnings("ignore:Duplicate name"),
]

SAMPLE = Path(__file__).parent.parent.parent / "examples" / "era-interim.zarr.zip"


@dataclass(frozen=True)
class Where:
    """A store: how zarr-python opens it directly, and how it is mounted."""

    location: str
    options: tuple[str, ...]
    store: Callable[[str], Any]


@pytest.fixture(scope="module")
def where(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Where]:
    """A function that gives a place for a new store of a kind."""

    def make(kind: str) -> Where:
        if kind == "s3":
            url = f"s3://{s3_server.create()}/data/era.zarr"
            return Where(url, s3_options(s3_server), lambda _: _s3_store(s3_server, url))
        path = tmp_path_factory.mktemp(kind) / ("era.zarr.zip" if kind == "zip" else "era.zarr")
        if kind == "zip":
            return Where(str(path), ("--create",), lambda mode: zarr.storage.ZipStore(path, mode=mode))
        return Where(str(path), ("--create",), lambda mode: zarr.storage.LocalStore(path))

    return make


def _s3_store(server: S3Server, url: str) -> Any:
    import obstore.store

    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    store = obstore.store.S3Store(
        bucket,
        prefix=prefix,
        endpoint=server.endpoint,
        access_key_id=server.key,
        secret_access_key=server.secret,
        region=server.region,
        client_options={"allow_http": True},
        virtual_hosted_style_request=False,
    )
    return zarr.storage.ObjectStore(store)


# -- the data --------------------------------------------------------------------------------------


def sample() -> xr.Dataset:
    """The sample that comes with the project."""
    with zarr.storage.ZipStore(SAMPLE, mode="r") as store, xr.open_zarr(store, chunks=None) as dataset:
        return _as_packed(dataset.load())


def reanalysis() -> xr.Dataset:
    """A made-up month of a reanalysis, packed as such data are: scaled 16-bit integers, coordinates."""
    random = np.random.default_rng(42)
    latitude = np.linspace(90, -90, 241, dtype="f4")
    longitude = np.linspace(-180, 180, 480, endpoint=False, dtype="f4")
    coordinates = {"month": [1, 7], "level": [200, 500, 850], "latitude": latitude, "longitude": longitude}
    waves = np.cos(np.radians(latitude))[:, None] * np.sin(np.radians(3 * longitude))[None]
    variables = {}
    for name, scale, offset in (("z", -1.7, 66825.5), ("u", 0.0025, 20.0), ("v", 0.0013, 0.0)):
        steps = waves * 20_000 + random.integers(-500, 500, (2, 3, 241, 480))
        encoding = {"dtype": "int16", "scale_factor": scale, "add_offset": offset, "_FillValue": -32767}
        values = np.round(steps) * scale + offset
        values[:, :, 100:110, 200:220] = np.nan
        attributes = {"units": "m s**-1", "long_name": f"made-up {name}"}
        variables[name] = xr.Variable(tuple(coordinates), values, attributes, encoding)
    return xr.Dataset(variables, coordinates, {"Conventions": "CF-1.0"})


def _from_file(path: str) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xr.SerializationWarning)  # it is the file that is odd
        with xr.open_dataset(path, decode_times=False) as dataset:
            return _as_packed(dataset.load())


def _as_packed(dataset: xr.Dataset) -> xr.Dataset:
    """Keep of the encoding what the values need, and let go of how they were stored."""
    for variable in dataset.variables.values():
        kept = ("dtype", "scale_factor", "add_offset", "_FillValue", "missing_value")
        variable.encoding = {key: value for key, value in variable.encoding.items() if key in kept}
    return dataset


DATA: dict[str, Callable[[], xr.Dataset]] = {"sample": sample, "reanalysis": reanalysis}
for _path in filter(None, os.environ.get("ZARRMOUNT_TEST_DATA", "").split(":")):
    DATA[Path(_path).stem] = lambda path=_path: _from_file(path)


@dataclass(frozen=True)
class Written:
    """All data, each in a group of its own, in a store to which they were written without any mount."""

    where: Where
    zarr_format: int
    expected: dict[str, xr.Dataset]


@pytest.fixture(scope="module")
def data() -> dict[str, xr.Dataset]:
    """The data, decoded, as they were before they were in any store of this test."""
    return {name: load() for name, load in DATA.items()}


@pytest.fixture(scope="module", params=[2, 3])
def zarr_format(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module", params=STABLE)
def written(
    request: pytest.FixtureRequest,
    where: Callable[[str], Where],
    data: dict[str, xr.Dataset],
    zarr_format: int,
) -> Written:
    """The data as a Zarr store of each kind and format."""
    place = where(request.param)
    store = place.store("w")
    for group, dataset in data.items():
        encoding = {name: {"chunks": _chunks(v.shape)} for name, v in dataset.variables.items() if v.ndim > 1}
        dataset.to_zarr(store, group=group, zarr_format=zarr_format, consolidated=True, encoding=encoding)
    store.close()
    expected = _read(place)
    # Packing rounds: what the store itself gives is what the mount must give, to the last bit.
    for group, dataset in data.items():
        for name, variable in dataset.variables.items():
            scale = variable.encoding.get("scale_factor")
            tolerance = abs(scale) * 0.51 if scale else 0.0
            found = expected[group][name].values
            np.testing.assert_allclose(found, variable.values, rtol=0, atol=tolerance)
    return Written(place, zarr_format, expected)


def _chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if i < len(shape) - 2 else -(-size // 3) for i, size in enumerate(shape))


def _read(where: Where) -> dict[str, xr.Dataset]:
    """Read a store without any mount."""
    store = where.store("r")
    found = {}
    for group in DATA:
        with xr.open_zarr(store, group=group, consolidated=True, chunks=None) as dataset:
            found[group] = dataset.load()
    store.close()
    return found


def _assert_identical(found: dict[str, xr.Dataset], expected: dict[str, xr.Dataset]) -> None:
    assert found.keys() == expected.keys()
    for group, dataset in expected.items():
        xr.testing.assert_identical(found[group], dataset)


# -- the tests -------------------------------------------------------------------------------------


@contextmanager
def open_mount(where: Where, directory: Path) -> Iterator[Mounted]:
    """Mount a store somewhere."""
    directory.mkdir()
    with mounted(where.location, directory, *where.options) as mount:
        yield mount


READ = """
import pickle, xarray as xr
for path, consolidated, saved in WANTED:
    read = {}
    for group in GROUPS:
        with xr.open_zarr(path, group=group, consolidated=consolidated, chunks=None) as found:
            read[group] = found.load()
    Path(saved).write_bytes(pickle.dumps(read))
"""


def read_mounted(directory: Path, *wanted: tuple[Mounted, bool]) -> list[dict[str, xr.Dataset]]:
    """Read mounted stores with xarray, by their consolidated metadata or not, in a process of its own."""
    saved = [directory / f"saved-{number}" for number in range(len(wanted))]
    jobs = [
        (str(mount.path), consolidated, str(path))
        for (mount, consolidated), path in zip(wanted, saved, strict=True)
    ]
    wanted[0][0].python(READ, WANTED=jobs, GROUPS=list(DATA), timeout=120)
    return [pickle.loads(path.read_bytes()) for path in saved]


def test_data_are_equal_wherever_they_are_mounted_and_copied(
    written: Written, where: Callable[[str], Where], tmp_path: Path
) -> None:
    targets = {kind: where(kind) for kind in STABLE}
    with ExitStack() as stack:
        source = stack.enter_context(open_mount(written.where, tmp_path / "source"))
        for found in read_mounted(tmp_path, (source, True), (source, False)):
            _assert_identical(found, written.expected)
        if written.zarr_format == 2:
            for group, expected in written.expected.items():
                _check_with_gdal(source, source.path / group, expected, tmp_path / f"{group}.nc")
        copies = [stack.enter_context(open_mount(targets[kind], tmp_path / kind)) for kind in STABLE]
        for copy in copies:
            source.sh(f"cp -r . {copy.path}/; diff -r . {copy.path}", timeout=120)
        for found in read_mounted(tmp_path, *((copy, True) for copy in copies)):
            _assert_identical(found, written.expected)
    for where_copied in targets.values():
        _assert_identical(_read(where_copied), written.expected)
    _assert_identical(_read(written.where), written.expected)


def _check_with_gdal(mount: Mounted, path: Path, expected: xr.Dataset, converted: Path) -> None:
    """Look at the fields with GDAL, let it convert all to netCDF, and compare that."""
    for name, variable in expected.data_vars.items():
        first = ":0" * (variable.ndim - 2)
        told = json.loads(mount.run("gdalinfo", "-json", f'ZARR:"{path}":/{name}{first}').stdout)
        assert told["driverShortName"] == "Zarr"
        assert told["size"] == [*reversed(variable.shape[-2:])]
    mount.run("gdalmdimtranslate", "-q", "-of", "netCDF", path, converted, timeout=120)
    with xr.open_dataset(converted, decode_times=False) as found:
        for name, variable in expected.variables.items():
            np.testing.assert_array_equal(found[name].values, variable.values, err_msg=str(name))
