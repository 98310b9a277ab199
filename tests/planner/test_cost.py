"""Step costs against the points they are made of."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linked import with_links
from profiles import make_profile

from tpplan.hwprofiles.profile import DeviceProfile, OpPoint
from tpplan.planner.cost import CostModel
from tpplan.planner.price import prefill_chunks
from tpplan.planner.steps import Kind, Step

PROFILE = make_profile([1.0, 0.3])


def step(kind: Kind, rows: int, wide_in: int, wide_out: int, device: int = 0, **more: object) -> Step:
    return Step("s", kind, device, 0, "mlp", "r", rows, wide_in, wide_out, **more)


def measured_step(p: OpPoint, contended: bool) -> Step:
    more = {"peers": tuple(range(p.peers)), "combine": "sum"} if p.op == "pull" else {}
    return step(Kind(p.op), p.rows, p.in_features, p.out_features, 1, context=p.context, contended=contended, **more)


def test_measured_points_are_met_exactly() -> None:
    """A step of a measured shape costs what was measured, alone and together; a pull adds the flag's way."""
    model = CostModel(PROFILE, "float32")
    for p in (p for p in PROFILE.devices[1].ops if p.op != "linear"):
        for contended, expected in ((False, p.alone_s), (True, p.together_s)):
            flag_s = PROFILE.rendezvous_s if p.op == "pull" else 0.0
            assert model.step_s(measured_step(p, contended)) == pytest.approx(expected + flag_s, rel=1e-9)


def test_matrix_products_are_priced_near_the_points() -> None:
    """Averaged over neighbouring shapes, a measured product still costs what was measured within 20 %."""
    model = CostModel(PROFILE, "float32")
    for p in (p for p in PROFILE.devices[1].ops if (p.op, p.format) == ("linear", "float32")):
        assert model.step_s(measured_step(p, True)) == pytest.approx(p.together_s, rel=0.2)


def test_a_lucky_measurement_is_not_believed() -> None:
    """One product measured twice as fast as all others: its price changes by under a tenth, never to below light."""
    lucky = [p for p in PROFILE.devices[0].ops if (p.op, p.rows, p.format) == ("linear", 1, "float32")][12]
    faster = msgspec.structs.replace(lucky, together_s=lucky.together_s / 2)
    device = PROFILE.devices[0]
    changed = msgspec.structs.replace(device, ops=tuple(faster if p == lucky else p for p in device.ops))
    asked = step(Kind.LINEAR, 1, lucky.in_features, lucky.out_features, contended=True)
    before, after = (
        CostModel(msgspec.structs.replace(PROFILE, devices=(d,)), "float32").step_s(asked) for d in (device, changed)
    )
    assert after == pytest.approx(before, rel=0.1)
    assert after >= 4 * lucky.in_features * lucky.out_features / device.read_bytes_per_s


@pytest.mark.parametrize(
    ("kind", "low", "between", "high"),
    [
        (Kind.LINEAR, (1, 576, 576), (1, 576, 1200), (1, 576, 3072)),
        (Kind.LINEAR, (8, 576, 576), (16, 576, 576), (32, 576, 576)),
        (Kind.NORM, (1, 576, 576), (1, 1000, 1000), (1, 2048, 2048)),
        (Kind.SWIGLU, (1, 128, 64), (100, 128, 64), (256, 128, 64)),
        (Kind.PUSH, (1, 576, 576), (4, 300, 300), (1, 8192, 8192)),
    ],
)
def test_between_neighbours(kind: Kind, low: tuple[int, ...], between: tuple[int, ...], high: tuple[int, ...]) -> None:
    """A shape between two measured ones costs no less than the smaller and no more than the larger."""
    model = CostModel(PROFILE, "float32")
    costs = [model.step_s(step(kind, *shape)) for shape in (low, between, high)]
    assert costs == sorted(costs)


def test_bfloat16_weights_cost_less_where_bytes_decide() -> None:
    """One row through a large matrix takes about half as long in bfloat16."""
    big = step(Kind.LINEAR, 1, 8192, 16384)
    ratio = CostModel(PROFILE, "bfloat16").step_s(big) / CostModel(PROFILE, "float32").step_s(big)
    assert ratio == pytest.approx(0.5, abs=0.02)


