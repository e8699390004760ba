"""Zarr's libraries, reading and writing through the path of a mounted store; values compared with numpy."""

from __future__ import annotations

import json
import sys

import pytest
from tools.bench import STABLE, Bench

pytestmark = pytest.mark.parametrize("site", STABLE, indirect=True, scope="session")

VALUES = """
import numpy as np
VALUES = np.arange(60 * 50, dtype='f4').reshape(60, 50) / 7
VALUES[20:40, 10:30] = 0  # some chunks hold nothing but the fill value
"""

ZARR = (
    VALUES
    + """
import zarr, zarr.codecs as c, numcodecs
CODECS = {
    'none': dict(zarr_format=3, compressors=None),
    'blosc': dict(zarr_format=3, compressors=c.BloscCodec(cname='lz4', shuffle='bitshuffle')),
    'zstd': dict(zarr_format=3, compressors=c.ZstdCodec(level=3, checksum=True)),
    'gzip': dict(zarr_format=3, compressors=c.GzipCodec(level=5)),
    'sharded': dict(zarr_format=3, shards=(20, 20)),
    'sharded-zstd': dict(zarr_format=3, shards=(20, 20), compressors=c.ZstdCodec()),
    'v2-none': dict(zarr_format=2, compressors=None),
    'v2-blosc': dict(zarr_format=2, compressors=numcodecs.Blosc('zstd', 5)),
    'v2-zstd': dict(zarr_format=2, compressors=numcodecs.Zstd(3)),
    'v2-gzip': dict(zarr_format=2, compressors=numcodecs.GZip(5)),
    'v2-dots': dict(zarr_format=2, chunk_key_encoding={'name': 'v2', 'separator': '/'}),
}

def make(codec, where, **changes):
    settings = dict(shape=VALUES.shape, chunks=(10, 10), dtype='f4', fill_value=0) | CODECS[codec] | changes
    return zarr.create_array(where, **settings)
"""
)

# -- zarr-python -----------------------------------------------------------------------------------


def test_zarr_writes_rewrites_and_reads_arrays(bench: Bench) -> None:
    bench.python(ZARR, "for codec in CODECS: make(codec, codec)[:] = VALUES")
    bench.python(
        ZARR,
        """
        for codec in CODECS:
            array = zarr.open_array(codec, mode='r+')
            np.testing.assert_array_equal(array[:], VALUES, err_msg=codec)
            array[5:15, 3:33] = -1
        """,
    )
    bench.python(
        ZARR,
        """
        VALUES[5:15, 3:33] = -1
        for codec in CODECS:
            array = zarr.open_array(codec, mode='r')
            np.testing.assert_array_equal(array[:], VALUES, err_msg=codec)
            np.testing.assert_array_equal(array[7:52:3, 11], VALUES[7:52:3, 11], err_msg=codec)
        """,
    )


def test_zarr_appends_and_resizes(bench: Bench) -> None:
    bench.python(
        ZARR,
        """
        for codec in ('blosc', 'sharded', 'v2-blosc'):
            array = make(codec, codec)
            array[:] = VALUES
            array.append(VALUES[:25])
            array.resize((70, 30))
        """,
    )
    left_over = bench.python(
        ZARR,
        """
        expected = np.concatenate([VALUES, VALUES[:25]])[:70, :30]
        for codec in ('blosc', 'sharded', 'v2-blosc'):
            np.testing.assert_array_equal(zarr.open_array(codec, mode='r')[:], expected, err_msg=codec)
        result = [str(path) for path in Path('.').rglob('*.partial')]
        """,
    )
    assert left_over == []


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_makes_lists_and_deletes_groups(bench: Bench, zarr_format: int) -> None:
    bench.python(
        ZARR,
        """
        root = zarr.open_group('g', mode='w', zarr_format=FORMAT, attributes={'title': 'a title'})
        for name in ('a/b/c', 'a/d', 'e'):
            group = root.create_group(name, attributes={'name': name})
            group.create_array('x', data=VALUES, chunks=(30, 30))
        root.attrs['later'] = [1, 2]
        del root['a/b']
        del root['e/x']
        """,
        FORMAT=zarr_format,
    )
    told = bench.python(
        ZARR,
        """
        root = zarr.open_group('g', mode='r')
        result = [sorted(name for name, _ in root.members(max_depth=None)), dict(root.attrs)]
        np.testing.assert_array_equal(root['a/d/x'][:], VALUES)
        """,
    )
    assert told == [["a", "a/d", "a/d/x", "e"], {"title": "a title", "later": [1, 2]}]
    assert "No such file" in bench.fails("ls g/a/b")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_consolidates(bench: Bench, zarr_format: int) -> None:
    bench.python(
        ZARR,
        """
        root = zarr.open_group('g', mode='w', zarr_format=FORMAT)
        root.create_group('a').create_array('x', data=VALUES, chunks=(30, 30))
        zarr.consolidate_metadata('g', zarr_format=FORMAT)
        """,
        FORMAT=zarr_format,
    )
    bench.python(
        ZARR,
        """
        root = zarr.open_consolidated('g', zarr_format=FORMAT)
        assert root.metadata.consolidated_metadata is not None
        np.testing.assert_array_equal(root['a/x'][:], VALUES)
        """,
        FORMAT=zarr_format,
    )


