"""What obstore is given to send: bytes, or a large file that goes in parts."""

from __future__ import annotations

import math
from typing import BinaryIO

from stores.meta import Body, read_body

__all__ = ["BodyFailed", "FileBody", "content_of", "part_size"]

MULTIPART_FROM = 32 << 20
"""Files from this size on are sent in parts; less is held in memory and sent at once."""

PART = 16 << 20
MAX_PARTS = 9000  # 10,000 is what S3 allows


class BodyFailed(Exception):
    """The file to be sent raised `error`, which is the caller's own business."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


class FileBody:
    """A file for obstore, from its start; it remembers what the file raised."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failed: BaseException | None = None
        file.seek(0)

    def read(self, size: int = -1) -> bytes:
        """Read as any file."""
        try:
            return self._file.read(size)
        except BaseException as error:
            self.failed = error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move as any file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()


def content_of(body: Body, *, in_parts: bool) -> tuple[bytes | FileBody, int]:
    """Return what to send, and its size.

    Parameters
    ----------
    body : bytes-like or binary file
        What the caller gave; what it may change later is copied.
    in_parts : bool
        Whether a large file may go in parts; obstore and most servers know no conditions then.
    """
    if not isinstance(body, (bytes, bytearray, memoryview)):
        size = body.seek(0, 2)
        if in_parts and size >= MULTIPART_FROM:
            return FileBody(body), size
    content = bytes(read_body(body))
    return content, len(content)


def part_size(size: int) -> int:
    """Return how large the parts of a file of `size` bytes are."""
    return max(PART, math.ceil(size / MAX_PARTS))
