"""Latents of all training clips, encoded once: training then reads no video and runs no VAE.

A cache is a folder of safetensors shards, each with the latents of some clips (several augmented variants of each) and
everything else that training needs of them; so the data set itself is not needed any more. ``facts.json`` says what it
was made of. If any of that changes, the cache is refused (or rebuilt, when asked).
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float16, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from xwam.data.augment import LARGEST_FACTOR, LARGEST_HUE, augment, centre_crop
from xwam.data.clips import Clips
from xwam.data.latents import Latents, batch_of, normalized, used_slots
from xwam.encode import Encoder, depth_to_tensor, encode_views, latent_mask, video_to_tensor
from xwam.files import Recent, as_json, claimed, whole_file, write_text
from xwam.records import Clip
from xwam.robot.normalizer import Normalizer
from xwam.tensors import Batch

CLIPS_PER_SHARD = 64
WAIT_S = 0.5
_LATENTS, _LABELS = Latents._fields[:2], Latents._fields[2:]  # the first have variants
_FORMAT = 1  # counts up when the content of a shard changes


def cache_facts(clips: Clips, *, vae_hash: str, num_variants: int, seed: int) -> dict[str, Any]:
    """Everything that changes the content of a cache, in JSON's own types."""
    augmentation = [LARGEST_FACTOR, LARGEST_HUE] if num_variants else None
    return {
        "format": _FORMAT,
        "data": clips.episodes.fingerprint,
        "clip": vars(clips.config),
        "views": list(clips.view_names),
        "depth_range_m": [[camera.near_m, camera.far_m] for camera in clips.cameras],
        "episodes": hashlib.sha256(repr(clips.numbers).encode()).hexdigest()[:16],
        "demonstrations": clips.demonstrations_hash,
        "every": clips.every,
        "num_clips": len(clips),
        "num_variants": num_variants,
        "augmentation": augmentation,
        "seed": seed,
        "vae": vae_hash,
        "commands_stay": bool(clips.stays.any()),
        "knows_executed": clips.knows_executed,
    }


def build_cache(
    folder: Path,
    clips: Clips,
    encoder: Encoder,
    *,
    vae_hash: str,
    num_variants: int = 1,
    seed: int = 0,
    batch_size: int = 8,
    num_workers: int = 0,
    progress: bool = True,
) -> None:
    """Fill a cache; one that was interrupted is continued, a finished one is left alone.

    Any number of processes may do so at the same time: they share out the files, and all return when all are there.

    ``num_variants``: random crops and colours of each clip; 0: one centre crop (validation). ``encoder`` maps images
    ``B 3 T H W`` in [-1, 1] to latents and may use any device. Raises ValueError for a cache made of something else.
    """
    if len(clips) == 0:
        raise ValueError("num_clips=0: no episode is long enough for a clip; record more or shorten the clip.")
    facts = cache_facts(clips, vae_hash=vae_hash, num_variants=num_variants, seed=seed)
    keep_facts(folder, facts, what="cache", advice="repeat the command as it was, or use a new folder")
    with tqdm(total=len(clips), desc="latents", unit="clip", disable=not progress) as bar:
        while missing := missing_shards(folder, facts):
            for shard in missing:
                with claimed(folder / f".claim-{shard:05d}") as is_mine:
                    if not is_mine or _shard_path(folder, shard).is_file():
                        continue
                    variants = _Variants(clips, list(_clips_of(shard, len(clips))), num_variants, seed)
                    loaded = iter(DataLoader(variants, batch_size=None, num_workers=num_workers))
                    latents, instructions = _encode_shard(loaded, encoder, batch_size, bar)
                    labels = {"instructions": json.dumps(instructions), "made_of": _fingerprint(facts)}
                    with whole_file(_shard_path(folder, shard)) as temporary:
                        save_file(latents._asdict(), temporary, metadata=labels)
            if missing == missing_shards(folder, facts):
                time.sleep(WAIT_S)  # others are at work on what is left


