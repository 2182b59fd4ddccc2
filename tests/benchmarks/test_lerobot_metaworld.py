"""Recording with LeRobot can be repeated: it refuses a folder that is there, finished or not."""

import sys
from types import SimpleNamespace

import pytest

from benchmarks import lerobot_metaworld
from benchmarks.lerobot_metaworld import Recording, main


class Dataset:
    """What is asked of LeRobot's: a new folder, and an index at the end."""

    def __init__(self, root) -> None:
        self.root, self.rows = root, []

    @classmethod
    def create(cls, name, *, root, **_):
        root.mkdir(parents=True, exist_ok=False)
        return cls(root)

    def add_frame(self, row) -> None:
        self.rows.append(row)

    def save_episode(self) -> None:
        (self.root / "episodes").write_text(str(len(self.rows)))

    def finalize(self) -> None:
        (self.root / "meta").mkdir()
        (self.root / "meta/info.json").write_text("{}")


def test_it_begins_anew_after_an_interruption_and_ends_at_once_when_it_is_there(tmp_path, monkeypatch, capsys):
    played = []

    def play(env, seed):
        played.append(seed)
        if len(played) == 2:
            raise KeyboardInterrupt
        return [{"row": seed}]

    monkeypatch.setitem(sys.modules, "lerobot.datasets.lerobot_dataset", SimpleNamespace(LeRobotDataset=Dataset))
    monkeypatch.setattr(lerobot_metaworld, "opened", lambda task: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(lerobot_metaworld, "play", play)
    recording = Recording(out=tmp_path / "data", tasks=("push-v3",), episodes=3)
    with pytest.raises(KeyboardInterrupt):
        main(recording)
    assert not recording.out.exists()
    main(recording)
    assert (recording.out / "meta/info.json").is_file()
    assert (recording.out / "episodes").read_text() == "3"
    main(recording)
    assert "there already" in capsys.readouterr().out
    assert played == [0, 1, 0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