def test_attention_is_priced_by_its_caches_format() -> None:
    """Where attention over a 16-bit cache was measured, those figures count; elsewhere the bytes decide."""
    attend = step(Kind.ATTENTION, 1, 192, 576, context=512)
    profile = make_profile([1.0, 0.5])
    by_bytes = CostModel(profile, "float32", "bfloat16").step_s(attend)
    slower = [
        msgspec.structs.replace(p, format="bfloat16", alone_s=3 * p.alone_s, together_s=3 * p.together_s)
        for p in profile.devices[0].ops
        if p.op == "attention"
    ]
    device = msgspec.structs.replace(profile.devices[0], ops=(*profile.devices[0].ops, *slower))
    measured = msgspec.structs.replace(profile, devices=(device, *profile.devices[1:]))
    in_float32 = CostModel(profile, "float32").step_s(attend)
    assert CostModel(measured, "float32").step_s(attend) == in_float32
    assert by_bytes < in_float32
    assert CostModel(measured, "float32", "bfloat16").step_s(attend) == pytest.approx(3 * in_float32, rel=0.02)
    only = msgspec.structs.replace(device, ops=tuple(slower))
    of_one = msgspec.structs.replace(profile, devices=(only, *profile.devices[1:]))
    assert CostModel(of_one, "float32").step_s(attend) > CostModel(of_one, "float32", "bfloat16").step_s(attend)


def test_exchanges_are_priced_in_the_format_that_they_travel_in() -> None:
    """GPUs measured in both formats: 16 bits unless weights are float32, a consumer lacks the residual, or a CPU takes
    part. Where one format was measured, it counts for all.
    """
    profile = make_profile([1.0, 1.0, 1.0], kind="cuda")

    def shorter(device: DeviceProfile) -> DeviceProfile:
        moves = [p for p in device.ops if p.op in ("push", "pull")]
        short = [msgspec.structs.replace(p, format="bfloat16", alone_s=p.alone_s / 4) for p in moves]
        return msgspec.structs.replace(device, ops=(*device.ops, *short))

    mixed = (*map(shorter, profile.devices[:2]), msgspec.structs.replace(profile.devices[2], kind="cpu"))
    both = msgspec.structs.replace(profile, devices=mixed, rendezvous_s=0.0)
    for kind, others in ((Kind.PUSH, (0, 1)), (Kind.PULL, (0, 1))):
        among = {"peers": others, "movers": others, "widths": (4096, 4096), "combine": "sum"}
        with_cpu = among | {"movers": (0, 2)}
        short_s = CostModel(both, "bfloat16").step_s(step(kind, 1, 4096, 4096, **among))
        long_s = CostModel(both, "float32").step_s(step(kind, 1, 4096, 4096, **among))
        assert long_s == pytest.approx(4 * short_s)
        for exact in (among | {"exact": True}, with_cpu):
            assert CostModel(both, "bfloat16").step_s(step(kind, 1, 4096, 4096, **exact)) == long_s
        only = step(kind, 1, 4096, 4096, 2, **among)
        assert CostModel(both, "bfloat16").step_s(only) == CostModel(both, "float32").step_s(only)


def test_a_shared_path_lengthens_the_bytes_not_the_latency() -> None:
    """Two on a port as fast as one link push 16 KiB: one's own time, and that of its bytes once more. Without a port of
    that name, or with one twice as fast, nothing is added.
    """
    for port_rates, more_s in (({"p": 1e10}, 16384 / 1e10), ({"p": 2e10}, 0.0), ({"q": 1.0}, 0.0)):
        shared = with_links(make_profile([1.0, 0.5]), [1e10, 1e10], ["p", "p"], port_rates)
        asked = step(Kind.PUSH, 1, 4096, 4096, contended=True, movers=(0, 1))
        alone_s = CostModel(PROFILE, "float32").step_s(asked)
        assert CostModel(shared, "float32").step_s(asked) == pytest.approx(alone_s + more_s, rel=1e-9)


