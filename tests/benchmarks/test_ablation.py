"""The ablation trains from one cache, asks every checkpoint, goes on where it stopped, and says what it found."""

import json
from dataclasses import replace

import pytest
from safetensors.torch import load_file

from benchmarks import ablation
from benchmarks.ablation import Ablation, Cell
from xwam.presets import preset
from xwam.train.cached import train_from_cache


@pytest.fixture(scope="module")
def finished(trained, tmp_path_factory):
    root, _ = trained
    settings = Ablation(
        source=root / "run", data=root / "data", out=tmp_path_factory.mktemp("ablation"), preset="debug", seeds=(0, 1),
        trainings=("asynchronous", "depth-views"), steps=1, batch_size=2, save_every=1,
        precision="float32", episodes=0, clips=1,
    )  # fmt: skip
    ablation.run(settings)
    return settings


def test_every_cell_has_its_row(finished):
    lines = (finished.out / "table.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[:3] for row in rows] == [
        ["asynchronous", "asynchronous", "2"],
        ["asynchronous", "synchronous", "2"],
        ["depth-views", "asynchronous", "2"],
    ]
    heading = [cell.strip() for cell in lines[0].strip("|").split("|")]
    for row in rows:
        filled = dict(zip(heading, row, strict=True))
        assert "±" in filled["PSNR, dB"]
        assert filled["AbsRel"] != "–", "depth as views is depth too"
        assert float(filled["s to actions"]) > 0


def test_it_goes_on_where_it_stopped(finished):
    cells = sorted((finished.out / "cells").glob("*.json"))
    assert len(cells) == 6
    kept, lost = cells[0].stat().st_mtime_ns, cells[-1].read_text()
    cells[-1].unlink()
    (cells[-1].with_suffix("") / "open.json").unlink()
    ablation.run(finished)
    assert cells[0].stat().st_mtime_ns == kept, "what was finished is not done again"
    assert cells[-1].read_text() == lost, "what was lost comes out the same"
    assert not list((finished.out / "runs").glob("*/step-*/training")), "finished runs keep weights alone"
    with pytest.raises(ValueError, match=r"steps=2: .* was begun with 1"):
        ablation.run(replace(finished, steps=2))


def test_from_a_cache_the_same_weights_are_trained_as_by_the_run_itself(trained, tmp_path):
    root, last = trained
    config = preset("debug")
    config = replace(config, train=replace(config.train, num_steps=2, validate_every=0))
    again = train_from_cache(config, root / "data", root / "run", tmp_path / "again")
    one, two = (load_file(folder / "model.safetensors") for folder in (last, again))
    assert all((one[name] == two[name]).all() for name in one)
    fewer = train_from_cache(config, root / "data", root / "run", tmp_path / "fewer", num_demonstrations=1)
    facts = [json.loads((folder / "manifest.json").read_text()) for folder in (last, fewer)]
    assert [f["episodes"] for f in facts] == [3, 1]
    assert facts[1]["clips"] < facts[0]["clips"]
    assert facts[1]["statistics"] != facts[0]["statistics"]
    with pytest.raises(ValueError, match="num_demonstrations=4: task 'fake-reach' has 3 episodes"):
        train_from_cache(config, root / "data", root / "run", tmp_path / "more", num_demonstrations=4)
    other = replace(config, clip=replace(config.clip, crop=0.9))
    with pytest.raises(ValueError, match="was made of something else"):
        train_from_cache(other, root / "data", root / "run", tmp_path / "other")


def test_trainings_differ_in_what_their_names_say(finished):
    configs = {name: ablation.config_of(finished, name, 0) for name in (*ablation.NOISE, *ablation.DEPTH)}
    assert [configs[name].noise.draw for name in ablation.NOISE] == list(ablation.NOISE)
    assert configs["no-depth"].model.num_depth_blocks == 0
    assert not configs["no-depth"].depth_is_views
    assert configs["depth-views"].depth_is_views
    assert configs["depth-views"].train.video_loss_weight == 2 * configs["no-depth"].train.video_loss_weight
    with pytest.raises(ValueError, match="training='asynchron': allowed: asynchronous"):
        ablation.config_of(finished, "asynchron", 0)


def test_success_is_compared_seed_by_seed(finished, tmp_path):
    settings = replace(finished, out=tmp_path, seeds=(0, 1, 2), trainings=("asynchronous",), demonstrations=())
    for seed, (ours, theirs) in enumerate([(6, 5), (8, 7), (5, 4)]):
        for inference, wins in (("asynchronous", theirs), ("synchronous", ours)):
            path = ablation._path(settings, Cell("asynchronous", inference), seed)
            ablation.write_json(path, {"wins": wins, "episodes": 10})
    ablation.write_results(settings, ["asynchronous"])
    reference, synchronous = (settings.out / "table.md").read_text().splitlines()[2:]
    assert "| 53% (36% to 70%) | – |" in reference, "Wilson's interval of 16 of 30"
    assert "| 63% (46% to 78%) | +10% (+10% to +10%) |" in synchronous, "each seed won one more"
    assert "asked synchronous" in (settings.out / "success.svg").read_text()
