"""Training on robots of others: from a robot.json to a checkpoint that acts, data sets mixed, a prior made to fit."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.data.foreign import ARM, copy_of, pictures, video_of, write_foreign, written
from tests.examples import SHORT_VAE
from xwam.cli import main
from xwam.data.cache import LatentCache
from xwam.data.lerobot import open_lerobot
from xwam.imagine import imagine_observation
from xwam.model.text import TextEncoder
from xwam.model.vae import VideoVae
from xwam.policy import load_policy
from xwam.presets import PRESETS, preset
from xwam.records import Observation
from xwam.robot.columns import follow, read_state, write_action
from xwam.robot.parts import CameraSource, PartSource
from xwam.robot.robot_json import RobotConfig, load_robot, save_robot
from xwam.tensors import Batch
from xwam.train import prepare
from xwam.train.adapt import adapted
from xwam.train.films import load_films
from xwam.train.options import Sources
from xwam.train.pipeline import run_pipeline
from xwam.train.prepare import make_latents, normalizers_of, wordings_of
from xwam.train.sources import Mixture, fit, open_sources, shares
from xwam.view.export import load_prediction

QUICK = {"num_steps": 2, "validate_every": 0, "save_every": 2}
JOINTS = RobotConfig(
    name="joints",
    action_hz=20.0,
    state=(
        PartSource(what="joints", key="observation.state", size=7, unit="deg"),
        PartSource(what="gripper", key="observation.state", start=7, open=100.0),
    ),
    action=(
        PartSource(what="joints", key="action", size=7, unit="deg"),
        PartSource(what="gripper", key="action", start=7),
    ),
    cameras=(
        CameraSource(name="front", key="observation.images.cam_high"),
        CameraSource(name="top", key="observation.images.cam_wrist", may_be_missing=True),
    ),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two robots, one of them with a camera missing and no depth, mixed 3 to 1."""
    root = tmp_path_factory.mktemp("sources")
    write_foreign(root / "arm", episodes=3, depth=True, steps=24)
    copy_of(root / "arm", root / "joints")
    video_of(root / "joints", "cam_wrist", 1).unlink()
    front = replace(ARM.cameras[0], depth_key="observation.images.cam_high_depth")
    save_robot(root / "arm.json", replace(ARM, cameras=(front, ARM.cameras[1])))
    save_robot(root / "joints.json", JOINTS)
    data, robots = [root / "arm", root / "joints"], (str(root / "arm.json"), str(root / "joints.json"))
    arguments = {"vae": SHORT_VAE, "sources": Sources(every=6, robot=robots, weights=(3.0, 1.0))}
    last = run_pipeline("debug", data, root / "run", QUICK | {"validate_every": 2}, **arguments)
    return root, last, arguments


def test_every_data_set_of_a_mixture_is_validated(runs):
    """By its own robot: one says how far off the hand is, the other how far the joints."""
    root, *_ = runs
    rows = [json.loads(line) for line in (root / "run/log.jsonl").read_text().splitlines()]
    (seen,) = [row for row in rows if any(name.startswith("validation/") for name in row)]
    for name, off in (("arm", "action_position_m"), ("joints", "action_joints_rad")):
        assert all(seen[f"validation/{name}/{what}"] > 0 for what in ("loss/video", "loss/action", "psnr_db", off))
    assert "validation/joints/action_position_m" not in seen


def test_the_checkpoint_knows_its_robots(runs):
    root, last, _ = runs
    config = json.loads((last / "config.json").read_text())
    assert config["view_names"] == ["front", "wrist", "top"]
    assert config["model"]["num_views"] == 3
    assert load_robot(last / "robot.json") == load_robot(root / "arm.json")
    assert load_robot(last / "robots/joints/robot.json") == JOINTS
    statistics = [json.loads((last / where / "normalizer.json").read_text()) for where in ("", "robots/joints")]
    assert statistics[0] != statistics[1], "every data set has statistics of its own"


