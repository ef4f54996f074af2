"""The options that say what of a file with k-space is to be read, and how."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import InputError
from engine.io.measurements.ismrmrd_selection import CHOSEN
from engine.options import Options, documented, option

#: Counters have 16 bits.
_MOST_DIGITS = 5


@documented
@dataclass(frozen=True)
class KSpaceReading(Options):
    """Which image of a file of k-space is read, for what the file does not say.

    `dataset`, a group of an ISMRMRD file or an array in a .npz, .mat or HDF5 file, and `axes`, what those of an array
    count, of rows, columns, coils, and slices or partitions, are declared beside those of sinograms.
    """

    dataset: str | None = None
    axes: tuple[str, ...] = ()
    select: tuple[str, ...] = option(
        (),
        metavar="NAME=N,...",
        needs={"source": ("--kspace",)},
        default_words="the only ones there are; averages are averaged",
        help="which contrast, phase, repetition, set or average of an ISMRMRD file, such as contrast=1,repetition=0",
    )

    @property
    def numbers(self) -> dict[str, int]:
        """What `select` names.

        Raises
        ------
        InputError
            Another name, twice the same, or no number.
        """
        found: dict[str, int] = {}
        for word in self.select:
            name, _, number = word.partition("=")
            is_number = number.isascii() and number.isdigit() and len(number) <= _MOST_DIGITS
            if name not in CHOSEN or name in found or not is_number:
                expected = f"{', '.join(CHOSEN[:-1])} or {CHOSEN[-1]}, once each, with their numbers"
                raise InputError("select", expected, f"'{word[:40]}'", "write it as contrast=1,repetition=0")
            found[name] = int(number)
        return found
