"""What a run cannot be is said at once; what a repeated command gets wrong leaves everything as it is."""

import json
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import tyro
from safetensors.torch import load_file, save_file

from tests.data.foreign import ARM, write_foreign
from tests.examples import SHORT_VAE
from tests.sim.fake_env import make_fake
from tests.train.encoded import hide
from xwam.data.opening import robot_for
from xwam.files import claimed, read_arrays, write_text
from xwam.imagine import imagine_recording
from xwam.policy import load_policy
from xwam.presets import preset
from xwam.records import Camera
from xwam.robot.calibration import save_cameras
from xwam.robot.robot_json import load_robot, save_robot
from xwam.sim.collect import Recording, collect
from xwam.train.adapt import with_known_depth
from xwam.train.options import Changes, Setup, Sources, Watch, changed
from xwam.train.pipeline import _cameras_of, run_pipeline
from xwam.train.preflight import _check_compiler, _check_pictures
from xwam.train.sources import fit, open_sources
from xwam.train.text import check_told_apart

QUICK = {"num_steps": 2, "validate_every": 0, "save_every": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A robot without depth, its robot.json, and a checkpoint of three views trained on it."""
    root = tmp_path_factory.mktemp("possible")
    write_foreign(root / "arm", episodes=3, steps=24)
    save_robot(root / "arm.json", ARM)
    sources = Sources(every=6, robot=(str(root / "arm.json"),))
    with pytest.warns(UserWarning, match="no data set has depth"):
        last = run_pipeline("debug", root / "arm", root / "run", QUICK, vae=SHORT_VAE, sources=sources)
    return root, last, sources


def test_without_depth_there_is_no_depth_branch(data, tmp_path):
    """It would answer what nobody taught it as metres."""
    root, last, _ = data
    policy = load_policy(last)
    assert policy.config.model.num_depth_blocks == 0
    with pytest.warns(UserWarning, match="this world has no depth"):
        shown = imagine_recording(
            policy, root / "arm", tmp_path / "seen", episode=0, frame=0, seed=0, robot=load_robot(last / "robot.json")
        )
    assert shown.name == "world.mp4"
    opened = open_sources([root / "arm"], (str(root / "arm.json"),), ())
    config = fit(preset("debug"), opened)
    tiny = Path(__file__).parents[2] / "checkpoints/tiny"
    with pytest.warns(UserWarning, match="its branch stays as it is"):
        kept = with_known_depth(config, opened, tiny)
    assert kept.model == config.model, "what a start has learned, stays"
    assert kept.train == replace(config.train, depth_loss_weight=0.0), "and no weight decay shrinks it"


def test_cameras_without_depth_keep_the_ranges_that_the_start_learned(data, tmp_path):
    """Its codes are of these metres: 0.1 to 10 m, where nothing is said, would read every one of them wrongly."""
    root, _, _ = data
    (source,) = open_sources([root / "arm"], (str(root / "arm.json"),), ())
    config = fit(preset("debug"), [source])
    name = source.episodes.cameras[0].name
    save_cameras(tmp_path / "cameras.json", (Camera(name=name, width=8, height=8, near_m=0.5, far_m=2.0),))
    (cameras,), (plain,) = _cameras_of([source], config, tmp_path), _cameras_of([source], config, None)
    found = {camera.name: (camera.near_m, camera.far_m) for camera in cameras}
    assert found.pop(name) == (0.5, 2.0)
    own = {camera.name: (camera.near_m, camera.far_m) for camera in plain}
    assert own.pop(name) != (0.5, 2.0)
    assert found == own


def test_a_camera_without_depth_beside_one_with_depth_is_not_known_any_more(tmp_path):
    """The branch learns on from the other one alone: what it says of this one means no metres."""
    write_foreign(tmp_path / "arm", episodes=2, depth=True, steps=24)
    front, wrist = ARM.cameras
    deep = replace(ARM, cameras=(replace(front, depth_key="observation.images.cam_high_depth"), wrist))
    save_robot(tmp_path / "deep.json", deep)
    (source,) = open_sources([tmp_path / "arm"], (str(tmp_path / "deep.json"),), ())
    config = fit(preset("debug"), [source])
    known = [Camera(name=name, width=8, height=8, near_m=0.5, far_m=2.0) for name in ("front", "wrist", "other")]
    save_cameras(tmp_path / "cameras.json", known)
    with pytest.warns(UserWarning, match="camera 'wrist': the start knows its depth") as warned:
        (cameras,) = _cameras_of([source], config, tmp_path)
    assert len(warned) == 1
    found = {camera.name: (camera.near_m, camera.far_m, camera.has_depth) for camera in cameras}
    assert found == {"front": (0.2, 3.0, True), "wrist": (0.2, 3.0, False)}, "each with its own range"
    save_cameras(tmp_path / "cameras.json", [known[0], replace(known[1], has_depth=False)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _cameras_of([source], config, tmp_path) == _cameras_of([source], config, None) == [cameras]


def test_a_folder_belongs_to_one_command(data, tmp_path):
    """A second one helps to encode clips, if the autoencoder is there, and leaves the rest alone."""
    root, _, sources = data
    again = {"vae": SHORT_VAE, "sources": sources}
    with claimed(tmp_path / "new/.claim-run"), pytest.raises(ValueError, match="another command is at work there"):
        run_pipeline("debug", root / "arm", tmp_path / "new", QUICK, **again)
    shutil.copytree(root / "run/frozen", tmp_path / "half/frozen")
    with (
        claimed(tmp_path / "half/.claim-run"),
        pytest.raises(ValueError, match="helped it encode clips, and trained no"),
    ):
        run_pipeline("debug", root / "arm", tmp_path / "half", QUICK, **again)
    assert {path.name for path in (tmp_path / "half").iterdir()} == {".claim-run", "frozen", "latents"}
    made = [
        {path.name for path in (folder / "latents").rglob("*.safetensors")}
        for folder in (tmp_path / "half", root / "run")
    ]
    assert made[0] == made[1]


def test_a_start_without_a_depth_branch_gets_one(data, tmp_path):
    """When data with depth come later: what it does already stays to the bit, and depth is learned beside it."""
    _, last, _ = data
    write_foreign(tmp_path / "deep", episodes=3, depth=True, steps=24)
    front = replace(ARM.cameras[0], depth_key="observation.images.cam_high_depth")
    save_robot(tmp_path / "deep.json", replace(ARM, cameras=(front, *ARM.cameras[1:])))
    sources = Sources(every=6, robot=(str(tmp_path / "deep.json"),))
    with pytest.warns(UserWarning, match="it gets copies of its last blocks as one"):
        tuned = run_pipeline(
            "debug", tmp_path / "deep", tmp_path / "run", QUICK, vae=SHORT_VAE, sources=sources, start=last
        )
    before, after = (load_file(folder / "model.safetensors") for folder in (last, tmp_path / "run/start"))
    assert all(torch.equal(after[name], before[name]) for name in before)
    model = preset("debug").model
    copied = f"blocks.{model.num_blocks - 1}.self_attn.q.weight"
    assert torch.equal(after[f"extra_blocks.0.{model.num_depth_blocks - 1}.self_attn.q.weight"], before[copied])
    assert after["extra_heads.0.head.weight"].std() > 0
    learned = load_file(tuned / "model.safetensors")
    assert not torch.equal(learned["extra_heads.0.head.weight"], after["extra_heads.0.head.weight"])
    assert load_policy(tuned).config.model.num_depth_blocks == model.num_depth_blocks
    assert "loss/depth" in json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[0])


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"how": Setup(lora_rank=4)}, ValueError, "adapters need weights to start from"),
        ({"watch": Watch(evaluate_tasks=("reach-v3",))}, ValueError, "robot"),
        ({"device": "cuda"}, ValueError, "finds no CUDA GPU"),
        ({"start": "empty"}, FileNotFoundError, "xwam convert run"),
    ],
)
def test_it_is_said_before_anything_is_made(data, tmp_path, arguments, error, said, monkeypatch):
    root, last, sources = data
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    if "start" in arguments:
        shutil.copytree(last, tmp_path / "empty")
        (tmp_path / "empty/model.safetensors").unlink()
        arguments = {"start": tmp_path / "empty"}
    with pytest.raises(error, match=said):
        run_pipeline("debug", root / "arm", tmp_path / "out", QUICK, vae=SHORT_VAE, sources=sources, **arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "package", "said"),
    [
        ({"how": Setup(optimizer="adamw_8bit")}, "bitsandbytes", r"optimizer=adamw_8bit needs .*xwam\[lowmem\]"),
        ({"how": Setup(lora_rank=4), "start": "last"}, "peft", r"lora_rank=4 needs peft: .*xwam\[lora\]"),
        ({"watch": Watch(wandb="arms")}, "wandb", r"wandb=arms needs wandb: .*xwam\[wandb\]"),
    ],
)
def test_what_is_not_installed_is_missed_at_once(data, tmp_path, arguments, package, said, monkeypatch):
    root, last, sources = data
    hide(monkeypatch, package)
    arguments |= {"start": last} if "start" in arguments else {}
    with pytest.raises(ImportError, match=said):
        run_pipeline("debug", root / "arm", tmp_path / "out", QUICK, vae=SHORT_VAE, sources=sources, **arguments)
    assert not (tmp_path / "out").exists()


def test_a_compiler_is_looked_for_before_anything_is_compiled(data, tmp_path, monkeypatch):
    root, _, sources = data
    compiled = QUICK | {"compile": True}
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"compile=True: no C\+\+ compiler .*--no-compile"):
        run_pipeline("debug", root / "arm", tmp_path / "out", compiled, vae=SHORT_VAE, sources=sources)
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError, match=r"no C compiler \(gcc or clang\)"):
        _check_compiler(torch.device("cuda"))
    (tmp_path / "c++-14").write_text("")
    (tmp_path / "c++-14").chmod(0o755)
    monkeypatch.setenv("CXX", "c++-14")
    _check_compiler(torch.device("cpu"))


def test_who_learns_no_action_is_refused(data, tmp_path):
    """Its checkpoint would say that it can act, and send noise to a robot."""
    root, _, sources = data
    never = QUICK | {"clean_action_ratio": 1.0}
    with pytest.raises(ValueError, match="clean_action_ratio=1: no sample would teach an action"):
        run_pipeline("debug", root / "arm", tmp_path / "out", never, vae=SHORT_VAE, sources=sources)
    collect(tmp_path / "w", ["fake-reach"], 2, Recording(width_px=32, height_px=32, make_env=make_fake, wander=True))
    with pytest.raises(ValueError, match="data=w: no demonstration among the training episodes"):
        run_pipeline("debug", tmp_path / "w", tmp_path / "out", QUICK, vae=SHORT_VAE, sources=Sources(every=8))
    assert not (tmp_path / "out").exists()


def test_who_asks_a_checkpoint_about_data_that_nobody_explains_is_told_so(data):
    root, _, _ = data
    tiny = Path(__file__).parents[2] / "checkpoints/tiny"
    with pytest.raises(ValueError, match=r"arm says not what its numbers mean, .* has no robot.json: train on this"):
        robot_for(tiny, None, root / "arm")
    with pytest.raises(ValueError, match=r"robot='robot.json' is not in .*: it has one robot, its own; leave it out"):
        robot_for(tiny, "robot.json", root / "arm")


def test_a_text_encoder_that_is_given_must_be_there(data, tmp_path):
    root, _, sources = data
    with pytest.raises(FileNotFoundError, match=r"frozen/text/tokenizer: no such folder"):
        run_pipeline("bench_small", root / "arm", tmp_path / "out", QUICK, vae=SHORT_VAE, sources=sources)
    assert not (tmp_path / "out").exists()


def test_depth_of_a_camera_that_the_model_does_not_look_through_teaches_nothing(tmp_path):
    collect(tmp_path / "set", ["fake-reach"], 1, Recording(width_px=32, height_px=32, make_env=make_fake))
    (source,) = open_sources([tmp_path / "set"], (), ())
    config = fit(preset("mini"), [source])
    assert with_known_depth(config, [source], None) == config
    whole = source.episodes.depth
    source.episodes.depth = lambda number, name, steps: whole(number, name, steps) if name == "wrist" else None
    with pytest.warns(UserWarning, match="no data set has depth"):
        assert with_known_depth(config, [source], None).model.num_depth_blocks == 0


def test_compiling_can_be_left_out():
    given = tyro.cli(Changes, args=["--no-compile"]).given()
    assert preset("tiny").train.compile
    assert not changed(preset("tiny"), given).train.compile
    assert Changes().given() == {}


def test_a_picture_is_taken_before_tasks_are_to_be_played(monkeypatch):
    """Meta-World may be installed, and OpenGL not: validation would say so after a thousand steps."""
    closed = []

    class Dark:
        def __init__(self, task, *, width_px, height_px) -> None:
            self.size = (width_px, height_px)

        def reset(self, seed) -> None:
            pass

        def observe(self) -> None:
            raise RuntimeError(f"no OpenGL for {self.size}")

        def close(self) -> None:
            closed.append(self)

    config = preset("debug")
    monkeypatch.setattr("xwam.sim.metaworld.make_metaworld", Dark)
    with pytest.raises(RuntimeError, match=f"no OpenGL for .{config.clip.width_px}"):
        _check_pictures(config, Watch(evaluate_tasks=("reach-v3",)))
    monkeypatch.setattr(Dark, "observe", lambda self: None)
    _check_pictures(config, Watch(evaluate_tasks=("reach-v3",)))
    assert len(closed) == 1


def test_what_another_preset_left_is_not_taken_for_its_own(data, tmp_path):
    root, last, sources = data
    shutil.copytree(last / "vae", tmp_path / "out/frozen/vae")
    facts = json.loads((tmp_path / "out/frozen/vae/config.json").read_text())
    (tmp_path / "out/frozen/vae/config.json").write_text(json.dumps(facts | {"base_width": 8}))
    with pytest.raises(ValueError, match=r"vae/config.json is of other sizes .* use another --out"):
        run_pipeline("debug", root / "arm", tmp_path / "out", QUICK, vae=SHORT_VAE, sources=sources)


def test_tasks_that_would_never_be_played_are_refused():
    with pytest.raises(ValueError, match="evaluate_episodes=0"):
        Watch(evaluate_episodes=0)
    with pytest.raises(ValueError, match="evaluate_max_steps=0"):
        Watch(evaluate_max_steps=0)


def test_two_tasks_that_are_the_same_when_cut_are_refused():
    config = preset("debug")  # reads 24 tokens: 23 bytes and the end
    long = "put the cup into the box on the "
    with pytest.raises(ValueError, match=r"same in their first 23 bytes"):
        check_told_apart({"left": [long + "left"], "right": [long + "right"]}, config)
    check_told_apart({"left": [long + "left", long + "left side"], "right": ["right: " + long]}, config)


@pytest.mark.parametrize("part", ["vae", "text"])
def test_a_start_without_its_own_eyes_or_ears_is_refused(data, tmp_path, part):
    """New ones would be a stranger's to its transformer, and would be written into it."""
    root, last, sources = data
    start = tmp_path / "start"
    shutil.copytree(last, start)
    shutil.rmtree(start / part)
    before = sorted(start.rglob("*"))
    with pytest.raises(FileNotFoundError, match=f"start={start} has no {part}/config.json"):
        run_pipeline("debug", root / "arm", tmp_path / "run", QUICK, vae=SHORT_VAE, sources=sources, start=start)
    assert sorted(start.rglob("*")) == before


def test_another_start_leaves_finished_checkpoints_alone(data, tmp_path):
    """Checkpoints of a run are linked with its adapted start; no byte of them may change."""
    root, last, sources = data
    other = tmp_path / "other"
    shutil.copytree(last, other)
    stored = load_file(last / "vae/model.safetensors")
    save_file({name: 2 * value for name, value in stored.items()}, other / "vae/model.safetensors")
    stored = load_file(last / "model.safetensors")
    save_file({name: 2 * value for name, value in stored.items()}, other / "model.safetensors")
    save_robot(tmp_path / "one.json", replace(ARM, cameras=ARM.cameras[:1]))
    arguments = {"vae": SHORT_VAE, "sources": replace(sources, robot=(str(tmp_path / "one.json"),))}
    tuned = run_pipeline("debug", root / "arm", tmp_path / "run", QUICK, start=last, **arguments)
    begun = json.loads((tuned / "manifest.json").read_text())["start"]
    assert begun["made_of"]["checkpoint"] == str(last.resolve())
    before = {path: path.read_bytes() for path in tuned.rglob("*") if path.is_file()}
    more = QUICK | {"num_steps": 3}
    with pytest.raises(ValueError, match=f"began from {last.resolve()}"):
        run_pipeline("debug", root / "arm", tmp_path / "run", more, start=other, **arguments)
    with pytest.raises(ValueError, match="give --start again"):
        run_pipeline("debug", root / "arm", tmp_path / "run", more, **arguments)
    shutil.copytree(last, tmp_path / "moved")
    run_pipeline("debug", root / "arm", tmp_path / "run", more, start=tmp_path / "moved", **arguments)
    assert {path: path.read_bytes() for path in before} == before


def test_other_users_may_read_what_was_written(data, tmp_path):
    """As the umask says: some libraries write for their own user alone."""
    _, last, _ = data
    write_text(tmp_path / "plain.txt", "words")
    (tmp_path / "by_hand").write_text("words")
    usual = (tmp_path / "by_hand").stat().st_mode
    assert (tmp_path / "plain.txt").stat().st_mode == usual
    found = {
        path.name: oct(path.stat().st_mode) for path in last.rglob("*.safetensors") if "training" not in path.parts
    }
    assert set(found.values()) == {oct(usual)}, found
    assert os.access(last / "model.safetensors", os.R_OK)


def test_a_file_of_another_kind_is_named(tmp_path):
    (tmp_path / "a.npz").write_text("words")
    with pytest.raises(ValueError, match=r"a.npz is no file that `xwam imagine` wrote"):
        read_arrays(tmp_path / "a.npz", "`xwam imagine`")
