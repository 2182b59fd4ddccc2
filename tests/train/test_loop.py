"""Training: resumes exactly, does not care how many processes share the batch, leaves only whole checkpoints."""

import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.examples import make_cameras, make_normalizer
from tests.train.encoded import EncodedClips, write_frozen
from xwam.files import write_json
from xwam.model.weights import is_depth_name
from xwam.model.xwam import all_blocks
from xwam.presets import preset
from xwam.train import checkpoint, loop, manifest
from xwam.train.options import Changes, Setup, changed
from xwam.train.peers import Peers, peers_may_wait
from xwam.train.rates import learning_rate_at
from xwam.train.saving import read_tensors
from xwam.train.state import build_model

CONFIG = preset("debug")


def make_run(folder: Path, out: str = "run") -> loop.Run:
    frozen = folder / "frozen"
    if not frozen.exists():
        write_frozen(frozen, CONFIG)
    robot = checkpoint.Robot(make_normalizer(), make_cameras(CONFIG))
    return loop.Run(folder / out, robot, frozen, {"data": "d", "statistics": "s"})


def log_of(run: loop.Run) -> list[dict]:
    return [json.loads(line) for line in (run.out / "log.jsonl").read_text().splitlines()]


def losses_of(run: loop.Run) -> list[dict]:
    return [row for row in log_of(run) if "gradient_norm" in row]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    data = EncodedClips(CONFIG, size=7)
    whole, parts = make_run(tmp_path, "whole"), make_run(tmp_path, "parts")
    loop.train(CONFIG, data, whole)

    class Interrupted(EncodedClips):
        def batch(self, indices, visit):
            if len(losses_of(parts)) == 5 if (parts.out / "log.jsonl").exists() else False:
                raise PowerCutError
            return super().batch(indices, visit)

    with pytest.raises(PowerCutError):
        loop.train(CONFIG, Interrupted(CONFIG, size=7), parts)
    assert checkpoint.newest_checkpoint(parts.out).name == "step-0000004"
    last = loop.train(CONFIG, data, parts)
    expected = losses_of(whole)
    got = losses_of(parts)
    got = got[:4] + got[-4:]  # step 5 was done twice: before the power cut, and again
    for a, b in zip(expected, got, strict=True):
        assert a["step"] == b["step"]
        for name in ("loss/video", "loss/action", "loss/state", "loss/depth", "gradient_norm"):
            assert a[name] == b[name], f"step {a['step']} {name}"
    one = checkpoint.load_file(whole.out / last.name / "model.safetensors")
    two = checkpoint.load_file(last / "model.safetensors")
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_the_manifest_counts_samples_and_hours_of_all_starts_together(tmp_path):
    run = make_run(tmp_path)
    last = loop.train(CONFIG, EncodedClips(CONFIG, size=7), run)
    path = last / "manifest.json"
    told = json.loads(path.read_text())
    assert told["samples"] == CONFIG.train.num_steps * CONFIG.train.batch_size
    assert 0 <= told["hours"] < 0.1
    path.write_text(json.dumps(told | {"hours": 5.0}))  # as if the first start had taken so long
    longer = replace(CONFIG, train=replace(CONFIG.train, num_steps=CONFIG.train.num_steps + 1))
    after = json.loads((loop.train(longer, EncodedClips(longer, size=7), run) / "manifest.json").read_text())
    assert 5.0 <= after["hours"] < 5.1


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_schedulers_save_what_was_finished(tmp_path, sent):
    run = make_run(tmp_path)

    class Interrupted(EncodedClips):
        def batch(self, indices, visit):
            if (run.out / "log.jsonl").exists() and len(losses_of(run)) == 5:
                os.kill(os.getpid(), sent)
            return super().batch(indices, visit)

    with pytest.raises(KeyboardInterrupt):
        loop.train(CONFIG, Interrupted(CONFIG, size=7), run)
    assert checkpoint.newest_checkpoint(run.out).name == "step-0000006", "the step that had begun was finished"


def test_refuses_other_data(tmp_path):
    run = make_run(tmp_path)
    loop.train(CONFIG, EncodedClips(CONFIG, size=7), run)
    with pytest.raises(ValueError, match="continue with the same data"):
        loop.train(CONFIG, EncodedClips(CONFIG, size=7), run._replace(manifest={"data": "x", "statistics": "s"}))


