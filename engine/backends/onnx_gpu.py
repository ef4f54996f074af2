"""Runs an engine bundle in ONNX Runtime on an NVIDIA GPU, on CuPy arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import numpy as np
import onnxruntime as ort

from engine.backends.bundle import Bundle
from engine.backends.compiled import build_command
from engine.backends.gpu import GpuDenoiser, filled
from engine.device import Device, address_of
from engine.errors import InputError, Unavailable
from engine.sampling.denoiser import CotangentOf

_ERRORS_ONLY = 3
#: What ONNX Runtime calls the memory of the GPU.
_MEMORY = "cuda"
#: Providers, and what brings them.
PROVIDERS = {
    "CUDAExecutionProvider": "`pip install onnxruntime-gpu[cuda,cudnn]` in place of onnxruntime",
    "TensorrtExecutionProvider": "`pip install onnxruntime-gpu[cuda,cudnn] tensorrt` in place of onnxruntime",
    "NvTensorRTRTXExecutionProvider": "an ONNX Runtime that was built with it, see its documentation",
}
#: The arithmetic is in these; ONNX Runtime leaves the integers of shapes to the CPU on purpose.
_HEAVY = {"Conv", "ConvTranspose", "FusedConv", "FusedMatMul", "Gemm", "MatMul"}
_FULL = ("out of memory", "failed to allocate memory", "bad_alloc", "alloc_failed")


@final
class OnnxGpuDenoiser(GpuDenoiser):
    """A bundle's ONNX graphs on one GPU; neither slices nor tape leave it.

    Parameters
    ----------
    bundle : Bundle
    device : Device
        The GPU.
    batch_size : int
        The most slices in one run of a graph.
    precision : str
        "fp32"; "tf32" where the provider is CUDA's.
    provider : str
        A key of `PROVIDERS`.

    Raises
    ------
    Unavailable
        ONNX Runtime lacks the provider, cannot load it, or gives part of the arithmetic to the CPU.
    InputError
        The provider lacks the precision.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: Device,
        batch_size: int = 8,
        precision: str = "fp32",
        provider: str = "CUDAExecutionProvider",
    ):
        super().__init__(device, batch_size)
        has = ("fp32", "tf32") if provider == "CUDAExecutionProvider" else ("fp32",)
        if precision not in has:
            raise InputError(
                "precision",
                f"{' or '.join(has)} of ONNX Runtime",
                precision,
                f"build graphs for TensorRT with {build_command(bundle, precision)}",
            )
        self.bundle, self.precision, self.provider = bundle, precision, provider
        self.sigma_range = bundle.sigma_range
        self._sessions: dict[str, ort.InferenceSession] = {}
        # Whatever is wrong is found now, not when the first step is taken.
        self._session("denoise")

    def _denoise(self, x: Any, sigma: float) -> Any:
        library = self.device.library
        x0 = library.empty_like(x)

        def work(part: slice, size: int) -> None:
            inputs = self._inputs(x[part], sigma, size)
            out = library.empty(inputs["x"].shape, np.float32)
            self._run(self._session("denoise"), inputs, {"x0": out})
            x0[part] = out[: len(x0[part]), 0]

        self._by_batches(x, work)
        return x0

    def _vjp(self, x: Any, sigma: float, cotangent: CotangentOf) -> tuple[Any, Any]:
        library = self.device.library
        x0, pulled = library.empty_like(x), library.empty_like(x)

        def work(part: slice, size: int) -> None:
            # Asked for here, and not before: an earlier batch may have found no room, and let them go.
            forward, backward = self._session("linearize"), self._session("pullback")
            tape_names = [o.name for o in forward.get_outputs() if o.name != "x0"]
            inputs, n = self._inputs(x[part], sigma, size), len(x0[part])
            out = library.empty(inputs["x"].shape, np.float32)
            tape = self._run(forward, inputs, {"x0": out}, tape_names)
            x0[part] = out[:n, 0]
            towards = library.zeros(inputs["x"].shape, np.float32)
            filled(towards, cotangent(x0[part], part)[:, None])
            self._run(backward, {"cotangent": towards}, {"pullback": out}, tape=tape)
            pulled[part] = out[:n, 0]

        self._by_batches(x, work)
        return x0, pulled

    def _inputs(self, x: Any, sigma: float, size: int) -> dict[str, Any]:
        """A batch of slices and their noise levels, filled up with zeros."""
        library = self.device.library
        batch = library.zeros((size, 1, *x.shape[1:]), np.float32)
        filled(batch, x[:, None])
        return {"x": batch, "sigma": library.full(size, sigma, np.float32)}

    def _run(
        self,
        session: ort.InferenceSession,
        inputs: dict[str, Any],
        outputs: dict[str, Any],
        kept: list[str] | None = None,
        tape: dict[str, ort.OrtValue] | None = None,
    ) -> dict[str, ort.OrtValue]:
        """Run a graph on arrays and a tape; return the outputs to keep, which ONNX Runtime allocates on the GPU."""
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, *self._place, np.float32, array.shape, address_of(array))
        for name, value in (tape or {}).items():
            binding.bind_ortvalue_input(name, value)
        for name, array in outputs.items():
            binding.bind_output(name, *self._place, np.float32, array.shape, address_of(array))
        for name in kept or []:
            binding.bind_output(name, *self._place)
        # ONNX Runtime has a stream of its own.
        self.device.library.cuda.get_current_stream().synchronize()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return dict(zip(kept or [], binding.get_outputs()[len(outputs) :], strict=True))

    @property
    def _place(self) -> tuple[str, int]:
        return _MEMORY, self.device.number or 0

    def _session(self, graph: str) -> ort.InferenceSession:
        if graph not in self._sessions:
            self._sessions[graph] = self._opened(self.bundle.folder / f"{graph}.onnx")
        return self._sessions[graph]

    def _opened(self, path: Path) -> ort.InferenceSession:
        remedy = f"install {PROVIDERS[self.provider]}"
        expected = f"an ONNX Runtime with {self.provider}"
        if self.provider not in ort.get_available_providers():
            raise Unavailable("backend", expected, f"one with {', '.join(ort.get_available_providers())}", remedy)
        options = ort.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        wanted = [(self.provider, self._provider_options()), "CPUExecutionProvider"]
        session = ort.InferenceSession(str(path), options, providers=wanted)
        session.disable_fallback()
        # Where CUDA's libraries are not found, ONNX Runtime says so in its log and takes the CPU.
        if self.provider not in session.get_providers():
            raise Unavailable("backend", expected, "one that could not load it", f"{remedy}, and check the driver")
        left = _left_to_cpu(session)
        if left:
            raise Unavailable(
                "backend",
                f"{self.provider} to take all arithmetic of '{path.name}'",
                f"{', '.join(sorted(left))} left to the CPU",
                "update onnxruntime-gpu, or choose --backend tensorrt",
            )
        return session

    def _provider_options(self) -> dict[str, str]:
        options = {"device_id": str(self.device.number or 0)}
        if self.provider == "CUDAExecutionProvider":
            options["use_tf32"] = str(int(self.precision == "tf32"))
        return options

    def _is_out_of_memory(self, error: Exception) -> bool:
        from_runtime = type(error).__module__.startswith("onnxruntime")
        return super()._is_out_of_memory(error) or (from_runtime and any(f in str(error).lower() for f in _FULL))

    def _let_go(self) -> None:
        # A session keeps what it has allocated for as long as it lives.
        self._sessions.clear()


def _left_to_cpu(session: ort.InferenceSession) -> set[str]:
    """Kinds of arithmetic that the CPU was given; empty where this ONNX Runtime cannot tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return set()
    given = [part for part in session.get_provider_graph_assignment_info() if part.ep_name == "CPUExecutionProvider"]
    return {node.op_type for part in given for node in part.get_nodes()} & _HEAVY
