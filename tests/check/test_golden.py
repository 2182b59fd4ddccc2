"""``xwam check golden``: any folder of golden files, one line per case, exit code 1 when a number differs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.check.golden_folder import GOLDENS, write_model, write_sampler, write_training
from xwam.check.golden import check_golden
from xwam.cli import main

SETS = {"other": (2, 1), "more": (4, 2)}  # views, modalities


@pytest.fixture(params=SETS)
def folder(request, tmp_path: Path) -> Path:
    """Golden files of a model of other sizes, under other names."""
    num_views, num_modalities = SETS[request.param]
    write_model(tmp_path, "model_x", num_views=num_views, num_modalities=num_modalities)
    write_sampler(tmp_path, "sampler_y", "x")
    write_training(tmp_path, "train_z", "x")
    return tmp_path


def test_a_folder_of_other_sizes_is_recomputed(folder, capsys):
    main(["check", "golden", str(folder)])
    lines = capsys.readouterr().out.splitlines()
    verdicts = {line.split()[0]: line.split(maxsplit=2)[2] for line in lines[:-1]}
    assert verdicts.pop("sampler_y/few") == "differs on purpose"
    assert set(verdicts.values()) == {"ok"}
    expected = {"model_x/out/some/cfg0/nodepth", "sampler_y/whole/out", "sampler_y/early/out", "train_z/step/gradient"}
    assert expected < set(verdicts)
    assert lines[-1] == f"{len(lines) - 1} cases, 0 FAIL"


@pytest.mark.parametrize(
    ("name", "key", "case"),
    [
        ("model_x", "out/some/cfg0/nodepth/action", "model_x/out/some/cfg0/nodepth"),
        ("sampler_y", "whole/out/latents", "sampler_y/whole/out"),
        ("train_z", "step/xt_proprios", "train_z/step"),
    ],
)
def test_a_number_that_differs_fails(folder, capsys, name, key, case):
    golden = load_file(folder / f"{name}.safetensors")
    golden[key].flat[7] += 1e-4 * np.abs(golden[key]).max()
    save_file(golden, folder / f"{name}.safetensors")
    with pytest.raises(SystemExit) as stopped:
        main(["check", "golden", str(folder)])
    assert stopped.value.code == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if "  FAIL" in line]
    assert [line.split()[0] for line in failed] == [case]
    assert key.rsplit("/", 1)[1] in failed[0]


def test_a_gradient_that_differs_fails(folder):
    path = folder / "train_z.json"
    numbers = json.loads(path.read_text())
    numbers["step"]["grad_norm"]["patch_embedding.weight"] *= 1.01
    path.write_text(json.dumps(numbers))
    failed = [case for case in check_golden(folder) if case.verdict == "FAIL"]
    assert [case.name for case in failed] == ["train_z/step/gradient"]
    assert failed[0].error > failed[0].bound


def test_a_file_that_cannot_be_recomputed_fails_and_the_rest_goes_on(folder):
    (folder / "model_broken.json").write_text((folder / "model_x.json").read_text())
    (folder / "t5_empty.json").write_text("{}")
    (folder / "t5_empty.safetensors").write_bytes((folder / "model_x.safetensors").read_bytes())
    cases = {case.name: case for case in check_golden(folder)}
    assert cases["model_broken"].verdict == cases["t5_empty"].verdict == "FAIL"
    assert "model_broken.safetensors" in cases["model_broken"].note
    assert cases["model_x/out/some/cfg0/nodepth"].verdict == "ok"


def test_episodes_under_another_name(tmp_path):
    """The data set of a golden file is known by its episodes."""
    for end in ("json", "safetensors"):
        shutil.copy(GOLDENS / "data" / f"data_raw_single.{end}", tmp_path / f"data_new.{end}")
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "kitchen").symlink_to(GOLDENS / "data" / "dataset" / "raw_single")
    cases = {case.name: case.verdict for case in check_golden(tmp_path)}
    assert cases["data_new/statistics/action_skip1/gripper_action"] == "differs on purpose"
    assert set(cases.values()) == {"ok", "differs on purpose"}


def test_nothing_to_check_is_said(tmp_path, capsys):
    for folder, message in ((tmp_path, "no golden files"), (tmp_path / "none", "no such folder")):
        with pytest.raises(SystemExit) as stopped:
            main(["check", "golden", str(folder)])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
