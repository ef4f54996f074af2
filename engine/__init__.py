"""The runtime: compiled 2D diffusion priors reconstruct 3D volumes. Needs neither PyTorch nor the exporter."""
