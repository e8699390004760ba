"""The one exception of everything that parses metadata."""

from __future__ import annotations

__all__ = ["MetadataError"]


class MetadataError(ValueError):
    """A metadata document that cannot be used; the message says why, for a person."""
