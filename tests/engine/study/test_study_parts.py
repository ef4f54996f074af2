"""What a study is made of, without a cluster: workers, engines that stay open, room on nodes, tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from engine import batch
from engine.backends import engines as engines_module
from engine.backends.bundle import Bundle
from engine.backends.engines import Engines
from engine.backends.select import Request, Role, Selection
from engine.device import CPU
from engine.errors import InputError
from engine.io.volumes import save_nifti
from engine.study import worker as study_worker
from engine.study.cluster import Needs, _no_node
from engine.study.study import Study, Volume, is_done, study_of, volumes_of
from engine.study.table import Row, digest_of, read_csv, write_csv, write_parquet
from engine.study.worker import Worker
from tests.engine.study.conftest import content


@pytest.fixture
def study(options) -> Study:
    return study_of("volume", [*options, "--steps", "3"])


@pytest.fixture
def volumes(inputs, tmp_path) -> list[Volume]:
    return volumes_of(sorted(inputs(3).iterdir()), tmp_path / "out")


def test_a_worker_opens_engines_once(study, volumes, single, monkeypatch):
    opened, selected = [], []
    real_open, real_select = Bundle.open.__func__, engines_module.select
    monkeypatch.setattr(Bundle, "open", classmethod(lambda c, f: opened.append(f) or real_open(c, f)))
    monkeypatch.setattr(engines_module, "select", lambda *a: selected.append(a) or real_select(*a))
    # Another shape in the middle: its denoisers take the place of the first ones.
    np.save(volumes[1].source, np.load(volumes[1].source)[:, :, 2:-2])
    worker = Worker(study, 1, True)
    for volume in (volumes[0], volumes[2], volumes[1]):
        assert worker.run(volume).status == "done"
    assert len(opened) == 2
    assert len(selected) == 2
    for volume in volumes:
        assert content(volume.folder) == single(volume.source, "--steps", 3)


@pytest.mark.parametrize(
    ("backend", "operator", "n_opened"),
    [("native", None, 1), ("native", object(), 1), ("tensorrt", None, 1), ("tensorrt", object(), 3)],
    ids=["native", "native guided", "tensorrt", "tensorrt guided"],
)
def test_only_graphs_that_hold_an_operator_are_opened_again(tiny_bundles, monkeypatch, backend, operator, n_opened):
    opened, closed = [], []

    def select(roles, request):
        opened.append(roles)
        denoiser = SimpleNamespace(close=lambda: closed.append(roles))
        return Selection(dict.fromkeys(roles, denoiser), request.backend, "fp32", CPU, "")

    monkeypatch.setattr(engines_module, "select", select)
    engines, role = Engines(), Role(Bundle.open(tiny_bundles["axial"].folder), (16, 16), operator)
    for _ in range(3):
        assert engines.selection({"primary": role}, Request(backend)).backend == backend
    assert len(opened) == n_opened
    # A guided step is something else than a plain one.
    engines.selection({"primary": replace(role, operator=None if operator else object())}, Request(backend))
    assert len(opened) == n_opened + 1
    engines.close()
    assert closed == opened


def test_a_worker_without_a_gpu_sees_none(study, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    Worker(study, 1, True)
    assert study_worker.os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    Worker(study, 1, False)
    assert study_worker.os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("error", "message", "is_defect"),
    [
        (InputError("volume", "a file", "none", "check it"), "volume: expected a file, got none; check it", False),
        (OSError(28, "No space left on device"), "out: expected room and permission to write in '", False),
        (TypeError("no such thing"), "TypeError: no such thing", True),
        (MemoryError(), "memory: expected room for the volume", False),
    ],
)
def test_whatever_happens_to_a_volume_is_its_outcome(study, volumes, monkeypatch, error, message, is_defect):
    def execute(*_: object) -> None:
        raise error

    monkeypatch.setattr(study_worker, "execute", execute)
    outcome = Worker(study, 1, True).run(volumes[0])
    assert outcome.status == "failed"
    assert outcome.message.startswith(message)
    assert ("Traceback" in outcome.trace) == is_defect
    assert not volumes[0].folder.exists()


def test_a_stopped_worker_takes_no_other_volume(study, volumes):
    worker = Worker(study, 1, True)
    worker.stop()
    assert worker.run(volumes[0]).status == "stopped"
    assert not volumes[0].folder.exists()


GB = float(1 << 30)


@pytest.mark.parametrize(
    ("needs", "node", "n"),
    [
        (Needs(2), {"CPU": 7.0}, 3),
        (Needs(1), {}, 0),
        (Needs(1, 1.0), {"CPU": 8.0}, 0),
        (Needs(1, 1.0), {"CPU": 8.0, "GPU": 2.0}, 2),
        # Two halves of a GPU are not on the same one.
        (Needs(1, 0.6), {"CPU": 8.0, "GPU": 2.0}, 2),
        (Needs(1, 0.1), {"CPU": 64.0, "GPU": 1.0}, 10),
        (Needs(1, 0.0, 3.0), {"CPU": 8.0, "memory": 10 * GB}, 3),
    ],
)
def test_room_on_a_node(needs, node, n):
    assert needs.fits(node) == n


@pytest.mark.parametrize(
    ("needs", "nodes", "line"),
    [
        (Needs(4), [{"CPU": 2.0}, {"CPU": 3.0}], "cpus-per-volume: expected at most 3, which the largest node has"),
        (Needs(1, 1.0), [{"CPU": 2.0}], "gpus-per-volume: expected at most 0, "),
        (Needs(1, 0.0, 8.0), [{"CPU": 2.0, "memory": 4 * GB}], "memory-per-volume: expected at most 4 GB, "),
        (Needs(2, 1.0), [{"CPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}], "cpus-per-volume: expected a node with all that"),
    ],
)
def test_no_room_is_explained(needs, nodes, line):
    assert not sum(map(needs.fits, nodes))
    assert str(_no_node(needs, nodes)).startswith(line)


ROW = Row('/in/b,\n"c".npy', "done", "", 2, "host", "node", 12, 3.25, {"psnr_db": 0.1 + 0.2, "recon_sha256": "ab"})


def test_a_table_comes_back_sorted_and_exact(tmp_path):
    other = Row("/in/a.npy", "failed", "volume: expected a, got 'b'; mend it", 1)
    write_csv(tmp_path / "study.csv", [ROW, other])
    first, second = read_csv(tmp_path / "study.csv").values()
    assert first.cells() == {**other.cells(), "recon_sha256": ""}
    assert second.cells() == ROW.cells()


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"input,status\na,done\n"])
def test_a_damaged_table_is_none(tmp_path, damage, caplog):
    path = tmp_path / "study.csv"
    assert read_csv(path) == {}
    write_csv(path, [ROW])
    path.write_bytes(damage + path.read_bytes())
    assert read_csv(path) == {}
    assert "cannot be read" in caplog.text


def test_the_digest_of_a_series_is_that_of_its_files(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "b.dcm").write_bytes(b"2")
        (tmp_path / name / "a.dcm").write_bytes(b"1")
    assert digest_of(tmp_path / "one") == digest_of(tmp_path / "two")
    (tmp_path / "two" / "a.dcm").rename(tmp_path / "two" / "c.dcm")
    assert digest_of(tmp_path / "one") != digest_of(tmp_path / "two")


def test_names_lose_their_endings(tmp_path):
    names = ("a.nii.gz", "b.v2.npy", "c.NII.GZ", "d.h5")
    for name in names:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "e.series").mkdir()
    found = volumes_of([tmp_path / name for name in (*names, "e.series")], tmp_path / "out")
    assert [volume.folder.name for volume in found] == ["a", "b.v2", "c", "d", "e.series"]


def test_a_pattern_is_all_that_a_study_needs():
    args, rest = batch.build_parser().parse_known_args(["--inputs", "study/*.nii.gz"])
    assert (args.kind, args.out, rest) == ("volume", Path("runs/study"), [])
    assert study_of(args.kind, rest).options["task"] == "csmri"
    assert study_of(args.kind, ["--task", "mrzsr"]).options["task"] == "mrzsr"


def test_a_name_that_is_no_text_keeps_its_row(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    row = replace(ROW, input="/study/caf\udce9.nii")
    write_csv(tmp_path / "study.csv", [row])
    assert read_csv(tmp_path / "study.csv")[row.input].cells() == row.cells()
    write_parquet(tmp_path / "study.parquet", [row])
    assert parquet.read_table(tmp_path / "study.parquet")["input"].to_pylist() == [r"/study/caf\udce9.nii"]


def test_a_folder_of_stacks_is_one_person(inputs, tmp_path):
    head, people = np.load(inputs(1) / "head00.npy"), tmp_path / "people"
    for person in ("a", "b"):
        (people / person).mkdir(parents=True)
        for axis, name in ((2, "axial.nii.gz"), (0, "sagittal.nii")):
            affine = np.eye(4)
            affine[axis, axis], affine[axis, 3] = 4, 1.5
            thick = head.reshape([n for i in range(3) for n in ((4, 4) if i == axis else (16,))])
            save_nifti(people / person / name, thick.mean(axis + 1), affine)
        (people / person / "axial.json").write_text("{}")
    study = study_of("stacks", ["--method", "classical", "--align", "header", "--no-report"])
    assert study.options["task"] == "mrzsr"
    volumes = volumes_of(sorted(people.iterdir()), tmp_path / "out")
    assert study.options_for(volumes[1])["thick"] == [str(people / "b" / n) for n in ("axial.nii.gz", "sagittal.nii")]
    for volume in volumes:
        assert Worker(study, 1, True).run(volume).status == "done"
        assert is_done(study, volume)
    (people / "a" / "sagittal.nii").unlink()
    with pytest.raises(InputError, match=r"inputs: expected folders that hold two or more stacks .*/a' with 1;"):
        study.options_for(volumes[0])
    with pytest.raises(InputError, match=r"inputs: expected folders .* got the file '.*axial.nii.gz'; name folders"):
        study.options_for(Volume(people / "b" / "axial.nii.gz", tmp_path))
    with pytest.raises(InputError, match=r"thick: expected none beside --inputs, got c\.nii; name it there"):
        study_of("stacks", ["--thick", "c.nii"])
