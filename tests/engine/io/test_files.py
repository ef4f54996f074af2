"""Files and folders appear whole, or what was there stays."""

from __future__ import annotations

import os

import pytest

from engine.errors import InputError
from engine.io.files import replacing, replacing_folder


def fill(folder, content):
    (folder / "deep").mkdir()
    (folder / "deep" / "a").write_text(content)


def content_of(path):
    return {str(f.relative_to(path)): f.read_text() for f in path.rglob("*") if f.is_file()}


def accept(path):
    pass


def test_a_file_takes_its_place_and_leaves_nothing_beside_it(tmp_path):
    for text in ("one", "two"):
        with replacing(tmp_path / "a.txt") as temporary:
            assert temporary.suffix == ".txt"
            temporary.write_text(text)
        assert content_of(tmp_path) == {"a.txt": text}
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert content_of(tmp_path) == {"a.txt": "two"}


def test_a_folder_takes_its_place_and_leaves_nothing_beside_it(tmp_path):
    for text in ("one", "two"):
        with replacing_folder(tmp_path / "out", accept) as work:
            fill(work, text)
        assert content_of(tmp_path) == {"out/deep/a": text}
        assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~umask()
    with pytest.raises(ZeroDivisionError), replacing_folder(tmp_path / "out", accept) as work:
        fill(work, "half")
        raise ZeroDivisionError
    assert content_of(tmp_path) == {"out/deep/a": "two"}


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_relative_path_survives_a_change_of_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with replacing_folder("out", accept) as work:
        monkeypatch.chdir(tmp_path / "elsewhere")
        fill(work, "one")
    assert content_of(tmp_path) == {"out/deep/a": "one"}


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_folder_in_the_way_that_is_not_ours_stays(tmp_path, when):
    (tmp_path / "out").mkdir()

    def check(path):
        if (path / "foreign").exists():
            raise InputError("out", "a new folder", "another", "choose one")

    if when == "before":
        (tmp_path / "out" / "foreign").write_text("x")
    with pytest.raises(InputError), replacing_folder(tmp_path / "out", check) as work:
        fill(work, "one")
        (tmp_path / "out" / "foreign").write_text("x")
    assert content_of(tmp_path) == {"out/foreign": "x"}


def test_an_earlier_folder_comes_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    fill_out = tmp_path / "out"
    fill_out.mkdir()
    fill(fill_out, "one")
    real = os.replace

    def replace(a, b):
        if ".part" in str(a):
            raise OSError("no")
        real(a, b)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="no"), replacing_folder(tmp_path / "out", accept) as work:
        fill(work, "two")
    assert content_of(tmp_path) == {"out/deep/a": "one"}
