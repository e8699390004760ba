"""Writing a whole new archive from the one that is there and the changes pending on it."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from stores.errors import Corrupt
from stores.files import FileHandle
from stores.zipped.archive import Archive
from stores.zipped.catalog import Changed, Entry, Extent
from stores.zipped.format import (
    LOCAL,
    LOCAL_SIGN,
    UTF8,
    Member,
    descriptors,
    dos_stamp,
    encode_central,
    encode_end,
    encode_local,
    is_wide,
    local_lengths,
    record_size,
    scan_directory,
    time_extra,
    without_path,
)
from stores.zipped.inflate import DEFLATED, STORED
from stores.zipped.source import FileSource
from stores.zipped.view import View

__all__ = ["Tell", "all_dead_bytes", "dead_bytes", "empty_archive", "write_archive"]

Tell = Callable[[int, int], None]
"""Called with bytes that are written and that there will be, about; what it raises ends the work."""

_STEP = 1 << 20
_MOST_AT_ONCE = 1 << 26
_UNIX = 3 << 8
_FILE = 0o100644 << 16
_DIRECTORY = 0o040755 << 16 | 0x10


def empty_archive() -> bytes:
    """Return an archive of nothing."""
    return encode_end(0, 0, 0, b"")


def dead_bytes(view: View) -> int:
    """Return about how many bytes of the archive belong to nothing that is still there."""
    archive = view.archive
    alive = {entry for _, entry in view.catalog.items() if isinstance(entry, int)}
    if sum(record_size(archive.directory, at) for at in alive) == archive.end.size:
        return 0  # what earlier merges left was too little then, and nothing died since
    return all_dead_bytes(view)


def all_dead_bytes(view: View) -> int:
    """Return the same, with what earlier merges left; takes a look at every member."""
    archive = view.archive
    alive = {entry for _, entry in view.catalog.items() if isinstance(entry, int)}
    members = [
        (archive.member(at), at in alive) for _, at in scan_directory(archive.directory, archive.end.count)
    ]
    members.sort(key=lambda pair: pair[0].offset)
    last = archive.end.start - archive.end.shift
    if not members:
        return last
    ends = [member.offset for member, _ in members[1:]] + [last]
    first = members[0][0].offset
    dead = first if _begins_with_a_member(archive) else 0
    for (member, lives), end in zip(members, ends, strict=True):
        # as large as it can be with the extra fields and the descriptor that tools write
        needs = LOCAL.size + len(member.name) + len(member.extra) + member.packed + 64 if lives else 0
        dead += max(0, end - member.offset - needs)
    return dead


def _begins_with_a_member(archive: Archive) -> bool:
    """Tell whether there is no program before the members, that takes them out.

    Bytes before the first member of the directory are then those of one that died long ago.
    """
    return _handle_of(archive).read(archive.end.shift, len(LOCAL_SIGN)) == LOCAL_SIGN


def _handle_of(archive: Archive) -> FileHandle:
    if not isinstance(archive.source, FileSource):
        raise TypeError("only archives in files can be merged")
    return archive.source.handle


def write_archive(
    view: View, path: Path, *, compact: bool, compression: int, tell: Tell | None = None
) -> Archive:
    """Write all that `view` shows into a new archive `path`, make it last, and check it.

    Parameters
    ----------
    view : View
    path : Path
        Must not exist.
    compact : bool
        Take each living member over by itself, and leave the dead bytes behind.
    compression : int
        STORED or DEFLATED, for what was pending.
    tell : callable, optional
        Told how far it is.

    Returns
    -------
    Archive
        The new one, open.

    Raises
    ------
    Corrupt
        If bytes to be taken over are not what they should be.
    OSError
    """
    target = FileHandle.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    _Writer(view, target, compression, tell).write(compact=compact)
    os.fsync(target.fd)
    archive = Archive.open_file(FileSource(target))
    _check(view, archive)
    return archive


def _check(view: View, archive: Archive) -> None:
    """Make sure that the new archive shows the same objects as the view that it was made from."""
    entries = archive.entries()
    same = len(entries) == len(view.catalog)
    for key, entry in view.catalog.items():
        if not same:
            break
        at = entries.get(key)
        same = isinstance(at, int) and _is_same(view, key, entry, archive, at)
    if not same:
        raise Corrupt("the new archive does not hold what it should; the old one was kept")


def _is_same(view: View, key: str, entry: Entry, archive: Archive, at: int) -> bool:
    if isinstance(entry, int):
        old, new = view.archive.directory, archive.directory
        size = record_size(old, entry)
        if old[entry : entry + size] == new[at : at + record_size(new, at)]:
            return True  # a million times; all but the offset is the same in the other case
    return View(archive, None, view.catalog, view.tag).meta(key, at) == view.meta(key, entry)


class _Writer:
    """Appends to one new archive and collects its directory."""

    def __init__(self, view: View, target: FileHandle, compression: int, tell: Tell | None) -> None:
        self._view = view
        self._base = _handle_of(view.archive)
        self._target = target
        self._compression = compression
        self._shift = view.archive.end.shift
        self._records: list[bytes] = []
        self._position = 0
        self._tell = tell
        self._total = 0

    def write(self, *, compact: bool) -> None:
        archive = self._view.archive
        entries = self._view.catalog.items()
        kept = sorted(entry for _, entry in entries if isinstance(entry, int))
        if self._tell is not None:
            self._total = self._expected(entries, compact=compact)
        if compact:
            self._take_each(kept)
        else:
            self._take(0, archive.end.start)
            for at in kept:
                self._records.append(archive.directory[at : at + record_size(archive.directory, at)])
        for key, entry in entries:
            if isinstance(entry, Changed):
                self._rename(key, entry)
            elif isinstance(entry, Extent):
                self._add(key, entry)
        self._finish(archive.end.comment)

    def _expected(self, entries: list[tuple[str, Entry]], *, compact: bool) -> int:
        """Return about how large the new archive will be."""
        archive = self._view.archive
        size = 0 if compact else archive.end.start
        for _, entry in entries:
            if isinstance(entry, Extent):
                size += entry.size
            elif isinstance(entry, Changed) or compact:
                size += archive.member(entry.at if isinstance(entry, Changed) else entry).packed
        return size

    def _advance(self, position: int) -> None:
        self._position = position
        if self._tell is not None:
            self._tell(min(position, self._total), self._total)

    def _finish(self, comment: bytes) -> None:
        start = self._position
        for piece in _joined(self._records):
            self._put(piece)
        size = self._position - start
        self._put(encode_end(len(self._records), start - self._shift, size, comment))

    def _put(self, data: bytes) -> None:
        self._advance(self._target.write(self._position, data))

    def _take(self, start: int, stop: int) -> None:
        """Copy a piece of the old archive, sharing blocks where the file system can."""
        while start < stop:
            done = _copy_range(self._base, self._target, start, self._position, stop - start)
            if not done:
                data = self._base.read(start, min(_STEP, stop - start))
                if not data:
                    raise Corrupt("the zip archive was cut short")
                done = self._target.write(self._position, data) - self._position
            start += done
            self._advance(self._position + done)

    # -- members of the old archive ------------------------------------------------------------

    def _take_each(self, kept: list[int]) -> None:
        archive = self._view.archive
        members = [archive.member(at) for at in kept]
        self._take(0, self._shift + self._stub_size())
        for member in members:
            _, _, begin = self._local_header(member)
            new = replace(member, offset=self._position - self._shift)
            self._take(member.offset + self._shift, self._data_end(member, begin))
            self._records.append(encode_central(new))

    def _stub_size(self) -> int:
        """Return how many bytes before the first member are none of a member's."""
        archive = self._view.archive
        if not archive.end.count or _begins_with_a_member(archive):
            return 0
        members = scan_directory(archive.directory, archive.end.count)
        return min(archive.member(at).offset for _, at in members)

    def _rename(self, key: str, entry: Changed) -> None:
        """Copy a member's data as they are, compressed or not, behind a header with the new name."""
        member = self._view.archive.member(entry.at)
        fields, extra, begin = self._local_header(member)
        new = replace(member.renamed(key), offset=self._position - self._shift)
        if entry.tick is not None:
            new = new.touched(entry.tick)
        extra = without_path(extra)
        fields[2] |= new.flags & UTF8
        fields[-2:] = len(new.name), len(extra)
        self._put(LOCAL.pack(*fields) + new.name + extra)
        self._take(begin, self._data_end(member, begin))
        self._records.append(encode_central(new))

    def _local_header(self, member: Member) -> tuple[list[Any], bytes, int]:
        """Return the fields of a local header, its extra field, and where the data begin."""
        start = member.offset + self._shift
        header = self._base.read(start, LOCAL.size + len(member.name))
        name_size, extra_size = local_lengths(header, member)
        begin = start + LOCAL.size + name_size + extra_size
        if begin + member.packed > self._view.archive.end.start:
            raise Corrupt("the zip archive is damaged: a member is larger than its place")
        extra = self._base.read(begin - extra_size, extra_size)
        return list(LOCAL.unpack_from(header)), extra, begin

    def _data_end(self, member: Member, begin: int) -> int:
        """Return where the data end, and the data descriptor if there is one."""
        end = begin + member.packed
        behind = self._base.read(end, 24)
        for descriptor in descriptors(member):
            if behind.startswith(descriptor):
                return end + len(descriptor)
        return end

    # -- pending objects -----------------------------------------------------------------------

    def _add(self, key: str, entry: Extent) -> None:
        name = key.encode("utf-8", "surrogateescape")
        is_directory = key.endswith("/")
        dos_date, dos_time = dos_stamp(entry.tick)
        method = STORED if is_directory or not entry.size else self._compression
        member = Member(
            name=name, made_by=_UNIX | 45, needed=20, flags=0 if name.isascii() else UTF8, method=method,
            dos_time=dos_time, dos_date=dos_date, crc=entry.crc, packed=entry.size, size=entry.size,
            internal=0, external=_DIRECTORY if is_directory else _FILE, offset=self._position - self._shift,
            extra=time_extra(entry.tick, central=True), comment=b"",
        )  # fmt: skip
        wide = is_wide(entry.size)
        extra = time_extra(entry.tick, central=False)
        start = self._position
        self._put(encode_local(member, extra, wide=wide))
        begin = self._position
        pack, flush = _packer(method)
        for data in self._pending_data(key, entry):
            self._put(pack(data))
        self._put(flush())
        if method != STORED:
            member = replace(member, packed=self._position - begin)
            self._target.write(start, encode_local(member, extra, wide=wide))
        self._records.append(encode_central(member))

    def _pending_data(self, key: str, entry: Extent) -> Iterator[bytes]:
        crc = done = 0
        while done < entry.size and self._view.data is not None:
            data = self._view.data.handle.read(entry.offset + done, min(_STEP, entry.size - done))
            if not data:
                break
            crc = zlib.crc32(data, crc)
            done += len(data)
            yield data
        if done != entry.size or crc != entry.crc:
            raise Corrupt("the pending bytes are damaged: their CRC is another", key=key)


def _packer(method: int) -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    if method == DEFLATED:
        engine = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -zlib.MAX_WBITS)
        return engine.compress, engine.flush
    return lambda data: data, lambda: b""


def _joined(records: list[bytes]) -> Iterator[bytes]:
    for start in range(0, len(records), 10_000):
        yield b"".join(records[start : start + 10_000])


def _copy_range(source: FileHandle, target: FileHandle, start: int, at: int, size: int) -> int:
    """Let the kernel copy; 0 where it cannot."""
    try:
        return os.copy_file_range(source.fd, target.fd, min(size, _MOST_AT_ONCE), start, at)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            return 0
        raise
