"""The whole stream on the debug preset: simulator, data, training, saving, resuming, acting, imagining, showing."""

import json
import multiprocessing
import shutil
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.examples import SHORT_VAE
from tests.sim.fake_env import make_fake
from xwam.cli import main
from xwam.cli.acting import evaluate
from xwam.cli.options import OpenLoop
from xwam.data.augment import crop_depth
from xwam.data.clips import Clips
from xwam.data.lerobot import open_lerobot
from xwam.data.observations import save_observation
from xwam.encode import tensor_to_video, video_to_tensor
from xwam.evaluate import closed_loop, open_loop, results_file
from xwam.evaluate.clips import held_out, imagine_clip, observation_of, score_clip, through_autoencoder
from xwam.evaluate.closed_loop import ClosedLoopConfig, Simulation, evaluate_closed_loop
from xwam.evaluate.compare import compare_worlds, summarize
from xwam.evaluate.open_loop import evaluate_open_loop
from xwam.evaluate.played import real_world
from xwam.evaluate.report import write_report
from xwam.evaluate.report_episode import Decision, EpisodeReport
from xwam.evaluate.study import with_steps
from xwam.files import claimed
from xwam.images import centre_window, resize_nearest
from xwam.imagine import imagine_recording
from xwam.policy import load_policy
from xwam.sim.collect import Recording, collect
from xwam.sim.rollout import rollout
from xwam.sim.worker import simulate
from xwam.train.options import Sources
from xwam.train.pipeline import run_pipeline
from xwam.view.export import load_prediction, save_prediction
from xwam.view.html import write_page

