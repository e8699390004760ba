"""Data types of Zarr v2 and v3, named as numpy names them, and their sizes; without numpy."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from typing import NamedTuple

from zarrmount.zarr.errors import MetadataError

__all__ = ["DataType", "fill_text", "parse_v2", "parse_v3"]

_MAX_ITEM_SIZE = 2**31 - 1  # numpy's own limit
_MAX_FIELDS = 10_000
_MAX_NESTING = 16
_MAX_DIMENSIONS = 64
_MAX_FILL_TEXT = 80
_NAT = -(2**63)

_V2 = re.compile(r"([<>|=])([biufcmMSUVO])(\d{0,10})(?:\[(\d{0,10})([A-Za-zμ]{1,7})\])?")
_KINDS = {"i": "int", "u": "uint", "f": "float", "c": "complex", "M": "datetime64", "m": "timedelta64"}
_SIZES = {
    "b": (1,),
    "i": (1, 2, 4, 8),
    "u": (1, 2, 4, 8),
    "f": (2, 4, 8, 12, 16),
    "c": (8, 16, 24, 32),
    "M": (8,),
    "m": (8,),
}
_UNITS = ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "μs", "ns", "ps", "fs", "as", "generic")

_V3_SIZES: dict[str, int | None] = {
    "bool": 1,
    **{f"{sign}int{bits}": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"{sign}int{bits}": 1 for sign in ("", "u") for bits in (2, 4)},
    "float16": 2,
    "float32": 4,
    "float64": 8,
    "bfloat16": 2,
    "complex64": 8,
    "complex128": 16,
    "string": None,
    "bytes": None,
    "variable_length_bytes": None,
}


class DataType(NamedTuple):
    """A data type.

    Attributes
    ----------
    name : str
        As ``str(numpy.dtype(...))`` writes it where numpy has the type, else as the metadata does.
    item_size : int or None
        Bytes of one element when decoded; None where it varies or is not known.
    """

    name: str
    item_size: int | None


# -- v2 --------------------------------------------------------------------------------------------


def parse_v2(raw: object, filters: tuple[str, ...] = ()) -> DataType:
    """Parse the ``dtype`` of a ``.zarray``.

    Parameters
    ----------
    raw : str or list
        ``"<f4"``, or the fields of a structured type.
    filters : tuple of str
        Ids of the filters: they tell what an object (``|O``) is.

    Raises
    ------
    MetadataError
        If it is no data type.
    """
    if raw == "|O":
        names = {"vlen-utf8": "string", "vlen-bytes": "bytes"}
        return DataType(next((names[name] for name in filters if name in names), "object"), None)
    if isinstance(raw, list):
        text, size = _structured_v2(raw, 0)
        return DataType(text, size)
    name, size = _simple_v2(raw)
    return DataType(name, size)


def _simple_v2(raw: object) -> tuple[str, int]:
    found = _V2.fullmatch(raw) if isinstance(raw, str) else None
    if found is None or found[2] == "O":
        raise MetadataError(f"unknown data type {_short(raw)}")
    order, kind, digits, step, unit = found.groups()
    size = int(digits or 0)
    if kind in _SIZES and size not in _SIZES[kind]:
        raise MetadataError(f"unknown data type {_short(raw)}")
    if kind in "SUV":
        size *= 4 if kind == "U" else 1
        if size > _MAX_ITEM_SIZE:
            raise MetadataError(f"the items of the data type {_short(raw)} are too large")
        return f"{'|' if kind != 'U' else '<' if order in '|=' else order}{kind}{digits or 0}", size
    if (unit is not None) and (kind not in "mM" or unit not in _UNITS):
        raise MetadataError(f"unknown data type {_short(raw)}")
    if order == ">" and size > 1:
        return str(raw), size
    if kind == "b":
        return "bool", 1
    if kind in "mM":
        return _KINDS[kind] + _unit_text(step, unit), 8
    return f"{_KINDS[kind]}{size * 8}", size


def _unit_text(step: str | int | None, unit: str | None) -> str:
    if unit is None or unit == "generic":
        return ""
    return f"[{'' if step in (None, '', '1', 1) else step}{unit}]"


def _structured_v2(raw: list[object], depth: int) -> tuple[str, int]:
    _check_fields(raw, depth)
    texts = []
    total = 0
    for field in raw:
        if not isinstance(field, list) or len(field) not in (2, 3) or not isinstance(field[0], str):
            raise MetadataError(f"not a field of a structured data type: {_short(field)}")
        if isinstance(field[1], list):
            text, size = _structured_v2(field[1], depth + 1)
        else:
            size = _simple_v2(field[1])[1]
            text = _v2_field_text(str(field[1]))
        shape = ""
        if len(field) == 3:
            count, shape = _subarray(field[2])
            size *= count
        total += size
        texts.append(f"({field[0]!r}, {text}{shape})")
    if total > _MAX_ITEM_SIZE:
        raise MetadataError("the items of the structured data type are too large")
    return f"[{', '.join(texts)}]", total


def _v2_field_text(code: str) -> str:
    """Write the type of a field as numpy does inside a structured type."""
    return "'?'" if code.endswith("b1") else repr(code.removeprefix("|"))


def _subarray(raw: object) -> tuple[int, str]:
    dims = raw if isinstance(raw, list) else [raw]
    count = 1
    if len(dims) > _MAX_DIMENSIONS:
        raise MetadataError("a field of the structured data type has too many dimensions")
    for dim in dims:
        if type(dim) is not int or not 0 <= dim <= _MAX_ITEM_SIZE:
            raise MetadataError(f"not the shape of a field: {_short(raw)}")
        count *= dim
    return count, f", {tuple(dims)}"


def _check_fields(fields: list[object], depth: int) -> None:
    if depth >= _MAX_NESTING:
        raise MetadataError("the structured data type is nested too deeply")
    if not 0 < len(fields) <= _MAX_FIELDS:
        raise MetadataError(f"a structured data type of {len(fields)} fields")


# -- v3 --------------------------------------------------------------------------------------------


def parse_v3(raw: object, depth: int = 0) -> DataType:
    """Parse the ``data_type`` of a ``zarr.json``; an extension of unknown size is no error.

    Raises
    ------
    MetadataError
        If it is no data type.
    """
    if isinstance(raw, str):
        return _named_v3(raw, {}, depth)
    if isinstance(raw, dict) and isinstance(raw.get("name"), str):
        configuration = raw.get("configuration", {})
        if isinstance(configuration, dict):
            return _named_v3(raw["name"], configuration, depth)
    raise MetadataError(f"unknown data type {_short(raw)}")


def _named_v3(name: str, configuration: dict[str, object], depth: int) -> DataType:
    if not name or len(name) > 255:
        raise MetadataError(f"unknown data type {_short(name)}")
    if name in _V3_SIZES:
        return DataType("bytes" if name == "variable_length_bytes" else name, _V3_SIZES[name])
    if re.fullmatch(r"r\d{1,11}", name):
        bits = int(name[1:])
        if bits == 0 or bits % 8 or bits // 8 > _MAX_ITEM_SIZE:
            raise MetadataError(f"the data type {name!r} is no whole number of bytes")
        return DataType(f"|V{bits // 8}", bits // 8)
    if name.startswith(("float8_", "float6_", "float4_")):
        return DataType(name, 1)
    if name in ("numpy.datetime64", "numpy.timedelta64"):
        unit, step = configuration.get("unit"), configuration.get("scale_factor", 1)
        if unit not in _UNITS or type(step) is not int or not 0 < step < 2**31:
            raise MetadataError(f"the data type {name!r} has no such unit")
        return DataType(name.removeprefix("numpy.") + _unit_text(step, str(unit)), 8)
    if name in ("fixed_length_utf32", "null_terminated_bytes", "raw_bytes"):
        return _fixed_length(name, configuration.get("length_bytes"))
    if name in ("structured", "struct"):
        return _structured_v3(configuration.get("fields"), depth)
    settings = ", ".join(f"{key}={_short(value)}" for key, value in list(configuration.items())[:8])
    return DataType(f"{name}({settings})" if settings else name, None)


def _fixed_length(name: str, length: object) -> DataType:
    if type(length) is not int or not 0 <= length <= _MAX_ITEM_SIZE:
        raise MetadataError(f"the data type {name!r} has no length")
    if name == "fixed_length_utf32":
        if length % 4:
            raise MetadataError(f"the data type {name!r} is no whole number of characters")
        return DataType(f"<U{length // 4}", length)
    return DataType(f"|{'S' if name == 'null_terminated_bytes' else 'V'}{length}", length)


def _structured_v3(fields: object, depth: int) -> DataType:
    if not isinstance(fields, list):
        raise MetadataError("a structured data type without fields")
    _check_fields(fields, depth)
    texts = []
    total: int | None = 0
    for field in fields:
        match field:
            case [str(label), kind] | {"name": str(label), "data_type": kind}:
                inner = parse_v3(kind, depth + 1)
            case _:
                raise MetadataError(f"not a field of a structured data type: {_short(field)}")
        texts.append(f"({label!r}, {_field_text(inner.name)})")
        total = None if total is None or inner.item_size is None else total + inner.item_size
    if total is not None and total > _MAX_ITEM_SIZE:
        raise MetadataError("the items of the structured data type are too large")
    return DataType(f"[{', '.join(texts)}]", total)


def _field_text(name: str) -> str:
    """Write the type of a field as numpy does inside a structured type: by its code."""
    if name.startswith("["):
        return name
    if name == "bool":
        return "'?'"
    if name.startswith("|"):
        return repr(name[1:])
    found = re.fullmatch(r"(int|uint|float|complex)(8|16|32|64|128)", name)
    if found is not None:
        size = int(found[2]) // 8
        return f"'{'' if size == 1 else '<'}{found[1][0]}{size}'"
    found = re.fullmatch(r"(datetime64|timedelta64)(\[\w+\])?", name)
    if found is not None:
        return f"'<{'M' if found[1] == 'datetime64' else 'm'}8{found[2] or ''}'"
    return repr(name)


# -- fill values -----------------------------------------------------------------------------------


def fill_text(fill: object, name: str) -> str:
    """Write a fill value as zarr shows it, where that can be told without numpy.

    Parameters
    ----------
    fill : object
        As it stands in the metadata.
    name : str
        Of the data type, from `parse_v2` or `parse_v3`.
    """
    text = _fill_text(fill, name)
    return text if len(text) <= _MAX_FILL_TEXT else f"{text[: _MAX_FILL_TEXT - 3]}..."


def _fill_text(fill: object, name: str) -> str:
    if fill is None:
        return "None"
    kind = name[1:2] if name[:1] in "<>|" else name[:1]
    if name.startswith(("datetime64", "timedelta64")) or kind in ("M", "m"):
        return "NaT" if fill in (_NAT, "NaT") else _short(fill)
    if name.startswith(("float", ">f", "bfloat")):
        found = _float(fill, name)
        return str(found) if isinstance(found, float) else _short(found)
    if name.startswith(("complex", ">c")):
        if isinstance(fill, list) and len(fill) == 2:
            real, imaginary = (_float(part, "") for part in fill)
            if isinstance(real, float) and isinstance(imaginary, float):
                return str(complex(real, imaginary))
        return _short(fill)
    if name == "bool" and isinstance(fill, int):
        return str(bool(fill))
    if name == "bytes" or kind in ("S", "V"):
        return _bytes_text(fill)
    return _short(fill) if isinstance(fill, (dict, list)) else str(fill)


def _float(fill: object, name: str) -> object:
    """Return a float where it is one: a number, ``"NaN"``, ``"Infinity"``, or its bits in hexadecimal."""
    if isinstance(fill, (bool, int, float)):
        try:
            return float(fill)
        except OverflowError:
            return fill
    if fill in ("NaN", "Infinity", "-Infinity"):
        return float(str(fill))
    code = {"float16": ">e", "float32": ">f", "float64": ">d"}.get(name)
    if code is not None and isinstance(fill, str) and fill.startswith("0x"):
        try:
            return float(struct.unpack(code, bytes.fromhex(fill[2:]))[0])
        except (ValueError, struct.error):
            return fill
    return fill


def _bytes_text(fill: object) -> str:
    if isinstance(fill, str) and len(fill) < 4096:
        try:
            return repr(base64.b64decode(fill, validate=True))
        except (binascii.Error, ValueError):
            return repr(fill)
    return _short(fill)


def _short(value: object) -> str:
    """Write any JSON value in a message, never at length."""
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)} items"
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else f"{value[:37]}...")
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**40 else "a huge number"
    return text[:60]
