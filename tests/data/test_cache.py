"""The latent cache holds what encoding on the fly gives, continues after an interruption, and refuses stale content.

Held in memory, it answers as its files do.
"""

import errno
import fcntl
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.data.conftest import SIZE, make_episode
from xwam.config import ClipConfig
from xwam.data import cache as cache_module
from xwam.data.augment import augment, centre_crop
from xwam.data.cache import LatentCache, build_cache
from xwam.data.cache_in_memory import CacheInMemory
from xwam.data.clips import Clips
from xwam.data.lerobot import DatasetWriter, LeRobotEpisodes, open_lerobot
from xwam.data.stats import normalizer_from
from xwam.encode import encode_clips, encode_views
from xwam.records import Clip
from xwam.robot.normalizer import Normalizer
from xwam.train.sources import Mixture

CPU = torch.device("cpu")
PROMPTS = {f"push button {number}": torch.full((2, 3), float(number)) for number in range(2)}
CONFIG = ClipConfig(
    num_frames=5, height_px=SIZE, width_px=SIZE, action_horizon=16, actions_per_frame=4, action_hz=20.0, crop=0.9
)


def encoder(images: Tensor) -> Tensor:
    """Stands in for the VAE: means over time groups of 4 and squares of 8."""
    first, rest = images[:, :, :1], images[:, :, 1:].unflatten(2, (-1, 4)).mean(dim=3)
    return torch.nn.functional.avg_pool3d(torch.cat([first, rest], dim=2), (1, 8, 8))


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory, layout, cameras) -> LeRobotEpisodes:
    root = tmp_path_factory.mktemp("cache") / "set"
    writer = DatasetWriter(root, layout=layout, cameras=cameras, action_hz=20.0, robot_type="toy")
    for number in range(3):
        writer.write(make_episode(number, 18))
    writer.finish()
    return open_lerobot(root)


@pytest.fixture(scope="module")
def normalizer(episodes: LeRobotEpisodes) -> Normalizer:
    with pytest.warns(UserWarning, match="never change"):
        return normalizer_from(episodes)


@pytest.fixture
def clips(episodes: LeRobotEpisodes, monkeypatch: pytest.MonkeyPatch) -> Clips:
    monkeypatch.setattr(cache_module, "CLIPS_PER_SHARD", 5)
    return Clips(episodes, CONFIG, ("front", "wrist"), every=3)


def build(folder: Path, clips: Clips, **changes: object) -> None:
    settings = {"vae_hash": "abc", "num_variants": 2, "batch_size": 3, "progress": False} | changes
    build_cache(folder, clips, encoder, **settings)


def test_cached_is_what_encoding_gives(tmp_path: Path, clips: Clips, normalizer: Normalizer) -> None:
    build(tmp_path / "train", clips)
    build(tmp_path / "validation", clips, num_variants=0)
    train, validation = (LatentCache(tmp_path / name, normalizer) for name in ("train", "validation"))
    assert len(train) == len(clips) == 12
    for index, variant in ((0, 0), (7, 1), (11, 1)):
        generator = np.random.default_rng((0, index, variant))
        expected = encode_clips([augment(clips[index], generator, crop=0.9)], normalizer)
        found = train.batch(np.array([index]), PROMPTS, visit=variant)
        for name in expected._fields[2:]:
            torch.testing.assert_close(getattr(found, name), getattr(expected, name))
        torch.testing.assert_close(found.video, encode_views(encoder, expected.video), atol=1e-3, rtol=0)
        torch.testing.assert_close(found.depth, encode_views(encoder, expected.depth), atol=1e-3, rtol=0)
        torch.testing.assert_close(found.prompt[0], PROMPTS[clips[index].instruction])
    middle = encode_clips([centre_crop(clips[4], crop=0.9)], normalizer)
    found = validation.batch(np.array([4, 2]), PROMPTS, visit=3)
    torch.testing.assert_close(found.video[:1], encode_views(encoder, middle.video), atol=1e-3, rtol=0)
    assert set(train.instructions()) == {clips[i].instruction for i in range(len(clips))}
    assert train.fingerprint != validation.fingerprint


