# %% [markdown]
# # CT from few views
#
# A fan beam, 36 views of a full turn. Needs `pip install -c constraints.txt -e '.[demo]'`; everything is written to
# `example-svct`.

# %%
import json
from pathlib import Path

import numpy as np

from engine import demo
from engine.io.measurements.geometry import load_geometry
from engine.io.measurements.sinogram import load_sinogram
from engine.io.volumes import save_volume
from engine.operators import Radon
from engine.problems import acquisition
from engine.problems.noise_level import with_noise_level
from engine.report.metrics import psnr
from engine.report.preview import write_preview
from engine.sampling import Settings, reconstruct

STEPS = 20
OUT = Path("example-svct")
OUT.mkdir(exist_ok=True)

# %% [markdown]
# ## The geometry
#
# A file of this kind says where the rays of a scanner run, and which image to reconstruct; all lengths are in mm.

# %%
head = demo.volume()
geometry = {
    "beam": "fan",
    "angles_deg": {"first": 0, "last_excluded": 360, "count": 36},
    "source_distance_mm": 600,
    "detector_distance_mm": 400,
    "bins": 160,
    "bin_spacing_mm": 3.5,
    "pixel_mm": 3,
    "size": 64,
    "slice_spacing_mm": 3,
    "orientation": "SRA",
    "origin_mm": head.affine[:3, 3].tolist(),
}
(OUT / "geometry.json").write_text(json.dumps(geometry, indent=1))

# %% [markdown]
# ## A scan
#
# With a sinogram of your own leave this cell out. Here line integrals of a head are computed, in its units times mm,
# one (views, bins) for each slice, and noise of 1 % is added.

# %%
rays = load_geometry(OUT / "geometry.json", n_views=36, n_bins=160)
slices = rays.place.plane.slices_of(head.in_file_units(head.data))
integrals = Radon(rays.geometry, rays.place.slice_shape).apply(slices) * rays.place.pixel_mm
added = 0.01 * np.sqrt(np.mean(integrals[integrals != 0] ** 2))
integrals += added * np.random.default_rng(0).standard_normal(integrals.shape)
np.save(OUT / "sinogram.npy", integrals)

# %% [markdown]
# ## Reconstruction
#
# The slices of the scan are axial ones, and so is the first prior. The noise is found on rays that miss the image.

# %%
priors = demo.priors()  # axial, coronal
measured = acquisition.of_sinogram(load_sinogram(OUT / "sinogram.npy", OUT / "geometry.json"))
problem = with_noise_level(measured.problem(priors[0].plane), "estimate")
result = reconstruct(problem, priors, Settings(n_steps=STEPS))
save_volume(OUT / "recon.nii.gz", measured.in_file_units(result.volume), measured.affine)

# %% [markdown]
# ## How near it comes to the truth, and a picture

# %%
truth = head.in_file_units(head.data)
recon, back_projected = (measured.in_file_units(x) for x in (result.volume, problem.classical()))
white = float(np.ptp(truth))
found = problem.noise_level * measured.scale * rays.place.pixel_mm
print(f"noise: {added:.0f} added, {found:.0f} found, in the units of the sinogram")
print(f"PSNR {psnr(truth, recon, white):.1f} dB, back-projected {psnr(truth, back_projected, white):.1f} dB")
volumes = {"truth": truth, "back-projected": back_projected, "result": recon}
write_preview(OUT / "preview.png", volumes, "truth", voxel_mm=measured.voxel_mm)
