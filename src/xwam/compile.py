"""Speed from outside: compiled programs and CUDA graphs around a policy whose networks know nothing of it.

``compiled(policy)`` changes how its networks run, never what they say (up to rounding). All shapes are fixed, so after
``warm_up`` no request of an episode compiles anything: the tests count.

On CPUs the blocks of the transformer share one program, the autoencoder's encoder has one of its own. On GPUs the whole
denoising step is recorded once per kind of call and replayed as one CUDA graph.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from xwam.images import GREY
from xwam.model.prompt import SHORT
from xwam.model.xwam import XWAM, all_blocks
from xwam.policy import Policy
from xwam.records import Observation

LONG_INSTRUCTION = "and " * SHORT  # more pieces than a merged prompt has room for
MAX_SHAPES = 64  # of one function; torch gives up compiling beyond its own limit of 8, without an error


class WarmUp(NamedTuple):
    """What the first requests cost: seconds, and how many programs were compiled."""

    seconds: float
    num_programs: int


def compiled(policy: Policy, *, decoder: bool = False, backend: str = "inductor") -> Policy:
    """Compile a policy's networks in place and return it; the work is done by ``warm_up`` or the first requests.

    ``decoder``: the autoencoder's decoder too, which takes about a minute. Call it in the thread that will ask the
    policy: torch keeps its settings of compiling by thread.
    """
    transformer, vae = policy.networks.transformer, policy.networks.vae.vae
    compile_blocks(transformer, backend=backend)
    vae.encoder.compile(dynamic=False, backend=backend)
    if decoder and vae.decoder is not None:
        vae.decoder.compile(dynamic=False, backend=backend)
    if policy.device.type == "cuda":
        transformer.forward = Replayed(transformer.forward, CudaGraphs(policy.device).record)
    return policy


def compile_blocks(model: XWAM, *, backend: str = "inductor") -> None:
    """Compile every block in place (names of the weights stay); all blocks share one compiled program."""
    torch._dynamo.config.recompile_limit = max(MAX_SHAPES, torch._dynamo.config.recompile_limit)
    for block in all_blocks(model):
        block.compile(dynamic=False, backend=backend)


def num_programs() -> int:
    """How many programs this process has compiled so far."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def warm_up(policy: Policy, *, batch_sizes: Sequence[int] = (1,), with_prefix: bool = False) -> WarmUp:
    """Answer made-up requests of every shape that can come: with and without the world, short and long instructions.

    ``with_prefix``: requests that go on from a robot's last chunk too; they are calls of another kind.
    """
    began, before = time.perf_counter(), num_programs()
    steps = replace(policy.config.denoise, num_video_steps=4, num_action_steps=2)  # every kind of call is among these
    one_action = np.zeros((1, policy.config.model.action_width), np.float32)
    for batch_size, instruction, prefix in product(
        sorted(batch_sizes, reverse=True), _instructions(policy), [None, one_action] if with_prefix else [None]
    ):
        requests = [made_up_observation(policy, instruction)] * batch_size
        for actions_only in (True, not policy.has_world):
            for _ in range(2):  # the second one finds the caches of the first, as in an episode
                answers = policy.predict_batch(
                    requests,
                    seeds=[0] * batch_size,
                    actions_only=actions_only,
                    steps=steps,
                    prefixes=[prefix] * batch_size,
                )
                deque(answers, maxlen=0)
    return WarmUp(time.perf_counter() - began, num_programs() - before)


def _instructions(policy: Policy) -> list[str]:
    """One of each length that prompts can have; of a policy without a text encoder, one that it knows."""
    texts = ["warm up"] if policy.config.model.text_length <= SHORT else ["warm up", LONG_INSTRUCTION]
    try:
        policy.encode_prompts(texts)
    except FileNotFoundError:
        return [text for text in policy.encoded.texts if text][:1]
    return texts


