"""Which acquisitions of an ISMRMRD file are of the image to reconstruct."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engine.errors import InputError
from engine.io.source import Source

#: Counters in which images differ.
IMAGES = ("contrast", "phase", "repetition", "set")
#: Those that can be chosen: averages of one image are averaged, or taken alone.
CHOSEN = (*IMAGES, "average")


def of_image(counters: np.ndarray, select: Mapping[str, int], source: Source) -> np.ndarray:
    """Return which acquisitions are of the chosen image, bool (n,).

    Parameters
    ----------
    counters : ISMRMRD encoding counters (n,)
        Of all acquisitions that are samples of images.
    select : mapping of str to int
        Of the counters in `CHOSEN` those that decide, and their values.
    source : Source

    Raises
    ------
    InputError
        A value that no acquisition has, or several images that nothing chooses between.
    """
    is_chosen = np.ones(len(counters), bool)
    for name, number in select.items():
        there = counters[name][is_chosen]
        if number not in there:
            expected = f"{name} {_words(np.unique(there))} in '{source.path}'"
            raise InputError("select", expected, f"{name}={number}", "choose one that there is")
        is_chosen &= counters[name] == number
    several = {name: values for name in IMAGES if len(values := np.unique(counters[name][is_chosen])) > 1}
    if several:
        got = " and ".join(f"{name} {_words(values)}" for name, values in several.items())
        choice = ",".join(f"{name}={values[0]}" for name, values in several.items())
        raise source.refusal("one image", got, f"choose one, such as by --select {choice}")
    return is_chosen


def of_coils(counters: np.ndarray, select: Mapping[str, int]) -> np.ndarray:
    """Return which calibration lines tell the coils of the chosen image, bool (n,).

    Its own where there are any; else, in each counter, the first ones: images share their coils, not their phases.

    Parameters
    ----------
    counters : ISMRMRD encoding counters (n,)
    select : mapping of str to int
    """
    is_chosen = np.ones(len(counters), bool)
    for name in CHOSEN if "average" in select else IMAGES:
        there = counters[name][is_chosen]
        if len(there):
            number = select.get(name, there.min())
            is_chosen &= counters[name] == (number if number in there else there.min())
    return is_chosen


def _words(numbers: np.ndarray) -> str:
    if len(numbers) > 2 and np.ptp(numbers) == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers[:8])) + (" and more" if len(numbers) > 8 else "")
