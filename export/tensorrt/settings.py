"""What graphs are compiled for: precision, sizes, platform, and which."""

from __future__ import annotations

from dataclasses import dataclass

from engine.backends.bundle import GRAPHS, Bundle
from engine.backends.compiled import PRECISIONS, REQUIRED
from engine.errors import InputError
from export.tensorrt.guided import INPUTS

#: Everything that can be compiled, and is unless asked otherwise.
ALL_GRAPHS = (*GRAPHS, *INPUTS)
#: Slices in one run: smallest, the one to be fastest for, largest. Memory grows with the largest.
DEFAULT_BATCH = (1, 4, 8)

Sizes = tuple[int, int, int]


@dataclass(frozen=True)
class Settings:
    """What graphs are compiled for.

    Parameters
    ----------
    precision : str
        One of `engine.backends.compiled.PRECISIONS`.
    batch, height, width : (int, int, int)
        Smallest, fastest and largest; equal ones are fixed in the graph.
    platform : str or None
        "sm86" and the like, or "any"; None: for TensorRT for RTX any, for TensorRT the card at hand.
    refit : bool
        Leave room for another network's weights, at some cost in speed.
    graphs : tuple of str
        Some of `ALL_GRAPHS`.
    """

    precision: str
    batch: Sizes
    height: Sizes
    width: Sizes
    platform: str | None = None
    refit: bool = False
    graphs: tuple[str, ...] = ALL_GRAPHS

    @classmethod
    def checked(
        cls,
        bundle: Bundle,
        precision: str,
        *,
        batch: str | None = None,
        height: str | None = None,
        width: str | None = None,
        static: bool = False,
        platform: str | None = None,
        refit: bool = False,
        graphs: str | None = None,
    ) -> Settings:
        """Settings from what a command line says.

        Parameters
        ----------
        batch, height, width : str, optional
            "4", or "1,4,8" for smallest, fastest and largest. Sides are those of the training slices unless stated.
        static : bool
            One batch size only, the fastest.
        graphs : str, optional
            Names with commas.

        Raises
        ------
        InputError
        """
        check_options(precision, graphs, batch, height, width)
        sizes = _sizes("batch", batch, DEFAULT_BATCH)
        if static:
            sizes = (sizes[1],) * 3
        sides = []
        for name, text in (("height", height), ("width", width)):
            if text is None and bundle.trained_size is None:
                raise InputError(
                    name,
                    "the size of the slices",
                    f"none from '{bundle.folder}', which does not know that of its training",
                    f"state it with --{name}",
                )
            side = _sizes(name, text, (bundle.trained_size or 0,) * 3)
            if any(n % bundle.divisor for n in side):
                raise InputError(
                    name, f"multiples of {bundle.divisor} for the network of '{bundle.folder}'", text, "round them up"
                )
            if static and side[0] != side[2]:
                raise InputError(name, "one size with --static", text, "drop one of the two")
            sides.append(side)
        names = ALL_GRAPHS if graphs is None else tuple(n for n in ALL_GRAPHS if n in {*graphs.split(","), *REQUIRED})
        return cls(precision, sizes, sides[0], sides[1], platform, refit, names)

    @property
    def profile(self) -> dict[str, list[int]]:
        return {"batch": list(self.batch), "height": list(self.height), "width": list(self.width)}


def check_options(
    precision: str = "fp32", graphs: str | None = None, batch: str | None = None, height: str | None = None,
    width: str | None = None, **_: object,
) -> None:  # fmt: skip
    """Refuse what `Settings.checked` would, as far as that depends on no bundle.

    Raises
    ------
    InputError
    """
    if precision not in PRECISIONS:
        raise InputError("precision", f"{', '.join(PRECISIONS)}", f"'{precision}'", "choose one")
    for name, text in (("batch", batch), ("height", height), ("width", width)):
        _sizes(name, text, DEFAULT_BATCH)
    unknown = [] if graphs is None else sorted(set(graphs.split(",")) - set(ALL_GRAPHS))
    if unknown:
        raise InputError("graphs", f"some of {', '.join(ALL_GRAPHS)}", f"{', '.join(unknown)}", "choose those")


def _sizes(name: str, text: str | None, default: Sizes) -> Sizes:
    if text is None:
        return default
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or not 1 <= numbers[0] <= numbers[1] <= numbers[2]:
        raise InputError(name, "a size, or smallest,fastest,largest, at least 1", f"'{text}'", "try 1,4,8")
    return numbers[0], numbers[1], numbers[2]