def test_every_clip_is_seen_once_per_pass_and_order_depends_on_seed_alone():
    seen = np.concatenate([loop.batch_indices(10, 4, seed=0, at_step=s)[0] for s in range(5)])
    assert sorted(seen[:10]) == list(range(10))
    assert sorted(seen[10:]) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()
    again = np.concatenate([loop.batch_indices(10, 4, seed=0, at_step=s)[0] for s in range(5)])
    assert (seen == again).all()
    visits = np.concatenate([loop.batch_indices(10, 4, seed=0, at_step=s)[1] for s in range(5)])
    assert visits.tolist() == [0] * 10 + [1] * 10


def test_a_batch_that_spans_two_passes_takes_each_clip_from_its_own(tmp_path):
    asked = []

    class Visited(EncodedClips):
        def batch(self, indices, visit):
            asked.extend((visit, int(index)) for index in indices)
            return super().batch(indices, visit)

    size = 3 * CONFIG.train.batch_size // 2
    loop.train(
        replace(CONFIG, train=replace(CONFIG.train, num_steps=2)), Visited(CONFIG, size=size), make_run(tmp_path)
    )
    batches = [loop.batch_indices(size, CONFIG.train.batch_size, CONFIG.train.seed, step) for step in (0, 1)]
    expected = [(int(v), int(i)) for indices, visits in batches for i, v in zip(indices, visits, strict=True)]
    assert asked == expected
    assert {visit for visit, _ in asked} == {0, 1}


def test_learning_rate_warms_up_and_falls():
    config = replace(CONFIG.train, num_steps=100, num_warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate_at(s, config) for s in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.01)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