def missing_shards(folder: Path, facts: dict[str, Any]) -> list[int]:
    """Files that are not there yet; none when the cache is complete and made of just this."""
    path = folder / "facts.json"
    if not path.is_file() or differences(json.loads(path.read_text()), facts):
        return list(range(_num_shards(facts)))
    return [shard for shard in range(_num_shards(facts)) if not _shard_path(folder, shard).is_file()]


class LatentCache:
    """Reads a finished cache; see build_cache. Files are memory-mapped: any number of processes share them."""

    def __init__(self, folder: Path, normalizer: Normalizer) -> None:
        """Raises FileNotFoundError or ValueError when there is no cache, or only part of one."""
        path = folder / "facts.json"
        if not path.is_file():
            raise FileNotFoundError(f"cache={folder}: no latent cache there; build it first.")
        self.facts = json.loads(path.read_text())
        self.folder, self.normalizer = folder, normalizer
        self.num_variants = max(1, self.facts["num_variants"])
        there = sum(_shard_path(folder, shard).is_file() for shard in range(_num_shards(self.facts)))
        if there < _num_shards(self.facts):
            raise ValueError(
                f"cache={folder} has {there} of {_num_shards(self.facts)} files: build it again, it will continue."
            )
        self._open = Recent[Any](most=512)

    @property
    def fingerprint(self) -> str:
        """Changes with anything the latents were made of."""
        return _fingerprint(self.facts)

    def __len__(self) -> int:
        """Number of clips."""
        return self.facts["num_clips"]

    def __getstate__(self) -> dict[str, Any]:
        """Open files stay in their process."""
        return self.__dict__ | {"_open": Recent[Any](most=512)}

    def batch(
        self, indices: Int[np.ndarray, " B"], prompts: Mapping[str, Float[Tensor, "P Dt"]], visit: int = 0
    ) -> Batch:
        """These clips and their prompts; ``visit`` (how often the data was gone through) picks the variant."""
        rows = [self._row(int(index), visit % self.num_variants) for index in indices]
        latents = Latents(*(torch.stack(column) for column in zip(*(row for row, _ in rows), strict=True)))
        prompt = torch.stack([prompts[text] for _, text in rows])
        return batch_of(normalized(latents, self.normalizer), used_slots(self.normalizer), prompt)

    def instructions(self) -> list[str]:
        """Every instruction that occurs, sorted: encode these prompts once."""
        shards = range(_num_shards(self.facts))
        return sorted({text for shard in shards for text in _instructions(self._file(shard))})

    def columns(self) -> tuple[Latents, list[str]]:
        """Everything in the cache, clip after clip (latents with all their variants), and each clip's instruction."""
        files = [self._file(shard) for shard in range(_num_shards(self.facts))]
        columns = (torch.cat([file.get_tensor(name) for file in files]) for name in Latents._fields)
        return Latents(*columns), [text for file in files for text in _instructions(file)]

    def _file(self, shard: int) -> Any:
        return self._open.get(_shard_path(self.folder, shard), self._opened)

    def _opened(self, path: Path) -> Any:
        file = safe_open(path, "pt")
        if file.metadata()["made_of"] != self.fingerprint:
            raise ValueError(f"{path} was made of something else than {self.folder}/facts.json says: delete the file.")
        return file

    def _row(self, index: int, variant: int) -> tuple[Latents, str]:
        """One variant of one clip, and its instruction."""
        if not 0 <= index < len(self):
            raise IndexError(f"index={index}: the cache has {len(self)} clips.")
        file, place = self._file(index // CLIPS_PER_SHARD), index % CLIPS_PER_SHARD
        latents = (file.get_slice(name)[place, variant] for name in _LATENTS)
        labels = (file.get_slice(name)[place] for name in _LABELS)
        return Latents(*latents, *labels), _instructions(file)[place]


class _Variants(Dataset):
    """The variants of each clip (in worker processes): reading, cropping and colouring are the slow part on a GPU."""

    def __init__(self, clips: Clips, wanted: list[int], num_variants: int, seed: int) -> None:
        self.clips, self.wanted, self.num_variants, self.seed = clips, wanted, num_variants, seed

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, place: int) -> list[Clip]:
        index, crop = self.wanted[place], self.clips.config.crop
        clip = self.clips[index]
        if self.num_variants == 0:
            return [centre_crop(clip, crop=crop)]
        draws = (np.random.default_rng((self.seed, index, variant)) for variant in range(self.num_variants))
        return [augment(clip, generator, crop=crop) for generator in draws]