def test_zarr_opens_in_every_mode(bench: Bench) -> None:
    bench.python(
        ZARR,
        """
        zarr.open_array('x', mode='w-', shape=(4,), chunks=(2,), dtype='i4')[:] = 1
        try:
            zarr.open_array('x', mode='w-', shape=(4,), chunks=(2,), dtype='i4')
        except FileExistsError:
            pass
        else:
            raise AssertionError('it replaced what was there')
        zarr.open_array('x', mode='a')[0] = 2
        zarr.open_array('x', mode='r+')[1] = 3
        assert zarr.open_array('x', mode='r')[:].tolist() == [2, 3, 1, 1]
        zarr.open_array('x', mode='w', shape=(3,), chunks=(1,), dtype='i8')[1] = 5
        assert zarr.open_array('x', mode='r')[:].tolist() == [0, 5, 0]
        assert sorted(p.name for p in Path('x/c').iterdir()) == ['1']
        zarr.open_group('x', mode='w').create_array('y', data=VALUES)
        np.testing.assert_array_equal(zarr.open_group('x', mode='r')['y'][:], VALUES)
        """,
    )


def test_zarr_sets_only_what_does_not_exist(bench: Bench) -> None:
    told = bench.python(
        """
        import asyncio
        from zarr.core.buffer import default_buffer_prototype
        from zarr.storage import LocalStore

        buffer = default_buffer_prototype().buffer.from_bytes

        async def main():
            store = await LocalStore.open('s')
            await asyncio.gather(*(store.set_if_not_exists('a/b', buffer(b'%d' % i)) for i in range(20)))
            first = (await store.get('a/b')).to_bytes()
            await store.set_if_not_exists('a/b', buffer(b'late'))
            await store.set_if_not_exists('c', buffer(b'only'))
            keys = sorted([key async for key in store.list()])
            return first.decode(), (await store.get('a/b')).to_bytes().decode(), keys

        result = asyncio.run(main())
        """
    )
    first, after, keys = told
    assert first == after
    assert first in {str(number) for number in range(20)}
    assert keys == ["a/b", "c"]


def test_zarr_writes_and_reads_many_chunks_at_once(bench: Bench) -> None:
    bench.python(
        """
        import numpy as np, zarr
        zarr.config.set({'async.concurrency': 64})
        values = np.random.default_rng(7).integers(0, 1000, (200, 100))
        array = zarr.create_array('x', shape=values.shape, chunks=(10, 10), dtype='i8')
        array[:] = values
        np.testing.assert_array_equal(array[:], values)
        array[5:195, 5:95] = values[5:195, 5:95] + 1
        values[5:195, 5:95] += 1
        np.testing.assert_array_equal(zarr.open_array('x', mode='r')[:], values)
        assert sum(p.is_file() for p in Path('x/c').rglob('*')) == 200
        """,
        timeout=120,
    )


