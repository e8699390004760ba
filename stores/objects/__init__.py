"""Object stores, through obstore."""

from stores.objects.store import ObjectStore

__all__ = ["ObjectStore"]
