"""Published weights to our self-contained checkpoint folder: the release's checkpoint, or Wan2.2's original folder.

Tensors are copied piece by piece, so a file of any size needs little memory. Repeat the command after an
interruption: files that are whole are kept. ``config.json`` comes last, so half a folder is never taken for a whole.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from tqdm import tqdm

from xwam.config import Config, TextConfig, VaeConfig
from xwam.files import fingerprint, write_text
from xwam.model import published_names as names
from xwam.model import sizes
from xwam.model.shards import MAX_SHARD_BYTES, Drawn, Shard, Source, plan_shards, write_index
from xwam.model.stored import Stored, safetensors_contents, torch_contents
from xwam.model.text import TOKENIZER_FOLDER
from xwam.presets import preset
from xwam.records import Camera
from xwam.robot.calibration import load_cameras, save_cameras
from xwam.robot.layout import Layout, two_arm_layout
from xwam.robot.normalizer import Normalizer
from xwam.robot.published import ON_HAND, ROBOTS, RobotName, flipped_gripper, normalizer_from_published, robot_of
from xwam.strict_json import to_json

CHECKPOINT = "mp_rank_00_model_states.pt"
CHECKPOINT_ENTRY = "module"
RELEASE_CONFIG = "config.yaml"
WAN_VAE = "Wan2.2_VAE.pth"
WAN_TEXT = "models_t5_umt5-xxl-enc-bf16.pth"
WAN_TOKENIZER = Path("google") / "umt5-xxl"
SPARE_BYTES = 100 * 10**6  # disk for the small files, and to leave some free
NOT_IN_THE_RELEASE = (
    "the release has no calibration: pass cameras with each observation, or fill in cameras.json: width and height of "
    "your images, intrinsics, a pose; leave every camera in it.",
    "the release does not say which metres its depth covers: 0.1 to 10 are assumed; set the cameras' near_m and far_m.",
    "RoboCasa's actions are its controller's commands, and its hand is turned by 90 degrees about z (robot/axes.py); "
    "RoboTwin's gripper action is a change of the opening.",
)


class Conversion(NamedTuple):
    """All that goes into the target folder, planned; nothing is written yet."""

    kind: str
    fingerprint: str  # of the source files
    config: Config
    layout: Layout
    normalizer: Normalizer | None
    parts: Mapping[str, Mapping[str, Source]]  # folder in the checkpoint: tensors
    tokenizer: Path | None
    cameras: tuple[Camera, ...]  # without calibration; none where the data set is to bring them
    notes: tuple[str, ...]


def plan_release(
    source: Path, *, robot: RobotName | None = None, statistics: Path | None = None, tokenizer: Path | None = None
) -> Conversion:
    """Plan to convert a released checkpoint (its file, or a folder with exactly one).

    ``robot`` and ``statistics`` (YAML or JSON) are found in the ``config.yaml`` near the checkpoint unless given.
    Raises FileNotFoundError, or ValueError naming every tensor that is unexpected, missing or of another shape.
    """
    path = _find_checkpoint(source)
    stored, dropped = torch_contents(path, CHECKPOINT_ENTRY)
    release = names.split_release(stored)
    settings_path = _find_above(path, RELEASE_CONFIG)
    settings = _read_settings(settings_path)
    found = _statistics(_read_settings(statistics) if statistics else settings)
    layout, normalizer, robot = _robot(robot, found, settings)
    config = _config(release.transformer, release.vae, release.text, _find_key(settings, "num_heads"), f"xwam_{robot}")
    views = ROBOTS[robot].view_names
    if config.model.num_views != len(views):
        views = tuple(f"view_{number}" for number in range(config.model.num_views))
    clip = replace(config.clip, action_hz=ROBOTS[robot].action_hz)
    notes = [f"dropped: entry {name!r} beside {CHECKPOINT_ENTRY!r}" for name in dropped]
    if normalizer is None:
        notes.append("no statistics found, so no normalizer.json: run `xwam stats DATASET` and copy it there.")
    notes += NOT_IN_THE_RELEASE
    return Conversion(
        kind="release",
        fingerprint=fingerprint(path.parent, [path], robot),
        config=replace(config, view_names=views, clip=clip),
        layout=layout,
        normalizer=normalizer,
        parts={
            "": names.transformer_tensors(release.transformer, config.model),
            "vae": names.vae_tensors(release.vae, config.vae, release.latent_stats),
            "text": names.text_tensors(release.text, config.text),
        },
        tokenizer=tokenizer or _find_above(path, str(WAN_TOKENIZER)),
        cameras=tuple(
            Camera(name=name, width=clip.width_px, height=clip.height_px, on_hand=name in ON_HAND) for name in views
        ),
        notes=tuple(notes),
    )


def plan_wan(source: Path, *, seed: int = 0, tokenizer: Path | None = None) -> Conversion:
    """Plan the starting point for training from the original Wan2.2-TI2V-5B folder; new tensors from ``seed``."""
    files = sorted(source.glob("diffusion_pytorch_model*.safetensors"))
    if not files:
        raise FileNotFoundError(f"source={source}: no diffusion_pytorch_model*.safetensors there; give Wan's folder.")
    _check_index(source, files)
    transformer = {name: tensor for file in files for name, tensor in safetensors_contents(file).items()}
    vae, text = (torch_contents(source / file)[0] for file in (WAN_VAE, WAN_TEXT))
    settings = _read_settings(source / "config.json" if (source / "config.json").is_file() else None)
    config = _config(transformer, vae, text, _find_key(settings, "num_heads"), "wan_start")
    return Conversion(
        kind="wan",
        fingerprint=fingerprint(source, [*files, source / WAN_VAE, source / WAN_TEXT], seed),
        config=config,
        layout=two_arm_layout("two_arms"),
        normalizer=None,
        parts={
            "": names.transformer_tensors_from_wan(transformer, config.model, seed),
            "vae": names.vae_tensors(vae, config.vae),
            "text": names.text_tensors(text, config.text),
        },
        tokenizer=tokenizer or (source / WAN_TOKENIZER),
        cameras=(),
        notes=("a starting point for training: no normalizer.json and no cameras yet; both come from the data set.",),
    )


def convert(
    conversion: Conversion, target: Path, *, dry_run: bool = False, max_shard_bytes: int = MAX_SHARD_BYTES
) -> str:
    """Write the planned folder, or with ``dry_run`` only check that it could be. Returns a summary for people.

    Raises ValueError when the disk is too full or ``target`` holds something else.
    """
    conversion = _with_tokenizer(conversion)
    origin = {"made_by": f"xwam convert {conversion.kind}", "source_fingerprint": conversion.fingerprint}
    _check_target(target, origin)
    shards = {part: plan_shards(target / part, tensors, max_shard_bytes) for part, tensors in conversion.parts.items()}
    todo = [shard for files in shards.values() for shard in files if not shard.is_written]
    _check_disk(target, sum(shard.num_bytes - shard.num_begun for shard in todo) + SPARE_BYTES)
    if not dry_run:
        _write(conversion, target, shards, todo, origin)
    lines = [_line(part or "transformer", conversion.parts[part], shards[part]) for part in shards]
    lines += [*conversion.notes, f"{target}: {'checked, nothing written (dry run)' if dry_run else 'written'}"]
    return "\n".join(lines)


def _write(
    conversion: Conversion,
    target: Path,
    shards: Mapping[str, Sequence[Shard]],
    todo: Sequence[Shard],
    origin: Mapping[str, str],
) -> None:
    for part in shards:
        (target / part).mkdir(parents=True, exist_ok=True)
    write_text(target / "manifest.json", json.dumps(origin, indent=2) + "\n")
    with tqdm(total=sum(s.num_bytes for s in todo), unit="B", unit_scale=True, desc="convert", disable=None) as bar:
        for shard in todo:
            shard.write(bar.update)
    for part, files in shards.items():
        write_index(target / part, files)
    if conversion.tokenizer is not None:
        shutil.copytree(conversion.tokenizer, target / "text" / TOKENIZER_FOLDER, dirs_exist_ok=True)
    write_text(target / "vae" / "config.json", to_json(conversion.config.vae))
    write_text(target / "text" / "config.json", to_json(conversion.config.text))
    conversion.layout.save(target / "layout.json")
    path = target / "cameras.json"
    if not path.is_file() or not load_cameras(path):  # a person may have filled it in since
        save_cameras(path, conversion.cameras)
    if conversion.normalizer is not None:
        conversion.normalizer.save(target / "normalizer.json")
    write_text(target / "config.json", to_json(conversion.config))


def _config(
    transformer: Mapping[str, Stored], vae: Mapping[str, Stored], text: Mapping[str, Stored], heads: Any, name: str
) -> Config:
    """The published settings, with the numbers that the tensors' shapes tell."""
    base = preset("wan22_5b")
    model = sizes.model_config(names.shapes_of(transformer), base.model, heads)
    vae_config: VaeConfig = sizes.vae_config(names.shapes_of(vae))
    text_config: TextConfig = sizes.text_config(names.shapes_of(text))
    return replace(base, name=name, model=model, vae=vae_config, text=text_config)


