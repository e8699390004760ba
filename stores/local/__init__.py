"""A directory of the local disk."""

from stores.local.store import LocalStore

__all__ = ["LocalStore"]