def test_slices_of_another_width_are_priced_anew() -> None:
    """Pulls of as many values in all, but fewer from others, take less time on a shared port, in either order."""
    profile = with_links(make_profile([1.0, 1.0]), [1e10, 1e10], ["p", "p"], {"p": 1e9})
    more = {"peers": (0, 1), "movers": (0, 1), "combine": "concat", "contended": True}
    little, much = (step(Kind.PULL, 64, 576, 576, widths=widths, **more) for widths in ((544, 32), (32, 544)))
    for order in ((little, much), (much, little)):
        cost = CostModel(profile, "float32")
        assert {s.widths: cost.step_s(s) for s in order}[much.widths] > 4 * cost.step_s(little)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(list(Kind)),
    st.integers(1, 4096),
    st.integers(1, 1 << 18),
    st.integers(1, 1 << 18),
    st.integers(1, 1 << 17),
    st.integers(1, 8),
    st.sampled_from(["sum", "concat"]),
    st.booleans(),
)
def test_costs_are_positive_and_finite(
    kind: Kind, rows: int, wide_in: int, wide_out: int, context: int, peers: int, combine: str, contended: bool
) -> None:
    """No shape, however far from what was measured, has a negative, zero, infinite or undefined cost."""
    more = {"context": context, "peers": tuple(range(peers)), "combine": combine, "contended": contended}
    seconds = CostModel(PROFILE, "float32").step_s(step(kind, rows, wide_in, wide_out, **more))
    assert math.isfinite(seconds)
    assert seconds > 0


def test_missing_figures_name_device_and_remedy() -> None:
    """Without points of an operation the error names it, the device, and the command that measures."""
    first = PROFILE.devices[0]
    bare = msgspec.structs.replace(first, ops=tuple(p for p in first.ops if p.op != "rope"))
    model = CostModel(msgspec.structs.replace(PROFILE, devices=(bare,)), "float32")
    with pytest.raises(ValueError, match=r"no rope figures for cpu:0: run `tpplan profile` again"):
        model.step_s(step(Kind.ROPE, 1, 64, 64))


@given(st.integers(1, 100_000))
def test_chunks_cover_the_prompt(prompt_tokens: int) -> None:
    """Chunks add up to the prompt, one makes logits, and the mean context is that of all rows, within rounding."""
    chunks = prefill_chunks(prompt_tokens, 256)
    assert sum(c.rows * c.count for c in chunks) == prompt_tokens
    assert [c.logits for c in chunks] == [False] * (len(chunks) - 1) + [True]
    attended = sum(c.rows * c.count * c.context for c in chunks)
    assert attended == pytest.approx(prompt_tokens * (prompt_tokens + 1) / 2, abs=prompt_tokens)


@pytest.mark.parametrize("rows", [1, 256])
@pytest.mark.parametrize("wide", [64, 384, 4096])
def test_few_points_suffice_where_launches_decide(rows: int, wide: int) -> None:
    """From five shapes on a device with 5 us a call and 1 TB/s, other shapes are priced within 2 %."""

    def truth_s(rows: int, wide_in: int, wide_out: int) -> float:
        read_s = (4 * wide_in * wide_out + 4 * rows * (wide_in + wide_out)) / 1e12
        return 5e-6 + max(read_s, 2 * rows * wide_in * wide_out / 50e12)

    shapes = [(r, *s) for r in (1, 256) for s in ((576, 192), (576, 2048), (384, 576), (1536, 576), (2048, 2048))]
    points = tuple(OpPoint("linear", *shape, truth_s(*shape), truth_s(*shape)) for shape in shapes)
    device = msgspec.structs.replace(
        PROFILE.devices[0],
        ops=points,
        read_bytes_per_s=1e12,
        read_bytes_per_s_alone=1e12,
        matmul_flops_per_s=50e12,
    )
    model = CostModel(msgspec.structs.replace(PROFILE, devices=(device,)), "float32")
    assert model.step_s(step(Kind.LINEAR, rows, 576, wide)) == pytest.approx(truth_s(rows, 576, wide), rel=0.02)
