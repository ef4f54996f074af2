"""Which runner a run's denoisers get: the one that was asked for, or the fastest that this machine can run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.backends.bundle import Bundle
from engine.backends.compiled import (
    ANY_PLATFORM,
    LIBRARIES,
    PRECISIONS,
    Compiled,
    build_command,
    folders_of,
    name_of,
    precision_of,
)
from engine.backends.native import NativeDenoiser
from engine.backends.onnx import OnnxDenoiser
from engine.backends.onnx_gpu import OnnxGpuDenoiser
from engine.backends.tensorrt import TensorRTDenoiser
from engine.backends.tensorrt_graphs import Workspace
from engine.device import CPU, Device, gpu, parse
from engine.errors import InputError, Unavailable
from engine.operators import LinearOperator
from engine.sampling.denoiser import Denoiser

BACKENDS = ("auto", "tensorrt", "onnx", "native")
#: Slices in one run of a graph by ONNX Runtime, where the user does not say.
_GPU_BATCH = 8


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Parameters
    ----------
    backend : str
        One of `BACKENDS`.
    precision : str or None
        One of `engine.backends.compiled.PRECISIONS`; None takes the most exact one that there is.
    device : str
        "auto", "cpu", "cuda" or "cuda:N".
    batch_size : int or None
        Slices in one run of a graph; None leaves it to the runner.
    n_threads : int or None
        Worker threads on a CPU; None takes all cores.
    gpu : int
        Number of the GPU that "auto" and "cuda" stand for.
    """

    backend: str = "auto"
    precision: str | None = None
    device: str = "auto"
    batch_size: int | None = None
    n_threads: int | None = None
    gpu: int = 0


@dataclass(frozen=True)
class Role:
    """What one of a run's denoisers has to do.

    Parameters
    ----------
    bundle : Bundle
    slice_shape : (int, int)
    operator : LinearOperator or None
        That its guided steps compare with; None: it only denoises.
    """

    bundle: Bundle
    slice_shape: tuple[int, int]
    operator: LinearOperator | None = None


@dataclass(frozen=True)
class Selection:
    """What a run gets.

    Parameters
    ----------
    denoisers : dict of str to Denoiser
        By the names of the roles.
    backend, precision : str
    device : Device
    why : str
        Why this one.
    """

    denoisers: dict[str, Denoiser]
    backend: str
    precision: str
    device: Device
    why: str

    @property
    def batch_size(self) -> int:
        """The smallest of the denoisers', which they may have lowered meanwhile."""
        return min(denoiser.batch_size for denoiser in self.denoisers.values())

    def close(self) -> None:
        """Give back the denoisers' threads and memory."""
        for denoiser in self.denoisers.values():
            denoiser.close()

    def __str__(self) -> str:
        return f"{self.backend} on {self.device.name}, {self.precision}, batches of {self.batch_size} ({self.why})"

    def record(self) -> dict[str, Any]:
        """For the record of a run."""
        folders = {
            role: {"folder": str(d.compiled.folder), "library_version": d.compiled.library_version}
            for role, d in self.denoisers.items()
            if isinstance(d, TensorRTDenoiser)
        }
        native = [d for d in self.denoisers.values() if isinstance(d, NativeDenoiser)]
        return {
            "name": self.backend,
            "precision": self.precision,
            "device": self.device.name,
            "why": self.why,
            **({"compiled": folders} if folders else {}),
            **({"instructions": native[0].network.instructions} if native else {}),
        }


Roles = Mapping[str, Role]
#: The denoisers and their precision; raises InputError where they cannot run.
Open = Callable[[Roles, Request, Device], tuple[dict[str, Denoiser], str]]


def select(roles: Roles, request: Request) -> Selection:
    """Open the denoisers of a run.

    What was asked for by name is opened or refused. "auto" tries from the fastest on, and the selection says why a
    faster one is not it.

    Parameters
    ----------
    roles : mapping of str to Role
    request : Request

    Raises
    ------
    InputError
        An argument out of range; the backend that was asked for cannot run here, or not so.
    """
    number, kinds = _checked(request)
    candidates = [(name, kind, opens) for name, kind, opens in _FASTEST_FIRST if kind in kinds]
    candidates = [c for c in candidates if request.backend in ("auto", c[0])]
    if not candidates:
        raise InputError(
            "device",
            f"one that the backend {request.backend} works on",
            f"'{request.device}'",
            "leave the option out, or choose another --backend",
        )
    refused: list[tuple[str, InputError]] = []
    devices: dict[str, Device | InputError] = {"cpu": CPU}
    for name, kind, opens in candidates:
        if kind not in devices:
            try:
                devices[kind] = gpu(number)
            except Unavailable as error:
                devices[kind] = error
        device = devices[kind]
        try:
            if isinstance(device, InputError):
                raise device
            denoisers, precision = opens(roles, request, device)
        except InputError as error:
            refused.append((name if kind == "cpu" else f"{name} on a GPU", error))
            continue
        return Selection(denoisers, name, precision, device, _why(request, refused))
    raise refused[0][1]


