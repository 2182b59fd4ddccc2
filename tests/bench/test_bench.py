"""The speed table: counts that can be checked by hand, a rate that is plausible, a report that holds everything."""

import json
from dataclasses import replace

import pytest
import torch

from xwam.bench import clock, report, stages, training
from xwam.bench.clock import Sample, Timing, matrix_rate, measure
from xwam.bench.operations import count_operations, product_shapes
from xwam.bench.stages import Plan, run_bench
from xwam.bench.subject import open_subject
from xwam.bench.training import operations_per_sample, samples_per_second_limit
from xwam.cli import main
from xwam.presets import preset

CONFIG = preset("debug")


def test_the_published_model_costs_what_is_published():
    """TFLOP of arXiv 2604.26694's network. Prompt of 512 rows: a forward is 7.67 with keys, values and time MLPs."""
    whole = count_operations(preset("wan22_5b"), prompt_length=512)
    assert whole.step + whole.prompt * 30 / 40 == pytest.approx(7.57e12, rel=0.005)  # time MLPs of 3 rows, not 761
    assert whole.text == pytest.approx(4.84e12, rel=0.005)
    merged = count_operations(preset("wan22_5b"))
    assert merged.step < whole.step
    assert merged.actions(preset("wan22_5b").denoise) < 70.8e12  # "nothing wasted" by the same count


