"""Builds engine bundles: whole or not at all, and knows which one is up to date.

A bundle holds ONNX graphs of the denoiser and of its adjoint in two halves, the network as a program for the native
kernels, and a manifest; all is verified against PyTorch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from engine.backends.bundle import CARD, FORMAT, MANIFEST, Bundle, sha256_of
from engine.errors import InputError
from engine.io.files import replacing_folder
from engine.versions import versions
from engine.volume import ALL_PLANES, Plane
from export.write.place import check_free
from networks.diffusers_files import parts_of

log = logging.getLogger("export")

#: The folders of sources whose change makes an existing bundle stale.
_SOURCES = ("export/trace", "export/write", "networks")


def sha256_of_parts(ckpt: Path) -> str:
    """Hash of a checkpoint; of all files that it consists of, where these are several."""
    hashes = [sha256_of(part) for part in parts_of(ckpt)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def content_key(ckpt: Path, options: dict[str, Any]) -> str:
    """Hash of everything that a bundle depends on: the checkpoint, the options, the exporter and its libraries."""
    digest = hashlib.sha256(sha256_of_parts(ckpt).encode())
    digest.update(json.dumps(options, sort_keys=True).encode())
    for folder in _SOURCES:
        for file in sorted((Path(__file__).parents[1] / folder).glob("*.py")):
            digest.update(file.read_bytes())
    for package in ("torch", "onnx"):
        digest.update(metadata.version(package).encode())
    return digest.hexdigest()


def is_current(folder: Path, key: str) -> bool:
    """Whether `folder` holds a whole bundle with this key."""
    try:
        return Bundle.open(folder).manifest.get("key") == key
    except InputError:
        return False


def is_bundle(folder: Path) -> bool:
    """Whether a whole bundle is there, of whatever network."""
    try:
        Bundle.open(folder)
    except InputError:
        return False
    return True


def build_engine(
    ckpt: Path,
    out: Path,
    *,
    plane: Plane | str | None = None,
    voxel_mm: Sequence[float] | None = None,
    margin: int | None = None,
    card: Path | None = None,
    ema: bool = True,
    with_adjoint: bool = False,
    key: str | None = None,
    **known: Any,
) -> dict[str, Any]:
    """Export, verify and write a bundle; `out` appears whole or not at all.

    Parameters
    ----------
    ckpt : Path
        score_sde or TPDM checkpoint, diffusers' folder or file of weights, or ``module:function``.
    out : Path
        Folder of the bundle; replaced if it is one.
    plane : Plane or "all", optional
        The plane of the training slices, where the checkpoint does not say.
    voxel_mm : (float, float), optional
        Smallest and largest side of a training pixel, where the checkpoint does not say.
    margin : int, optional
        Pixels to mirror where tissue reaches the border of a slice, where the checkpoint does not say; else 0.
    card : Path, optional
        Text on data, validation and limits, to be `CARD` in the bundle.
    ema : bool
        Use the moving average of the weights.
    with_adjoint : bool
        Write the whole adjoint as one graph too, for other programs: no run opens it.
    key : str, optional
        Content key to store.
    **known
        Fields of `networks.Architecture` that the tensors do not tell.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    InputError
        The checkpoint cannot be used, the output cannot be written, or verification failed.
    """
    # PyTorch takes seconds to import: `--help`, an up-to-date bundle and a wrong path need not wait for it.
    import torch

    from export import verify
    from export.write.graphs import write_graphs
    from export.write.onnx import OPSET
    from networks.loading import load_network

    started = time.monotonic()
    network, info = load_network(ckpt, ema=ema, **known)
    settings = network.settings
    asked = list(plane.axes) if isinstance(plane, Plane) else plane
    stored = info["plane"]
    if stored is not None and asked is not None and asked != stored:
        trained = ALL_PLANES if stored == ALL_PLANES else Plane(tuple(stored))
        raise InputError("plane", f"{trained}, which the checkpoint '{ckpt}' was trained on", plane, "drop --plane")
    axes = asked or stored
    n_parameters = sum(p.numel() for p in network.parameters())
    described = ", ".join(f"{k} {v}" for k, v in settings.items() if k != "config")
    log.info("network: %.2f million parameters, %s", n_parameters / 1e6, described)
    for name, how in info["inferred"].items():
        log.info("  %s: %s", name, how)
    if axes is None:
        log.info("  plane: not stored in the checkpoint; state it with --plane here or when the engine runs")

    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(out, partial(check_free, record=MANIFEST, what="an engine bundle")) as work:
        log.info("tracing the denoiser and its adjoint …")
        try:
            with torch.no_grad():
                write_graphs(network, work, with_adjoint)
        except NotImplementedError as error:
            raise InputError(
                "ckpt", "a network of operators that the exporter knows", f"'{ckpt}' ({error})", "use other layers"
            ) from error
        log.info("verifying against float64 autograd …")
        rows = verify.verify(network, work)
        if card is not None:
            (work / CARD).write_bytes(card.read_bytes())
        print(verify.table(rows))
        if not all(r.passes for r in rows):
            raise InputError(
                "ckpt",
                f"relative errors of at most {verify.BOUNDS['x0']:g} (x0) and {verify.BOUNDS['pullback']:g} (pullback)",
                f"more for '{ckpt}', as the table above shows",
                "the weights may be beyond float32's reach: check the training",
            )
        manifest = {
            "format": FORMAT,
            "name": out.name,
            "architecture": settings,
            "inferred": info["inferred"],
            "n_parameters": n_parameters,
            "plane": axes,
            "voxel_mm": list(voxel_mm) if voxel_mm else info["voxel_mm"],
            "margin": (margin if margin is not None else info["margin"]) or 0,
            "trained_size": info["image_size"],
            "divisor": network.divisor,
            "precision": "float32",
            "opset": OPSET,
            "checkpoint": {
                "file": ckpt.name,
                "sha256": info.get("sha256") or sha256_of_parts(ckpt),
                "ema": ema,
                "step": info["step"],
            },
            "versions": versions("torch", "onnx"),
            "verification": {"bounds": verify.BOUNDS, "rows": [r.to_dict() for r in rows]},
            "build_seconds": round(time.monotonic() - started, 1),
            "key": key,
            "files": {p.name: sha256_of(p) for p in sorted(work.iterdir())},
        }
        (work / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest
