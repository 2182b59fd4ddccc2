"""Training of the autoencoder's decoder alone: its pictures get better and its latents stay what they are.

So nothing that was made of the latents (a cache, a transformer trained on it) ages. In: an autoencoder whose encoder
is finished. Out: a folder ``vae/`` with the same encoder and the same latent statistics.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from xwam.config import VaeConfig
from xwam.model.shards import weight_files
from xwam.model.stored import safetensors_contents
from xwam.model.vae import VideoVae, is_decoder_name
from xwam.train import checkpoint
from xwam.train.options import Precision
from xwam.train.vae import Step, channels_last, film_step, first_weights, optimizer_of, recipe_of, run_steps
from xwam.train.vae_recipe import Film, VaeTraining
from xwam.train.vae_saving import films_hash


def train_decoder(
    config: VaeConfig,
    films: Sequence[Film],
    training: VaeTraining,
    out: Path,
    *,
    start: Path,
    device: str = "cpu",
    precision: Precision = "auto",
    max_minutes: float | None = None,
    log: Callable[[dict[str, float], int], None] | None = None,
) -> Path:
    """Train (or continue) the decoder of the autoencoder in the folder ``start`` and return ``out/vae``.

    With ``max_minutes`` the run may end early: then ``out/decoder-training`` is returned, there is no ``out/vae`` yet,
    and calling again continues. Raises ValueError when ``start`` has other sizes.
    """
    step = film_step([film.to(device) for film in films], training, precision)
    recipe = recipe_of(training, start, films=films_hash(films))
    return run_decoder_steps(
        config, step, training, out, start=start, recipe=recipe, device=device, max_minutes=max_minutes, log=log
    )


def run_decoder_steps(
    config: VaeConfig,
    step: Step,
    training: VaeTraining,
    out: Path,
    *,
    start: Path,
    recipe: dict[str, Any],
    device: str,
    max_minutes: float | None,
    log: Callable[[dict[str, float], int], None] | None,
) -> Path:
    """As train_decoder, whatever a step learns from. The encoder rests, and numbers are written as ``start`` has them.

    (A shipped encoder is in bfloat16; in float32 it would be the same, and cached latents would not know it.)
    """
    vae = channels_last(first_weights(config, training.seed, start).to(device))
    for name, parameter in vae.named_parameters():
        parameter.requires_grad_(is_decoder_name(name))
    average = {name: value.detach().clone() for name, value in vae.state_dict().items()}
    state = checkpoint.TrainingState(vae, average, optimizer_of(vae, training))
    saved = out / "decoder-training"
    done = run_steps(state, step, training, saved, recipe=recipe, max_minutes=max_minutes, log=log)
    if done < training.num_steps:
        return saved
    stored = {k: v for file in weight_files(start / "model.safetensors") for k, v in safetensors_contents(file).items()}
    average = {name: value.to("cpu", stored[name].dtype) for name, value in state.average.items()}
    VideoVae.from_weights(vae.config, average).save(out / "vae")
    return out / "vae"