def test_several_processes_write_chunks_of_one_array(bench: Bench) -> None:
    bench.python("import zarr\nzarr.create_array('x', shape=(8, 1000), chunks=(1, 100), dtype='i4')")
    bench.sh(
        """
        for i in 0 1 2 3 4 5 6 7; do
            "$python" -c "import zarr; zarr.open_array('x', mode='r+')[$i] = $i + 1" & pids="${pids-} $!"
        done
        for pid in $pids; do wait $pid; done
        """,
        python=sys.executable,
        timeout=120,
    )
    sums = bench.python("import zarr\nresult = zarr.open_array('x', mode='r')[:].sum(axis=1).tolist()")
    assert sums == [1000 * (i + 1) for i in range(8)]


# -- xarray ----------------------------------------------------------------------------------------

XARRAY = """
import numpy as np, xarray as xr

def dataset(first, last):
    time = np.arange(first, last)
    values = time[:, None, None] * 100.0 + np.arange(12).reshape(3, 4)
    return xr.Dataset(
        {'t': (('time', 'y', 'x'), values, {'units': 'K'}), 'mask': (('y', 'x'), values[0] > 5)},
        coords={'time': time, 'y': [3, 2, 1], 'x': [0.5, 1.5, 2.5, 3.5]},
        attrs={'title': 'a title'},
    )
"""


def test_xarray_writes_in_every_mode(bench: Bench) -> None:
    kinds = [(f"v{v}-{consolidated}", v, consolidated) for v in (2, 3) for consolidated in (False, True)]
    bench.python(
        XARRAY,
        """
        def write(path, **options):
            chunks = {'t': {'chunks': (2, 3, 2)}}
            dataset(0, 4).to_zarr(path, mode='w-', encoding=chunks, **options)
            try:
                dataset(0, 4).to_zarr(path, mode='w-', **options)
            except FileExistsError:
                pass
            else:
                raise AssertionError('it replaced what was there')
            dataset(0, 4).assign(gone=7).to_zarr(path, mode='w', encoding=chunks, **options)
            dataset(0, 6).to_zarr(path, mode='w', encoding=chunks, **options)
            dataset(6, 9).drop_vars('mask').to_zarr(path, append_dim='time', **options)
            part = dataset(0, 9)[['t']].isel(time=slice(2, 4)).drop_vars(['time', 'y', 'x'])
            (part + 0.5).to_zarr(path, region={'time': slice(2, 4)}, **options)
            more = xr.Dataset({'more': (('y',), [7, 8, 9])}, attrs={'title': 'another title'})
            more.to_zarr(path, mode='a', **options)

        for path, zarr_format, consolidated in KINDS:
            write(path, zarr_format=zarr_format, consolidated=consolidated)
        """,
        KINDS=kinds,
        timeout=120,
    )
    bench.python(
        XARRAY,
        """
        import json
        expected = dataset(0, 9).assign_attrs(title='another title')
        expected['t'][2:4] += 0.5
        expected['more'] = ('y', [7, 8, 9])
        for path, zarr_format, consolidated in KINDS:
            with xr.open_zarr(path, consolidated=consolidated, chunks=None) as found:
                xr.testing.assert_identical(found.load(), expected)
            metadata = json.loads(Path(path, 'zarr.json' if zarr_format == 3 else '.zgroup').read_text())
            assert metadata['zarr_format'] == zarr_format
            told = Path(path, '.zmetadata').exists() or 'consolidated_metadata' in metadata
            assert told == consolidated, path
        """,
        KINDS=kinds,
    )