def test_the_robot_acts_in_its_own_numbers(runs):
    """Its camera and columns go in, commands as it writes them come out; the view it lacks is grey."""
    _, last, _ = runs
    robot, policy = load_robot(last / "robot.json"), load_policy(last, with_world=False)
    assert policy.absent == {"top"}
    columns = {"observation.state": written(0, 24)[0][:1]}
    state = read_state(robot, columns)[0].astype(np.float32)
    seen = {camera.name: pictures(0, 24)[camera.key.rsplit(".", 1)[1]][0] for camera in robot.cameras}
    observation = Observation(images=seen, state=state, instruction="pick up cup 0")
    action = next(policy.predict(observation, actions_only=True)).action
    commands = write_action(robot, action, follow(robot, state, action))["action"]
    assert commands.shape == (16, 8)
    np.testing.assert_allclose(np.linalg.norm(commands[:, 3:7], axis=1), 1, atol=1e-6)
    assert np.abs(commands[:, :3] - columns["observation.state"][0, :3]).max() < 2000, "millimetres near the hand"
    with pytest.raises(ValueError, match="camera='wrist' is missing"):
        next(policy.predict(replace(observation, images={"front": seen["front"]}), actions_only=True))
    other = load_policy(last, with_world=False, robot="joints")
    assert other.layout.name == "joints"
    assert other.absent == {"wrist"}
    with pytest.raises(ValueError, match="allowed: arm, joints"):
        load_policy(last, robot="jonts")


def test_a_world_shows_no_camera_that_the_robot_lacks(runs, tmp_path):
    _, last, _ = runs
    robot = load_robot(last / "robot.json")
    state = read_state(robot, {"observation.state": written(0, 24)[0][:1]})[0].astype(np.float32)
    seen = {camera.name: pictures(0, 24)[camera.key.rsplit(".", 1)[1]][0] for camera in robot.cameras}
    observation = Observation(images=seen, state=state, instruction="pick up cup 0")
    with pytest.warns(UserWarning, match="no page and no point clouds"):
        imagine_observation(load_policy(last), observation, tmp_path / "world", seed=0)
    imagined = load_prediction(tmp_path / "world/world.npz").prediction
    assert [camera.name for camera in imagined.cameras] == ["front", "wrist"]
    assert len(imagined.video) == 2
    assert [camera.has_depth for camera in imagined.cameras] == [True, False]
    assert not imagined.depth[1].any(), "nothing taught it: unknown, not metres"


def test_when_all_is_cached_neither_vae_nor_text_encoder_is_loaded(runs, monkeypatch):
    root, _, arguments = runs

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the cache is complete")

    monkeypatch.setattr(VideoVae, "load", refuse)
    monkeypatch.setattr(TextEncoder, "load", refuse)
    data = [root / "arm", root / "joints"]
    more = QUICK | {"num_steps": 3}
    last = run_pipeline("debug", data, root / "run", more, **arguments)
    assert last.name == "step-0000003"


def test_a_mixture_keeps_its_shares_and_goes_through_everything(runs):
    """Over the passes every clip comes as often as every other of its data set."""

    class Counting(LatentCache):
        """A latent cache without files: remembers what was asked."""

        def __init__(self, size):
            self.size, self.asked, self.facts = size, [], {"size": size}

        def __len__(self):
            return self.size

        def batch(self, indices, prompts, visit):
            self.asked += [(visit, int(index)) for index in indices]
            return Batch(*(torch.tensor(indices) for _ in Batch._fields))

    caches = [Counting(10), Counting(6)]
    mixture = Mixture(["a", "b"], caches, [3.0, 1.0], {"": torch.zeros(1, 1)})
    assert (len(mixture), mixture.counts.tolist()) == (16, [12, 4])
    assert mixture.sources(np.array([0, 11, 12, 15])).tolist() == [0, 0, 1, 1]
    for visit in range(15):
        mixture.batch(np.random.default_rng(visit).permutation(16), visit)
    for cache, passes in zip(caches, (18, 10), strict=True):
        assert sorted(cache.asked) == [(p, i) for p in range(passes) for i in range(len(cache))]
    plain = Mixture(["a"], [Counting(10)], [None], {"": torch.zeros(1, 1)})
    plain.batch(np.array([7, 2]), 3)
    assert plain.caches[0].asked == [(3, 7), (3, 2)]


def test_masks_of_robots_in_one_batch(runs):
    """Depth counts for the arm's front camera alone; a missing camera and missing slots never count."""
    root, _, _ = runs
    robots = [str(root / "arm.json"), str(root / "joints.json")]
    sources = open_sources([root / "arm", root / "joints"], robots, [])
    config = fit(preset("debug"), sources)
    caches: list[LatentCache] = make_latents(
        config, sources, root / "run/frozen", root / "run/latents", every=6, num_variants=1, processes=1, device="cpu"
    )
    prompts = {text: torch.zeros(1, 1) for text in ("", "pick up cup 0", "pick up cup 1")}
    mixture = Mixture(["arm", "joints"], caches, [None, None], prompts)
    batch = mixture.batch(np.array([0, len(caches[0])]), 0)
    assert batch.depth_mask[:, 0].tolist() == [[True, False, False], [False, False, False]]
    assert batch.video_mask[0, 0].tolist() == [True, True, False]
    assert batch.video_mask[1, 0, 0]
    assert not batch.video_mask[1, 0, 1], "this robot has no wrist camera"
    assert batch.action_mask[:, 0].sum(dim=1).tolist() == [7, 8]
    assert batch.state_mask[:, 0].sum(dim=1).tolist() == [8, 8]


def test_two_processes_fill_a_cache(runs, tmp_path):
    root, _, _ = runs
    sources = open_sources([root / "joints"], [str(root / "joints.json")], [])
    config = fit(preset("debug"), sources)
    arguments = {"every": 12, "num_variants": 2, "device": "cpu"}
    frozen, words = root / "run/frozen", {f"pick up cup {n}": torch.zeros(1, 1) for n in (0, 1)}
    one, two = (make_latents(config, sources, frozen, tmp_path / str(n), processes=n, **arguments)[0] for n in (1, 2))
    everything = np.arange(len(one))
    torch.testing.assert_close(one.batch(everything, words, 1).video, two.batch(everything, words, 1).video)


def test_latents_in_bf16_are_close_and_never_taken_for_exact_ones(runs, tmp_path):
    root, _, _ = runs
    sources = open_sources([root / "joints"], [str(root / "joints.json")], [])
    config = fit(preset("debug"), sources)
    words = {f"pick up cup {n}": torch.zeros(1, 1) for n in (0, 1)}
    arguments = {"every": 12, "num_variants": 1, "processes": 1, "device": "cpu"}

    def latents(precision, folder):
        (cache,) = make_latents(config, sources, root / "run/frozen", folder, precision=precision, **arguments)
        return cache.batch(np.arange(len(cache)), words).video

    exact, rounded = latents("float32", tmp_path / "exact"), latents("bfloat16", tmp_path / "rounded")
    error = (rounded - exact).std() / exact.std()
    assert 0 < error < 0.03
    with pytest.raises(ValueError, match="bfloat16"):
        latents("bfloat16", tmp_path / "exact")