SPARSE = Sources(every=8)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Data of a simulator in numpy, and a checkpoint trained on them: stopped half way, then resumed."""
    root = tmp_path_factory.mktemp("walkthrough")
    collect(root / "data", ["fake-reach"], 4, Recording(width_px=32, height_px=32, make_env=make_fake), num_workers=1)
    for steps in (4, 8):
        changes = {"num_steps": steps}
        last = run_pipeline("debug", root / "data", root / "run", changes, vae=SHORT_VAE, sources=SPARSE)
    return root, last


def test_training_left_a_whole_checkpoint_and_a_log(world):
    root, last = world
    assert last.name == "step-0000008"
    manifest = json.loads((last / "manifest.json").read_text())
    assert manifest["steps"] == 8
    assert manifest["samples"] == 16
    rows = [json.loads(line) for line in (root / "run" / "log.jsonl").read_text().splitlines()]
    trained = [row["step"] for row in rows if "loss/video" in row]
    assert trained == list(range(1, 9)), "the resumed run continued where the first one ended"
    validated = [row for row in rows if "validation/psnr_db" in row]
    assert [row["step"] for row in validated] == [4, 8]
    assert all(row["validation/loss/action"] > 0 for row in validated)
    assert (root / "run" / "first_batch.png").stat().st_size > 0


def test_the_robot_acts_and_the_world_is_imagined_and_shown(world, tmp_path):
    _, last = world
    policy = load_policy(last)
    env = make_fake()
    episode = rollout(
        env, lambda o, seed: policy.predict(o, seed=seed), seed=5, replan_every=8, max_steps=16, imagine=True
    )
    assert len(episode.predictions) == 2
    imagined, real = episode.predictions[0], real_world(episode, 0, policy)
    assert np.isfinite(imagined.action).all()
    recorded = crop_depth(
        np.stack([resize_nearest(episode.depth[c.name][:1], c.height, c.width) for c in real.cameras]),
        (centre_window(real.video.shape[2], real.video.shape[3], policy.config.clip.crop),) * len(real.cameras),
    )
    np.testing.assert_array_equal(real.depth[:, :1], recorded, "the pixels that a clip of a data set has")
    scores = compare_worlds(imagined, real, policy.layout)
    assert {"psnr_db", "abs_rel", "chamfer_m", "path_left_position_m"} <= set(scores)
    page = tmp_path / "world.html"
    write_page(page, imagined, policy.layout, real=real)
    report = EpisodeReport(
        task=env.task, instruction=episode.instruction, seed=5, success=episode.success, num_steps=episode.num_steps,
        layout=policy.layout, decisions=[Decision(imagined=imagined, real=real, page=page)],
    )  # fmt: skip
    write_report(tmp_path / "report.html", [report], {"title": "walkthrough"})
    assert "world.html" in (tmp_path / "report.html").read_text()
    save_prediction(tmp_path / "world.npz", imagined, policy.layout)
    np.testing.assert_array_equal(load_prediction(tmp_path / "world.npz").prediction.video, imagined.video)


def test_what_a_robot_saw_is_saved_and_imagined_from(world, tmp_path, capsys):
    """From a data set and from a file with the same observation: the same imagination, and every file for people."""
    root, last = world
    config = load_policy(last).config
    clip = Clips(open_lerobot(root / "data"), config.clip, config.view_names, split="all", validation_share=0.0).at(
        1, 0
    )
    save_observation(tmp_path / "seen.npz", observation_of(clip))
    main(["imagine", str(last), "--input", str(tmp_path / "seen.npz"), "--seed", "3", "--out", str(tmp_path / "a")])
    main(
        [
            "imagine",
            str(last),
            "--data",
            str(root / "data"),
            "--episode",
            "1",
            "--seed",
            "3",
            "--out",
            str(tmp_path / "b"),
        ]
    )
    from_file, from_data = (load_prediction(tmp_path / name / "world.npz") for name in "ab")
    np.testing.assert_array_equal(from_file.prediction.video, from_data.prediction.video)
    np.testing.assert_array_equal(from_file.prediction.depth, from_data.prediction.depth)
    assert from_file.real is None
    assert from_data.real is not None
    clouds = {f"points-{step:02d}.ply" for step in range(5)}
    assert {path.name for path in (tmp_path / "a").iterdir()} == clouds | {
        f"world.{k}" for k in ("html", "mp4", "npz", "glb")
    }
    main(["view", str(tmp_path / "a/world.npz"), "--out", str(tmp_path / "again")])
    assert {path.name for path in (tmp_path / "again").iterdir()} == {path.name for path in (tmp_path / "a").iterdir()}
    for words in ([], ["--input", "x.npz", "--data", "x"]):
        with pytest.raises(SystemExit):
            main(["imagine", str(last), *words])
    with pytest.raises(SystemExit):
        main(["imagine", "no-such-checkpoint", "--input", "no-such-file.npz"])
    assert "no-such-file.npz" in capsys.readouterr().err, "the file is read before the weights are"


def test_open_loop_scores_held_out_clips(world, tmp_path):
    root, last = world
    report = evaluate_open_loop(load_policy(last), root / "data", num_clips=2, seed=0, out=tmp_path / "open.json")
    assert report["psnr_db"] > 0
    assert len(report["per_step"]["psnr_db"]) == 4
    assert report["action_position_copy_m"] > 0, "beside a robot that does nothing"
    assert {"abs_rel_aligned", "delta3_copy", "f_20mm", "consistency_m", "path_m"} <= set(report["per_step"])
    assert {"psnr_vae_db", "delta1_vae", "near_chamfer_vae_m"} <= set(report["per_step"]), "what the VAE alone loses"
    page = (tmp_path / "open.html").read_text()
    assert page.count('type="application/gzip"') == 2, "the best and the worst of two clips, each with its 4D page"
    assert "LPIPS needs" in page, "it says why a number is missing"
    written = json.loads((tmp_path / "open.json").read_text())
    assert len(written.pop("clips")) == 2
    assert written == json.loads(json.dumps(report).replace("NaN", "null"))
    assert written["settings"]["num_episodes"] == 1
    assert written["standard_error"]["psnr_db"] is None, "one episode says nothing of others"


def test_an_interrupted_open_loop_goes_on(world, tmp_path, monkeypatch):
    root, last = world
    arguments = {"seed": 0, "out": tmp_path / "open.json", "has_report": False}
    whole = evaluate_open_loop(
        load_policy(last), root / "data", num_clips=3, **(arguments | {"out": tmp_path / "w.json"})
    )
    looked, compare = [], open_loop.imagine_clip

    def counted(*asked, **more):
        if len(looked) == 2 and not resumed:
            raise KeyboardInterrupt
        looked.append(more["seed"])
        return compare(*asked, **more)

    resumed = False
    monkeypatch.setattr(open_loop, "imagine_clip", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_open_loop(load_policy(last), root / "data", num_clips=3, **arguments)
    assert len(json.loads((tmp_path / "open.json").read_text())["clips"]) == 2
    resumed = True
    report = evaluate_open_loop(load_policy(last), root / "data", num_clips=3, **arguments)
    assert len(looked) == len(set(looked)) == 3, "none is imagined twice"
    assert json.dumps(report["per_step"]) == json.dumps(whole["per_step"]), "NaN and all"
    few = evaluate_open_loop(load_policy(last), root / "data", num_clips=1, **arguments)
    assert (few["settings"]["num_clips"], len(looked)) == (1, 3), "only those that are asked for count"
    with pytest.raises(ValueError, match="results of other settings"):
        evaluate_open_loop(load_policy(last), root / "data", num_clips=3, mode="forward_dynamics", **arguments)
    with monkeypatch.context() as older:
        older.setattr(results_file, "METRICS", 1)
        with pytest.raises(ValueError, match="results of other settings"):
            evaluate_open_loop(load_policy(last), root / "data", num_clips=3, **arguments)
    assert "NaN" not in (tmp_path / "open.json").read_text(), "JSON has no such number"
    for wrong, message in (({"num_clips": 0}, "clips=0: compare at least 1"), ({"out": tmp_path / "open"}, r"\.json")):
        with pytest.raises(ValueError, match=message):
            evaluate_open_loop(load_policy(last), root / "data", **({"num_clips": 1} | arguments | wrong))


def test_evaluations_without_a_file_lie_beside_each_other(world, tmp_path, monkeypatch, capsys):
    root, last = world
    monkeypatch.chdir(tmp_path)
    asked = {"data": root / "data", "open_loop": OpenLoop(clips=1), "report": False}
    told = asked | {"open_loop": OpenLoop(clips=1, mode="forward_dynamics")}
    for how, name in ((asked, "open"), (told, "open-2"), (asked, "open"), (told, "open-2")):
        evaluate(last, **how)
        assert f"numbers: runs/evaluation/{name}.json" in capsys.readouterr().out
        report = json.loads((tmp_path / f"runs/evaluation/{name}.json").read_text())
        assert report["settings"]["mode"] == how["open_loop"].mode
    with pytest.raises(ValueError, match=r"out=.*open.json holds results of other settings"):
        evaluate(last, **told, out=tmp_path / "runs/evaluation/open.json")
    with claimed(tmp_path / "runs/evaluation/.claim-open.json"):  # as another process does
        evaluate(last, **asked)
        assert "numbers: runs/evaluation/open-3.json" in capsys.readouterr().out
        with pytest.raises(ValueError, match=r"open.json: another evaluation is writing it"):
            evaluate(last, **asked, out=tmp_path / "runs/evaluation/open.json")


def test_calibrated_data_without_depth_is_reported_too(world, tmp_path, monkeypatch):
    root, last = world
    monkeypatch.setattr("xwam.data.lerobot_read.LeRobotEpisodes.depth", lambda *_: None)
    report = evaluate_open_loop(load_policy(last), root / "data", num_clips=1, seed=0, out=tmp_path / "open.json")
    assert "abs_rel" not in report
    assert (tmp_path / "open.html").read_text().count('type="application/gzip"') == 1


def test_beyond_the_end_of_an_episode_nothing_is_called_real(world, tmp_path):
    root, last = world
    length = open_lerobot(root / "data").length(0)
    imagine_recording(load_policy(last), root / "data", tmp_path / "end", episode=0, frame=length - 9, seed=0)
    saved = load_prediction(tmp_path / "end" / "world.npz")
    assert len(saved.real.state) == 1 + 8 // load_policy(last).config.clip.actions_per_frame
    assert len(saved.prediction.state) > len(saved.real.state)


def test_a_clip_that_the_episode_cuts_short_scores_as_its_frames_do(world):
    """Whatever the filling looks like: nothing beyond the end counts."""
    root, last = world
    policy = load_policy(last)
    clip = held_out(root / "data", policy.config)[0]
    masks = {name: np.arange(vars(clip)[name].shape[-1]) < 3 for name in ("video_mask", "depth_mask", "state_mask")}
    video, state = clip.video.copy(), clip.state.copy()
    video[:, 3:], state[3:] = 0, state[:1]
    short = replace(clip, video=video, state=state, **{n: m & vars(clip)[n] for n, m in masks.items()})
    imagined, real = imagine_clip(policy, short, seed=0)
    assert (len(imagined.state), len(real.state), real.video.shape[1]) == (len(clip.state), 3, 3)
    expected, found = (score_clip(policy, one, seed=0) for one in (clip, short))
    assert expected.keys() == found.keys()
    for name, curve in found.items():
        if curve.ndim:
            np.testing.assert_array_equal(curve, expected[name][:2], err_msg=name)
    assert through_autoencoder(policy, real).video.shape == real.video.shape
    scores = summarize([expected, found])
    assert len(scores["per_step"]["psnr_db"]) == len(clip.state) - 1
    assert scores["per_step"]["psnr_db"][-1] == expected["psnr_db"][-1], "of those that go so far"


def test_the_autoencoder_is_asked_view_by_view_and_changes_nothing_else(world):
    root, last = world
    policy = load_policy(last)
    clip = held_out(root / "data", policy.config)[0]
    imagined, real = imagine_clip(policy, clip, seed=0)
    recoded = through_autoencoder(policy, real)
    np.testing.assert_array_equal(recoded.state, real.state)
    pictures = video_to_tensor(real.video)
    with torch.no_grad():
        expected = tensor_to_video(policy.networks.vae.decode(policy.networks.vae.encode(pictures[1:2])))[0]
    np.testing.assert_array_equal(recoded.video[1], expected)
    assert recoded.depth.shape == real.depth.shape
    assert np.abs(recoded.depth - real.depth).max() > 0
    for view, camera in enumerate(real.cameras):
        end = 0.04 * (1 / camera.near_m - 1 / camera.far_m) + 1 / camera.far_m  # inverse depth; the preset's far_share
        assert max(recoded.depth[view].max(), imagined.depth[view].max()) < 1 / end


def test_a_checkpoint_can_be_fine_tuned(world, tmp_path):
    root, last = world
    arguments = {"vae": SHORT_VAE, "sources": SPARSE}
    tuned = run_pipeline("debug", root / "data", tmp_path / "tuned", {"num_steps": 1}, start=last, **arguments)
    before, after = (load_file(folder / "model.safetensors") for folder in (last, tuned))
    assert all(torch.allclose(before[name], after[name], atol=0.02) for name in before), "it went on from there"
    assert any(not torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(ValueError, match=r"start=None: the run in .* began from .*; give --start again"):
        run_pipeline("debug", root / "data", tmp_path / "tuned", {"num_steps": 1}, **arguments)
    assert (tuned / "vae" / "model.safetensors").read_bytes() == (last / "vae" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="save_every=0: must be 1 or more"):
        run_pipeline("debug", root / "data", tmp_path / "other", {"save_every": 0}, start=last, **arguments)
    with pytest.raises(ValueError, match="does not fit into 'tiny': width=192, start has 32"):
        run_pipeline("tiny", root / "data", tmp_path / "other", {}, start=last, **arguments)


def test_fine_tuning_may_keep_the_statistics_of_its_start(world, tmp_path):
    root, last = world
    shutil.copytree(last, tmp_path / "start")
    path = tmp_path / "start/normalizer.json"
    kept = json.loads(path.read_text())
    kept["action_q99"] = [2 * x for x in kept["action_q99"]]
    path.write_text(json.dumps(kept))
    found = {}
    for statistics in ("data", "start"):
        tuned = run_pipeline(
            "debug", root / "data", tmp_path / statistics, {"num_steps": 1, "validate_every": 0},
            vae=SHORT_VAE, start=tmp_path / "start", sources=replace(SPARSE, statistics=statistics),
        )  # fmt: skip
        found[statistics] = json.loads((tuned / "normalizer.json").read_text())
    assert found["start"] == kept
    assert found["data"] == json.loads((last / "normalizer.json").read_text())
    with pytest.raises(ValueError, match="give --start"):
        run_pipeline(
            "debug", root / "data", tmp_path / "none", {}, vae=SHORT_VAE, sources=replace(SPARSE, statistics="start")
        )


def test_closed_loop_counts_and_continues(world, tmp_path):
    pytest.importorskip("metaworld")
    _, last = world
    policy = load_policy(last)
    config = ClosedLoopConfig(
        tasks=("reach-v3",), num_episodes=1, seed=0, replan_every=8, max_steps=8, num_envs=1, is_random=True
    )
    report = evaluate_closed_loop(policy, config, tmp_path / "closed.json")
    assert report["tasks"]["reach-v3"]["episodes"] == 1
    more = ClosedLoopConfig(**(vars(config) | {"num_episodes": 2}))
    report = evaluate_closed_loop(policy, more, tmp_path / "closed.json")
    assert [row["seed"] for row in report["episodes"]] == [1_000_000, 1_000_001]
    with pytest.raises(ValueError, match="other settings"):
        evaluate_closed_loop(policy, ClosedLoopConfig(**(vars(config) | {"max_steps": 9})), tmp_path / "closed.json")
    report = evaluate_closed_loop(policy, config, tmp_path / "closed.json")
    assert [row["seed"] for row in report["episodes"]] == [1_000_000], "fewer are asked for: only they count"
    assert [row["seed"] for row in report["others"]] == [1_000_001]
    assert evaluate_closed_loop(policy, more, tmp_path / "closed.json")["overall"]["episodes"] == 2
    with pytest.raises(ValueError, match="other settings"):
        evaluate_closed_loop(with_steps(policy, num_action_steps=1), config, tmp_path / "closed.json")
    with pytest.raises(ValueError, match="did you mean 'reach-v3'"):
        evaluate_closed_loop(policy, replace(config, tasks=("reach-v33",)), tmp_path / "closed.json")
    slow, other = with_steps(policy), tmp_path / "other.json"
    slow.config = replace(slow.config, clip=replace(slow.config.clip, action_hz=5.0))
    with pytest.raises(ValueError, match=r"task='Lift' has another robot than this policy: .*action_hz=5, not 20"):
        evaluate_closed_loop(slow, replace(config, simulator="robosuite", tasks=("Lift",)), other)
    with pytest.raises(ValueError, match=r"task='TwoArmLift' has another robot than this policy: .*right_position"):
        evaluate_closed_loop(policy, replace(config, simulator="robosuite", tasks=("TwoArmLift",)), other)
    with pytest.raises(ValueError, match=r"replan_every=17: must be in 1\.\.16"):
        evaluate_closed_loop(policy, replace(config, replan_every=17), tmp_path / "closed.json")
    with pytest.raises(ValueError, match="seed=-1: must be 0 or more"):
        replace(config, seed=-1)
    with pytest.raises(ValueError, match=r"closed.html: the name must end in \.json"):
        evaluate_closed_loop(policy, config, tmp_path / "closed.html")
    with torch.no_grad():
        next(iter(policy.networks.transformer.parameters())).view(-1)[0] += 0.5
    with pytest.raises(ValueError, match="other settings"):  # another checkpoint must not inherit this one's success
        evaluate_closed_loop(policy, more, tmp_path / "closed.json")


def test_actions_that_nobody_should_repeat_are_not_scored(world):
    root, last = world
    policy = load_policy(last)
    clip = held_out(root / "data", policy.config)[0]
    taught = np.arange(len(clip.action)) < 5
    moved = np.where(taught[:, None], clip.action, clip.action + 1)
    scores = [score_clip(policy, replace(clip, action=a, action_mask=taught), seed=0) for a in (clip.action, moved)]
    assert scores[0]["action_position_m"] == scores[1]["action_position_m"]
    everything = score_clip(policy, replace(clip, action=moved), seed=0)
    assert everything["action_position_m"] > scores[0]["action_position_m"] + 0.1


def test_success_ends_an_episode_and_a_blind_policy_sees_grey(world, monkeypatch):
    """What the success columns rest on: the simulator's side of the pipe, and what is put before the policy."""
    _, last = world
    policy = load_policy(last)
    monkeypatch.setattr("xwam.sim.metaworld.make_metaworld", make_fake)
    here, there = multiprocessing.Pipe()
    worker = threading.Thread(target=simulate, args=(there, "metaworld", 24, 24, 60))
    worker.start()
    expert = make_fake("fake-reach", width_px=24, height_px=24)
    expert.reset(7)
    here.send(("reset", ("fake-reach", 7)))
    observation, success, steps, is_over = here.recv()
    assert (success, steps, is_over) == (False, 0, False)
    np.testing.assert_array_equal(observation.state, expert.observe().state)
    chunk = []
    while not expert.success:
        chunk.append(expert.expert_action())
        expert.step(chunk[-1])
    here.send(("play", np.stack([*chunk, *chunk])))  # more than it takes
    assert here.recv()[1:] == (True, len(chunk), True)
    here.close()
    worker.join(10)

    asked = []
    monkeypatch.setattr(policy, "predict_batch", lambda seen, **_: asked.extend(seen) or iter([[chunk_of(policy)]]))
    config = ClosedLoopConfig(
        tasks=("fake-reach",), num_episodes=1, seed=0, replan_every=3, max_steps=9, num_envs=1, is_blind=True
    )
    here, there = multiprocessing.Pipe()
    playing = Simulation(there, multiprocessing.get_context("spawn").Process(), "fake-reach", 1)
    closed_loop._answer(policy, config, [(playing, observation)])
    assert all((image == 127).all() for image in asked[0].images.values())
    assert here.recv()[1].shape == (3, 14), "only so many are played"