def _checked(request: Request) -> tuple[int, tuple[str, ...]]:
    """Refuse arguments out of range; return which GPU, and the kinds of device that may be taken."""
    if request.backend not in BACKENDS:
        raise InputError("backend", f"{', '.join(BACKENDS)}", f"'{request.backend}'", "choose one of these")
    if request.precision not in (None, *PRECISIONS):
        raise InputError("precision", f"{', '.join(PRECISIONS)}", f"'{request.precision}'", "choose one of these")
    for name, value, usual in (
        ("batch-size", request.batch_size, "the backend's own"),
        ("threads", request.n_threads, "all cores"),
    ):
        if value is not None and value < 1:
            raise InputError(name, "at least 1", value, f"leave it out for {usual}")
    if request.device == "auto":
        return request.gpu, ("cuda", "cpu")
    number = request.gpu if request.device == "cuda" else parse(request.device)
    return (0, ("cpu",)) if number is None else (number, ("cuda",))


def _why(request: Request, refused: list[tuple[str, InputError]]) -> str:
    if not refused:
        return "as asked" if request.backend != "auto" else "the fastest"
    # One reason often stands against several.
    against: dict[str, list[str]] = {}
    for name, error in refused:
        against.setdefault(error.got if isinstance(error, Unavailable) else str(error), []).append(name)
    return "; ".join(f"not {' or '.join(names)}: {why}" for why, names in against.items())


def _tensorrt(roles: Roles, request: Request, device: Device) -> tuple[dict[str, Denoiser], str]:
    asked = PRECISIONS if request.precision is None else (request.precision,)
    compiled = {name: _precisions_of(role.bundle) for name, role in roles.items()}
    have = [p for p in asked if all(p in built for built in compiled.values())]
    if not have:
        # What one prior has, the other should get.
        precision = next((p for p in asked if any(p in built for built in compiled.values())), asked[0])
        bundle = next(roles[name].bundle for name, built in compiled.items() if precision not in built)
        raise Unavailable(
            "backend",
            f"graphs compiled in {precision} below '{bundle.folder}'",
            "nothing compiled",
            f"build them with {build_command(bundle, precision)}",
        )
    refused = None
    for precision in have:
        workspace = Workspace(device)
        try:
            denoisers: dict[str, Denoiser] = {
                name: _tensorrt_of(role, precision, request.batch_size, device, workspace)
                for name, role in roles.items()
            }
            return denoisers, precision
        except InputError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _precisions_of(bundle: Bundle) -> set[str]:
    return {precision_of(folder) for folder in folders_of(bundle)}


def _tensorrt_of(
    role: Role, precision: str, batch_size: int | None, device: Device, workspace: Workspace
) -> TensorRTDenoiser:
    """The first folder of a precision that runs here: TensorRT's own before that for RTX, one for this GPU before one
    for any."""
    platforms = (device.platform, ANY_PLATFORM)
    order = [name_of(library, precision, platform) for library in LIBRARIES for platform in platforms]
    folders = [f for f in folders_of(role.bundle) if precision_of(f) == precision]
    # Those for other GPUs come last, to say what is wrong with them if there is nothing else.
    folders.sort(key=lambda f: order.index(f.name) if f.name in order else len(order))
    refused = None
    for folder in folders:
        try:
            compiled = Compiled.open(folder, role.bundle)
            opened = TensorRTDenoiser(role.bundle, compiled, device, batch_size, workspace, role.operator)
            opened.check_slice(role.slice_shape)
            return opened
        except InputError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _onnx_gpu(roles: Roles, request: Request, device: Device) -> tuple[dict[str, Denoiser], str]:
    precision = request.precision or PRECISIONS[0]
    size = request.batch_size or _GPU_BATCH
    return {name: OnnxGpuDenoiser(role.bundle, device, size, precision) for name, role in roles.items()}, precision


def _native(roles: Roles, request: Request, device: Device) -> tuple[dict[str, Denoiser], str]:
    _check_float32(roles, request)
    for role in roles.values():
        reason = NativeDenoiser.reason_against(role.bundle)
        if reason is not None:
            raise Unavailable(
                "backend",
                f"one that runs '{role.bundle.folder}'",
                reason,
                "build the bundle again with `python -m export.build_engine`, or choose --backend onnx",
            )
    opened = _on_cpu(NativeDenoiser, roles, request)
    for name, role in roles.items():
        opened[0][name].check_slice(role.slice_shape)
    return opened


def _onnx_cpu(roles: Roles, request: Request, device: Device) -> tuple[dict[str, Denoiser], str]:
    _check_float32(roles, request)
    return _on_cpu(OnnxDenoiser, roles, request)


def _check_float32(roles: Roles, request: Request) -> None:
    if request.precision not in (None, PRECISIONS[0]):
        bundle = next(iter(roles.values())).bundle
        raise Unavailable(
            "precision",
            f"{PRECISIONS[0]} on a CPU",
            str(request.precision),
            f"build graphs for a GPU with {build_command(bundle, str(request.precision))}",
        )


def _on_cpu(runner: Any, roles: Roles, request: Request) -> tuple[dict[str, Any], str]:
    size = {} if request.batch_size is None else {"batch_size": request.batch_size}
    return {name: runner(role.bundle, n_threads=request.n_threads, **size) for name, role in roles.items()}, PRECISIONS[
        0
    ]


#: Name, kind of device, and how to open: `auto` takes the first that opens.
_FASTEST_FIRST: tuple[tuple[str, str, Open], ...] = (
    ("tensorrt", "cuda", _tensorrt),
    ("onnx", "cuda", _onnx_gpu),
    ("native", "cpu", _native),
    ("onnx", "cpu", _onnx_cpu),
)
