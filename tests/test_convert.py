"""Published files to our checkpoint folder: every tensor once, exactly, in little memory, and again after a stop."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import published
from xwam.cli import main
from xwam.convert import SPARE_BYTES, convert, plan_release, plan_wan
from xwam.model.shards import Shard, plan_shards, weight_files, write_index
from xwam.model.stored import safetensors_contents, torch_contents
from xwam.model.text import transformers_name
from xwam.model.vae import WAN22_LATENT_MEAN, VideoVae, diffusers_name
from xwam.model.weights import load_weights
from xwam.policy import load_policy
from xwam.robot.calibration import load_cameras, save_cameras


@pytest.fixture(scope="module")
def module() -> dict:
    return published.module_weights()


@pytest.fixture(scope="module")
def release(tmp_path_factory, module) -> Path:
    return published.write_release(tmp_path_factory.mktemp("release"), module, published.all_settings("raw_single"))


@pytest.fixture(scope="module")
def wan(tmp_path_factory) -> Path:
    return published.write_wan(tmp_path_factory.mktemp("wan") / "Wan2.2-TI2V-5B")


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    files = weight_files(folder / "model.safetensors")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_release_keeps_every_number(release, module, tmp_path):
    summary = convert(plan_release(release), tmp_path / "out", max_shard_bytes=60_000)
    weights = {part: read_all(tmp_path / "out" / part) for part in ("", "vae", "text")}
    assert len(weight_files(tmp_path / "out" / "model.safetensors")) > 2
    assert all(p.stat().st_size <= 60_000 for p in weight_files(tmp_path / "out" / "model.safetensors"))
    assert_same(weights["vae"].pop("latent_mean"), module["vae.mean"])
    assert_same(weights["vae"].pop("latent_std"), module["vae.std"])
    for name, tensor in module.items():
        if name.startswith("model."):
            assert_same(weights[""].pop(name.removeprefix("model.")), tensor)
        elif name.startswith("vae.model."):
            assert_same(weights["vae"].pop(f"vae.{diffusers_name(name.removeprefix('vae.model.'))}"), tensor)
        elif name.startswith("text_encoder."):
            assert_same(weights["text"].pop(transformers_name(name.removeprefix("text_encoder.model."))), tensor)
    assert not any(weights.values()), "nothing else was written"
    assert "0 unexpected" in summary
    assert "dropped: entry 'ds_version'" in summary


def test_release_becomes_a_policy(release, tmp_path):
    convert(plan_release(release), tmp_path / "out", max_shard_bytes=60_000)
    policy = load_policy(tmp_path / "out")
    assert policy.config.model == published.MODEL
    assert policy.config.view_names[0] == "robot0_agentview_left"
    assert policy.config.modes == ("policy", "joint", "forward_dynamics")
    recorded = published.statistics("raw_single")
    np.testing.assert_array_equal(policy.normalizer.state_q99[:3], recorded["q99"]["proprio_left_ee_xyz"])
    np.testing.assert_array_equal(policy.normalizer.action_q01[3:6], recorded["q01"]["action_left_ee_axisangle"])
    gripper = policy.layout.action[2]
    assert (gripper.name, gripper.scaling, gripper.sign) == ("left_gripper", "identity", -1)
    assert not policy.layout.action_mask[7:].any()


def test_calibration_that_was_filled_in_stays_and_greys_nothing(release, tmp_path):
    convert(plan_release(release), tmp_path / "out")
    path = tmp_path / "out" / "cameras.json"
    names = load_policy(tmp_path / "out").config.view_names
    cameras = {camera.name: camera for camera in load_cameras(path)}
    assert tuple(cameras) == names
    assert not any(camera.is_calibrated for camera in cameras.values())
    first = replace(cameras[names[0]], intrinsics=np.diag([20.0, 20.0, 1.0]), base_from_camera=np.eye(4))
    save_cameras(path, [first, *list(cameras.values())[1:]])
    convert(plan_release(release), tmp_path / "out")
    policy = load_policy(tmp_path / "out")
    assert policy.cameras[names[0]].is_calibrated
    assert policy.absent == frozenset()


def test_robotwin_has_two_arms(module, tmp_path):
    root = published.write_release(tmp_path / "run", module, published.all_settings("delta_dual", inverse_gripper=True))
    conversion = plan_release(root)
    assert conversion.layout.name == "robotwin"
    assert conversion.config.view_names == ("head_camera", "left_camera", "right_camera")
    assert conversion.layout.action_mask.all()
    recorded = published.statistics("delta_dual")
    assert conversion.normalizer is not None
    np.testing.assert_array_equal(conversion.normalizer.action_q99[13:], recorded["q99"]["gripper_action"])
    assert conversion.layout.action[2].sign == -1


def test_unknown_robot_is_refused_or_told(module, tmp_path):
    root = published.write_release(tmp_path / "run", module, {"model": {"num_heads": 2}})
    with pytest.raises(ValueError, match="--robot"):
        plan_release(root)
    summary = convert(plan_release(root, robot="robotwin"), tmp_path / "out")
    assert "no normalizer.json" in summary
    assert not (tmp_path / "out" / "normalizer.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"ema.weight": torch.ones(1)}, r"1 unexpected tensors: ema\.weight"),
        (lambda m: m | {"model.blocks.0.gate": torch.ones(1)}, r"network.*1 unexpected: blocks\.0\.gate"),
        (lambda m: m | {"vae.model.encoder.new": torch.ones(1)}, r"VAE.*1 unexpected: vae\.encoder\.new"),
        (lambda m: m | {"text_encoder.model.blocks.0.new": torch.ones(1)}, r"blocks\.0\.new"),
        (lambda m: m | {"model.head.head.bias": torch.ones(3)}, r"1 mis-shaped: head\.head\.bias \(3,\)"),
        (lambda m: {k: v for k, v in m.items() if k != "model.head.head.bias"}, r"1 missing: head\.head\.bias"),
        (lambda m: {k: v for k, v in m.items() if k != "vae.std"}, "1 missing: latent_std"),
        (lambda m: {f"x.{k}": v for k, v in m.items() if "patch" not in k}, r"0 tensors are called"),
    ],
)
def test_every_tensor_is_accounted_for(module, tmp_path, change, message):
    root = published.write_release(tmp_path / "run", change(module), published.all_settings("raw_single"))
    with pytest.raises(ValueError, match=message):
        plan_release(root)


def test_common_prefix_and_compiled_names_are_understood(release, module, tmp_path):
    renamed = {f"module.{name.replace('model.', 'model._orig_mod.', 1)}": tensor for name, tensor in module.items()}
    root = published.write_release(tmp_path / "run", renamed, published.all_settings("raw_single"))
    assert plan_release(root).config == plan_release(release).config


def test_wan_is_copied_and_the_rest_drawn_as_published(wan, tmp_path):
    summary = convert(plan_wan(wan, seed=3), tmp_path / "out")
    found, theirs = read_all(tmp_path / "out"), published.model_weights()
    for name, tensor in found.items():
        if not name.startswith(published.NEW):
            assert_same(tensor, theirs[name])
    model = load_weights(tmp_path / "out" / "model.safetensors", published.MODEL)
    for last, copy in zip(model.blocks[-1].parameters(), model.depth_blocks[0].parameters(), strict=True):
        assert torch.equal(last, copy)
    assert found["extra_heads.0.head.weight"].std().item() == pytest.approx(0.02, rel=0.1)
    assert found["action_encoder.2.weight"].std().item() == pytest.approx(0.02, rel=0.15)
    assert found["extra_heads.0.modulation"].std().item() == pytest.approx(24**-0.5, rel=0.4)
    assert (found["proprio_encoder.0.bias"] == 0).all()
    assert not torch.equal(found["extra_heads.0.head.weight"], found["head.head.weight"])
    vae = VideoVae.load(tmp_path / "out" / "vae")
    np.testing.assert_allclose(vae.latent_mean, WAN22_LATENT_MEAN)
    assert "20 new" in summary
    assert "27 copied again" in summary


def test_wan_with_a_missing_shard_is_refused(tmp_path):
    folder = published.write_wan(tmp_path / "wan")
    (folder / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="00002-of-00002"):
        plan_wan(folder)


def test_an_interrupted_conversion_goes_on(wan, tmp_path, monkeypatch):
    convert(plan_wan(wan), tmp_path / "whole", max_shard_bytes=60_000)
    write, done = Shard.write, []

    def stop_at_third(shard, wrote):
        if len(done) == 2:
            shard.path.with_name(f"{shard.path.name}.part").write_bytes(b"half")
            raise KeyboardInterrupt
        done.append(shard.path)
        write(shard, wrote)

    monkeypatch.setattr(Shard, "write", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        convert(plan_wan(wan), tmp_path / "out", max_shard_bytes=60_000)
    assert not (tmp_path / "out" / "config.json").exists(), "half a folder is never taken for a whole"
    monkeypatch.undo()
    before = [path.stat().st_mtime_ns for path in done]
    convert(plan_wan(wan), tmp_path / "out", max_shard_bytes=60_000)
    assert [path.stat().st_mtime_ns for path in done] == before, "finished files are kept"
    whole = {p.relative_to(tmp_path / "whole"): p for p in (tmp_path / "whole").rglob("*") if p.is_file()}
    found = {p.relative_to(tmp_path / "out"): p for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found.keys() == whole.keys()
    assert all(found[name].read_bytes() == path.read_bytes() for name, path in whole.items())


def test_the_tokenizer_comes_along(wan, tmp_path):
    plan = plan_wan(wan)
    (wan / "google" / "umt5-xxl" / "spiece.model").write_bytes(b"pieces")
    plan = plan._replace(config=replace(plan.config, text=replace(plan.config.text, tokenizer="sentencepiece")))
    convert(plan, tmp_path / "out")
    assert (tmp_path / "out" / "text" / "tokenizer" / "spiece.model").read_bytes() == b"pieces"
    assert "no tokenizer found" in convert(plan._replace(tokenizer=None), tmp_path / "bare")


def test_dry_run_writes_nothing(release, tmp_path):
    summary = convert(plan_release(release), tmp_path / "out", dry_run=True)
    assert "nothing written" in summary
    assert not (tmp_path / "out").exists()


def test_command_line(release, tmp_path, capsys):

    main(["convert", "release", str(release), str(tmp_path / "out"), "--dry-run"])
    assert "nothing written" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["convert", "wan", str(release), str(tmp_path / "out")])
    assert "diffusion_pytorch_model" in capsys.readouterr().err


def test_doors(release, wan, tmp_path, monkeypatch):
    from types import SimpleNamespace

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ValueError, match="something else"):
        convert(plan_wan(wan), tmp_path / "mine")
    with pytest.raises(FileNotFoundError, match="found none"):
        plan_release(tmp_path)
    with pytest.raises(FileNotFoundError, match="diffusion_pytorch_model"):
        plan_wan(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(ValueError, match="make room"):
        convert(plan_wan(wan), tmp_path / "out", dry_run=True)
    # What a killed conversion left of a file is written over: its room counts.
    plan = plan_wan(wan)
    wanted = [shard for part, tensors in plan.parts.items() for shard in plan_shards(tmp_path / "out" / part, tensors)]
    needed = sum(shard.num_bytes for shard in wanted) + SPARE_BYTES
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=needed - 1000))
    with pytest.raises(ValueError, match="make room"):
        convert(plan, tmp_path / "out", dry_run=True)
    wanted[0].part.parent.mkdir(parents=True)
    wanted[0].part.write_bytes(bytes(1000))
    origin = {"made_by": f"xwam convert {plan.kind}", "source_fingerprint": plan.fingerprint}
    (tmp_path / "out/manifest.json").write_text(json.dumps(origin))
    assert "nothing written" in convert(plan, tmp_path / "out", dry_run=True)


def test_views_and_odd_strides_are_read_exactly(tmp_path):
    base = torch.randn(6, 5)
    tensors = {"part": base[2:4], "turned": base.t(), "scalar": torch.tensor(3.0), "same": base, "half": base.half()}
    torch.save(tensors, tmp_path / "odd.pt")
    found, _ = torch_contents(tmp_path / "odd.pt")
    (shard,) = plan_shards(tmp_path, found)
    shard.write(lambda size: None)
    write_index(tmp_path, [shard])
    written = load_file(tmp_path / "model.safetensors")
    for name, tensor in tensors.items():
        assert_same(written[name], tensor)
        assert_same(found[name].read(), tensor)


def test_damaged_files_are_named(tmp_path):
    save_file({"a": torch.ones(100)}, tmp_path / "a.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-8])
    with pytest.raises(ValueError, match="ends before a"):
        safetensors_contents(tmp_path / "cut.safetensors")
    (tmp_path / "b.pt").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="not a zip"):
        torch_contents(tmp_path / "b.pt")


MEASURE = """
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from xwam.convert import convert, plan_release

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

