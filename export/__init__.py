"""Turns PyTorch score networks into engine bundles: ONNX graphs of the denoiser and of its adjoint."""
