"""Libraries without a mount."""

from __future__ import annotations

from importlib.metadata import version

from benchmarks.contenders.base import Contender


class Obstore(Contender):
    """obstore itself."""

    name = "obstore"
    way = "obstore"
    writes = True

    def version(self) -> str:
        return version("obstore")


class ZarrPython(Contender):
    """zarr-python on obstore."""

    name = "zarr-python"
    way = "zarr_python"
    writes = True

    def version(self) -> str:
        return version("zarr")
