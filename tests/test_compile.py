"""Compiled policies say the same, and compile nothing once they are warm.

In processes of their own: here every function is wrapped by the shape checker, which compilers cannot read.
"""

import contextlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.examples import make_observation
from tests.model.test_xwam import make_inputs, make_model
from tests.test_policy import folder  # noqa: F401
from xwam.compile import CudaGraphs, Replayed, warm_up
from xwam.policy import load_policy

WARM = """
import sys
from dataclasses import replace
import numpy as np
from tests.examples import make_observation
from xwam.compile import compiled, num_programs, warm_up
from xwam.policy import load_policy

plain, policy = load_policy(sys.argv[1]), load_policy(sys.argv[1])
warm = warm_up(compiled(policy, decoder=True, backend=sys.argv[2]), with_prefix=True)
assert warm.num_programs > 0 and warm.seconds > 0, warm
before = num_programs()
for seed, words in enumerate(["press the button", "reach", "close the drawer, then open the window"]):
    observation = replace(make_observation(policy.config, seed), instruction=words)
    answers = (p.predict(observation, seed=seed) for p in (policy, plain))
    for found, expected in zip(*answers, strict=True):
        scale = np.abs(expected.action).max()
        assert np.abs(found.action - expected.action).max() <= 1e-5 * scale
    assert np.abs(found.video.astype(int) - expected.video.astype(int)).max() <= 1  # a byte may round the other way
    list(policy.predict(observation, seed=seed, actions_only=True, prefix=expected.action[:5], num_committed=3))
assert num_programs() == before, f"{num_programs() - before} programs were compiled after the warm-up"
"""


def test_a_warm_policy_compiles_nothing_and_answers_the_same(folder):  # noqa: F811
    subprocess.run([sys.executable, "-c", WARM, str(folder), "aot_eager"], check=True, timeout=280)


SERVED = """
import asyncio, queue, sys
import torch
from tests.examples import make_observation
from xwam.compile import MAX_SHAPES, compiled, num_programs
from xwam.policy import load_policy
from xwam.serve import service as room
from xwam.serve.request import Request
from xwam.serve.service import ServeConfig, Service
from xwam.serve.ticket import Ticket

room.compiled = lambda policy: compiled(policy, backend="aot_eager")
policy = load_policy(sys.argv[1])
config = ServeConfig(max_batch=5, is_compiled=True)
assert config.batch_sizes == (1, 2, 4) and ServeConfig(max_batch=3).batch_sizes == (1, 2, 3)
service = Service(policy, config, name="debug", hash_="0" * 16)
asyncio.run(service.start())
before = num_programs()
assert before > 8, "more shapes than torch compiles by itself"
for size in config.batch_sizes:
    requests = [make_observation(policy.config, seed) for seed in range(size)]
    for answers in policy.predict_batch(requests, seeds=range(size)):
        assert len(answers) == size
limits, real, heard = [], policy.predict_stepwise, queue.Queue()
def watched(*asked, **more):
    limits.append(torch._dynamo.config.recompile_limit)
    return real(*asked, **more)
policy.predict_stepwise = watched
service.worker.submit(Ticket(Request(observation=requests[0]), "robot", heard.put))
assert heard.get(timeout=60).part == "actions"
assert limits == [MAX_SHAPES], "torch keeps the limit by thread; the one that answers needs it"
assert num_programs() == before, f"{num_programs() - before} programs were compiled after the warm-up"
service.worker.stop()
"""


def test_a_compiled_server_compiles_nothing_once_it_is_warm(folder):  # noqa: F811
    subprocess.run([sys.executable, "-c", SERVED, str(folder), "aot_eager"], check=True, timeout=280)


BLOCKS = """
import torch
from torch.testing import assert_close
from xwam.compile import compile_blocks, num_programs
from xwam.model.xwam import XWAM, init_weights
from xwam.presets import preset
models = [XWAM(preset("debug").model) for _ in range(2)]
for model in models:
    init_weights(model.requires_grad_(False), torch.Generator().manual_seed(0))
inputs = [torch.randn(1, *shape) for shape in ((4, 2, 3, 4, 4), (5, 16), (16, 14), (), ())]
prompt = models[0].prompt_keys_values(torch.randn(1, 6, 16))
compile_blocks(models[0])
found, expected = (model(*inputs, prompt) for model in models)
for a, b in zip(found, expected):
    if b is not None:
        assert_close(a, b, rtol=0, atol=1e-5 * b.abs().max().item())
assert num_programs() == 1, "all blocks share one program"
"""


def test_blocks_share_one_program_of_inductor():
    subprocess.run([sys.executable, "-c", BLOCKS], check=True, timeout=280)


RECOMPUTED = """
import torch
from torch.testing import assert_close
from xwam.compile import compile_blocks, num_programs
from xwam.model.xwam import XWAM, init_weights
from xwam.presets import preset
from xwam.train.precision import recompute_blocks
models = [XWAM(preset("debug").model) for _ in range(2)]
for model in models:
    init_weights(model, torch.Generator().manual_seed(0))
recompute_blocks(models[0])
compile_blocks(models[0], backend="aot_eager")
inputs = [torch.randn(1, *shape) for shape in ((4, 2, 3, 4, 4), (5, 16), (16, 14), (), ())]
context = torch.randn(1, 6, 16)
for model in models:
    out = model(*inputs, model.prompt_keys_values(context), depth=True)
    sum(x.square().mean() for x in out).backward()
assert num_programs() > 0, "blocks that are computed twice are compiled too"
for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
    assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)
"""


