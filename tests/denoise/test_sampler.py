"""The asynchronous loop: what it recovers, what it visits, what it yields."""

from dataclasses import replace

import pytest
import torch

from xwam.config import DenoiseConfig
from xwam.denoise.noise import keep_given
from xwam.denoise.sampler import ActionsReady, WorldReady, denoise
from xwam.tensors import Given, Noisy, Velocity

CONFIG = DenoiseConfig(num_video_steps=7, num_action_steps=3, shift=5.0, guidance=1.0)


class PerfectModel:
    """Knows the clean data and the noise, so its velocity is exact: any solver must recover the data."""

    def __init__(self, clean: Noisy, noise: Noisy) -> None:
        self.clean, self.noise = clean, noise
        self.depth = torch.randn_like(clean.video)
        self.calls = []

    def __call__(self, noisy, levels, *, depth, video):
        self.calls.append((levels.video[0].item(), levels.action[0].item(), depth, video))
        return Velocity(
            video=self.noise.video - self.clean.video if video else None,
            depth=self.depth if depth else None,
            state=self.noise.state - self.clean.state,
            action=self.noise.action - self.clean.action,
        )


class CuriousModel(PerfectModel):
    """Its velocities depend on everything it reads, so any change in the loop shows."""

    def __call__(self, noisy, levels, *, depth, video):
        super().__call__(noisy, levels, depth=depth, video=video)
        mood = noisy.video.mean() + noisy.state.mean() + noisy.action.mean() + levels.video[0] - levels.action[0]
        mood = mood.float()
        return Velocity(
            video=torch.sin(noisy.video + mood) if video else None,
            depth=self.depth if depth else None,
            state=torch.cos(noisy.state + mood),
            action=torch.sin(2 * noisy.action - mood),
        )


def random_noisy(seed: int) -> Noisy:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((2, 4, 3, 2, 4, 4), (2, 9, 7), (2, 8, 7))
    return Noisy(*(torch.randn(shape, generator=generator) for shape in shapes))


@pytest.fixture
def toy():
    clean, noise = random_noisy(0), random_noisy(1)
    return clean, noise, keep_given(noise, clean, Given())