def test_a_step_is_counted_exactly():
    model, clip = CONFIG.model, CONFIG.clip
    width, ffn = model.width, model.ffn_width
    video, action, state = 2 * model.num_views * (clip.height_px // 32) ** 2, clip.action_horizon, clip.num_states
    length = video + action + state
    linear = 2 * length * (6 * width**2 + 2 * width * ffn)
    attention = 4 * length * width * (length + model.text_length)
    blocks = model.num_blocks * (linear + attention)
    numbers = 4 * model.latent_channels
    ends = 2 * 2 * video * width * numbers
    for tokens, numbers in ((action, model.action_width), (state, model.state_width)):
        ends += 2 * 2 * tokens * width * (numbers + width)
    time = 2 * 3 * (model.sinusoid_width * width + width**2 + 6 * width**2)
    found = count_operations(CONFIG)
    assert found.step == blocks + ends + time
    assert found.step - found.last_action_step == 2 * video * width * 4 * model.latent_channels
    steps = CONFIG.denoise
    later = (steps.num_video_steps - steps.num_action_steps - 1) * found.step + found.step_with_depth
    assert found.world(steps) == later
    assert found.world(replace(steps, depth_at_zero=True)) == later + found.step


def test_timings_are_medians_and_percentiles():
    timing = Timing(tuple(Sample(wall, 2 * wall) for wall in (3.0, 1.0, 2.0, 100.0, 2.0)))
    assert (timing.wall, timing.work) == (2.0, 4.0)
    assert timing.percentile(0) == 1
    assert timing.percentile(100) == 100
    calls = []
    assert len(measure(lambda: calls.append(1), torch.device("cpu"), repeats=3).samples) == len(calls) == 3
    assert len(measure(lambda: None, torch.device("cpu"), repeats=9, max_seconds=0.0).samples) == 1


def test_the_matrix_rate_is_that_of_this_machine():
    (rate,) = matrix_rate([(256, 256, 256)], torch.device("cpu"), torch.float32, repeats=2).values()
    assert 1e8 < rate < 1e13


def test_the_best_sample_counts(monkeypatch):
    works = iter((7.0, 3.0, 1.0, 2.0))  # the first call only says how often to call
    monkeypatch.setattr(clock, "sample", lambda *_: Sample(wall=1.0, work=next(works)))
    assert matrix_rate([(2, 3, 4)], torch.device("cpu"), torch.float32, repeats=3) == {(2, 3, 4): 2 * 2 * 3 * 4}


def test_the_shapes_of_a_step_are_those_of_its_layers():
    model, clip = CONFIG.model, CONFIG.clip
    length = 2 * model.num_views * (clip.height_px // 32) ** 2 + clip.action_horizon + clip.num_states
    found = product_shapes(CONFIG)
    assert {(length, model.width, model.width), (length, model.width, model.ffn_width)} <= set(found)
    assert len(found) == len(set(found))


@pytest.fixture(scope="module")
def measured():
    policy = open_subject("debug", device="cpu", dtype=torch.float32, seed=0)
    return run_bench("debug", policy, Plan(2, 5.0, with_world=True, is_compiled=False, seed=0))


def test_the_better_rate_of_before_and_after_counts(monkeypatch):
    turns = iter((0, 1))

    def changing(shapes, *_):
        turn = next(turns)
        return {shape: 1.0 + (number + turn) % 2 for number, shape in enumerate(shapes)}

    monkeypatch.setattr(stages, "matrix_rate", changing)
    policy = open_subject("debug", device="cpu", dtype=torch.float32, seed=0)
    found = run_bench("debug", policy, Plan(1, 0.0, with_world=False, is_compiled=False, seed=0))
    assert set(found.matrix_rates.values()) == {2.0}


def test_the_world_and_its_decoding_share_the_time_of_one_request():
    policy = open_subject("debug", device="cpu", dtype=torch.float32, seed=0)
    predict = policy.predict
    policy.predict = lambda *seen, **asked: (
        replace(answer, seconds={"world": 3.0, "decode": 1.0}) for answer in predict(*seen, **asked)
    )
    plan = Plan(1, 0.0, with_world=True, is_compiled=False, seed=0)
    world, decode, _ = stages._world_stages(policy, plan, world=30, decode=10)
    assert (world.name, world.timing.wall, world.operations) == ("world (after the actions)", 3.0, 30)
    assert (decode.name, decode.timing.wall, decode.operations) == ("decode", 1.0, 10)
    assert world.timing.work == pytest.approx(3 * decode.timing.work)


def test_every_stage_is_in_the_table(measured):
    names = [stage.name for stage in measured.stages]
    for part in ("image encode", "text", "one denoising step", "actions", "world", "decode", "point cloud"):
        assert any(name.startswith(part) for name in names), part
    assert all(0 < measured.share(stage) < 1 for stage in measured.stages if stage.operations)
    text = report.markdown(measured)
    assert all(f"| {name} |" in text for name in names)
    for fact in ("GFLOP/s", "First request", "Peak memory", "versions", "seed 0"):
        assert fact in text


def test_the_first_request_comes_before_all_else_and_a_world_is_warmed_up_too(monkeypatch):
    policy, seen = open_subject("debug", device="cpu", dtype=torch.float32, seed=0), []
    predict = policy.predict

    def watched(*asked, **how):
        seen.append("actions" if how.get("actions_only") else "world")
        return predict(*asked, **how)

    monkeypatch.setattr(policy, "predict", watched)
    monkeypatch.setattr(stages, "matrix_rate", lambda shapes, *_: (seen.append("rate"), dict.fromkeys(shapes, 1e9))[1])
    found = run_bench("debug", policy, Plan(2, 60.0, with_world=True, is_compiled=False, seed=0))
    assert seen[:2] == ["actions", "rate"]
    (decode,) = (stage for stage in found.stages if stage.name == "decode")
    assert (len(decode.timing.samples), seen.count("world")) == (2, 3)


def test_json_holds_every_sample(measured):
    read = json.loads(report.to_json(measured))
    assert [len(stage["samples"]) for stage in read["stages"]] == [len(s.timing.samples) for s in measured.stages]
    assert read["versions"]["torch"] == torch.__version__
    assert read["peak_memory_bytes"] > 1e7


def test_the_verb(tmp_path, capsys):
    main(["bench", "debug", "--actions-only", "--repeats", "1", "--json", str(tmp_path / "bench.json")])
    assert "one denoising step" in capsys.readouterr().out
    assert "world (after the actions)" not in (tmp_path / "bench.json").read_text()
    main(["bench", "debug", "--limit-at", "0.1"])
    assert "full 4D request" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["bench", "debgu"])
    assert "neither a checkpoint" in capsys.readouterr().err


def test_a_training_step_is_three_forwards(monkeypatch):
    config = CONFIG
    forward = count_operations(config, prompt_length=config.model.text_length)
    found = operations_per_sample(config)
    assert 2.7 < found / (forward.step_with_depth + forward.prompt) < 3.0  # the first layers need no input gradient
    monkeypatch.setattr(training, "_rate", lambda *_: 1e9)  # of one thread of one rank
    limits = [samples_per_second_limit(config, torch.device("cpu"), in_bfloat16=False, num_ranks=n) for n in (1, 2)]
    assert limits == [n * torch.get_num_threads() * 1e9 / found for n in (1, 2)]
