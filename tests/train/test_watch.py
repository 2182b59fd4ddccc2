"""What is looked at while a run learns, and runs that an earlier version saved."""

import json
import re
import struct
import subprocess
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.train.encoded import EncodedClips
from tests.train.test_loop import CONFIG, losses_of, make_run
from xwam.data.clips import Clips
from xwam.data.opening import open_data
from xwam.evaluate.closed_loop import placements
from xwam.model.xwam import XWAM, init_weights
from xwam.policy import load_policy
from xwam.train import checkpoint, export, loop, manifest
from xwam.train.log import open_log
from xwam.train.options import Watch
from xwam.train.validate import make_closed_loop, make_validate, together


def test_the_closed_loop_is_played_with_the_averaged_weights(tmp_path):
    pytest.importorskip("metaworld")
    run = make_run(tmp_path)
    watch = Watch(evaluate_tasks=("reach-v3",), evaluate_episodes=1, evaluate_max_steps=8)
    model = XWAM(CONFIG.model)
    init_weights(model, torch.Generator().manual_seed(0))
    look = together([make_closed_loop(CONFIG, run, watch), lambda average, now: {"step": float(now)}])
    numbers = look(model.state_dict(), 7)
    assert numbers.keys() == {"success", "success/reach-v3", "step"}
    kept = json.loads((run.out / "closed-loop" / "step-0000007.json").read_text())
    assert kept["episodes"][0]["num_steps"] == 8 or kept["episodes"][0]["success"]
    assert kept["episodes"][0]["seed"] not in placements(0, 10_000), "those count in the evaluation"
    other = {name: value + 0.01 for name, value in model.state_dict().items()}
    assert look(other, 7).keys() == numbers.keys(), "a step that is trained again, not to the bit, is played again"


def test_every_chosen_clip_is_validated(trained, tmp_path):
    """A robot that stands still is off by what each clip's actions do, whatever the weights."""
    root, last = trained
    policy = load_policy(last)
    clips = Clips(
        open_data(root / "data"), policy.config.clip, policy.config.view_names,
        split="validation", padded=False, every=3, demonstrations_only=True,
    )  # fmt: skip
    robot = checkpoint.Robot(policy.normalizer, clips.cameras)
    run = loop.Run(tmp_path, robot, root / "run/frozen", {})
    look = make_validate(policy.config, {"data": (clips, robot)}, run, num_clips=len(clips))
    taught = [clip.action[clip.action_mask] for clip in map(clips.__getitem__, range(len(clips)))]
    moved = [np.linalg.norm(action[:, :3], axis=1).mean() for action in taught]
    assert len(moved) > 1
    assert np.ptp(moved) > 1e-3
    numbers = look(policy.networks.transformer.state_dict(), 1)
    assert numbers["action_position_copy_m"] == pytest.approx(np.mean(moved), rel=1e-5)


def test_a_run_in_somebodys_repository_does_not_take_its_commit(tmp_path, monkeypatch):
    installed = tmp_path / "their" / "venv" / "manifest.py"
    installed.parent.mkdir(parents=True)
    installed.write_text("")
    (tmp_path / "their" / "code.py").write_text("")
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init"], ["add", "code.py"], [*name, "commit", "-m", "theirs"]):
        subprocess.run(["git", *words], cwd=tmp_path / "their", check=True, capture_output=True)
    monkeypatch.setattr(manifest, "__file__", str(installed))
    assert manifest.commit() == "unknown"
    monkeypatch.setattr(manifest, "__file__", str(tmp_path / "their" / "code.py"))
    assert re.fullmatch(r"[0-9a-f]{40}", manifest.commit())


def test_tensorboard_has_every_number_and_its_thread_is_gone(tmp_path):
    pytest.importorskip("tensorboard", reason="pip install 'xwam[train]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def run():
        with open_log(tmp_path / "run") as log:
            for step in range(1, 8):
                log({"loss/video": 1 / step}, step)
            raise RuntimeError("something happened on the way")

    before = set(threading.enumerate())
    with pytest.raises(RuntimeError, match="on the way"):
        run()
    assert set(threading.enumerate()) <= before
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    found = [(event.step, event.value) for event in board.Scalars("loss/video")]
    assert found == [(step, pytest.approx(1 / step)) for step in range(1, 8)]


def wandb_records(data: bytes) -> Iterator[bytes]:
    """The records of W&B's file: LevelDB's log format (blocks of 32 KiB, pieces with a header of 7 bytes)."""
    at, joined = 7, b""  # behind the file's own header
    while at + 7 <= len(data):
        size, kind = struct.unpack_from("<HB", data, at + 4)
        if kind == 0 or 32768 - at % 32768 < 7:  # the rest of a block that no header fits in
            at += 32768 - at % 32768
            continue
        if at + 7 + size > len(data):  # still being written
            return
        joined += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield joined
            joined = b""


def test_weights_and_biases_gets_every_number(tmp_path, monkeypatch):
    """The real library, without a network: what it left on disk is read back."""
    pytest.importorskip("wandb", reason="pip install 'xwam[wandb]'")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("DATA_DIR", "CONFIG_DIR", "CACHE_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "elsewhere"))
    with open_log(tmp_path / "run", wandb_project="xwam", settings={"seed": 3}) as log:
        log({"loss/video": 0.5}, 1)
        log({"loss/video": 0.25}, 2)
    (path,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    records, deadline = [], time.monotonic() + 60
    while not any(record.HasField("exit") for record in records):  # W&B's own process writes, maybe a little later
        assert time.monotonic() < deadline, [record.WhichOneof("record_type") for record in records]
        time.sleep(0.05)
        records = [wandb_internal_pb2.Record.FromString(data) for data in wandb_records(path.read_bytes())]
    history, settings, exit_code = [], {}, None
    for record in records:
        history += [{"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}]
        exit_code = record.exit.exit_code if record.HasField("exit") else exit_code
        settings |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    rows = [row for row in history if "loss/video" in row]
    assert [(row["_step"], row["loss/video"]) for row in rows] == [(1, 0.5), (2, 0.25)]
    assert settings["seed"] == 3
    assert exit_code == 0


def test_a_run_goes_on_from_its_state_in_one_file(tmp_path):
    data = EncodedClips(CONFIG, size=7)
    whole, later = make_run(tmp_path, "whole"), make_run(tmp_path, "later")
    loop.train(CONFIG, data, whole)
    four = whole.out / "step-0000004"
    export.export_state(four, later.out / four.name)
    assert [p.name for p in (later.out / four.name / "training").glob("*.safetensors")] == ["state.safetensors"]
    loop.train(CONFIG, data, later)
    for got, expected in zip(losses_of(later), losses_of(whole)[4:], strict=True):
        assert got["loss/depth"] == expected["loss/depth"]
        assert got["gradient_norm"] == expected["gradient_norm"]