def chunk_of(policy):
    clip = policy.config.clip
    action = np.zeros((clip.action_horizon, 14), np.float32)
    return SimpleNamespace(action=action, seconds={"actions": 0.1})


def test_the_verb_evaluate_plays_the_simulator(world, tmp_path, capsys):
    pytest.importorskip("metaworld")
    _, last = world
    words = ["--env", "metaworld", "--tasks", "reach-v3", "--episodes", "1", "--max-steps", "4", "--processes", "1"]
    words += ["--replan-every", "4", "--no-report"]
    main(["evaluate", str(last), *words, "--out", str(tmp_path / "closed.json")])
    report = json.loads((tmp_path / "closed.json").read_text())
    asked = report["settings"]
    assert (asked["tasks"], asked["num_episodes"], asked["max_steps"], asked["replan_every"]) == (["reach-v3"], 1, 4, 4)
    assert "mean_success" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["evaluate", str(last), *words, "--out", str(tmp_path / "closed.json"), "--precision", "bfloat16"])
    main(["evaluate", str(last), *words, "--out", str(tmp_path / "rounded.json"), "--precision", "bfloat16"])
    assert json.loads((tmp_path / "rounded.json").read_text())["settings"]["precision"] == "bfloat16"


@pytest.mark.parametrize(("simulator", "limit"), [("metaworld", 125), ("robosuite", 150)])
def test_an_episode_ends_when_its_simulator_says_so(world, monkeypatch, simulator, limit):
    asked = []
    monkeypatch.setattr(closed_loop, "evaluate_closed_loop", lambda _, config, __: asked.append(config) or {})
    main(["evaluate", str(world[1]), "--env", simulator, "--random"])
    assert [config.max_steps for config in asked] == [limit]
    with pytest.raises(SystemExit):
        main(["evaluate", str(world[1]), "--data", "anything", "--episodes", "3"])
