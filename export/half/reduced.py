"""Puts a bundle's graphs into a precision, measures the error, and keeps in float32 the layers that cost too much."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto

from engine.backends.bundle import GRAPHS, Bundle
from engine.errors import InputError
from export.half.cotangent import with_bounded_cotangent
from export.half.emulation import PRODUCTS, Feeds, Runner, observe, rounding, rounding_products
from export.half.precision import HALF_TYPES, LARGEST, Values, convert, load, output_types

log = logging.getLogger("export")

#: Relative error of one rounding.
ROUNDING = {"tf32": 2.0**-11, "fp16": 2.0**-11, "bf16": 2.0**-8}
#: Errors that a graph may show, in roundings: those of operators one after another add up like a random walk, and the
#: longest path through the published network has some 400 of them forward, and again as many backward. In relation to
#: what the network adds: x̂₀ − x for x̂₀, which is σ² times the score, and pullback − cotangent. A sampler takes nothing
#: else from it, and in relation to x̂₀ itself even one rounding of x at σ = 378 shows as a fifth.
BOUNDS = {"x0": 20.0, "pullback": 40.0}
#: Part of the largest half-precision number that values may reach in the float32 graphs: other images have others.
_MARGIN = 0.25
HOW = "onnxruntime on the CPU, every operator's result rounded, against the bundle's float32 graphs"


@dataclass(frozen=True)
class Reduced:
    """The graphs of a bundle in one precision.

    Parameters
    ----------
    models : dict of str to ModelProto
        By the names in `engine.backends.bundle.GRAPHS`, with their weights.
    float32_layers : list of str
        ``graph/node`` of what was kept in float32 beyond the rule of `export.half.precision`.
    verification : dict
        How errors were measured, bounds, and one row a noise level.
    """

    models: dict[str, ModelProto]
    float32_layers: list[str] = field(default_factory=list)
    verification: dict[str, Any] = field(default_factory=dict)


def reduce(bundle: Bundle, precision: str) -> Reduced:
    """Return a bundle's graphs in a precision of `engine.backends.compiled.PRECISIONS`.

    fp32 and tf32 are the same graphs: for tf32 the compiler takes another product. Of the others, operators are kept in
    float32 whose values come near the end of half precision's range, and then, if a bound does not hold, those blocks
    that add most to the error: one, two, four, … until it does.

    Raises
    ------
    InputError
        The bounds do not hold, for tf32 or with all layers in float32.
    """
    models = {name: load(bundle.folder / f"{name}.onnx") for name in GRAPHS}
    if precision == "fp32":
        how = "float32 graphs as the bundle has them; its manifest says how far they are from float64"
        return Reduced(models, verification={"how": how, "bounds": {}, "rows": []})
    probes = _probes(bundle, models)
    bounds = {name: n * ROUNDING[precision] for name, n in BOUNDS.items()}
    if precision == "tf32":
        rows = _rows(probes, {name: Runner(rounding_products(model)) for name, model in models.items()})
        if not _pass(rows, bounds):
            raise _beyond(bundle, precision, rows, bounds)
        return Reduced(models, verification={"how": HOW, "bounds": bounds, "rows": rows})
    search = _Search(models, precision, probes)
    rows = search.run(bounds)
    if not _pass(rows, bounds):
        raise _beyond(bundle, precision, rows, bounds)
    return Reduced(search.converted, search.kept_names(), {"how": HOW, "bounds": bounds, "rows": rows})


# --- probes


def _probes(bundle: Bundle, models: dict[str, ModelProto], n_sigmas: int = 5, seed: int = 0) -> list[dict[str, Any]]:
    """Noisy images over the trained noise levels, and what the float32 graphs make of them; sizes change."""
    rng = np.random.default_rng(seed)
    side = max(16, 4 * bundle.divisor)
    linearize, pullback = Runner(models["linearize"]), Runner(models["pullback"])
    probes = []
    for i, sigma in enumerate(np.geomspace(bundle.sigma_min, bundle.sigma_max, n_sigmas)):
        shape = (1 + i % 2, 1, side + bundle.divisor * (i % 2), side + bundle.divisor * (i % 3))
        x = rng.random((shape[0], 1, 1, 1)) + sigma * rng.standard_normal(shape)
        feeds: dict[str, np.ndarray] = {
            "x": x.astype(np.float32),
            "sigma": np.full(shape[0], sigma, dtype=np.float32),
            "cotangent": rng.standard_normal(shape).astype(np.float32),
        }
        feeds |= linearize(feeds)
        feeds |= pullback(feeds)
        probes.append(feeds)
    return probes


def _relative(ours: np.ndarray, exact: np.ndarray, start: np.ndarray | float = 0.0) -> float:
    size = float(np.linalg.norm(exact - start))
    error = float(np.linalg.norm(ours.astype(np.float64) - exact))
    return error / size if size > 0 else (0.0 if error == 0 else float("inf"))


def _rows(probes: Sequence[Feeds], runners: dict[str, Runner]) -> list[dict[str, Any]]:
    """Errors at every noise level, as `BOUNDS` defines them; keys are graph and output."""
    rows = []
    for p in probes:
        errors: dict[str, float] = {}
        if "denoise" in runners:
            errors["denoise_x0"] = _relative(runners["denoise"](p)["x0"], p["x0"], p["x"])
        if "linearize" in runners:
            found = runners["linearize"](p)
            errors["split_x0"] = _relative(found["x0"], p["x0"], p["x"])
            tape = {k: v for k, v in found.items() if k != "x0"}
            back = runners["pullback"]({**p, **tape})["pullback"]
            errors["split_pullback"] = _relative(back, p["pullback"], p["cotangent"])
        rows.append({"sigma": float(p["sigma"][0]), "shape": [len(p["x"]), *p["x"].shape[2:]], **errors})
    return rows


def _worst(rows: list[dict[str, Any]], output: str) -> float:
    errors = [v for row in rows for k, v in row.items() if k.endswith(f"_{output}")]
    # NaN, of an overflow, is worse than any number.
    return max((v if v == v else float("inf") for v in errors), default=0.0)


def _pass(rows: list[dict[str, Any]], bounds: dict[str, float]) -> bool:
    return all(_worst(rows, output) <= bound for output, bound in bounds.items())


def _beyond(bundle: Bundle, precision: str, rows: list[dict[str, Any]], bounds: dict[str, float]) -> InputError:
    found = f"{_worst(rows, 'x0'):.1e} and {_worst(rows, 'pullback'):.1e}"
    return InputError(
        "precision",
        (f"relative errors of at most {bounds['x0']:.1e} (x0) and {bounds['pullback']:.1e} (pullback)"),
        f"{found} in {precision} for '{bundle.folder}'",
        "choose fp32",
    )


# --- the search

#: Graphs that run together: the second takes the tape of the first.
_CHAINS = (("denoise",), ("linearize", "pullback"))


class _Search:
    """Decides which layers stay float32, chain by chain."""

    def __init__(self, models: dict[str, ModelProto], precision: str, probes: list[dict[str, Any]]):
        self.precision, self.probes = precision, probes
        self.models = {k: with_bounded_cotangent(m) if k == "pullback" else m for k, m in models.items()}
        self.values: dict[str, Values] = {}
        self.kept: dict[str, set[str]] = {}
        self.converted: dict[str, ModelProto] = {}

    def run(self, bounds: dict[str, float]) -> list[dict[str, Any]]:
        """Convert everything; return the errors at every noise level, all chains in one row."""
        rows: list[dict[str, Any]] = [{} for _ in self.probes]
        for chain in _CHAINS:
            for row, new in zip(rows, self._chain(chain, bounds), strict=True):
                row |= new
        return rows

    def kept_names(self) -> list[str]:
        return [
            f"{graph}/{node.output[0]}"
            for graph in self.models
            for node in self.models[graph].graph.node
            if node.output[0] in self.kept[graph]
        ]

    def _chain(self, chain: tuple[str, ...], bounds: dict[str, float]) -> list[dict[str, Any]]:
        for graph in chain:
            self.values[graph] = observe(self.models[graph], self.probes)
            self.kept[graph] = set()
        self._convert(chain)
        reducible = {}
        for graph in chain:
            # Copies of weights that are only moved are no layers.
            layers = {n.output[0] for n in self.models[graph].graph.node}
            reducible[graph] = [name for name in _half_layers(self.converted[graph]) if name in layers]
        for graph in chain:
            self.kept[graph] = self._beyond_range(graph) & set(reducible[graph])
        if any(self.kept[graph] for graph in chain):
            self._convert(chain)
        rows = self._measure(chain)
        if _pass(rows, bounds):
            return rows
        log.info("%s in %s: looking for layers that have to stay float32 …", ", ".join(chain), self.precision)
        blocks = self._blocks(chain, reducible, rows, bounds)
        n_kept = 1
        while True:
            for graph, names in blocks[:n_kept]:
                self.kept[graph] |= names
            self._convert(chain)
            rows = self._measure(chain)
            if _pass(rows, bounds) or n_kept >= len(blocks):
                return rows
            n_kept *= 2

    def _convert(self, chain: tuple[str, ...]) -> None:
        tape: dict[str, int] = {}
        for graph in chain:
            self.converted[graph] = convert(
                self.models[graph], self.precision, self.values[graph], self.kept[graph], tape
            )
            tape = output_types(self.converted[graph])

    def _measure(self, chain: tuple[str, ...]) -> list[dict[str, Any]]:
        return _rows(self.probes, {graph: Runner(rounding(self.converted[graph])) for graph in chain})

    def _beyond_range(self, graph: str) -> set[str]:
        """Operators that read or make values which half precision may not hold."""
        limit, largest = _MARGIN * LARGEST[self.precision], self.values[graph].largest
        far = {name for name, peak in largest.items() if not peak <= limit}
        return {n.output[0] for n in self.models[graph].graph.node if far & {*n.input, *n.output}}

    def _blocks(
        self,
        chain: tuple[str, ...],
        reducible: dict[str, list[str]],
        rows: list[dict[str, Any]],
        bounds: dict[str, float],
    ) -> list[tuple[str, set[str]]]:
        """Parts of the graphs, a product and what follows it up to the next one, the largest source of error first.

        A source is where a value's relative error exceeds those of what it was made from, at the worst noise level.
        """
        severity = [max(_worst([row], output) / bound for output, bound in bounds.items()) for row in rows]
        feeds = dict(self.probes[int(np.argmax(severity))])
        ranked: list[tuple[float, int, str, set[str]]] = []
        for graph in chain:
            names = reducible[graph]
            nodes = {n.output[0]: n for n in self.models[graph].graph.node}
            inner = [*names, *(v for name in names for v in nodes[name].input if v in nodes)]
            there = {n.output[0] for n in self.converted[graph].graph.node}
            inner = [v for v in dict.fromkeys(inner) if v in self.values[graph].largest and v in there]
            exact = Runner(self.models[graph], inner)(feeds)
            ours = Runner(rounding(self.converted[graph]), inner)(feeds)
            error = {k: _relative(ours[k], exact[k]) for k in inner}
            error = {k: v if v == v else float("inf") for k, v in error.items()}
            block: tuple[float, set[str]] = (0.0, set())
            parts = []
            for name in names:
                before = max((error.get(v, 0.0) for v in nodes[name].input), default=0.0)
                added = error[name] - before if np.isfinite(before) else 0.0
                if nodes[name].op_type in PRODUCTS and block[1]:
                    parts.append(block)
                    block = (0.0, set())
                block = (block[0] + max(0.0, added), block[1] | {name})
            parts.append(block)
            ranked += [(-score, len(ranked) + i, graph, members) for i, (score, members) in enumerate(parts)]
            feeds |= {k: v for k, v in ours.items() if k.startswith("tape")}
        return [(graph, members) for _, _, graph, members in sorted(ranked, key=lambda part: part[:2])]


def _half_layers(model: ModelProto) -> list[str]:
    """Operators of a converted graph that compute in half precision, or whose results leave the graph in it."""
    outputs = {o.name for o in model.graph.output}
    halves = set(HALF_TYPES.values())
    half = {t.name for t in model.graph.initializer if t.data_type in halves}
    half |= {i.name for i in model.graph.input if i.type.tensor_type.elem_type in halves}
    layers = []
    for node in model.graph.node:
        if node.op_type == "Cast":
            made = {node.output[0] for a in node.attribute if a.i in halves}
            half |= made
            layers += sorted(made & outputs)
        elif node.op_type != "Shape" and half & set(node.input):
            half.add(node.output[0])
            layers.append(node.output[0])
    return layers
