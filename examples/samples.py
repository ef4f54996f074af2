# %% [markdown]
# # How sure the result is
#
# Several samples of what agrees with a measurement: their mean, and where they differ. Needs
# `pip install -c constraints.txt -e '.[demo]'`; everything is written to `example-samples`.

# %%
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine import demo
from engine.io.volumes import save_volume
from engine.job.choices import PRESETS
from engine.job.statistics import Statistics
from engine.problems import acquisition
from engine.problems.tasks import Measurement
from engine.report.metrics import psnr
from engine.report.preview import write_preview
from engine.sampling import Settings, reconstruct

STEPS = 25
N_SAMPLES = 5
OUT = Path("example-samples")
OUT.mkdir(exist_ok=True)

# %% [markdown]
# ## A measurement that leaves much open: an eighth of k-space

# %%
head = demo.volume()
priors = demo.priors()
measured = acquisition.of_volume("csmri", head, Measurement(acceleration=8))
problem = measured.problem(priors[0].plane)

# %% [markdown]
# ## Samples
#
# The preset `balanced` draws samples, `fast` comes near their mean and would hide how far they differ. It has 100
# steps; fewer, as here, are quicker.

# %%
settings = replace(Settings(**PRESETS["balanced"]), n_steps=STEPS)
statistics = Statistics()
white = float(np.ptp(head.data))
for seed in range(N_SAMPLES):
    result = reconstruct(problem, priors, replace(settings, seed=seed))
    statistics = statistics.with_sample(result.volume)
    print(f"seed {seed}: PSNR {psnr(head.data, result.volume, white):.1f} dB")

# %% [markdown]
# ## Mean and standard deviation
#
# The deviation says where to trust the mean less: where it is large, so is the error, on average. Voxel by voxel the
# two agree only so far.

# %%
mean, deviation = statistics.mean.astype(np.float32), statistics.deviation
inside = head.data > 0.05
agreement = np.corrcoef(deviation[inside], abs(mean - head.data)[inside])[0, 1]
print(f"mean: PSNR {psnr(head.data, mean, white):.1f} dB, correlation with the error {agreement:.2f}")

# %%
save_volume(OUT / "mean.nii.gz", measured.in_file_units(mean), measured.affine, measured.orientation)
save_volume(OUT / "deviation.nii.gz", deviation * measured.scale, measured.affine, measured.orientation)
volumes = {"result": mean, "deviation × 10": 10 * deviation, "error × 10": 10 * abs(mean - head.data)}
write_preview(OUT / "preview.png", volumes, voxel_mm=measured.voxel_mm)
