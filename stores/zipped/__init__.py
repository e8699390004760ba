"""A store in a zip archive: a local file to read and write, or any object of another store to read."""

from stores.zipped.store import ZipStore

__all__ = ["ZipStore"]
