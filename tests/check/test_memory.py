"""The memory table: real counts of the published model, and sums that fit together."""

import pytest

from xwam.check.memory import count, markdown, memory_table
from xwam.presets import preset


def test_counts_of_the_published_model():
    counts = count(preset("wan22_5b"))
    assert counts.backbone + counts.depth_branch == 6_674_911_646
    assert counts.vae_encoder + counts.vae_decoder == 704_688_668
    assert counts.text == 5_680_910_336
    rows = {row.use: row.num_bytes for row in memory_table(preset("wan22_5b"))}
    assert rows["policy, known prompts"]["bfloat16"] == pytest.approx(10.67e9, rel=0.001)
    assert rows["text"]["bfloat16"] == rows["text"]["float32"] == pytest.approx(11.36e9, rel=0.001), "as its file is"
    assert rows["full 4D, any prompt"]["bfloat16"] == pytest.approx(26.42e9, rel=0.001)
    assert rows["training, from cached latents"]["bfloat16"] == 22 * 6_674_911_646


def test_a_model_without_depth_counts_none():
    from dataclasses import replace

    config = preset("debug")
    assert count(replace(config, model=replace(config.model, num_depth_blocks=0))).depth_branch == 0


def test_the_command_prints_the_table(capsys):
    from xwam.cli import main

    main(["check", "memory", "debug"])
    assert capsys.readouterr().out.strip() == markdown(preset("debug"))
    with pytest.raises(SystemExit):
        main(["check", "memory", "debg"])
    assert "debug" in capsys.readouterr().err
