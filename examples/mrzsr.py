# %% [markdown]
# # Thin slices from thick ones
#
# A scan with slices of 12 mm becomes one with slices of 3 mm. Needs `pip install -c constraints.txt -e '.[demo]'`;
# everything is written to `example-mrzsr`.

# %%
from pathlib import Path

import nibabel as nib
import numpy as np

from engine import demo, simulate
from engine.io.volumes import load_volume, save_volume
from engine.problems import acquisition
from engine.problems.noise_level import with_noise_level
from engine.problems.tasks import Measurement
from engine.report.metrics import psnr
from engine.report.preview import write_preview
from engine.sampling import Settings, reconstruct

STEPS = 20
OUT = Path("example-mrzsr")
OUT.mkdir(exist_ok=True)

# %% [markdown]
# ## A scan
#
# With a scan of your own leave this cell out. Here four slices of a head are averaged into one, with some noise. Slices
# are thick along axis 2, from foot to head, so that they are measured in coronal ones, which show that axis.

# %%
head = demo.volume()
priors = demo.prior("coronal"), demo.prior("axial")
simulated = acquisition.of_volume("mrzsr", head, Measurement(factor=4, thick_axis=2, noise=0.01))
simulate.write(simulated, simulated.problem(priors[0].plane), OUT / "thick.nii.gz")

# %% [markdown]
# ## Reconstruction
#
# Which axis is thick, and how many thin slices make voxels cubic, follows from the voxel sizes. The noise is estimated.

# %%
measured = acquisition.of_thick(load_volume(OUT / "thick.nii.gz"))
problem = with_noise_level(measured.problem(priors[0].plane), "estimate")
result = reconstruct(problem, priors, Settings(n_steps=STEPS))

# %% [markdown]
# ## The result, in the units and with the axes of the file

# %%
save_volume(OUT / "recon.nii.gz", measured.in_file_units(result.volume), measured.affine, measured.orientation)

# %% [markdown]
# ## World coordinates
#
# Thin and thick slices lie in the same place: one point of the patient, in mm to the right, the front and the top, is
# another voxel in each of the files.

# %%
POINT_MM = (0, -20, 10)
for name in ("thick", "recon"):
    image = nib.load(OUT / f"{name}.nii.gz")
    voxel = nib.affines.apply_affine(np.linalg.inv(image.affine), POINT_MM)
    print(f"{name}: {POINT_MM} mm is voxel {voxel.round(2).tolist()} of {image.shape}")

# %% [markdown]
# ## How near it comes to the truth, and a picture

# %%
truth = head.in_file_units(head.data)
cubic = measured.in_file_units(problem.classical())
thin = measured.in_file_units(result.volume)
white = float(np.ptp(truth))
print(f"PSNR {psnr(truth, thin, white):.1f} dB, of cubic splines {psnr(truth, cubic, white):.1f} dB")
volumes = {"truth": truth, "cubic": cubic, "result": thin}
write_preview(OUT / "preview.png", volumes, "truth", voxel_mm=measured.voxel_mm)