@pytest.mark.parametrize(("steps", "warmup"), [(100_000, 1000), (4000, 1000), (500, 125), (1, 0)])
def test_a_short_run_reaches_its_learning_rate(steps, warmup):
    """A preset's warm-up may be longer than the run that is asked for."""
    config = changed(preset("small"), Changes(steps=steps).given()).train
    rates = [learning_rate_at(step, config) for step in range(min(steps, 2000))]
    assert max(rates) == pytest.approx(config.learning_rate)
    assert rates.index(max(rates)) == max(0, warmup - 1)
    sooner = changed(preset("small"), Changes(steps=steps, warmup_steps=10).given()).train
    assert learning_rate_at(min(9, steps // 4), sooner) == pytest.approx(config.learning_rate)


def test_a_folder_is_whole_or_absent(tmp_path):
    def fails_half_way(folder):
        (folder / "one.json").write_text("{}")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoint.write_whole(tmp_path / "step-1", fails_half_way)
    assert not list(tmp_path.iterdir()), "a full disk does not stay full"


def test_what_is_replaced_is_not_lost_when_the_process_is_killed(tmp_path, monkeypatch):
    target = tmp_path / "state"
    checkpoint.write_whole(target, lambda folder: (folder / "n").write_text("1"))
    (tmp_path / ".tmp-state-1").mkdir()
    (tmp_path / ".tmp-state-2-1").mkdir()
    rename = Path.rename

    def killed(path, to):
        if path.name.startswith(".tmp-"):
            raise KeyboardInterrupt
        return rename(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.write_whole(target, lambda folder: (folder / "n").write_text("2"))
    assert not target.exists()
    assert (checkpoint.restored(target) / "n").read_text() == "1"
    checkpoint.write_whole(target, lambda folder: (folder / "n").write_text("3"))
    assert (checkpoint.restored(target) / "n").read_text() == "3"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-state-2-1", "state"], "and nobody else's"


class PowerCutError(Exception):
    pass


class Wild(EncodedClips):
    """Clips whose actions are no numbers at these steps; before step ``cut`` the power goes."""

    def __init__(self, steps, cut=None, **how) -> None:
        super().__init__(CONFIG, **how)
        self.steps, self.cut, self.asked = steps, cut, 0

    def batch(self, indices, visit):
        if self.asked == self.cut:
            raise PowerCutError
        found = super().batch(indices, visit)
        self.asked += 1
        return found._replace(action=found.action * float("inf")) if self.asked - 1 in self.steps else found


def test_a_step_without_a_finite_gradient_changes_nothing(tmp_path, monkeypatch):
    settings = replace(CONFIG.train, num_steps=4, save_every=4, log_every=1, batch_size=7, validate_every=0)
    config, run, real, changed_in = replace(CONFIG, train=settings), make_run(tmp_path), loop.change_weights, []

    def watched(state, *rest):
        held = {**dict(state.model.named_parameters()), **{f"average {n}": v for n, v in state.average.items()}}
        before = {name: value.detach().clone() for name, value in held.items()}
        norm = real(state, *rest)
        changed_in.append(sum(not torch.equal(value, before[name]) for name, value in held.items()))
        return norm

    monkeypatch.setattr(loop, "change_weights", watched)
    with pytest.warns(UserWarning, match="gradient_norm=nan at step 3: nothing was learned in it"):
        last = loop.train(config, Wild({2}, size=7), run)
    assert changed_in[2] == 0
    assert min(changed_in[:2] + changed_in[3:]) > 0
    assert all(torch.isfinite(value).all() for value in load_file(last / "model.safetensors").values())
    assert np.isnan(losses_of(run)[2]["gradient_norm"])


@pytest.mark.filterwarnings("ignore:gradient_norm")
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_resumes_exactly_after_such_a_step(tmp_path, optimizer):
    """The optimiser has made fewer steps than the run, and its first ones count differently."""
    settings = replace(CONFIG.train, num_steps=5, save_every=3, batch_size=7, validate_every=0)
    config, how = replace(CONFIG, train=settings), Setup(optimizer=optimizer)
    whole, parts = make_run(tmp_path, "whole"), make_run(tmp_path, "parts")
    expected = load_file(loop.train(config, Wild({1}, size=7), whole, how=how) / "model.safetensors")
    with pytest.raises(PowerCutError):
        loop.train(config, Wild({1}, cut=4, size=7), parts, how=how)
    saved = parts.out / "step-0000003/training/step.json"
    assert json.loads(saved.read_text()) == {"step": 3, "updates": 2}
    found = load_file(loop.train(config, EncodedClips(CONFIG, size=7), parts, how=how) / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_validation_that_fails_loses_nothing(tmp_path):
    run = make_run(tmp_path)

    def validate(average, now):
        raise RuntimeError("no OpenGL here")

    with pytest.raises(RuntimeError, match="no OpenGL"):
        loop.train(CONFIG, EncodedClips(CONFIG, size=7), run, validate=validate)
    assert checkpoint.newest_checkpoint(run.out).name == "step-0000004", "it was to be saved at this step"
    assert loop.train(CONFIG, EncodedClips(CONFIG, size=7), run).name == "step-0000008"


@pytest.mark.filterwarnings("ignore:gradient_norm")
def test_ten_in_a_row_end_the_run_and_another_learning_rate_goes_on(tmp_path):
    settings = replace(CONFIG.train, num_steps=14, save_every=2, batch_size=7, validate_every=0)
    config, run = replace(CONFIG, train=settings), make_run(tmp_path)
    with pytest.raises(ValueError, match=r"gradient_norm=nan at step 12 and 9 before it: lower --learning-rate"):
        loop.train(config, Wild(range(2, 14), size=7), run)
    slower = replace(config, train=replace(settings, learning_rate=settings.learning_rate / 2, num_steps=13))
    last = loop.train(slower, EncodedClips(CONFIG, size=7), run)
    assert last.name == "step-0000013"
    stored = json.loads((last / "manifest.json").read_text())
    assert stored["recipe"]["train"]["learning_rate"] == settings.learning_rate / 2


def test_the_loss_falls_on_one_batch(tmp_path):
    settings = replace(CONFIG.train, num_steps=60, learning_rate=3e-3, save_every=60, validate_every=60)
    config = replace(CONFIG, train=settings)
    run = make_run(tmp_path)
    loop.train(config, EncodedClips(config, size=2, spread=0.1), run)
    rows = losses_of(run)
    first, last = (np.mean([r["loss/depth"] for r in part]) for part in (rows[:5], rows[-5:]))
    assert last < 0.5 * first


def test_compile_in_the_recipe_compiles_every_block():
    for is_wanted in (True, False):
        config = replace(CONFIG, train=replace(CONFIG.train, compile=is_wanted))
        model = build_model(config, Setup(), Peers(0, 1), torch.device("cpu"))
        assert [block._compiled_call_impl is not None for block in all_blocks(model)] == [is_wanted] * 4


def test_only_the_runs_own_checkpoints_are_swept_away(tmp_path):
    names = ["step-0000001", "step-0000002", "step-0000003", "step-0000002-policy", "step-best"]
    for name in names:
        (tmp_path / name / "training").mkdir(parents=True)
        (tmp_path / name / "training/step.json").write_text("{}")
    (tmp_path / "step-0000009.tar").write_text("")
    checkpoint.keep_newest(tmp_path, 2)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*names[1:], "step-0000009.tar"}
    assert checkpoint.newest_checkpoint(tmp_path) == tmp_path / "step-0000003"


def test_checkpoints_of_every_so_many_steps_stay(tmp_path):
    settings = replace(CONFIG.train, num_steps=8, save_every=1, keep_every=3, batch_size=7, validate_every=0)
    loop.train(replace(CONFIG, train=settings), EncodedClips(CONFIG, size=7), make_run(tmp_path))
    assert sorted(path.name for path in (tmp_path / "run").glob("step-*")) == [f"step-000000{n}" for n in (3, 6, 7, 8)]


def test_a_checkpoint_that_lost_a_piece_is_not_read(tmp_path):
    """The reader takes a tensor for as large as its furthest piece, and would leave the hole as it was."""
    whole = torch.arange(32.0).reshape(8, 4)
    folder = tmp_path / "training"
    folder.mkdir()
    for number, (start, size) in enumerate(((0, 2), (2, 4), (6, 2)), start=1):
        placed = {"w": {"saved_offsets": [start, 0]}}
        facts = {"DCP_SHARDING_INFO": json.dumps(placed), "DCP_VERSION": "1.0"}
        piece = {"w": whole[start : start + size].contiguous()}
        save_file(piece, folder / f"shard-0000{number}-model-00001-of-00001.safetensors", metadata=facts)
    found = {"w": torch.zeros(8, 4)}
    read_tensors(folder, found)
    assert torch.equal(found["w"], whole)
    (folder / "shard-00002-model-00001-of-00001.safetensors").unlink()
    with pytest.raises(ValueError, match="pieces of w are missing: a file was lost"):
        read_tensors(folder, {"w": torch.zeros(8, 4)})


def test_the_checkpoint_that_did_best_in_the_closed_loop_stays(tmp_path):
    plays = {1: ("reach", 0.9, 4), 2: ("push", 0.8, 4), 3: ("push", 0.8, 4), 4: ("push", 1.0, 1), 5: ("push", 0.1, 4)}
    for number in range(1, 8):
        (tmp_path / f"step-000000{number}" / "training").mkdir(parents=True)
        (tmp_path / f"step-000000{number}" / "training/step.json").write_text("{}")
    for number, (task, success, played) in plays.items():
        settings = {"tasks": [task], "num_episodes": 4}
        report = {"settings": settings, "mean_success": success, "episodes": [{}] * played}
        write_json(tmp_path / "closed-loop" / f"step-000000{number}.json", report)
    checkpoint.keep_newest(tmp_path, 2)
    left = {path.name for path in tmp_path.glob("step-*")}
    assert left == {f"step-000000{n}" for n in (3, 6, 7)}, "1 played other tasks, 4 not to the end; of equals the newer"


def test_another_last_step_changes_the_learning_rate_and_says_so(tmp_path):
    run = make_run(tmp_path)
    loop.train(CONFIG, EncodedClips(CONFIG, size=7), run)
    steps = CONFIG.train.num_steps
    longer = replace(CONFIG, train=replace(CONFIG.train, num_steps=2 * steps))
    rates = [learning_rate_at(steps, config.train) for config in (longer, CONFIG)]
    newest = checkpoint.newest_checkpoint(run.out)
    with pytest.warns(UserWarning, match=f"instead of {steps}: .* {rates[0]:.3g} instead of {rates[1]:.3g}\\.$"):
        manifest.warn_of_another_end(newest, longer.train)
    earlier = newest.rename(newest.with_name("step-0000002"))
    with pytest.warns(UserWarning, match=f"; --steps {steps} keeps it"):
        manifest.warn_of_another_end(earlier, longer.train)
    manifest.warn_of_another_end(earlier, CONFIG.train)
    manifest.warn_of_another_end(None, CONFIG.train)


def test_an_error_of_one_process_ends_it_at_once():
    """Its peers wait for it: a good-bye would wait for theirs."""
    script = (
        "import atexit, time\n"
        "from xwam.train.peers import Peers, peers_may_wait\n"
        "atexit.register(time.sleep, 60)\n"
        "from torch import OutOfMemoryError\n"
        "with peers_may_wait(Peers(0, 2)):\n"
        "    raise {}\n"
    )
    for error, advice in (("ValueError('a broken file')", ""), ("OutOfMemoryError('of GPU 0')", "--recompute")):
        words = [sys.executable, "-c", script.format(error)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=50)
        assert done.returncode == 1
        assert error.split("'")[1] in done.stderr
        assert advice in done.stderr
        assert ("memory is full" in done.stderr) == bool(advice)
    with pytest.raises(ValueError, match="a broken file"), peers_may_wait(Peers(0, 1)):
        raise ValueError("a broken file")


def test_a_run_goes_on_from_the_start_it_had(tmp_path):
    first = loop.train(CONFIG, EncodedClips(CONFIG, size=7), make_run(tmp_path, "first"))
    second = loop.train(CONFIG, EncodedClips(CONFIG, size=8), make_run(tmp_path, "second"))
    run = make_run(tmp_path, "tuned")
    loop.train(CONFIG, EncodedClips(CONFIG, size=7), run, start=first)
    loop.train(CONFIG, EncodedClips(CONFIG, size=7), run, start=first)
    with pytest.raises(ValueError, match="continue from the same checkpoint"):
        loop.train(CONFIG, EncodedClips(CONFIG, size=7), run, start=second)


def test_minutes_stop_a_run_that_goes_on_as_if_nothing_had_been(tmp_path):
    data = EncodedClips(CONFIG, size=7)
    whole, cut = make_run(tmp_path, "whole"), make_run(tmp_path, "cut")
    loop.train(CONFIG, data, whole)
    assert loop.train(CONFIG, data, cut, max_minutes=0.0).name == "step-0000001"
    loop.train(CONFIG, data, cut)
    for name in ("step", "loss/video", "loss/action", "gradient_norm"):
        assert [row[name] for row in losses_of(cut)] == [row[name] for row in losses_of(whole)]


def test_weight_decay_leaves_a_depth_branch_that_nothing_teaches(tmp_path):
    run, first = make_run(tmp_path), make_run(tmp_path, "first")
    start = loop.train(replace(CONFIG, train=replace(CONFIG.train, num_steps=1)), EncodedClips(CONFIG, size=7), first)
    config = replace(CONFIG, train=replace(CONFIG.train, depth_loss_weight=0.0, weight_decay=0.5))
    last = loop.train(config, EncodedClips(CONFIG, size=7), run, start=start)
    before, after = (load_file(folder / "model.safetensors") for folder in (start, last))
    for name, weight in before.items():
        assert torch.equal(after[name], weight) == is_depth_name(name) or weight.ndim < 2, name


def test_frozen_parts_that_are_links_are_kept_as_files(tmp_path):
    """As those of a snapshot that was downloaded: links to files elsewhere."""
    run = make_run(tmp_path)
    for path in [path for path in run.frozen.rglob("*") if path.is_file()]:
        path.rename(tmp_path / f"blob-{path.parent.name}-{path.name}")
        path.symlink_to(os.path.relpath(tmp_path / f"blob-{path.parent.name}-{path.name}", path.parent))
    last = loop.train(replace(CONFIG, train=replace(CONFIG.train, num_steps=1)), EncodedClips(CONFIG, size=7), run)
    kept = [path for part in ("vae", "text") for path in (last / part).rglob("*")]
    assert len(kept) > 2
    assert all(path.is_dir() or path.stat().st_size for path in kept)