def test_a_prior_is_made_to_fit_other_cameras(runs, tmp_path):
    """One camera and 8 joints from a checkpoint of three views: what is known by name is kept."""
    root, last, _ = runs
    robot = replace(JOINTS, cameras=(replace(JOINTS.cameras[0], name="wrist"),), action_width=9)
    save_robot(tmp_path / "one.json", robot)
    with pytest.warns(UserWarning, match=r"joints: the autoencoder of start=.* keeps its pictures at \d+\.\d dB"):
        tuned = run_pipeline(
            "debug", root / "joints", tmp_path / "run", QUICK | {"num_steps": 1}, vae=SHORT_VAE,
            sources=Sources(every=6, robot=(str(tmp_path / "one.json"),)), start=last,
        )  # fmt: skip
    start, fitted = load_file(last / "model.safetensors"), load_file(tmp_path / "run/start/model.safetensors")
    assert fitted["view_embedding.weight"].shape[0] == 1
    torch.testing.assert_close(fitted["view_embedding.weight"][0], start["view_embedding.weight"][1])
    changed = {name for name in start if fitted[name].shape != start[name].shape}
    assert changed == {
        "view_embedding.weight", "action_encoder.0.weight", "action_decoder.2.weight", "action_decoder.2.bias"
    }  # fmt: skip
    assert all(torch.equal(fitted[name], start[name]) for name in start.keys() - changed)
    assert json.loads((tuned / "config.json").read_text())["view_names"] == ["wrist"]
    other = tmp_path / "other"
    shutil.copytree(last, other)
    config = load_policy(tuned).config
    before = load_file(adapted(other, config, tmp_path / "fitted") / "model.safetensors")
    save_file({name: 2 * value for name, value in start.items()}, other / "model.safetensors")
    after = load_file(adapted(other, config, tmp_path / "fitted") / "model.safetensors")
    assert torch.equal(after["patch_embedding.weight"], 2 * before["patch_embedding.weight"]), "made anew"


def test_a_prior_grows_and_is_made_to_fit(runs, tmp_path, monkeypatch):
    """A larger preset of another autoencoder and text encoder: sizes of what is frozen are those of the start."""
    root, last, _ = runs
    small, other = preset("debug"), preset("small")
    sizes = {"width": 64, "num_heads": 4, "ffn_width": 160, "num_blocks": 5, "num_depth_blocks": 2}
    model = replace(small.model, **sizes, text_width=other.text.width, latent_channels=other.vae.latent_channels)
    larger = replace(small, name="larger", model=model, vae=other.vae, text=other.text)
    monkeypatch.setitem(PRESETS, "larger", larger)
    robot = replace(JOINTS, cameras=(replace(JOINTS.cameras[0], name="wrist"),), action_width=9)
    save_robot(tmp_path / "one.json", robot)
    arguments = {"vae": SHORT_VAE, "sources": Sources(every=6, robot=(str(tmp_path / "one.json"),)), "start": last}
    for steps in (1, 2):
        grown = run_pipeline("larger", root / "joints", tmp_path / "run", QUICK | {"num_steps": steps}, **arguments)
    assert [entry["from_step"] for entry in json.loads((tmp_path / "run/run.json").read_text())] == [0, 1]
    policy = load_policy(grown)
    assert (policy.config.name, policy.config.vae, policy.config.text) == ("larger", small.vae, small.text)
    model = policy.config.model
    assert (model.width, model.num_blocks, model.text_width, model.num_views) == (64, 5, small.model.text_width, 1)
    seen = {"wrist": pictures(0, 24)["cam_high"][0]}
    observation = Observation(images=seen, state=np.zeros(16, np.float32), instruction="pick up cup 0")
    (first, *_) = policy.predict(observation, seed=0)
    assert first.action.shape == (16, 9)


def test_what_does_not_go_together_is_refused(runs):
    root, _, _ = runs
    with pytest.raises(ValueError, match="1 data sets, 2 robots"):
        open_sources([root / "arm"], ["own", "own"], [])
    with pytest.raises(ValueError, match="must be positive"):
        open_sources([root / "arm"], [str(root / "arm.json")], [0.0])
    save_robot(root / "wide.json", replace(JOINTS, action_width=20))
    sources = open_sources([root / "arm", root / "joints"], [str(root / "arm.json"), str(root / "wide.json")], [])
    with pytest.raises(ValueError, match="action_width=20"):
        fit(preset("debug"), sources)


