"""The manifest of an engine bundle, and the checks before its graphs run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.volume import ALL_PLANES, Plane

FORMAT = 1
MANIFEST = "manifest.json"
#: The network as native layers, and the file in which all graphs and the program have their weights.
PROGRAM, WEIGHTS = "network.json", "weights.bin"
#: Data, validation and limits of the prior, in words; not in every bundle.
CARD = "CARD.md"
#: What each graph is for: names of the files without their ending.
GRAPHS = {
    "denoise": "(x, sigma) -> x0",
    "linearize": "(x, sigma) -> (x0, tape…)",
    "pullback": "(cotangent, tape…) -> pullback",
}


@dataclass(frozen=True)
class Bundle:
    """A folder with a manifest and the graphs that it describes.

    Parameters
    ----------
    folder : Path
    manifest : dict
        As written by the exporter; ARCHITECTURE.md lists its fields under Contracts.
    """

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> Bundle:
        """Read a bundle and check that every file is the one that was verified when the bundle was built.

        Raises
        ------
        InputError
            No bundle, another format version, or a file that is missing or changed.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.is_file():
            raise InputError(
                "engine",
                f"an engine bundle with a {MANIFEST}",
                f"none in '{folder}'",
                "build one with `python -m export.build_engine --ckpt CHECKPOINT`",
            )
        try:
            manifest = json.loads(path.read_text())
            version = manifest["format"]
            # Another format may have other fields.
            files = cls(folder, manifest)._checked_files() if version == FORMAT else {}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(
                "engine", "a readable manifest", f"'{path}', which is damaged ({error!r})", "build the engine again"
            ) from error
        if version != FORMAT:
            raise InputError("engine", f"bundle format {FORMAT}", f"{version} in '{folder}'", "build the engine again")
        for name, expected in files.items():
            file = folder / name
            if Path(name).name != name or not file.is_file():
                raise InputError("engine", f"the file '{name}' in '{folder}'", "none", "build the engine again")
            if sha256_of(file) != expected:
                raise InputError(
                    "engine",
                    f"'{file}' as it was verified (sha256 {expected[:12]}…)",
                    "another content",
                    "build the engine again with --force",
                )
        missing = [g for g in GRAPHS if f"{g}.onnx" not in files]
        if missing:
            raise InputError(
                "engine",
                f"the graphs {', '.join(GRAPHS)}",
                f"'{folder}' without {', '.join(missing)}",
                "build the engine again",
            )
        return cls(folder, manifest)

    def _checked_files(self) -> dict[str, str]:
        """Read every field that a run takes from the manifest, raising whatever their damage leads to; return the files
        and their hashes."""
        files = self.manifest["files"]
        if not (0 < self.sigma_min < self.sigma_max and self.divisor >= 1):
            raise ValueError("noise levels or divisor out of range")
        if not isinstance(self.trained_size, int | None) or not all(isinstance(h, str) for h in files.values()):
            raise TypeError("trained_size or a hash of another type")
        if self.margin < 0:
            raise ValueError("a margin below 0")
        _ = self.plane, self.voxel_mm, self.manifest["checkpoint"]
        return dict(files)

    @property
    def plane(self) -> Plane | None:
        """The plane whose slices the network was trained on, where the checkpoint or its exporter said so; None also
        where that was every plane."""
        axes = self.manifest["plane"]
        return None if axes is None or self.serves_all_planes else Plane((axes[0], axes[1], axes[2]))

    @property
    def serves_all_planes(self) -> bool:
        """Whether the network was trained on slices of all planes."""
        return bool(self.manifest["plane"] == ALL_PLANES)

    @property
    def voxel_mm(self) -> tuple[float, float] | None:
        """Smallest and largest side of a pixel that the network was trained on, in mm, where known."""
        given = self.manifest.get("voxel_mm")
        return None if given is None else (float(given[0]), float(given[1]))

    def misfit(self, voxel_mm: Sequence[float] | np.ndarray) -> float:
        """By which factor voxels lie outside of the trained range; 1 within it, or where that is unknown."""
        if self.voxel_mm is None:
            return 1.0
        low, high = self.voxel_mm
        return float(max(1.0, low / np.min(voxel_mm), np.max(voxel_mm) / high))

    @property
    def margin(self) -> int:
        """Pixels to mirror where tissue reaches the border of a slice: of a network that was trained on whole slices,
        at whose borders there was none."""
        return int(self.manifest.get("margin", 0))

    @property
    def sigma_min(self) -> float:
        return float(self.manifest["architecture"]["sigma_min"])

    @property
    def sigma_max(self) -> float:
        return float(self.manifest["architecture"]["sigma_max"])

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Noise levels on which the network was trained."""
        return self.sigma_min, self.sigma_max

    @property
    def divisor(self) -> int:
        """Image sides must be multiples of this."""
        return int(self.manifest["divisor"])

    @property
    def trained_size(self) -> int | None:
        """Side of the training slices, in pixels, where known."""
        return self.manifest["trained_size"]  # type: ignore[no-any-return]

    def check_slice(self, shape: tuple[int, int]) -> None:
        """Refuse slices whose sides the network cannot halve often enough."""
        if any(side % self.divisor for side in shape):
            raise InputError(
                "volume",
                f"sides that are multiples of {self.divisor} for the network of '{self.folder}'",
                f"slices of {shape[0]}×{shape[1]}",
                "crop or pad the volume",
            )


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(stream)


def _sha256(stream: Any) -> str:
    """`hashlib.file_digest` for Python 3.10."""
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