def test_an_interrupted_cache_continues(tmp_path: Path, clips: Clips, normalizer: Normalizer) -> None:
    build(tmp_path / "whole", clips)
    seen = 0

    def breaks(images: Tensor) -> Tensor:
        nonlocal seen
        seen += 1
        if seen > 10:
            raise KeyboardInterrupt
        return encoder(images)

    with pytest.raises(KeyboardInterrupt):
        build_cache(tmp_path / "half", clips, breaks, vae_hash="abc", num_variants=2, batch_size=3, progress=False)
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "half").glob("*.safetensors")}
    assert len(done) == 1
    with pytest.raises(ValueError, match="1 of 3 files"):
        LatentCache(tmp_path / "half", normalizer)
    build(tmp_path / "half", clips, num_workers=1)
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    everything = np.arange(len(clips))
    whole, half = (LatentCache(tmp_path / name, normalizer).batch(everything, PROMPTS, 1) for name in ("whole", "half"))
    torch.testing.assert_close(whole.video, half.video)


def test_several_processes_share_out_the_files(
    tmp_path: Path, episodes: LeRobotEpisodes, normalizer: Normalizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "CLIPS_PER_SHARD", 2)
    monkeypatch.setattr(cache_module, "WAIT_S", 0.01)
    clips = Clips(episodes, CONFIG, ("front", "wrist"), every=3)
    build(tmp_path / "alone", clips)
    encoded = [0, 0]

    def counting(place: int):
        def counted(images: Tensor) -> Tensor:
            encoded[place] += len(images)
            return encoder(images)

        return counted

    arguments = {"vae_hash": "abc", "num_variants": 2, "batch_size": 3, "progress": False}
    work = [
        threading.Thread(target=build_cache, args=(tmp_path / "shared", clips, counting(i)), kwargs=arguments)
        for i in range(2)
    ]
    for one in work:
        one.start()
    for one in work:
        one.join()
    assert min(encoded) > 0, "both took part"
    assert sum(encoded) == len(clips) * 2 * 2 * 2, "clips, variants, views, video and depth: nothing twice"
    everything = np.arange(len(clips))
    alone, shared = (LatentCache(tmp_path / n, normalizer).batch(everything, PROMPTS, 1) for n in ("alone", "shared"))
    torch.testing.assert_close(alone.video, shared.video)


def test_without_locks_it_is_filled_all_the_same(
    tmp_path: Path, clips: Clips, normalizer: Normalizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fails)
    with pytest.warns(UserWarning, match=r": its file system has no locks \(No locks available\)"):
        build(tmp_path, clips)
    assert len(LatentCache(tmp_path, normalizer)) == len(clips)


