"""Raw files of scanners' makers, which converters of ISMRMRD's read."""

from __future__ import annotations

from dataclasses import dataclass

from engine.io.source import Source


@dataclass(frozen=True)
class _Maker:
    name: str
    converter: str
    suffixes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


_MAKERS = (
    _Maker("Siemens", "siemens_to_ismrmrd", (".dat",)),
    _Maker("GE", "ge_to_ismrmrd", (".7",)),
    _Maker("Philips", "philips_to_ismrmrd", (".raw", ".lab", ".sin")),
    _Maker("Bruker", "bruker_to_ismrmrd", names=("fid", "ser", "rawdata.job0", "2dseq")),
)


def refuse_raw(source: Source) -> None:
    """Refuse a maker's raw file, or Bruker's folder of one, by the name of what converts it.

    Raises
    ------
    InputError
    """
    path = source.path
    for maker in _MAKERS:
        held = [name for name in maker.names if (path / name).is_file()] if path.is_dir() else []
        if held or path.suffix.lower() in maker.suffixes or path.name in maker.names:
            got = f"raw data of {maker.name} ({held[0] if held else path.suffix or path.name})"
            remedy = f"convert it with {maker.converter} and give the .h5 that this writes"
            raise source.refusal("k-space in an open format", got, remedy)