def made_up_observation(policy: Policy, instruction: str | None = None) -> Observation:
    """For warming up: grey images, a state in the middle of the statistics, an instruction that is encoded already.

    So a policy with known prompts never loads its text encoder, which it may not even have.
    """
    instruction = instruction or next((text for text in policy.encoded.texts if text), "warm up")
    clip, layout = policy.config.clip, policy.layout
    state = policy.normalizer.denormalize_state(np.zeros(layout.state_width, np.float32))
    for _, where in layout.quaternions:
        state[where] = (1, 0, 0, 0)
    image = np.full((clip.height_px, clip.width_px, 3), GREY, np.uint8)
    images = dict.fromkeys(policy.config.view_names, image)
    return Observation(images=images, state=state, instruction=instruction)


# --- CUDA graphs --------------------------------------------------------------------------------------------------


class Recording(NamedTuple):
    """One kind of call: fill ``inputs``, call ``replay``, read ``outputs``; all of them keep their places."""

    inputs: "list[Place]"
    outputs: Any
    replay: Callable[[], None]


Record = Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]]
"""Runs a function of fixed tensors once; returns what it gave and how to give it again, in place."""


class Place:
    """Where recordings find an input; it is copied there when it is another tensor than last time, or has changed."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.clone()
        self._last, self._version = self.tensor, -1

    def fill(self, tensor: Tensor) -> None:
        """Copy, where needed."""
        if self._last is not tensor or self._version != tensor._version:
            self.tensor.copy_(tensor)
            self._last, self._version = tensor, tensor._version


class Replayed:
    """A function of tensors whose every kind of call (shapes and settings) is recorded once and then replayed.

    Recordings are replayed one after another, so they share the places of inputs of one shape: the prompt's keys and
    values of the published model are 0.7 GB for each robot of a batch, and kinds of call are many.
    """

    def __init__(self, function: Callable[..., Any], record: Record) -> None:
        self._function, self._record = function, record
        self._places: dict[Any, Place] = {}
        self._recordings: dict[Any, Recording] = {}

    def __call__(self, *inputs: Any, **settings: Any) -> Any:
        """As the function itself, which is what is called where gradients are wanted.

        Tensors that are the same objects as in the last call are not copied again.
        """
        if torch.is_grad_enabled():  # a steered call goes backwards through the function; a recording cannot
            return self._function(*inputs, **settings)
        leaves, tree = tree_flatten((inputs, settings))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        kind = str(tree), tuple(_kind(leaf) for leaf in leaves)
        if kind not in self._recordings:
            self._recordings[kind] = self._recorded(leaves, tree)
        recording = self._recordings[kind]
        for place, tensor in zip(recording.inputs, tensors, strict=True):
            place.fill(tensor)
        recording.replay()
        return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, recording.outputs)

    def _recorded(self, leaves: list[Any], tree: Any) -> Recording:
        places: list[Place] = []
        held = list(leaves)
        for index, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                where = len(places), _kind(leaf)
                if where not in self._places:
                    self._places[where] = Place(leaf)
                self._places[where].fill(leaf)
                places.append(self._places[where])
                held[index] = places[-1].tensor
        inputs, settings = tree.unflatten(held)
        outputs, replay = self._record(lambda: self._function(*inputs, **settings))
        return Recording(places, outputs, replay)


def _kind(leaf: Any) -> Any:
    return (tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else leaf


class CudaGraphs:
    """Records functions into CUDA graphs on one device, all in one pool of memory.

    What one graph needs on its way the next one may use as well: they never run at once, and what comes out is copied
    before another runs. Streams and graphs belong to the current device, kernels to that of their tensors: ``device``
    must be both.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def record(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """A function's kernels as a graph, after three runs aside in which it compiles and settles."""
        stream = self._stream
        with torch.cuda.device(self.device):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    function()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # torch's own stream would stay on the device of its first recording
            with torch.cuda.graph(graph, pool=self._pool, stream=stream):
                outputs = function()

        def replay() -> None:
            with torch.cuda.device(self.device):
                graph.replay()

        return outputs, replay