def test_a_checkpoint_is_measured_and_imagines_on_its_own_data(runs, tmp_path, capsys):
    """Its robot.json explains the data set; views that the robot or the episode lacks are not scored."""
    root, last, _ = runs
    for name, robot in (("arm", []), ("joints", ["--robot", "joints"])):
        report = tmp_path / f"{name}.json"
        common = [str(last), "--data", str(root / name), *robot]
        few = ["--action-steps", "1", "--video-steps", "2"]
        main(["evaluate", *common, "--clips", "1", "--out", str(report), "--no-report", *few])
        numbers = json.loads(report.read_text())
        assert numbers["psnr_db"] > 0
        assert (numbers["settings"]["action_steps"], numbers["settings"]["video_steps"]) == (1, 2)
        main(["imagine", *common, "--episode", "1", "--out", str(tmp_path / name)])
    saved = load_prediction(tmp_path / "joints" / "world.npz")
    assert [camera.name for camera in saved.prediction.cameras] == ["front"], "top is missing in episode 1"
    assert len(saved.prediction.video) == len(saved.real.video) == 1
    with pytest.raises(SystemExit):
        main(["evaluate", str(last), "--data", str(root / "joints"), "--robot", "nobody"])
    assert "allowed: arm, joints" in capsys.readouterr().err


def test_the_robot_of_the_documents_speaks_its_own_numbers(runs):
    """The class in docs/deploy.md, run as it stands there, with an arm that only keeps what it is told."""
    root, last, _ = runs
    text = (Path(__file__).parents[2] / "docs/deploy.md").read_text()
    names: dict = {}
    exec(re.search(r"```python\n(.*?class MyRobot.*?)```", text, re.DOTALL)[1], names)
    episodes = open_lerobot(root / "arm", robot=load_robot(root / "arm.json"))
    own = {key: rows[0].astype(np.float64) for key, rows in episodes.columns(0).items()}
    sent = []
    arm = SimpleNamespace(
        numbers=lambda: own["observation.state"],
        picture=lambda name: episodes.frames(0, name, np.array([0]))[0],
        limited=lambda command: command,
        send=sent.append,
    )
    robot = names["MyRobot"](arm, load_robot(last / "robot.json"), "push it")
    np.testing.assert_allclose(robot.state(), episodes.info(0).state[0], atol=1e-6)
    seen = robot.observe()
    policy = load_policy(last)
    given = Observation(images=seen.images, state=seen.state.astype(np.float32), instruction=seen.instruction)
    robot.step(next(policy.predict(given)).action[0])
    robot.step(episodes.info(0).action[0].astype(np.float64))
    np.testing.assert_allclose(sent[1], own["action"], atol=1e-4)


def test_our_own_data_in_a_mixture_need_no_robot_json(runs, tmp_path):
    _, last, _ = runs
    shutil.copytree(last, tmp_path / "mixed")
    (tmp_path / "mixed/robots/joints/robot.json").unlink()
    assert load_policy(tmp_path / "mixed", with_world=False, robot="joints").absent == {"wrist"}, "as cameras.json says"


def test_the_autoencoder_learns_at_the_size_that_it_will_encode(runs):
    root, _, _ = runs
    episodes = open_lerobot(root / "arm", robot=load_robot(root / "arm.json"))
    colour, depth, *_ = load_films(episodes, [0], ["front"], replace(preset("debug").clip, height_px=16, width_px=20))
    assert colour.shape == (24, 16, 20, 3)
    assert colour.dtype == torch.uint8
    assert depth.shape == (24, 16, 20)


@pytest.mark.parametrize(
    ("weights", "expected"), [((), [20, 20, 20]), ((3.0, 2.0, 1.0), [30, 20, 10]), ((0.1, 0.2, 0.3), [10, 20, 30])]
)
def test_films_and_clips_are_shared_out_by_weight(runs, weights, expected):
    root, _, _ = runs
    sources = open_sources([root / "arm"] * 3, [str(root / "arm.json")], weights)
    assert shares(sources, 60) == expected
    assert sum(shares(sources, 61)) <= 61
    uneven = [source._replace(weight=weight) for source, weight in zip(sources, (1, 1, 1e6), strict=True)]
    assert min(shares(uneven, 10)) == 1


