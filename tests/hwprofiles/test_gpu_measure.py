"""What measuring GPUs promises: every kind of step, shapes of large models among the measured ones, sound sums."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiles import make_model

from tpplan.hwprofiles.profile import Op, OpPoint
from tpplan.planner.layer_graph import pass_steps
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import BlockPlan, LayerPlan, Split
from tpplan.planner.steps import Kind

pytest.importorskip("triton")

from tpplan.hwprofiles import gpu_exchange, gpu_measure, gpu_probes
from tpplan.hwprofiles.storage import check_profile

LLAMA_8B = {"hidden": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "mlp": 14336, "vocab": 128256}
LLAMA_70B = {"hidden": 8192, "heads": 64, "kv_heads": 8, "head_dim": 128, "mlp": 28672, "vocab": 128256}


@pytest.mark.parametrize("quick", [True, False])
def test_every_kind_is_measured(quick: bool) -> None:
    """Probes and exchanges together measure every kind of step there is, for one row and a chunk of a prompt."""
    every = list(gpu_probes.gpu_probes(quick))
    for rows in (1, 256):
        measured = {probe.op for probe in every if probe.rows == rows} | {"push", "pull"}
        assert set(get_args(Op)) - measured <= ({"argmax"} if rows > 1 else set())
    assert {probe.format for probe in every if probe.op == "linear"} == {"float32", "bfloat16"}


def shared_out(model: ModelSpec, devices: int) -> Split:
    """Each block in equal shares."""

    def spans(total: int) -> tuple[tuple[int, int], ...]:
        return tuple((total * d // devices, total * (d + 1) // devices) for d in range(devices))

    layer = LayerPlan(BlockPlan("row", spans(model.heads)), BlockPlan("row", spans(model.mlp)))
    return Split(spans(model.vocab), (layer,) * model.layers, spans(model.vocab))


@pytest.mark.parametrize("shape", [LLAMA_8B, LLAMA_70B])
@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("rows", [1, 256])
def test_large_models_are_interpolated(shape: dict[str, int], devices: int, rows: int) -> None:
    """Inputs and outputs of their products, whole and shared out, lie within the measured ones; the head of 8192 inputs
    lies outside in its outputs only, where bandwidth alone counts.
    """
    model = make_model(layers=2, tied_embeddings=False, **shape)
    measured = [p for p in gpu_probes.gpu_probes(False) if (p.op, p.rows, p.format) == ("linear", rows, "bfloat16")]
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
    pushed, pulled = gpu_exchange._points(64, 1, push, (alone, rest))
    for total, a, b in ((alone, pushed.alone_s, pulled.alone_s), (rest, pushed.together_s, pulled.together_s)):
        assert a > 0
        assert b > 0
        assert a + b == pytest.approx(max(total, 2e-8), abs=2e-8)
        assert a <= max(push, gpu_exchange.LEAST_S)


def test_a_residual_is_a_kernel_only_where_nothing_is_exchanged() -> None:
    """Figures taken together become what it adds to an exchange; other points and many rows stay."""
    points = [
        OpPoint("residual", 1, 4096, 4096, 2e-6, 2e-6),
        OpPoint("residual", 256, 4096, 4096, 9e-6, 9e-6),
        OpPoint("norm", 1, 4096, 4096, 1e-7, 1e-7),
    ]
    changed = gpu_measure.with_fused_residuals(points, 3e-8)
    assert [p.together_s for p in changed] == [3e-8, 9e-6, 1e-7]
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


@pytest.mark.gpu
def test_a_profile_of_two_parts_of_a_gpu() -> None:
    """Both kinds of figures, links, and the faster part is the larger one."""
    pytest.importorskip("cuda.bindings")
    from tpplan.hwprofiles.measure import measure

    notes: list[str] = []
    profile = measure(["cuda:0/8", "cuda:0/16"], True, lambda what, share: None, notes.append)
    check_profile(profile)
    small, large = profile.devices
    assert large.read_bytes_per_s > 1.2 * small.read_bytes_per_s
    assert all(device.kind == "cuda" and device.link for device in profile.devices)
    assert profile.rendezvous_s > 0
    assert any("graph" in note for note in notes)
