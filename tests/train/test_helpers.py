"""Processes that help to fill a cache end with the one that started them, however that ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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
