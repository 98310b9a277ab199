"""What measuring GPUs promises: every kind of step, shapes of large models among the measured ones, sound sums."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from profiles import make_model
from small_probes import shrink

from tpplan.hwprofiles import nvidia_smi
from tpplan.hwprofiles.device_names import available_cores
from tpplan.hwprofiles.measure import measure, usable_gpus
from tpplan.hwprofiles.nvidia_smi import Card, Slot
from tpplan.hwprofiles.profile import HardwareProfile, Op, OpPoint
from tpplan.hwprofiles.storage import check_profile
from tpplan.planner.layer_graph import pass_steps
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import BlockPlan, LayerPlan, Split, Workload
from tpplan.planner.request import Request
from tpplan.planner.solve import solve
from tpplan.planner.steps import Kind

pytest.importorskip("triton")

from fake_gpus import fake_gpus

from tpplan.executor.gpu import requirements
from tpplan.hwprofiles import gpu_exchange, gpu_measure, gpu_probes
from tpplan.kernels.gpu.slots import host_pull

EVERY = 2**40  # bytes
LLAMA_8B = {"hidden": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "mlp": 14336, "vocab": 128256}
LLAMA_70B = {"hidden": 8192, "heads": 64, "kv_heads": 8, "head_dim": 128, "mlp": 28672, "vocab": 128256}


@pytest.mark.parametrize("quick", [True, False])
def test_every_kind_is_measured(quick: bool) -> None:
    """Probes and exchanges together measure every kind of step there is, for one row and a chunk of a prompt."""
    every = list(gpu_probes.gpu_probes(quick, EVERY))
    for rows in (1, 512):
        measured = {probe.op for probe in every if probe.rows == rows} | {"push", "pull"}
        assert set(get_args(Op)) - measured <= ({"argmax"} if rows > 1 else set())
    formats = {"bfloat16", "int4", "int8"} | (set() if quick else {"float32"})
    assert {probe.format for probe in every if probe.op in ("linear", "attention")} == formats


def test_large_products_are_left_out_where_memory_is_short() -> None:
    """A GPU with room for 64 MiB of weights measures those below only, and all that is no product."""
    every, some = (list(gpu_probes.gpu_probes(False, most)) for most in (EVERY, 2**26))
    assert {probe.op for probe in some} == {probe.op for probe in every}
    each = {"bfloat16": 2, "float32": 4, "int8": 1, "int4": 0.5}
    sizes = [p.in_features * p.out_features * each[p.format] for p in some if p.op == "linear"]
    assert 2**25 < max(sizes) <= 2**26
    assert [p.op for p in some if p.op != "linear"] == [p.op for p in every if p.op != "linear"]


def shared_out(model: ModelSpec, devices: int) -> Split:
    """Each block in equal shares."""

    def spans(total: int) -> tuple[tuple[int, int], ...]:
        return tuple((total * d // devices, total * (d + 1) // devices) for d in range(devices))

    layer = LayerPlan(BlockPlan("row", spans(model.heads)), BlockPlan("row", spans(model.mlp)))
    return Split(spans(model.vocab), (layer,) * model.layers, spans(model.vocab))


@pytest.mark.parametrize("shape", [LLAMA_8B, LLAMA_70B])
@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("rows", [1, 512])
def test_large_models_are_interpolated(shape: dict[str, int], devices: int, rows: int) -> None:
    """Inputs and outputs of their products, whole and shared out, lie within the measured ones; the head of 8192 inputs
    lies outside in its outputs only, where bandwidth alone counts.
    """
    model = make_model(layers=2, tied_embeddings=False, **shape)
    measured = [
        p for p in gpu_probes.gpu_probes(False, EVERY) if (p.op, p.rows, p.format) == ("linear", rows, "bfloat16")
    ]
    for step in pass_steps(model, shared_out(model, devices), rows, 512):
        if step.kind is Kind.LINEAR and step.role != "lm_head":
            assert any(p.in_features >= step.in_features for p in measured), step
            assert any(p.in_features <= step.in_features for p in measured), step
            if rows == 1:
                assert min(p.out_features for p in measured) <= step.out_features <= 128256
                assert any(0.5 <= p.in_features * p.out_features / work <= 2 for p in measured if (work := _work(step)))


def _work(step: Any) -> int:
    return step.in_features * step.out_features


@given(push=st.floats(1e-9, 1e-3), alone=st.floats(1e-9, 1e-3), rest=st.floats(-1e-6, 1e-3))
def test_an_exchange_is_shared_out_between_push_and_pull(push: float, alone: float, rest: float) -> None:
    """Both take time, never less than nothing; together they take what the exchange does."""
    pushed, pulled = gpu_exchange.split_points(64, 1, push, (alone, rest), "bfloat16")
    for total, a, b in ((alone, pushed.alone_s, pulled.alone_s), (rest, pushed.together_s, pulled.together_s)):
        assert a > 0
        assert b > 0
        assert a + b == pytest.approx(max(total, 2e-8), abs=2e-8)
        assert a <= max(push, gpu_exchange.LEAST_S)


def test_a_residual_is_a_kernel_only_where_nothing_is_exchanged() -> None:
    """Figures taken together become what it adds to an exchange, next to nothing for many rows; other points stay."""
    points = [
        OpPoint("residual", 1, 4096, 4096, 2e-6, 2e-6),
        OpPoint("residual", 512, 4096, 4096, 9e-6, 9e-6),
        OpPoint("norm", 1, 4096, 4096, 1e-7, 1e-7),
    ]
    changed = gpu_measure.with_fused_residuals(points, 3e-8)
    assert [p.together_s for p in changed] == [3e-8, gpu_exchange.LEAST_S, 1e-7]
    assert [p.alone_s for p in changed] == [p.alone_s for p in points]
    assert gpu_measure.with_fused_residuals(points, 0.0) == points


def test_bandwidth_is_that_of_the_best_product() -> None:
    """Of one row; bytes by format."""
    points = [
        OpPoint("linear", 1, 1000, 1000, 1e-6, 2e-6, format="bfloat16"),
        OpPoint("linear", 1, 1000, 1000, 3e-6, 3e-6),
        OpPoint("linear", 256, 1000, 1000, 1e-9, 1e-9),
    ]
    assert gpu_measure.read_bytes_per_s(points, together=False) == pytest.approx(2e12)
    assert gpu_measure.read_bytes_per_s(points, together=True) == pytest.approx(4e6 / 3e-6)


def test_parts_of_a_gpu_share_its_memory() -> None:
    """By SMs; another GPU has its own."""
    parts: list[Any] = [SimpleNamespace(index=i, sms=sms, free_bytes=2400) for i, sms in ((0, 8), (0, 16), (1, 132))]
    assert [gpu_measure.shared_bytes(parts, part) for part in parts] == [800, 1600, 2400]


CPU = f"cpu:{available_cores()[0]}"


@pytest.fixture
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    fake_gpus(monkeypatch)


def told(specs: list[str], quick: bool = False) -> tuple[HardwareProfile, list[str]]:
    notes: list[str] = []
    return measure(specs, quick, lambda what, share: None, notes.append), notes


@pytest.mark.usefixtures("_fakes")
@pytest.mark.parametrize(
    "specs",
    [["cuda:0"], ["cuda:0/8", "cuda:0/16"], ["cuda:0", CPU], [CPU, "cuda:0/8", "cuda:1"], ["cuda:0/8", "cuda:0/8"]],
)
@pytest.mark.parametrize("quick", [True, False])
def test_devices_of_both_kinds_are_measured(specs: list[str], quick: bool) -> None:
    """A box of threads that stand for GPUs: devices in the order named, every kind of step, possible figures, exchanges
    in both formats among GPUs and in float32 beside a CPU, with each number of others; a model is solved with them.
    """
    profile, notes = told(specs, quick)
    check_profile(profile)
    assert [device.kind for device in profile.devices] == ["cuda" if "cuda" in name else "cpu" for name in specs]
    gpus = sum(device.kind == "cuda" for device in profile.devices)
    several = len(specs) > 1
    for device in profile.devices:
        pulls = {(p.format, p.peers) for p in device.ops if p.op == "pull"}
        assert {p.op for p in device.ops} == set(get_args(Op))
        if device.kind == "cpu":
            assert pulls == {("float32", peers) for peers in range(2, len(specs) + 1)}
        else:
            assert {p for p in pulls if p[0] == "float32"} == {("float32", n) for n in range(1, max(len(specs), 2))}
            assert {p for p in pulls if p[0] == "bfloat16"} == {("bfloat16", n) for n in range(1, max(gpus, 2))}
            assert device.link is not None
            assert any(note.startswith(device.name) and "replay" in note for note in notes)
    assert (profile.rendezvous_s > 0) == several
    model = make_model(layers=2, vocab=4096)
    plan = solve(model, "model.json", profile, Request(Workload(32, 8, 1, 64), time_limit_s=2.0))
    assert (plan.dtype, plan.cache_dtype) == ("bfloat16", "bfloat16")
    assert plan.predicted.decode_tokens_per_s > 0


@pytest.mark.usefixtures("_fakes")
@pytest.mark.parametrize("specs", [["cuda:0/8", "cuda:0/16"], ["cuda:0", CPU]])
def test_damaged_words_are_refused(monkeypatch: pytest.MonkeyPatch, specs: list[str]) -> None:
    """A link that changes what passes over it is told by the name of a device, and nothing is left running."""
    before = threading.active_count()

    def damaged(*args: Any, **more: Any) -> torch.Tensor:
        return host_pull(*args, **more) + 1e-3

    monkeypatch.setattr("fake_gpus.host_pull", damaged)
    with pytest.raises(ValueError, match=r"^device cuda:0\S* read wrong data through host memory, .* leave it out$"):
        told(specs)
    assert threading.active_count() == before


@pytest.mark.usefixtures("_fakes")
def test_links_below_their_slot_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """PCIe as it is while copies run, and a warning where card and slot could do more."""
    card = Card("fake", "a card", "580", 0, Slot(3, 4, 4, 16))
    monkeypatch.setattr(nvidia_smi, "cards", lambda: {"fake": card})
    profile, notes = told(["cuda:0", "cuda:1"], True)
    assert [device.link.name for device in profile.devices if device.link] == ["3.0x4", "3.0x4"]
    assert "cuda:0 runs at PCIe 3.0x4 under load, 4.0x16 is possible" in next(n for n in notes if "possible" in n)


@pytest.mark.usefixtures("_fakes")
def test_all_devices_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without names: every GPU that can be used, then the CPU; the others are told."""

    def check(index: int) -> None:
        if index == 1:
            raise ValueError("GPU 1 is too old: leave it out")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(requirements, "check_gpu", check)
    monkeypatch.setattr(requirements, "free_bytes", lambda index: 2**30)
    notes: list[str] = []
    assert usable_gpus(notes.append) == ["cuda:0", "cuda:2"]
    assert notes == ["cuda:1 is left out: GPU 1 is too old: leave it out"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_here() -> None:
    """One line with the fix, and no GPUs are taken for granted."""
    with pytest.raises(ValueError, match=r"^[^\n]*: install [^\n]*name CPU devices$"):
        told(["cuda:0"])
    assert usable_gpus(lambda line: None) == []


@pytest.mark.gpu
@pytest.mark.parametrize("more", [[], [CPU]])
def test_a_profile_of_parts_of_a_gpu(more: list[str]) -> None:
    """Both kinds of figures, links, and the faster part is the larger one; a CPU beside them."""
    pytest.importorskip("cuda.bindings")
    profile, notes = told(["cuda:0/8", "cuda:0/16", *more], True)
    check_profile(profile)
    small, large = profile.devices[:2]
    assert large.read_bytes_per_s > 1.2 * small.read_bytes_per_s
    assert all((device.kind == "cuda") == (device.link is not None) for device in profile.devices)
    assert profile.rendezvous_s > 0
    assert any("replay" in note for note in notes)