def _encode_shard(
    rows: Iterator[list[Clip]], encoder: Encoder, batch_size: int, bar: tqdm
) -> tuple[Latents, list[str]]:
    """Latents (half precision) and labels of one shard's clips."""
    encoded: list[tuple[Tensor, Tensor]] = []
    first: list[Clip] = []
    batch: list[Clip] = []
    for variants in rows:
        first.append(variants[0])
        batch += variants
        if len(batch) >= batch_size:
            encoded.append(_encode(batch, encoder))
            batch = []
        bar.update()
    if batch:
        encoded.append(_encode(batch, encoder))
    video, depth = (torch.cat(part).unflatten(0, (len(first), -1)) for part in zip(*encoded, strict=True))
    latents = Latents(
        video=video,
        depth=depth,
        state=torch.from_numpy(np.stack([c.state for c in first]).astype(np.float32)),
        action=torch.from_numpy(np.stack([c.action for c in first]).astype(np.float32)),
        executed=torch.from_numpy(np.stack([c.executed for c in first]).astype(np.float32)),
        video_mask=torch.stack([latent_mask(c.video_mask) for c in first]),
        depth_mask=torch.stack([latent_mask(c.depth_mask) for c in first]),
        state_mask=torch.from_numpy(np.stack([c.state_mask for c in first])),
        action_mask=torch.from_numpy(np.stack([c.action_mask for c in first])),
    )
    return latents, [c.instruction for c in first]


@torch.no_grad()
def _encode(
    batch: list[Clip], encoder: Encoder
) -> tuple[Float16[Tensor, "B C F V h w"], Float16[Tensor, "B C F V h w"]]:
    """Latents of the colours and of the depth; zeros (masked) for a clip without depth."""
    video = encode_views(encoder, torch.stack([video_to_tensor(clip.video) for clip in batch])).cpu().half()
    images = [None if clip.depth is None else depth_to_tensor(clip.depth, clip.cameras) for clip in batch]
    known = [image for image in images if image is not None]
    encoded = iter(encode_views(encoder, torch.stack(known)).cpu().half() if known else ())
    nothing = torch.zeros_like(video[0])
    return video, torch.stack([nothing if image is None else next(encoded) for image in images])


def keep_facts(folder: Path, facts: dict[str, Any], *, what: str, advice: str) -> None:
    """Write ``facts.json``. Raises ValueError, with this advice, where there is one that says something else."""
    path = folder / "facts.json"
    if not path.is_file():
        write_text(path, json.dumps(facts, indent=1) + "\n")
    elif changed := differences(json.loads(path.read_text()), facts):
        raise ValueError(f"{what}={folder} was made of something else ({changed}): {advice}.")


def differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What changed between the facts of two caches, in words; empty when nothing did."""
    names = [name for name in old.keys() | new.keys() if old.get(name) != as_json(new.get(name))]
    return "; ".join(f"{name}: {old.get(name)} -> {new.get(name)}" for name in sorted(names))


def _fingerprint(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _instructions(file: Any) -> list[str]:
    return json.loads(file.metadata()["instructions"])


def _num_shards(facts: dict[str, Any]) -> int:
    return -(-facts["num_clips"] // CLIPS_PER_SHARD)


def _clips_of(shard: int, num_clips: int) -> range:
    return range(shard * CLIPS_PER_SHARD, min((shard + 1) * CLIPS_PER_SHARD, num_clips))


def _shard_path(folder: Path, shard: int) -> Path:
    return folder / f"latents-{shard:05d}.safetensors"