def test_blocks_that_are_recomputed_are_compiled_too():
    subprocess.run([sys.executable, "-c", RECOMPUTED], check=True, timeout=280)


def record_plainly(function):
    """A recording for machines without CUDA: runs the function again and writes into the places of its outputs."""
    outputs = function()

    def replay() -> None:
        for place, value in zip(outputs, function(), strict=True):
            if place is not None:
                place.copy_(value)

    return outputs, replay


def test_replayed_calls_answer_as_the_function_does():
    model = make_model()
    replayed = Replayed(model.forward, record_plainly)
    with torch.no_grad():
        answers = []
        for seed, depth in ((1, False), (2, False), (2, True), (3, False)):
            inputs = make_inputs(model, seed=seed)
            answers.append((replayed(*inputs, depth=depth), model(*inputs, depth=depth)))
        for found, expected in answers:  # read at the end: no answer may be overwritten by a later one
            for a, b in zip(found, expected, strict=True):
                assert (a is None and b is None) or torch.equal(a, b)


def test_replayed_notices_tensors_that_were_changed_in_place():
    replayed = Replayed(lambda x: (2 * x,), record_plainly)
    x = torch.ones(3)
    with torch.no_grad():
        first, again = replayed(x), replayed(x)
        x.add_(1)
        assert [t[0].tolist() for t in (first, again, replayed(x))] == [[2] * 3, [2] * 3, [4] * 3]


def test_kinds_of_calls_share_the_places_of_their_inputs():
    """A large input is held once, however many kinds of call read it, and each call reads its own."""
    replayed = Replayed(lambda x, prompt, depth: (x * prompt.sum(), *([prompt] if depth else [])), record_plainly)
    prompts, x = [torch.ones(1000), torch.ones(1000) / 2], torch.ones(2)
    with torch.no_grad():
        for prompt in prompts * 2:
            for depth in (False, True):
                assert replayed(x, prompt, depth=depth)[0].tolist() == [prompt.sum().item()] * 2
    held = {place.tensor.data_ptr() for kind in replayed._recordings.values() for place in kind.inputs}
    assert (len(replayed._recordings), len(held)) == (2, 2)


@pytest.mark.parametrize("max_prefix", [0, 2])
def test_nothing_is_recorded_after_the_warm_up(folder, max_prefix):  # noqa: F811
    """Also of a request whose actions are steered (max_prefix 0): its world has calls of their own kind."""
    policy = load_policy(folder)
    policy.config = replace(policy.config, noise=replace(policy.config.noise, max_prefix=max_prefix))
    replayed = Replayed(policy.networks.transformer.forward, record_plainly)
    policy.networks.transformer.forward = replayed
    warm_up(policy, with_prefix=True)
    before, played = len(replayed._recordings), np.zeros((1, policy.config.model.action_width), np.float32)
    assert before > 4
    for prefix in (None, played):
        assert len(list(policy.predict(make_observation(policy.config, 1), prefix=prefix))) == 2
    assert len(replayed._recordings) == before


def test_gradients_go_through_the_function_itself():
    """A steered call differentiates; a recording only goes forwards."""
    replayed = Replayed(lambda x: (x * x,), record_plainly)
    x = torch.arange(3.0)
    with torch.no_grad():
        replayed(x)
    (y,) = replayed(x.requires_grad_())
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert slope.tolist() == [0, 2, 4]


class PretendedCuda:
    """What of torch.cuda a recording uses, and which device was current at each call."""

    def __init__(self, monkeypatch) -> None:
        self.current, self.used = torch.device("cuda", 0), []
        for name in ("Stream", "current_stream", "CUDAGraph", "graph_pool_handle"):
            monkeypatch.setattr(torch.cuda, name, lambda name=name: self.use(name))
        monkeypatch.setattr(torch.cuda, "device", self.device)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "graph", self.graph)

    def use(self, name):
        self.used.append((name, self.current.index))
        return self

    def wait_stream(self, _):
        pass

    def replay(self):
        self.use("replay")

    @contextlib.contextmanager
    def device(self, device):
        before, self.current = self.current, device
        yield
        self.current = before

    def graph(self, graph, *, pool, stream):
        self.use("graph")
        return contextlib.nullcontext()


def test_a_graph_is_recorded_and_replayed_on_the_device_of_its_tensors(monkeypatch):
    """A stream of another device would record nothing, and every replay give the warm-up's answer again."""
    cuda, ran_on = PretendedCuda(monkeypatch), []
    outputs, replay = CudaGraphs(torch.device("cuda", 1)).record(lambda: ran_on.append(cuda.current.index))
    replay()
    assert ran_on == [1] * 4
    assert outputs is None
    of_all, of_each = {"Stream", "graph_pool_handle"}, {"current_stream", "CUDAGraph", "graph", "replay"}
    assert {name for name, _ in cuda.used} == of_all | of_each
    assert {index for _, index in cuda.used} == {1}
    assert cuda.current.index == 0


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_graph_of_the_second_gpu_follows_its_inputs():
    x = torch.ones(3, device="cuda:1")
    replayed = Replayed(lambda x: 2 * x, CudaGraphs(x.device).record)
    with torch.no_grad():
        assert [replayed(x * n).tolist() for n in (1, 2, 3)] == [[2] * 3, [4] * 3, [6] * 3]
