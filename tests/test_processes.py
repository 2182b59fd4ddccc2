"""Processes that help another one share out its work and its cores, and end with it, however that ends."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from xwam.processes import in_processes

SCRIPT = """
import multiprocessing, sys, threading, time
from xwam.processes import end_with_parent

def help():
    end_with_parent()
    print("ready", flush=True)
    time.sleep(120)

if __name__ == "__main__":
    helper = multiprocessing.get_context("spawn").Process(target=help)
    helper.start()
    print(helper.pid, flush=True)
    helper.join()
"""


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_a_helper_does_not_outlive_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(SCRIPT)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        helper = int(parent.stdout.readline())
        assert parent.stdout.readline() == "ready\n"
        assert is_running(helper)
        os.kill(parent.pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while is_running(helper):
            assert time.monotonic() < deadline, "the helper lives on"
            time.sleep(0.1)


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
