"""Bundles and runners that stay open from one job to the next."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

from engine.backends.bundle import Bundle
from engine.backends.select import Request, Roles, Selection, select


class Engines:
    """Opens what a job runs, and keeps it for the next one that needs the same.

    Every bundle is checked once, when it is opened. Of the denoisers those of the last job are kept: other ones take
    their place in memory.
    """

    def __init__(self) -> None:
        self._bundles: dict[Path, Bundle] = {}
        #: The key is None where the selection serves that job alone.
        self._last: tuple[Hashable | None, Selection] | None = None

    def bundle(self, folder: str | Path) -> Bundle:
        """A bundle, opened at the first call.

        Raises
        ------
        InputError
            As `Bundle.open`.
        """
        folder = Path(folder)
        if folder not in self._bundles:
            self._bundles[folder] = Bundle.open(folder)
        return self._bundles[folder]

    def close(self) -> None:
        """Give back the last job's denoisers."""
        if self._last is not None:
            self._last[1].close()
        self._last = None

    def selection(self, roles: Roles, request: Request) -> Selection:
        """The denoisers of a job: those of the last one where bundles, slices and request are the same.

        Raises
        ------
        InputError
            As `engine.backends.select.select`.
        """
        key = (
            request,
            tuple((name, role.bundle.folder, role.slice_shape, role.operator is None) for name, role in roles.items()),
        )
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        # First: a GPU may not have room for both.
        self.close()
        selection = select(roles, request)
        # Graphs of TensorRT hold the operator of their own measurement.
        is_bound = selection.backend == "tensorrt" and any(role.operator is not None for role in roles.values())
        self._last = (None if is_bound else key, selection)
        return selection