def test_clips_with_and_without_depth_in_one_batch(
    tmp_path: Path, episodes: LeRobotEpisodes, normalizer: Normalizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Colour-only clips beside clips with depth: the depth loss counts the latter alone."""
    clips = Clips(episodes, CONFIG, ("front", "wrist"), every=3)
    whole = clips.at
    monkeypatch.setattr(clips, "at", lambda e, s: whole(e, s) if s else colour_only(whole(e, s)))
    build(tmp_path, clips, num_variants=1)
    starts = [clips.locate(index)[1] for index in range(len(clips))]
    found = LatentCache(tmp_path, normalizer).batch(np.arange(len(clips)), PROMPTS)
    for index, start in enumerate(starts):
        assert found.depth_mask[index, 0].all() == (start > 0)
        assert found.video_mask[index, 0].all()
        assert (found.depth[index] != 0).any() == (start > 0)


def colour_only(clip: Clip) -> Clip:
    return replace(clip, depth=None, depth_mask=np.zeros_like(clip.depth_mask))


def test_stale_content_is_refused(
    tmp_path: Path, clips: Clips, normalizer: Normalizer, episodes: LeRobotEpisodes
) -> None:
    build(tmp_path, clips)
    build(tmp_path, clips)  # nothing to do
    for change, word in (
        ({"vae_hash": "def"}, "vae: abc"),
        ({"num_variants": 3}, "num_variants"),
        ({"seed": 1}, "seed"),
    ):
        with pytest.raises(ValueError, match=word):
            build(tmp_path, clips, **change)
    other = Clips(episodes, replace(CONFIG, crop=0.8), ("front", "wrist"), every=3)
    with pytest.raises(ValueError, match="crop"):
        build(tmp_path, other)
    with pytest.raises(FileNotFoundError, match="no latent cache"):
        LatentCache(tmp_path / "nothing", normalizer)
    with pytest.raises(IndexError, match="index=12"):
        LatentCache(tmp_path, normalizer).batch(np.array([12]), PROMPTS)


def test_a_file_of_another_cache_is_never_taken_for_ones_own(
    tmp_path: Path, clips: Clips, normalizer: Normalizer
) -> None:
    """As a helper process of an earlier run could leave it, which went on encoding with other settings."""
    build(tmp_path / "mine", clips)
    build(tmp_path / "other", clips, vae_hash="xyz")
    name = "latents-00001.safetensors"
    shutil.copy(tmp_path / "other" / name, tmp_path / "mine" / name)
    mixed = LatentCache(tmp_path / "mine", normalizer)
    mixed.batch(np.array([0]), PROMPTS)
    with pytest.raises(ValueError, match=f"{name} was made of something else .* delete the file"):
        mixed.batch(np.array([6]), PROMPTS)
    (tmp_path / "mine" / name).unlink()
    build(tmp_path / "mine", clips)
    LatentCache(tmp_path / "mine", normalizer).batch(np.array([6]), PROMPTS)


# --- held in memory ---------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, clips: Clips, normalizer: Normalizer) -> LatentCache:
    build(tmp_path, clips)
    return LatentCache(tmp_path, normalizer)


@pytest.mark.parametrize("visit", [0, 1, 2])
def test_every_clip_and_variant_is_the_same(cache: LatentCache, visit: int) -> None:
    held, order = CacheInMemory.of(cache, CPU), np.array([11, 0, 7, 7, 3])
    assert len(held) == len(cache) == 12
    for found, expected in zip(held.batch(order, PROMPTS, visit), cache.batch(order, PROMPTS, visit), strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


def test_it_is_known_by_the_same_facts(cache: LatentCache) -> None:
    held = CacheInMemory.of(cache, CPU)
    assert (held.fingerprint, held.facts, held.instructions()) == (cache.fingerprint, cache.facts, cache.instructions())


def test_other_prompts_are_taken(cache: LatentCache) -> None:
    held, some = CacheInMemory.of(cache, CPU), np.array([0, 9])
    first = held.batch(some, PROMPTS).prompt
    assert torch.equal(held.batch(some, {text: prompt + 5 for text, prompt in PROMPTS.items()}).prompt, first + 5)


def test_a_mixture_of_held_latents_is_the_mixture(cache: LatentCache) -> None:
    """Rows come in the order that was asked for, whatever data set each is from."""
    prompts = {"": torch.zeros(2, 3)} | PROMPTS
    files = Mixture(["a", "b"], [cache, cache], [3.0, 1.0], prompts)
    held = Mixture(["a", "b"], [CacheInMemory.of(cache, CPU)] * 2, [3.0, 1.0], prompts)
    order = np.random.default_rng(0).permutation(len(files))[:9]
    assert len(set(files.sources(order).tolist())) == 2
    whole = files.batch(order, 1)
    for found, expected in zip(held.batch(order, 1), whole, strict=True):
        assert torch.equal(found, expected)
    for row, index in enumerate(order):
        alone = files.batch(np.array([index]), 1)
        assert all(torch.equal(found[row], expected[0]) for found, expected in zip(whole, alone, strict=True))
