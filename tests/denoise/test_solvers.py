"""The solvers: equal to the library's, exact where they must be, refusing what breaks."""

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler

from xwam.denoise.solvers import euler, make_solver, schedule, unipc


def curved(sample: torch.Tensor, sigma: float) -> torch.Tensor:
    """A velocity that depends on where and when it is asked."""
    return torch.sin(3 * sample) + sample * sigma


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 10, 25, 50, 250])
def test_unipc_equals_the_library_at_every_step(num_steps):
    library = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0, num_train_timesteps=1000
    )
    library.set_timesteps(num_steps, sigmas=np.linspace(float(np.float32(0.999)), 0.0, num_steps + 1)[:-1])
    sigmas = schedule(num_steps, 5.0).sigmas
    step, memory = unipc(sigmas), None
    ours = theirs = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    for index, timestep in enumerate(library.timesteps):
        velocity = curved(ours, sigmas[index])
        ours, memory = step(ours, velocity, index, memory)
        theirs = library.step(curved(theirs, sigmas[index]), timestep, theirs, return_dict=False)[0]
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("make", [unipc, euler])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 7])
def test_a_straight_line_is_followed_exactly(make, num_steps):
    clean, noise = torch.randn(2, 5), torch.randn(2, 5)
    sigmas = schedule(num_steps, 5.0).sigmas
    sample, memory = (1 - sigmas[0]) * clean + sigmas[0] * noise, None
    step = make(sigmas)
    for index in range(num_steps):
        sample, memory = step(sample, noise - clean, index, memory)
    torch.testing.assert_close(sample, clean, rtol=1e-5, atol=1e-5)


def test_unipc_is_nearer_to_the_truth_than_euler():
    start = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def run(make, num_steps):
        sigmas = schedule(num_steps, 5.0).sigmas
        sample, memory, step = start, None, make(sigmas)
        for index in range(num_steps):
            sample, memory = step(sample, sample * (1 - sigmas[index]) - 0.3, index, memory)
        return sample

    truth = run(unipc, 200)
    assert (run(unipc, 10) - truth).abs().max() < 0.6 * (run(euler, 10) - truth).abs().max()


def test_velocities_of_lower_precision_keep_the_sample_precise():
    step = unipc(schedule(3, 5.0).sigmas)
    sample, memory = step(torch.randn(4), torch.randn(4).bfloat16(), 0, None)
    sample, memory = step(sample, torch.randn(4).bfloat16(), 1, memory)
    assert sample.dtype == torch.float32


def test_schedules_fall_to_exactly_zero():
    for num_steps in (1, 5, 50):
        plan = schedule(num_steps, 5.0)
        assert len(plan.sigmas) == num_steps + 1 == len(plan.network_sigmas) + 1
        assert plan.sigmas[-1] == 0
        assert all(a > b for a, b in zip(plan.sigmas[:-1], plan.sigmas[1:], strict=True))


def test_too_many_steps_are_refused():
    schedule(250, 5.0)
    with pytest.raises(ValueError, match="at most 250"):
        schedule(251, 5.0)
    with pytest.raises(ValueError, match="num_steps=0"):
        schedule(0, 5.0)


def test_unknown_solvers_are_refused():
    with pytest.raises(ValueError, match="did you mean 'unipc'"):
        make_solver("unipcc", (1.0, 0.0))
