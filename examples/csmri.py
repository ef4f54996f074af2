# %% [markdown]
# # An image from a quarter of k-space
#
# Four coils, a quarter of the samples. Needs `pip install -c constraints.txt -e '.[demo,mri]'`; everything is written
# to `example-csmri`.

# %%
from pathlib import Path

import numpy as np

from engine import demo, simulate
from engine.io.measurements.kspace import load_kspace
from engine.io.volumes import save_volume
from engine.problems import acquisition
from engine.problems.noise_level import with_noise_level
from engine.problems.tasks import Measurement
from engine.report.metrics import psnr
from engine.report.preview import write_preview
from engine.sampling import Settings, reconstruct

STEPS = 20
OUT = Path("example-csmri")
OUT.mkdir(exist_ok=True)

# %% [markdown]
# ## A scan
#
# With a scan of your own leave this cell out. Here four coils see a head, slice by slice, and a Poisson disc with a
# full centre says which samples are taken. The file has the layout of fastMRI.

# %%
head = demo.volume()
priors = demo.priors()  # axial, coronal: the first one's slices are those that are measured
simulated = acquisition.of_volume("csmri", head, Measurement(acceleration=4, coils=4, noise=0.01))
simulate.write(simulated, simulated.problem(priors[0].plane), OUT / "scan.h5")

# %% [markdown]
# ## Reconstruction
#
# Nothing but the samples is used: coil maps come from ESPIRiT, the phase of the image from the centre of k-space, the
# noise from the samples farthest from it. Where the phase varies fast, `phase="joint"` finds it with the image.

# %%
measured = acquisition.of_kspace(load_kspace(OUT / "scan.h5"), phase="estimate")
problem = with_noise_level(measured.problem(priors[0].plane), "estimate")
result = reconstruct(problem, priors, Settings(n_steps=STEPS))

# %% [markdown]
# ## The result, in the units of the file
#
# `shown` leaves away what a scanner measures around its field of view.

# %%
volume, affine = measured.shown(result.volume)
save_volume(OUT / "recon.nii.gz", measured.in_file_units(volume), affine)

# %% [markdown]
# ## How near it comes to the truth, and a picture

# %%
truth = head.in_file_units(head.data)
recon, zero_filled = (measured.in_file_units(x) for x in (result.volume, problem.classical()))
white = float(np.ptp(truth))
print(f"noise found: {problem.noise_level / problem.sample_rms:.4f} of the samples' root mean square")
print(f"PSNR {psnr(truth, recon, white):.1f} dB, zero-filled {psnr(truth, zero_filled, white):.1f} dB")
volumes = {"truth": truth, "zero-filled": zero_filled, "result": recon}
write_preview(OUT / "preview.png", volumes, "truth", voxel_mm=measured.voxel_mm)
