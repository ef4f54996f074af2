"""Sets of priors, and which of the shipped ones suits a volume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.backends.bundle import MANIFEST, Bundle
from engine.errors import InputError
from engine.volume import NAMED_PLANES, Plane

_ROOT = Path(__file__).parents[1] / "shipped"
#: Names of the shipped sets; the first of those that suit alike is taken.
SHIPPED = ("head-t1-1mm", "head-t1-3mm")
#: A run that starts from noise alone needs priors that were trained on noise which hides the image, whose white is 1.
_HIDDEN = 10.0


@dataclass(frozen=True)
class PriorSet:
    """Priors of several planes: one bundle that serves all, or a bundle for each.

    Parameters
    ----------
    name : str
        Of a shipped set, or of the folder.
    folders : mapping of str to Path
        Of the bundles, by name of the plane.
    """

    name: str
    folders: Mapping[str, Path]

    @classmethod
    def of(cls, name: str | Path) -> PriorSet:
        """The set of that name, or in that folder.

        Parameters
        ----------
        name : str or path
            One of `SHIPPED`, or a folder: a bundle, or bundles in folders that are named after planes.

        Raises
        ------
        InputError
            Neither.
        """
        folder = _ROOT / name if name in SHIPPED else Path(name)
        if (folder / MANIFEST).is_file():
            return cls(str(name), dict.fromkeys(NAMED_PLANES, folder))
        folders = {plane: folder / plane for plane in NAMED_PLANES if (folder / plane / MANIFEST).is_file()}
        if not folders:
            raise InputError(
                "prior",
                f"{' or '.join(SHIPPED)}, an engine bundle, or a folder of bundles called {', '.join(NAMED_PLANES)}",
                f"'{name}'",
                "check the name",
            )
        return cls(str(name), folders)

    def folder_of(self, plane: Plane) -> Path:
        """Folder of the bundle for a plane.

        Raises
        ------
        InputError
            The set has none.
        """
        if str(plane) not in self.folders:
            raise InputError(
                "planes",
                f"planes of '{self.name}': {', '.join(self.folders)}",
                plane,
                "choose among them, or other priors with --prior",
            )
        return self.folders[str(plane)]


def suiting(
    voxel_mm: Sequence[float] | np.ndarray, *, from_noise: bool, opened: Callable[[Path], Bundle] = Bundle.open
) -> PriorSet:
    """The shipped priors that were trained on voxels nearest to a volume's.

    Parameters
    ----------
    voxel_mm : 3 float
        Edges of a voxel.
    from_noise : bool
        Whether the run starts from noise alone: only priors that know such noise can serve it, at whatever voxels.
    opened : function
        That opens a bundle.
    """

    def misfit(name: str) -> tuple[bool, float]:
        bundle = opened(next(iter(PriorSet.of(name).folders.values())))
        return from_noise and bundle.sigma_max < _HIDDEN, bundle.misfit(voxel_mm)

    return PriorSet.of(min(SHIPPED, key=misfit))
