"""Runs of one prior whose steps share the variables of ADMM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from engine.methods.slice_tv import Splitting
from engine.problems.tasks import Task
from engine.sampling.noise import CounterNoise, Noise, Phase
from engine.sampling.posterior_mean import Prior
from engine.sampling.reconstruct import (
    START_LEVEL,
    Callback,
    Checkpoint,
    Reconstruction,
    Settings,
    check_task_plane,
    device_of,
    start_of,
    walk,
)
from engine.sampling.sampler import Sampler, State


def first_level(settings: Settings) -> float:
    """σ_max: by default where a crude reconstruction is near enough to start from."""
    return START_LEVEL if settings.sigma_max is None else settings.sigma_max


def run(
    sampler_of: Callable[[Task, Noise], Sampler],
    task: Task,
    prior: Prior,
    shape: tuple[int, int, int],
    settings: Settings,
    callback: Callback | None,
    checkpoint: Checkpoint | None,
) -> Reconstruction:
    """Walk down the noise levels from noise around a crude reconstruction.

    Parameters
    ----------
    sampler_of : function
        Of the task, where the prior works, and the noise.
    task, prior, shape
        Of the run; the prior's plane is the task's.
    settings : Settings
        With numbers for what the method reads.
    callback : function or None
    checkpoint : Checkpoint or None
        Where to go on; None: at the start.

    Raises
    ------
    InputError
        The task is measured in another plane.
    """
    check_task_plane(task, prior.plane)
    device, noise = device_of([prior]), CounterNoise(settings.seed)
    with device.working():
        task = task.on(device)
        sampler = sampler_of(task, noise)
        if checkpoint is None:
            normal = noise.draw(0, Phase.START, prior.plane, shape, library=device.library)
            x = start_of(task, normal, replace(settings, sampler="ddim"))
            checkpoint = Checkpoint(State(prior.plane.volume_of(x), 0, splitting=Splitting.of(x)))
        volume, residuals, seconds = walk(sampler, checkpoint, callback, device)
    plan = np.zeros(settings.n_steps, int)
    return Reconstruction(volume, plan, settings, residuals, sampler.n_estimates, seconds, sampler.sigmas)