@pytest.mark.parametrize("solver", ["unipc", "euler"])
@pytest.mark.parametrize(("num_video_steps", "num_action_steps"), [(7, 3), (5, 5), (1, 1), (50, 10)])
def test_every_solver_recovers_the_data(toy, solver, num_video_steps, num_action_steps):
    clean, noise, start = toy
    config = DenoiseConfig(num_video_steps=num_video_steps, num_action_steps=num_action_steps, shift=5.0, guidance=1.0)
    # Schedules start at sigma 0.9998, not 1: the start lies on the line only at that level, so start from there.
    level = 0.9997998476028442
    line = Noisy(*((1 - level) * c + level * n for c, n in zip(clean, noise, strict=True)))
    start = keep_given(line, clean, Given())
    model = PerfectModel(clean, noise)
    actions, world = denoise(model, start, config=config, given=Given(), solver=solver)
    torch.testing.assert_close(actions.action, clean.action, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(actions.state, clean.state, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(world.video, clean.video, rtol=1e-4, atol=1e-5)
    assert world.depth is model.depth


def test_two_events_and_their_order(toy):
    clean, noise, start = toy
    events = list(denoise(CuriousModel(clean, noise), start, config=CONFIG, given=Given()))
    assert [type(event) for event in events] == [ActionsReady, WorldReady]
    assert torch.equal(events[0].action, events[1].action)
    assert torch.equal(events[0].state, events[1].state)


def test_actions_only_gives_the_same_actions_bit_for_bit(toy):
    clean, noise, start = toy
    model = CuriousModel(clean, noise)
    full = next(denoise(model, start, config=CONFIG, given=Given()))
    model.calls.clear()
    (alone,) = denoise(model, start, config=CONFIG, given=Given(), actions_only=True)
    assert torch.equal(alone.action, full.action)
    assert torch.equal(alone.state, full.state)
    assert len(model.calls) == CONFIG.num_action_steps
    assert [video for *_, video in model.calls] == [True, True, False]  # nobody reads the last video
    assert not any(depth for *_, depth, _ in model.calls)


def test_closing_after_the_actions_saves_the_rest(toy):
    clean, noise, start = toy
    model = PerfectModel(clean, noise)
    events = denoise(model, start, config=CONFIG, given=Given())
    next(events)
    events.close()
    assert len(model.calls) == CONFIG.num_action_steps


def test_depth_is_asked_for_once(toy):
    clean, noise, start = toy
    model = PerfectModel(clean, noise)
    list(denoise(model, start, config=CONFIG, given=Given()))
    assert [depth for _, _, depth, _ in model.calls] == [False] * 6 + [True]


def test_inference_visits_only_levels_that_training_covers(toy):
    clean, noise, start = toy
    for num_action_steps in range(1, 8):
        config = DenoiseConfig(num_video_steps=7, num_action_steps=num_action_steps, shift=5.0, guidance=1.0)
        model = PerfectModel(clean, noise)
        list(denoise(model, start, config=config, given=Given()))
        assert all(video >= action for video, action, *_ in model.calls)
        assert [action for _, action, *_ in model.calls[num_action_steps:]] == [0.0] * (7 - num_action_steps)


def test_the_network_is_told_whole_timesteps(toy):
    clean, noise, start = toy
    config = DenoiseConfig(num_video_steps=50, num_action_steps=10, shift=5.0, guidance=1.0)
    model = PerfectModel(clean, noise)
    list(denoise(model, start, config=config, given=Given()))
    assert all((1000 * level).is_integer() for video, action, *_ in model.calls for level in (video, action))


@pytest.mark.parametrize("given", [Given(), Given(frames=2, states=4, actions=3), Given(actions=torch.tensor([0, 5]))])
def test_what_is_given_stays_given(toy, given):
    clean, noise, _ = toy
    start = keep_given(noise, clean, given)
    seen = []

    class Watched(CuriousModel):
        def __call__(self, noisy, levels, **asked):
            seen.append(noisy)
            return super().__call__(noisy, levels, **asked)

    *_, world = denoise(Watched(clean, noise), start, config=CONFIG, given=given)
    for noisy in [*seen, world]:
        assert torch.equal(noisy.video[:, :, : given.frames], clean.video[:, :, : given.frames])
        assert torch.equal(noisy.state[:, : given.states], clean.state[:, : given.states])
        counts = given.actions.tolist() if isinstance(given.actions, torch.Tensor) else [given.actions] * 2
        for row, count in enumerate(counts):
            assert torch.equal(noisy.action[row, :count], clean.action[row, :count])
            assert not torch.equal(noisy.action[row, count], clean.action[row, count])


def test_a_batch_equals_its_samples(toy):
    clean, noise, start = toy

    class RowWise(CuriousModel):
        def __call__(self, noisy, levels, *, depth, video):
            self.calls.append(())
            return Velocity(
                video=torch.sin(noisy.video) if video else None,
                depth=None,
                state=torch.cos(noisy.state),
                action=torch.sin(noisy.action),
            )

    together = next(denoise(RowWise(clean, noise), start, config=CONFIG, given=Given()))
    for row in range(2):
        one = Noisy(*(x[row : row + 1] for x in start))
        alone = next(denoise(RowWise(clean, noise), one, config=CONFIG, given=Given()))
        assert torch.equal(alone.action[0], together.action[row])


def test_no_gradients_inside_and_the_callers_setting_outside(toy):
    clean, noise, start = toy
    weight = torch.ones((), requires_grad=True)

    class Trainable(PerfectModel):
        def __call__(self, noisy, levels, **asked):
            velocity = super().__call__(noisy, levels, **asked)
            return velocity._replace(action=weight * velocity.action)

    events = denoise(Trainable(clean, noise), start, config=CONFIG, given=Given())
    assert not next(events).action.requires_grad
    assert torch.is_grad_enabled()


def test_guidance_one_is_one_pass_and_others_mix(toy):
    clean, noise, start = toy
    cond, uncond = CuriousModel(clean, noise), PerfectModel(clean, noise)
    list(denoise(cond, start, config=CONFIG, given=Given(), unconditional=uncond))
    assert uncond.calls == []

    guided = DenoiseConfig(num_video_steps=7, num_action_steps=3, shift=5.0, guidance=3.0)
    list(denoise(cond, start, config=guided, given=Given(), unconditional=uncond))
    assert len(uncond.calls) == 7
    assert not any(depth for *_, depth, _ in uncond.calls)  # depth is never guided
    with pytest.raises(ValueError, match="empty prompt"):
        next(denoise(cond, start, config=guided, given=Given()))


def test_equal_denoisers_need_no_guidance(toy):
    clean, noise, start = toy
    model = CuriousModel(clean, noise)
    plain = next(denoise(model, start, config=CONFIG, given=Given()))
    config = DenoiseConfig(num_video_steps=7, num_action_steps=3, shift=5.0, guidance=2.5)
    same = next(denoise(model, start, config=config, given=Given(), unconditional=model))
    torch.testing.assert_close(plain.action, same.action, rtol=1e-4, atol=1e-5)


def test_one_more_call_on_what_is_finished_gives_the_depth(toy):
    """With ``depth_at_zero`` the depth call reads the final latents at level 0; everything else keeps its bits."""
    clean, noise, start = toy
    uncond = PerfectModel(clean, noise)

    class Depth(CuriousModel):
        def __call__(self, noisy, levels, *, depth, video):
            if depth:
                self.seen = noisy
            return super().__call__(noisy, levels, depth=depth, video=video)

    for guidance in (1.0, 2.0):
        config = replace(CONFIG, guidance=guidance)
        *_, as_published = denoise(
            CuriousModel(clean, noise), start, config=config, given=Given(), unconditional=uncond
        )
        model, uncond = Depth(clean, noise), PerfectModel(clean, noise)
        config = replace(config, depth_at_zero=True)
        *_, world = denoise(model, start, config=config, given=Given(), unconditional=uncond)
        assert [(video, action) for video, action, depth, _ in model.calls if depth] == [(0.0, 0.0)]
        assert len(model.calls) == CONFIG.num_video_steps + 1
        assert len(uncond.calls) == (0 if guidance == 1 else CONFIG.num_video_steps), "depth is never guided"
        assert world.depth is model.depth
        assert all(a is b for a, b in zip(model.seen, (world.video, world.state, world.action), strict=True))
        for name in ("video", "state", "action"):
            assert torch.equal(getattr(world, name), getattr(as_published, name))
        early = list(
            denoise(Depth(clean, noise), start, config=config, given=Given(), unconditional=uncond, actions_only=True)
        )
        assert len(early) == 1


def test_actions_may_not_outlast_the_video():
    with pytest.raises(ValueError, match="never after"):
        DenoiseConfig(num_video_steps=3, num_action_steps=4, shift=5.0, guidance=1.0)
