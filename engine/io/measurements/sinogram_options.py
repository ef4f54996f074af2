"""The options that say what neither the file of a sinogram nor its geometry does."""

from __future__ import annotations

from dataclasses import dataclass

from engine.options import Options, documented, option

_SINOGRAM = {"source": ("--sinogram",)}
#: What `engine.io.measurements.kspace_options` reads as well.
_ARRAY = {"source": ("--sinogram", "--kspace")}


@documented
@dataclass(frozen=True)
class Reading(Options):
    """How the values of a file become line integrals, views, and rays; for what neither file nor geometry says."""

    dataset: str | None = option(
        None,
        metavar="NAME",
        needs=_ARRAY,
        default_words="the only one, 'sinogram' or 'kspace', or the exchange layout's",
        help="array in a .npz, .mat or HDF5 file, or group of an ISMRMRD file",
    )
    axes: tuple[str, ...] = option(
        (),
        metavar="A,B,C",
        needs=_ARRAY,
        default_words="of a sinogram that of as many entries as there are angles counts views; else slices,views,bins, "
        "and views,slices,bins in folders and the exchange layout",
        help="what the axes count, in any order: slices, views and bins; of k-space rows, columns, coils, and slices "
        "or partitions",
    )
    minus_log: bool = option(
        False,
        needs=_SINOGRAM,
        help="values are counts or transmissions: take −log(I / I₀); with flat fields that is done anyhow",
    )
    open_beam: float | None = option(
        None,
        above=0,
        metavar="COUNTS",
        needs=_SINOGRAM,
        default_words="1 for transmissions, else what both ends of the detector see",
        help="I₀, counts of a ray that meets nothing, where there is no flat field",
    )
    flats: str = option(
        "file",
        choices=("file", "mend", "none"),
        needs=_SINOGRAM,
        help="flat and dark fields of the exchange layout: file, as they are; mend, with bins that have none "
        "interpolated; none, without them",
    )
    weights: str = option(
        "equal",
        choices=("equal", "counts"),
        needs=_SINOGRAM,
        help="how much samples are worth: equal; counts, as photons are, each by how much of the beam came through and "
        "by its flat field: for low doses",
    )
    turn: float | None = option(
        None,
        above=0,
        high=36000,
        metavar="DEGREES",
        needs=_SINOGRAM,
        help="views are spread evenly over this angle, the last one a step before its end; instead of a file's angles",
        remedy="180 and 360 are usual",
    )
    angle_unit: str | None = option(
        None,
        choices=("deg", "rad"),
        needs=_SINOGRAM,
        default_words="what the file says, else deg",
        help="unit of the angles, whatever file they are from",
    )
    centre: float | str | None = option(
        None,
        metavar="BIN",
        needs=_SINOGRAM,
        default_words="bin_offset_mm of --geometry; without a geometry find",
        help="bin, with its fraction and counted from 0, on which the axis of rotation falls; or find, for a parallel "
        "beam, from the views themselves",
    )
    bin_mm: float | None = option(
        None,
        above=0,
        metavar="MM",
        needs=_SINOGRAM,
        default_words="bin_spacing_mm of --geometry; without a geometry 1",
        help="distance of neighbouring bins of a parallel beam, and side of a voxel, without --geometry",
    )
    view_step: int = option(
        1, low=1, needs=_SINOGRAM, help="reconstruct from every Nth view alone; the centre is found with all of them"
    )
