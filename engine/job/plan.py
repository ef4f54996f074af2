"""The plan of a job as text."""

from __future__ import annotations

from engine.backends.bundle import Bundle
from engine.job.job import Job
from engine.job.priors import in_mm
from engine.methods import METHODS
from engine.sampling.posterior_mean import ALL


def describe(job: Job) -> str:
    """The plan, a line for each of task, volume, priors, method and machine."""
    s, method, problem = job.settings, METHODS[job.method], job.problem
    source = "to be generated" if problem.operator is None else f"from {job.acquisition.source}"
    details = [f"{name.replace('_', ' ')} {value}" for name, value in problem.details.items()]
    lines = [
        f"task       {', '.join([problem.name, *details])}",
        f"volume     {'×'.join(map(str, problem.shape))} voxels of {in_mm(job.acquisition.voxel_mm)} {source}",
        *([f"phase      {job.phase_choice}"] if job.phase_choice else []),
        *(
            f"{role:10} {prior.plane} ({job.bundles[role].folder}){_trained_on(job.bundles[role])}"
            for role, prior in zip(job.bundles, job.priors, strict=True)
        ),
        f"method     {method.title}",
    ]
    if method.n_priors != 0:
        levels = f"{s.n_steps} steps, σ {s.sigma_max:g} → {s.sigma_min:g}, seed {s.seed}"
        if "sampler" in method.reads:
            lines += [f"sampler    {s.sampler}, {levels}; {_turns(job)}", f"guidance   {_guidance(job)}"]
        else:
            lines.append(f"sampler    {levels}")
    if job.n_samples > 1:
        lines.append(f"samples    {job.n_samples}, their mean and standard deviation")
    if "sparsity_weight" in method.reads:
        lines.append(f"sparsity   weight {s.sparsity_weight:g}")
    if method.n_priors != 0:
        lines.append(f"backend    {job.selection}")
    if job.n_ranks > 1:
        n = problem.shape[problem.plane.slice_axis] / job.n_ranks
        lines.append(f"ranks      {job.n_ranks}, each with about {n:.3g} slices and {job.n_threads or 'no'} threads")
    if job.cost is not None:
        lines.append(f"cost       {job.cost}")
    return "\n".join(lines)


def _trained_on(bundle: Bundle) -> str:
    return "" if bundle.voxel_mm is None else f", for voxels of {in_mm(bundle.voxel_mm)}"


def _turns(job: Job) -> str:
    plan = job.settings.plan(len(job.priors))
    if (plan == ALL).all():
        return "all priors at every step, shares " + ", ".join(f"{x:g}" for x in job.settings.shares(len(job.priors)))
    counts = [f"{int((plan == i).sum())} {role}" for i, role in enumerate(job.bundles)]
    return f"{', '.join(counts)} turns (K {job.settings.K})"


def _guidance(job: Job) -> str:
    s = job.settings
    if job.problem.operator is None:
        return "none"
    if s.guidance == "dps":
        return "dps, λ adaptive" if s.dps_weight is None else f"dps, λ {s.dps_weight:.4g}, groups of {s.group}"
    return "proximal, " + ("ρ from the noise of the measurement" if s.rho is None else f"ρ {s.rho:g} ‖A‖²")