def _robot(
    robot: RobotName | None, statistics: dict[str, Any] | None, settings: Any
) -> tuple[Layout, Normalizer | None, RobotName]:
    if robot is None and statistics is None:
        raise ValueError(
            f"robot=None: no {RELEASE_CONFIG} with q01 and q99 near the checkpoint, so its robot is unknown; "
            "give --statistics FILE, or --robot robocasa or robotwin."
        )
    robot = robot or robot_of(statistics or {})
    layout = ROBOTS[robot].layout
    if _find_key(settings, "inverse_gripper"):
        layout = flipped_gripper(layout)
    return layout, None if statistics is None else normalizer_from_published(statistics, layout), robot


def _find_checkpoint(source: Path) -> Path:
    found = [source] if source.is_file() else sorted(source.rglob(CHECKPOINT))
    if len(found) != 1:
        where = ", ".join(str(path.relative_to(source)) for path in found) or "none"
        raise FileNotFoundError(f"source={source}: exactly one {CHECKPOINT} is expected in it; found {where}.")
    return found[0]


def _find_above(path: Path, name: str) -> Path | None:
    """The nearest file or folder of that name, up to three folders above the checkpoint's own."""
    return next((folder / name for folder in list(path.parents)[:4] if (folder / name).exists()), None)


def _read_settings(path: Path | None) -> Any:
    """YAML or JSON as plain lists and dictionaries."""
    if path is None:
        return {}
    if not path.is_file():
        raise FileNotFoundError(f"path={path}: no such file; settings in YAML or JSON are expected there.")
    return yaml.safe_load(path.read_text())