root = Path(sys.argv[1])
shutil.disk_usage = lambda path: SimpleNamespace(free=10**12)  # nothing is written: a full disk is no failure here
before = peak()
conversion = plan_release(root, robot="robocasa")
convert(conversion, root / "out", dry_run=True)
sizes = [tensor.num_bytes for part in conversion.parts.values() for tensor in part.values()]
large = conversion.parts["text"]["shared.weight"]
print(len(sizes), sum(sizes), sum(len(piece) for piece in large.pieces()), before, peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_published_size_needs_little_memory(tmp_path):
    """A sparse file with all tensors of the release takes little disk; a 2 GB tensor of it is read piece by piece."""
    path = tmp_path / "checkpoint" / "mp_rank_00_model_states.pt"
    path.parent.mkdir()
    with torch.serialization.skip_data():
        torch.save({"module": published.full_size_module()}, path)
    assert path.stat().st_size > 38e9
    assert path.stat().st_blocks * 512 < 20e6
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    count, total, read, _, growth = map(int, done.stdout.split())
    assert count == 1115 + 196 + 2 + 242
    assert total > 38e9
    assert read > 2e9
    assert growth < 300e6, "not even the largest tensor"


@pytest.mark.parametrize(
    ("kind", "option", "said"),
    [
        ("wan", ["--robot", "robocasa"], "robot=robocasa: only for release"),
        ("run", ["--tokenizer", "x"], "tokenizer=x: only for release, wan"),
        ("state", ["--base", "x"], "base=x: only for run"),
        ("adapter", ["--dry-run"], "dry_run=True: only for release, wan"),
    ],
)
def test_options_of_another_kind_are_refused(kind, option, said, capsys):
    with pytest.raises(SystemExit):
        main(["convert", kind, "from", "to", *option])
    assert said in capsys.readouterr().err
