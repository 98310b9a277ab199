"""Running programs of GPUs: which launches a pass has, how readers and failures end it; on a GPU, the model itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gpu_models import RandomWeights, unsplit_logits
from splits import describe, random_split

from tpplan.executor.failures import DeviceFailed
from tpplan.executor.gpu.groups import groups
from tpplan.executor.gpu.loading import GpuLoader
from tpplan.executor.gpu.program import Launch
from tpplan.executor.gpu.runner import Goal, GpuProgram, GpuRunner
from tpplan.executor.gpu.tokens import Tokens
from tpplan.executor.phases import phase_steps
from tpplan.kernels.gpu.host_memory import HostMemory, Layout
from tpplan.planner.layer_graph import device_steps
from tpplan.planner.model_spec import ModelSpec, Rope
from tpplan.planner.plan import Split, devices_used
from tpplan.planner.steps import Kind

MODEL = ModelSpec(
    architecture="llama", layers=3, hidden=128, heads=6, kv_heads=2, head_dim=32, mlp=192, vocab=4096, context=512,
    norm_eps=1e-5, rope=Rope(), tied_embeddings=False, qkv_bias=False, o_bias=False, mlp_bias=False, qk_norm=False,
    windows=(0, 0, 0),
)  # fmt: skip


class Thread:
    """A worker without a GPU."""

    def __init__(self) -> None:
        self.stream = SimpleNamespace(synchronize=lambda: None)
        self._thread = ThreadPoolExecutor(1)

    def submit(self, job: Callable[[], Any]) -> Future[Any]:
        return self._thread.submit(job)


def program(split: Split, device: int, phase: str = "prefill") -> GpuProgram:
    """Steps without kernels; a replay of its graph is counted."""
    steps = device_steps(phase_steps(MODEL, split)[phase], device)  # type: ignore[index]
    launches = [Launch(group, lambda rows: None) for group in groups(list(steps))]
    state = SimpleNamespace(device=device, upload=lambda *_: None)
    return GpuProgram(f"cuda:{device}", state, Thread(), launches, lambda: None, SimpleNamespace(sites={}))  # type: ignore[arg-type]


def runner(*programs: GpuProgram) -> GpuRunner:
    layout = Layout(3)
    return GpuRunner(programs, Tokens(HostMemory(layout), {}, layout.size_bytes), 512, torch.zeros(MODEL.vocab), 256)


@pytest.mark.parametrize("seed", range(20))
def test_a_pass_without_logits_runs_every_exchange(seed: int) -> None:
    """A push that nobody pulls would make a later push wait for a reader that never comes."""
    split = random_split(MODEL, 3, seed)
    for device in devices_used(split):
        made = program(split, device)
        run = {step for launch in made.launches[: made.before_head] for step in launch.steps}
        assert {step for step in made.steps if step.kind in (Kind.PUSH, Kind.PULL)} <= run
        assert not any(step.kind in (Kind.LINEAR, Kind.ARGMAX) and step.block == "head" for step in run)


def test_a_goal_is_followed_and_ended() -> None:
    """A device enqueues as many steps as are asked for, also where the goal ends first, and no more."""
    goal, done = Goal(), []

    def follow() -> None:
        while goal.beyond(len(done)):
            done.append(1)

    with ThreadPoolExecutor(1) as thread:
        job = thread.submit(follow)
        goal.raise_to(3)
        goal.raise_to(2)
        goal.end()
        job.result(timeout=10)
    assert len(done) == 3


class Replays:
    """A graph whose replay writes the token of its pass where the host reads it."""

    def __init__(self, ran: GpuRunner) -> None:
        self.ran, self.count = ran, 0

    def replay(self) -> None:
        self.count += 1
        memory, results = self.ran.host.memory, self.ran.host.results
        memory.view(results, 64)[self.count % 64] = (self.count << 32) | (100 + self.count)


def decoding(split: Split) -> tuple[GpuRunner, Replays]:
    made = program(split, 0, "decode")
    layout = Layout(1)
    results = layout.reserve(64 * 8)
    ran = GpuRunner([made], Tokens(HostMemory(layout), {}, results), 512, torch.zeros(MODEL.vocab), 256)
    made.graphs[1, True] = Replays(ran)  # type: ignore[assignment]
    return ran, made.graphs[1, True]  # type: ignore[return-value]


def test_decode_streams_tokens_in_order() -> None:
    """All steps are run once, their tokens come in order, and the count of passes follows."""
    ran, replays = decoding(random_split(MODEL, 1, 0))
    assert list(ran.decode(1, 5, 6)) == [101, 102, 103, 104, 105, 106]
    assert replays.count == ran.host.epoch == 6


def test_a_reader_that_stops_early_stops_the_devices() -> None:
    """No more steps than were ahead are run, nothing is aborted, and the next pass has the next number."""
    ran, replays = decoding(random_split(MODEL, 1, 0))
    stream: Iterator[int] = ran.decode(1, 5, 60)
    assert [next(stream), next(stream)] == [101, 102]
    stream.close()  # type: ignore[attr-defined]
    assert replays.count == ran.host.epoch <= 4
    assert not ran.host.memory.aborted


def test_an_interrupt_ends_all_waits() -> None:
    """An exception in whoever waits aborts: devices that wait for each other must not keep the host waiting."""
    ran, _ = decoding(random_split(MODEL, 1, 0))
    with pytest.raises(KeyboardInterrupt), ran._running(lambda program: None):
        raise KeyboardInterrupt
    assert ran.host.memory.aborted


def test_a_device_that_dies_is_named() -> None:
    """Its own error is told, and the others are stopped."""
    ran, _ = decoding(random_split(MODEL, 1, 0))

    def die(program: GpuProgram) -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(DeviceFailed, match="device cuda:0 failed: out of memory"), ran._running(die):
        pass
    assert ran.host.memory.aborted


TOKENS = [(131 * i + 7) % MODEL.vocab for i in range(300)]


def loaded(split: Split, devices: Any) -> dict[str, GpuRunner]:
    weights = RandomWeights(MODEL, torch.device("cuda", 0), torch.float32)
    taking_part = {d: devices[d] for d in devices_used(split)}
    loader = GpuLoader(
        MODEL, split, taking_part, lambda d: weights, torch.float32, 512, torch.zeros(MODEL.vocab), limit_ms=1000
    )
    return loader.load()  # type: ignore[return-value]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("seed", range(6))
def test_random_splits_compute_the_unsplit_model_on_a_gpu(seed: int) -> None:
    """A prompt of two chunks, then tokens one by one, on parts of one GPU: the unsplit model's logits; and the tokens
    that devices hand to each other are those that the host would have chosen.
    """
    from tpplan.executor.gpu.devices import open_devices

    split, names = random_split(MODEL, 1 + seed % 3, seed), ["cuda:0/8", "cuda:0/16", "cuda:0/8#2"]
    truth = unsplit_logits(MODEL, RandomWeights(MODEL, torch.device("cuda", 0), torch.float32), TOKENS, torch.float32)
    with open_devices(names[: 1 + seed % 3] if seed % 3 else ["cuda:0"]) as devices:
        runners = loaded(split, devices)
        prefill, decode = runners["prefill"], runners["decode"]
        prefill.run(TOKENS[:256], 0, False)
        prefill.run(TOKENS[256:290], 256, True)
        prefill.gather_logits()
        found = {289: prefill._logits.clone()}
        for at in range(290, 296):
            decode.run([TOKENS[at]], at, True)
            decode.gather_logits()
            found[at] = decode._logits.clone()
            assert decode.best_token() == int(found[at].argmax())
        first = decode.best_token()
        streamed = list(decode.decode(first, 296, 8))
        stepped, token = [], first
        for at in range(296, 304):
            decode.run([token], at, True)
            stepped.append(token := decode.best_token())
        assert streamed == stepped
        decode.host.memory.close()
    for at, logits in found.items():
        worst = float((logits - truth[at].cpu()).abs().max() / truth[at].abs().max())
        assert worst < 1e-4, (at, worst, describe(split))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_stalled_device_stops_the_others_by_name() -> None:
    """A device that never runs its pass: the other gives up within its limit and says where it waited for whom."""
    from tpplan.executor.gpu.devices import open_devices

    split = random_split(MODEL, 2, 1)
    with open_devices(["cuda:0/8", "cuda:0/16"]) as devices:
        decode = loaded(split, devices)["decode"]
        stalled = decode.programs[1]
        stalled.graphs[1, True] = SimpleNamespace(replay=lambda: None)  # type: ignore[assignment]
        with pytest.raises(DeviceFailed, match=r"failed in .* waited too long for device"):
            decode.run([1], 0, True)
        decode.host.memory.close()