# -- tensorstore -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["zarr2", "zarr3", "zarr3-sharded"])
def test_tensorstore_and_zarr_read_what_the_other_wrote(bench: Bench, layout: str) -> None:
    bench.python(
        VALUES,
        """
        import tensorstore as ts
        blosc = {'cname': 'zstd', 'clevel': 3, 'shuffle': 'shuffle', 'typesize': 4}
        if LAYOUT == 'zarr2':
            driver = 'zarr'
            metadata = {'shape': [60, 50], 'chunks': [10, 10], 'dtype': '<f4',
                        'compressor': {'id': 'blosc', 'cname': 'zstd', 'clevel': 3, 'shuffle': 1}}
        else:
            driver = 'zarr3'
            inner = [{'name': 'bytes', 'configuration': {'endian': 'little'}},
                     {'name': 'blosc', 'configuration': blosc | {'blocksize': 0}}]
            chunk, codecs = [10, 10], inner
            if LAYOUT == 'zarr3-sharded':
                sharding = {'chunk_shape': [10, 10], 'codecs': inner}
                chunk, codecs = [20, 20], [{'name': 'sharding_indexed', 'configuration': sharding}]
            metadata = {'shape': [60, 50], 'data_type': 'float32', 'codecs': codecs,
                        'chunk_grid': {'name': 'regular', 'configuration': {'chunk_shape': chunk}}}
        kvstore = {'driver': 'file', 'path': str(Path('x').absolute())}
        spec = {'driver': driver, 'kvstore': kvstore}
        array = ts.open(spec | {'metadata': metadata, 'create': True, 'delete_existing': True}).result()
        array.write(VALUES).result()
        with ts.Transaction() as transaction:
            array.with_transaction(transaction)[5:15, 3:33] = -1
        VALUES[5:15, 3:33] = -1
        np.testing.assert_array_equal(ts.open(spec).result().read().result(), VALUES)

        import zarr
        array = zarr.open_array('x', mode='r+')
        np.testing.assert_array_equal(array[:], VALUES)
        array[40:45] = 9
        VALUES[40:45] = 9
        np.testing.assert_array_equal(ts.open(spec, read=True).result().read().result(), VALUES)
        array = ts.open(spec, read=True, write=True).result().resize(exclusive_max=[80, 50]).result()
        array[60:80] = 3
        np.testing.assert_array_equal(zarr.open_array('x', mode='r')[60:], np.full((20, 50), 3))
        assert not [p for p in Path('x').rglob('*') if p.name.endswith('.__lock')]
        """,
        LAYOUT=layout,
        timeout=120,
    )


# -- GDAL ------------------------------------------------------------------------------------------


def test_gdal_translates_to_zarr_and_back(bench: Bench) -> None:
    bench.python(
        """
        import numpy as np
        values = (np.arange(64 * 48).reshape(64, 48) % 251).astype('u1')
        Path('in.pgm').write_bytes(b'P5\\n48 64\\n255\\n' + values.tobytes())
        """
    )
    bench.sh(
        """
        gdal_translate -q -of GTiff -co TILED=YES -co BLOCKXSIZE=16 -co BLOCKYSIZE=16 in.pgm in.tif
        gdal_translate -q -of Zarr -co COMPRESS=ZLIB -co BLOCKSIZE=16,16 in.tif out.zarr
        gdal_translate -q -of PNM out.zarr out.pgm
        gdalinfo -checksum in.pgm | grep Checksum > in.sum
        gdalinfo -checksum out.zarr | grep Checksum | diff - in.sum
        """
    )
    told = json.loads(bench.sh("gdalinfo -json out.zarr"))
    assert (told["driverShortName"], told["size"], told["bands"][0]["block"]) == ("Zarr", [48, 64], [16, 16])
    bench.python(
        """
        import numpy as np, zarr
        values = (np.arange(64 * 48).reshape(64, 48) % 251).astype('u1')
        group = zarr.open_group('out.zarr', mode='r', zarr_format=2)
        np.testing.assert_array_equal(group['out'][:], values)
        assert Path('out.pgm').read_bytes().endswith(values.tobytes())
        """
    )


def test_gdal_reads_what_zarr_wrote(bench: Bench) -> None:
    codecs = ["v2-none", "v2-blosc", "v2-zstd", "v2-gzip"]
    bench.python(ZARR, "for codec in WANTED: make(codec, codec)[:] = VALUES", WANTED=codecs)
    bench.sh(
        "for codec in $codecs; do gdal_translate -q -of ENVI $codec $codec.flat; done",
        codecs=" ".join(codecs),
    )
    bench.python(
        VALUES,
        """
        for codec in WANTED:
            found = np.fromfile(codec + '.flat', '<f4').reshape(60, 50)
            np.testing.assert_array_equal(found, VALUES, err_msg=codec)
        """,
        WANTED=codecs,
    )
