"""What is prepared once: several processes share out the work and the cores."""

import os
from functools import partial
from pathlib import Path

import pytest
import torch

from xwam.train.prepare import in_processes


def note_threads(folder: Path, fails: bool, num_threads: int, is_main: bool) -> None:
    torch.set_num_threads(num_threads)
    (folder / f"{os.getpid()}-{is_main}").write_text(str(torch.get_num_threads()))
    if fails and is_main:
        raise RuntimeError("no room left")


@pytest.mark.parametrize(("processes", "share"), [(1, 5), (2, 2), (9, 1)])
def test_processes_share_the_cores(processes, share, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        in_processes(partial(note_threads, tmp_path, False), processes)
        assert torch.get_num_threads() == 5
        with pytest.raises(RuntimeError, match="no room"):
            in_processes(partial(note_threads, tmp_path, True), 1)
        assert torch.get_num_threads() == 5, "whatever ended it"
    finally:
        torch.set_num_threads(before)
    noted = {path.name: path.read_text() for path in tmp_path.iterdir()}
    mine = f"{os.getpid()}-True"
    assert noted.pop(mine) == "5", "the last one, alone"
    assert list(noted.values()) == [str(share)] * (processes - 1)
