"""What a file is that is no checkpoint of NCSN++: other formats by their first bytes, other networks by their tensors'
names."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

_ENOUGH = 512
_MAGIC = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"GGUF": "a GGUF file",
    b"%PDF": "a PDF file",
    b"\x89PNG\r\n\x1a\n": "a picture",
}


#: Names that only one family has, by the family; what encloses another's comes first.
_FAMILIES = {
    "model.diffusion_model.input_blocks.0.0.weight": "a latent model in the manner of Stable Diffusion",
    "input_blocks.0.0.weight": "a network of guided-diffusion (ADM)",
    "conv_in.conv.weight": "a DiffusionModelUNet of MONAI",
    "time_embedding.linear_1.weight": "a UNet2DModel of diffusers without its folder",
    "model.map_layer0.weight": "a network of EDM",
}


def family_of(names: Iterable[str]) -> str | None:
    """Name the family of a network by its tensors' names; None for those that are unknown."""
    known = {name.removeprefix("module.") for name in names}
    return next((family for name, family in _FAMILIES.items() if name in known), None)


def kind_of(path: Path) -> str | None:
    """Name the format of a file that PyTorch cannot load, such as "a NumPy array"; None for a checkpoint, whatever is
    wrong with it, and for what is unknown or damaged.

    Raises
    ------
    OSError
        It cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(_ENOUGH)
    if not head:
        return "an empty file"
    if head[:2] == b"\x1f\x8b":
        return "a compressed NIfTI volume" if _is_nifti(_inflated(head)) else "a gzip file"
    if head[:4] == b"PK\x03\x04":
        return _kind_of_zip(path)
    if _is_safetensors(head, path.stat().st_size):
        return "a safetensors file"
    if _is_nifti(head):
        return "a NIfTI volume"
    # A protobuf message: the version of the format, at most 127 so far, then the producer or the next field of a model.
    if head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x1a", b":", b"B"):
        return "an ONNX graph"
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


def _inflated(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(head, _ENOUGH)
    except zlib.error:
        return b""


def _is_nifti(head: bytes) -> bool:
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


def _is_safetensors(head: bytes, size: int) -> bool:
    """The length of a JSON header, and the header."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= size


def _kind_of_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return None
    if any(name.split("/")[1:2] == ["code"] for name in names):
        return "a TorchScript archive"
    if any(name.endswith("/data.pkl") for name in names):
        return None
    return "a NumPy archive" if names and all(name.endswith(".npy") for name in names) else "a zip archive"
