import numpy as np
import pytest

from tests.sim.fake_env import MOVE, make_fake
from xwam.records import Prediction
from xwam.sim.rollout import gather, play_chunks, rollout

HORIZON, FRAMES, EVERY = 8, 3, 4  # actions, video frames, actions per frame


class Foresight:
    """A policy that knows the fake world: it plans with the expert and imagines exactly what will come."""

    def __init__(self, env):
        self.env, self.worlds, self.seeds = env, 0, []

    def __call__(self, observation, seed):
        self.seeds.append(seed)
        twin = make_fake()
        twin.reset(self.env.seed)
        twin.position = observation.state[:3].astype(np.float64)
        action, state, video, depth = [], [observation.state], [observation], []
        for step in range(HORIZON):
            action.append(twin.expert_action())
            twin.step(action[-1])
            if (step + 1) % EVERY == 0:
                state.append(twin.state())
                video.append(twin.observe())
        names = list(observation.images)
        common = {
            "action": np.stack(action),
            "state": np.stack(state),
            "cameras": tuple(observation.cameras.values()),
            "instruction": observation.instruction,
            "frame_hz": 5.0,
            "action_hz": 20.0,
            "seed": seed,
            "seconds": {},
        }
        yield Prediction(video=None, depth=None, **common)
        self.worlds += 1
        depth = np.stack([[o.depth[n] for o in video] for n in names])
        yield Prediction(video=np.stack([[o.images[n] for o in video] for n in names]), depth=depth, **common)


@pytest.mark.parametrize("replan_every", [3, 4, 8])
def test_what_is_foreseen_comes_true(replan_every):
    env = make_fake()
    policy = Foresight(env)
    result = rollout(env, policy, seed=2, replan_every=replan_every, imagine=True)
    assert result.success
    assert len(result.predictions) == policy.worlds
    assert len(set(policy.seeds)) == len(policy.seeds)
    for decision, prediction in enumerate(result.predictions):
        imagined, real = result.matching_frames(decision)
        assert imagined[0] == 0
        assert len(imagined) == FRAMES or decision >= len(result.predictions) - 3, "frames end where the episode ends"
        for v, name in enumerate(env.cameras):
            # The twin starts from the float32 state, so colours may round differently.
            off = np.abs(prediction.video[v, imagined].astype(int) - result.video[name][real])
            assert np.mean(off > 1) < 0.01
            known = (prediction.depth[v, imagined] > 0) & (result.depth[name][real] > 0)
            np.testing.assert_allclose(
                prediction.depth[v, imagined][known], result.depth[name][real][known], rtol=1e-4
            )  # fmt: skip
        np.testing.assert_allclose(
            prediction.state[imagined], result.state[result.frame_steps[real]], atol=1e-5
        )  # fmt: skip


def test_the_record_is_complete():
    env = make_fake()
    result = rollout(env, Foresight(env), seed=1, replan_every=4)
    played = len(result.action)
    assert len(result.state) == played + 1
    np.testing.assert_allclose(np.diff(result.state[:, :3], axis=0), result.action[:, MOVE], atol=1e-6)
    np.testing.assert_array_equal(result.decision_steps, np.arange(0, played, 4))
    np.testing.assert_array_equal(result.frame_steps, np.arange(0, played + 1, 4))
    assert result.num_steps <= played, "success came within the last chunk, which was played to its end"
    assert result.num_steps > played - 4
    assert all(len(frames) == len(result.frame_steps) for frames in [*result.video.values(), *result.depth.values()])
    assert np.isnan(result.world_seconds).all()
    assert all(p.video is None for p in result.predictions)
    assert (result.action_seconds > 0).all()


def test_the_robot_moves_before_the_world_is_computed():
    env = make_fake()
    seen = []

    def predict(observation, seed):
        events = Foresight(env)(observation, seed)
        yield next(events)
        seen.append(float(np.linalg.norm(env.position - observation.state[:3])))
        yield next(events)

    rollout(env, predict, seed=0, replan_every=4, max_steps=8, imagine=True)
    assert len(seen) == 2
    assert min(seen) > 0.01


def test_an_episode_can_run_out_of_steps():
    env = make_fake("fake-fragile")
    result = rollout(env, Foresight(env), seed=1, replan_every=8, max_steps=3)
    assert not result.success
    assert result.num_steps == len(result.action) == 3


def test_chunks_can_be_watched_one_by_one():
    env = make_fake()
    chunks = []
    for chunk in play_chunks(env, Foresight(env), seed=5, replan_every=4):
        assert chunk.step == 4 * len(chunks)
        chunks.append(chunk)
    assert gather(env, 5, chunks).num_steps == rollout(env, Foresight(env), seed=5, replan_every=4).num_steps


def test_impossible_requests_are_refused():
    env = make_fake()
    with pytest.raises(ValueError, match="replan_every=0"):
        rollout(env, Foresight(env), seed=0, replan_every=0)
    with pytest.raises(ValueError, match=r"replan_every=9: must be in 1\.\.8"):
        rollout(env, Foresight(env), seed=0, replan_every=9)