def test_data_sets_of_one_robot_share_their_statistics(runs, tmp_path, monkeypatch):
    """The network could not tell them apart: 1 must mean as many metres in both."""
    root, _, _ = runs
    names = ("arm", "joints", "arm")
    sources = open_sources([root / name for name in names], [str(root / f"{name}.json") for name in names], [])
    first, joints, second = normalizers_of(sources, [[0], [0, 1], [1]], tmp_path)
    assert first is second
    both = np.concatenate([sources[0].episodes.info(number).state for number in (0, 1)])
    np.testing.assert_allclose(first.state_q01[:3], np.quantile(both[:, :3], 0.01, axis=0), atol=1e-6)
    assert joints.layout != first.layout
    other = normalizers_of(sources, [[0], [0, 1], [0]], tmp_path)[0]
    assert other.fingerprint() != first.fingerprint(), "of other episodes"
    monkeypatch.setattr(prepare, "normalizer_from", None)  # what was measured once is kept
    again = normalizers_of(sources, [[0], [0, 1], [1]], tmp_path)
    assert [one.fingerprint() for one in again] == [one.fingerprint() for one in (first, joints, second)]


def test_one_camera_with_two_ranges_of_depth_is_pointed_out(runs, tmp_path):
    root, _, _ = runs
    far = replace(ARM, cameras=tuple(replace(camera, far_m=9.0) for camera in ARM.cameras))
    save_robot(tmp_path / "far.json", far)
    sources = open_sources([root / "arm"] * 2, [str(root / "arm.json"), str(tmp_path / "far.json")], [])
    with pytest.warns(UserWarning, match=r"camera 'front' has depth from 0\.2\.\.3 m and 0\.2\.\.9 m"):
        fit(preset("debug"), sources)


def test_the_text_encoder_never_hears_what_is_held_out(runs):
    root, _, _ = runs
    sources = open_sources([root / "arm"], [str(root / "arm.json")], [])
    words = [sources[0].episodes.info(number).instruction for number in range(3)]
    told = wordings_of(sources, [[0, 2]])
    assert sorted({text for texts in told.values() for text in texts}) == sorted({words[0], words[2]})


def test_the_verb_trains_from_a_checkpoint(runs, tmp_path):
    root, last, _ = runs
    common = ["train", "debug", "--data", str(root / "arm"), "--robot", str(root / "arm.json"), "--start", str(last)]
    main([*common, "--steps", "1", "--every", "6", "--validate-every", "0", "--out", str(tmp_path / "tuned")])
    policy = load_policy(tmp_path / "tuned/step-0000001")
    assert policy.config.view_names == ("front", "wrist")
    assert policy.config.train.num_steps == 1
    main([*common, "--steps", "1", "--every", "6", "--validate-every", "0", "--out", str(tmp_path / "held"), "--hold"])
    files, held = (load_file(tmp_path / name / "step-0000001/model.safetensors") for name in ("tuned", "held"))
    assert all(torch.equal(held[name], value) for name, value in files.items()), "from memory as from files"


def test_nothing_is_held_out_where_it_is_asked_for(runs, tmp_path, capsys):
    """Few demonstrations are the usual case; a checkpoint that has seen everything says so when it is evaluated."""
    root, _, arguments = runs
    sources = replace(arguments["sources"], robot=(str(root / "arm.json"),), weights=(), train_on_all=True)
    last = run_pipeline("debug", root / "arm", tmp_path / "run", QUICK, vae=SHORT_VAE, sources=sources)
    manifest = json.loads((last / "manifest.json").read_text())
    assert (manifest["episodes"], manifest["train_on_all"]) == (3, True)
    words = ["evaluate", str(last), "--data", str(root / "arm"), "--clips", "1", "--no-report"]
    with pytest.warns(UserWarning, match="was trained with --train-on-all"):
        main([*words, "--out", str(tmp_path / "open.json")])
    assert "psnr_db" in capsys.readouterr().out
    with pytest.raises(ValueError, match="was made of something else"):  # it cannot go on with others
        run_pipeline("debug", root / "arm", tmp_path / "run", QUICK | {"num_steps": 3}, vae=SHORT_VAE,
                     sources=replace(sources, train_on_all=False))  # fmt: skip
