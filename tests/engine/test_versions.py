"""A record names what is installed, and does not mind what is not."""

from __future__ import annotations

from importlib import metadata

from engine.versions import versions


def test_what_is_not_installed_is_left_out(monkeypatch):
    found = versions("pytest", "no such package")
    assert found["pytest"] == metadata.version("pytest")
    assert "no such package" not in found
    real = metadata.version

    def without(name: str) -> str:
        if name == "onnxruntime":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    # ONNX Runtime for GPUs is installed in its place.
    monkeypatch.setattr(metadata, "version", without)
    assert "onnxruntime" not in versions()
    assert versions()["numpy"] == found["numpy"]
