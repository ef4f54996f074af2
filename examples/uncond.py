# %% [markdown]
# # A volume from nothing
#
# What two priors find likely at once, without any measurement. Needs nothing but the package; everything is written to
# `example-uncond`.

# %%
from pathlib import Path

import numpy as np

from engine import demo
from engine.io.volumes import save_volume
from engine.problems import acquisition
from engine.report.preview import write_preview
from engine.sampling import Settings, reconstruct

OUT = Path("example-uncond")
OUT.mkdir(exist_ok=True)

# %% [markdown]
# ## A grid, and settings
#
# The published sampler, whose corrector is what makes two planes agree. With few steps the volume is coarse; 200 are
# usual, which take five times as long.

# %%
STEPS = 40
priors = demo.priors()
grid = acquisition.of_nothing((demo.SIZE,) * 3, np.diag([demo.VOXEL_MM] * 3 + [1]))
settings = Settings(sampler="pc", guidance="dps", n_steps=STEPS, seed=1)

# %% [markdown]
# ## Sampling
#
# Another seed makes another volume.

# %%
result = reconstruct(grid.problem(priors[0].plane), priors, settings)
print(f"{result.n_evaluations} passes through the networks, intensities {np.percentile(result.volume, (1, 50, 99))}")

# %%
save_volume(OUT / "sample.nii.gz", result.volume, grid.affine)
write_preview(OUT / "preview.png", {"result": result.volume}, voxel_mm=grid.voxel_mm)
