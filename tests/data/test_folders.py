"""What a link leads to counts like what lies there, for every format."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.data.foreign import ARM, FPS, pictures, video_of, write_foreign
from tests.data.hdf5_sets import robot, write_aloha
from xwam.data.folders import files_below
from xwam.data.opening import open_data
from xwam.data.videos import write_rgb
from xwam.files import fingerprint

PUBLISHED = Path(__file__).parents[1] / "goldens/data/dataset/raw_single"


def moved_away(folder: Path, disk: Path) -> None:
    shutil.move(folder, disk)
    folder.symlink_to(disk)


def test_films_behind_a_link_change_the_fingerprint(tmp_path):
    root = write_foreign(tmp_path / "set", episodes=2)
    whole = open_data(root, robot=ARM).fingerprint
    moved_away(root / "videos/observation.images.cam_high", tmp_path / "disk")
    assert open_data(root, robot=ARM).fingerprint == whole, "where files lie is nobody's business"
    write_rgb(video_of(root, "cam_high", 1), pictures(7)["cam_high"], FPS)
    assert open_data(root, robot=ARM).fingerprint != whole


def test_the_same_of_a_published_set(tmp_path):
    root = tmp_path / "set"
    shutil.copytree(PUBLISHED, root)
    whole = open_data(root).fingerprint
    films = next(iter(root.rglob("*.mp4"))).parent
    moved_away(films, tmp_path / "disk")
    assert open_data(root).fingerprint == whole
    with next(iter((tmp_path / "disk").rglob("*.mp4"))).open("ab") as file:
        file.write(b"more")
    assert open_data(root).fingerprint != whole


def test_the_same_of_guessed_depth_beside_hdf5_files(tmp_path):
    root = write_aloha(tmp_path / "set")
    for folder in (root / "depth", tmp_path / "disk"):
        folder.mkdir()
    (root / "depth/high").symlink_to(tmp_path / "disk")
    before = open_data(root, robot=robot("aloha")).fingerprint
    (tmp_path / "disk/provenance.json").write_text("{}")
    assert open_data(root, robot=robot("aloha")).fingerprint != before


def test_without_links_it_is_what_it_was(tmp_path):
    """Latents that were made before are still of the same data."""
    root = write_foreign(tmp_path / "set", episodes=2, depth=True)
    (root / "data/.hidden").mkdir()
    (root / "data/.hidden/._a.parquet").write_bytes(b"1")
    found = files_below(root, {".parquet", ".mp4"})
    assert sorted(found) == sorted(p for p in root.rglob("*") if p.suffix in {".parquet", ".mp4"})
    assert fingerprint(root, found) == fingerprint(root, reversed(found))
    assert files_below(root / "nothing", {".mp4"}) == []


def test_circles_end_and_the_first_of_two_ways_counts(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/x.mp4").write_bytes(b"")
    (tmp_path / "b/round").symlink_to(tmp_path)
    (tmp_path / "a").symlink_to(tmp_path / "b")
    assert files_below(tmp_path, {".mp4"}) == [tmp_path / "a/x.mp4"]


@pytest.mark.parametrize("words", [[], [""], ["  ", "\n"]])
def test_a_published_episode_without_words_is_refused(tmp_path, words):
    root = tmp_path / "set"
    shutil.copytree(PUBLISHED, root)
    path = sorted((root / "data").rglob("*.json"))[0]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"instructions": words}))
    episodes = open_data(root)
    number = [episodes._path(n) for n in range(episodes.num_episodes)].index(path)
    with pytest.raises(ValueError, match=r"has instructions=\[.*\]: it needs words"):
        episodes.info(number)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"instructions": [" ", "open it"]}))
    info = open_data(root).info(number)
    assert info.instruction == "open it"
    assert np.isfinite(info.state).all()
