"""Codecs of Zarr v2 and v3 as their metadata gives them, readable, and sorted into their three places."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from zarrmount.zarr.errors import MetadataError

__all__ = ["Codec", "Pipeline", "parse_v2", "parse_v3"]

_MAX_CODECS = 100
_MAX_VALUE_TEXT = 60

_NAMES = {
    # v3, as the classes of zarr-python are called
    "bytes": "BytesCodec",
    "endian": "BytesCodec",
    "transpose": "TransposeCodec",
    "sharding_indexed": "ShardingCodec",
    "vlen-utf8": "VLenUTF8Codec",
    "vlen-bytes": "VLenBytesCodec",
    "blosc": "BloscCodec",
    "gzip": "GzipCodec",
    "zstd": "ZstdCodec",
    "crc32c": "Crc32cCodec",
}
_V2_NAMES = {
    # v2, as the classes of numcodecs are called
    "adler32": "Adler32",
    "astype": "AsType",
    "base64": "Base64",
    "bitround": "BitRound",
    "blosc": "Blosc",
    "bz2": "BZ2",
    "categorize": "Categorize",
    "crc32": "CRC32",
    "crc32c": "CRC32C",
    "delta": "Delta",
    "fixedscaleoffset": "FixedScaleOffset",
    "fletcher32": "Fletcher32",
    "gzip": "GZip",
    "jenkins_lookup3": "JenkinsLookup3",
    "json2": "JSON",
    "lz4": "LZ4",
    "lzma": "LZMA",
    "msgpack2": "MsgPack",
    "packbits": "PackBits",
    "pcodec": "PCodec",
    "pickle": "Pickle",
    "quantize": "Quantize",
    "shuffle": "Shuffle",
    "vlen-array": "VLenArray",
    "vlen-bytes": "VLenBytes",
    "vlen-utf8": "VLenUTF8",
    "zfpy": "ZFPY",
    "zlib": "Zlib",
    "zstd": "Zstd",
}
_BLOSC_SHUFFLES = {-1: "AUTOSHUFFLE", 0: "NOSHUFFLE", 1: "SHUFFLE", 2: "BITSHUFFLE"}
_ARRAY_TO_BYTES = frozenset(
    {
        "bytes",
        "endian",
        "sharding_indexed",
        "vlen-utf8",
        "vlen-bytes",
        "vlen-array",
        "numcodecs.pcodec",
        "numcodecs.zfpy",
        "zfp",
        "pcodec",
        "packbits",
    }
)
_ARRAY_TO_ARRAY = frozenset(
    {
        "transpose",
        "bitround",
        "cast_value",
        "scale_offset",
        "reshape",
        "numcodecs.astype",
        "numcodecs.bitround",
        "numcodecs.delta",
        "numcodecs.fixedscaleoffset",
        "numcodecs.packbits",
        "numcodecs.quantize",
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class Codec:
    """One codec; ``str`` of it reads like the codec's own repr.

    Attributes
    ----------
    name : str
        Its ``name`` (v3) or ``id`` (v2).
    configuration : mapping
        Its settings as they stand in the metadata.
    zarr_format : int
        2 or 3: the same codec is called differently.
    """

    name: str
    configuration: Mapping[str, object] = dataclasses.field(default_factory=dict, hash=False)
    zarr_format: int = 3

    def __str__(self) -> str:
        names = _NAMES if self.zarr_format == 3 else _V2_NAMES
        settings = dict(self.configuration)
        if self.zarr_format == 2 and settings.get("astype", ...) == settings.get("dtype"):
            settings.pop("astype", None)
        texts = [f"{key}={self._value(key, value)}" for key, value in settings.items()]
        return f"{names.get(self.name, self.name)}({', '.join(texts)})"

    def _value(self, key: str, value: object) -> str:
        if self.zarr_format == 2 and key == "shuffle" and type(value) is int:
            return _BLOSC_SHUFFLES.get(value, str(value))
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict) for v in value)):
            return "..."
        text = repr(tuple(value) if isinstance(value, list) else value)
        return text if len(text) <= _MAX_VALUE_TEXT else f"{text[: _MAX_VALUE_TEXT - 3]}..."


@dataclasses.dataclass(frozen=True, slots=True)
class Pipeline:
    """Codecs in the order in which they encode: array to array, array to bytes, bytes to bytes."""

    filters: tuple[Codec, ...] = ()
    serializer: Codec | None = None
    compressors: tuple[Codec, ...] = ()


def parse_v2(filters: object, compressor: object) -> Pipeline:
    """Parse ``filters`` and ``compressor`` of a ``.zarray``; both may be null."""
    listed = [] if filters is None else filters
    if not isinstance(listed, list) or len(listed) > _MAX_CODECS:
        raise MetadataError("the filters are no list of codecs")
    found = tuple(_codec_v2(raw) for raw in listed)
    return Pipeline(found, None, () if compressor is None else (_codec_v2(compressor),))


def _codec_v2(raw: object) -> Codec:
    if not isinstance(raw, dict) or not isinstance(raw.get("id"), str):
        raise MetadataError("a codec has no id")
    return Codec(raw["id"], {key: value for key, value in raw.items() if key != "id"}, 2)


def parse_v3(raw: object) -> Pipeline:
    """Parse the ``codecs`` of a ``zarr.json``, or those inside a shard."""
    if not isinstance(raw, list) or not 0 < len(raw) <= _MAX_CODECS:
        raise MetadataError("the codecs are no list of codecs")
    codecs = tuple(_codec_v3(item) for item in raw)
    middle = _serializer_index(codecs)
    return Pipeline(codecs[:middle], codecs[middle], codecs[middle + 1 :])


def _codec_v3(raw: object) -> Codec:
    if isinstance(raw, str) and raw:
        return Codec(raw)
    if isinstance(raw, dict) and isinstance(raw.get("name"), str):
        configuration = raw.get("configuration", {})
        if isinstance(configuration, dict):
            return Codec(raw["name"], configuration)
    raise MetadataError("a codec has no name")


def _serializer_index(codecs: Sequence[Codec]) -> int:
    """Find the one codec that turns an array into bytes: an unknown one stands behind the known filters."""
    for index, codec in enumerate(codecs):
        if codec.name in _ARRAY_TO_BYTES:
            return index
    for index, codec in enumerate(codecs):
        if codec.name not in _ARRAY_TO_ARRAY:
            return index
    raise MetadataError("no codec turns the array into bytes")