def _mappings(tree: Any) -> list[dict[str, Any]]:
    """Every dictionary in a tree of settings, outer ones first."""
    inner = list(tree.values()) if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    return ([tree] if isinstance(tree, dict) else []) + [found for value in inner for found in _mappings(value)]


def _find_key(tree: Any, key: str) -> Any:
    return next((found[key] for found in _mappings(tree) if key in found), None)


def _statistics(tree: Any) -> dict[str, Any] | None:
    found = [entry for entry in _mappings(tree) if isinstance(entry.get("q01"), dict) and "q99" in entry]
    if any(entry != found[0] for entry in found):
        raise ValueError(f"{len(found)} different statistics in the settings: give one with --statistics FILE.")
    return found[0] if found else None


def _check_index(source: Path, files: Sequence[Path]) -> None:
    index = source / "diffusion_pytorch_model.safetensors.index.json"
    if index.is_file():
        missing = set(json.loads(index.read_text())["weight_map"].values()) - {file.name for file in files}
        if missing:
            raise FileNotFoundError(f"source={source}: {index.name} names {', '.join(sorted(missing))}; copy them too.")


def _with_tokenizer(conversion: Conversion) -> Conversion:
    """Without a tokenizer where the encoder reads bytes; with a note where one is missing."""
    if conversion.config.text.tokenizer == "bytes":
        return conversion._replace(tokenizer=None)
    if conversion.tokenizer is None or not conversion.tokenizer.is_dir():
        note = f"no tokenizer found: copy the folder google/umt5-xxl to text/{TOKENIZER_FOLDER}, or give --tokenizer."
        return conversion._replace(tokenizer=None, notes=(*conversion.notes, note))
    return conversion


def _check_target(target: Path, origin: Mapping[str, str]) -> None:
    if target.exists() and not target.is_dir():
        raise ValueError(f"target={target} is a file: give a folder.")
    if not target.exists() or not any(target.iterdir()):
        return
    manifest = target / "manifest.json"
    if not manifest.is_file() or json.loads(manifest.read_text()) != origin:
        raise ValueError(f"target={target} holds something else: give a new folder, or delete this one.")


def _check_disk(target: Path, needed: int) -> None:
    there = next(folder for folder in (target.absolute(), *target.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise ValueError(f"target={target}: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free; make room.")


def _line(part: str, tensors: Mapping[str, Source], shards: Sequence[Shard]) -> str:
    stored = [tensor for tensor in tensors.values() if isinstance(tensor, Stored)]
    num_copied = len({(tensor.path, tensor.offset) for tensor in stored})
    num_new = sum(isinstance(tensor, Drawn) for tensor in tensors.values())
    size = sum(shard.num_bytes for shard in shards) / 1e9
    again = f", {len(stored) - num_copied} copied again for depth" if len(stored) > num_copied else ""
    return (
        f"{part}: {num_copied} tensors copied{again}, {num_new} new, 0 unexpected; {size:.3f} GB in {len(shards)} files"
    )
