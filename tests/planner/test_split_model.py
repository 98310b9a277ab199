"""The CP-SAT model of single splits: it never makes one slower than it is, and counts its memory to the byte."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from instances import alike, known, synthetic
from pinned import pinned_fits, pinned_price
from profiles import make_model, make_profile, with_format

from tpplan.planner.baselines import split_bytes
from tpplan.planner.model_spec import Quant
from tpplan.planner.plan import BlockPlan, LayerPlan, Split, Workload
from tpplan.planner.request import Request
from tpplan.planner.sums import with_best_sums
from tpplan.planner.wishes import completed, pricer_of


@pytest.mark.parametrize("make", [known, synthetic])
@pytest.mark.parametrize("seed", range(24))
def test_a_split_costs_the_solver_no_more_than_it_does(make, seed: int) -> None:  # type: ignore[no-untyped-def]
    """With room for exactly its bytes the split is possible, at no more than its exact price, summed the fastest way,
    and what fitting costs is said to add; with a byte less on any device that has some it is not.
    """
    draw = Random(seed)
    model, profile, request = make(draw)
    request = completed(request, model, profile)
    pricer = pricer_of(request, model, profile)
    split = alike(draw, pricer, request.replicate_kv and model.group > 1)
    held = [device.total for device in split_bytes(pricer, split)]
    seconds, error = pinned_price(pricer, request, tuple(held), split)
    assert seconds is not None
    summed = with_best_sums(pricer, split, lambda _: True)
    assert seconds <= pricer.split_s(summed) * (1 + error) * (1 + 1e-6)
    for d in draw.sample([d for d, total in enumerate(held) if total], 1):
        less = tuple(total - (i == d) for i, total in enumerate(held))
        assert not pinned_fits(pricer, request, less, split)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group", [16, 64])
def test_scale_tables_count_to_the_byte(group: int, act_order: bool) -> None:
    """Groups wider and narrower than a head: what a share keeps of all scales under act-order rounds as it must."""
    model = make_model(layers=2, hidden=64, heads=8, kv_heads=4, head_dim=16, mlp=256, vocab=2048)
    model = msgspec.structs.replace(model, quant=Quant(4, group, act_order))
    request = Request(Workload(64, 32, 1, 256), dtype="int4", cache_dtype="float32")
    pricer = pricer_of(request, model, with_format(make_profile([1.0, 0.6]), "int4", 0.3))
    for heads in (1, 3, 6, 8):
        attention, mlp = BlockPlan("row", ((0, heads), (heads, 8))), BlockPlan("row", ((0, 128), (128, 256)))
        split = Split(((0, 2048), (2048, 2048)), (LayerPlan(attention, mlp),) * 2, ((0, 2048), (2048, 2048)))
        held = tuple(device.total for device in split_bytes(pricer, split))
        assert pinned_fits(pricer, request, held, split)
        assert not pinned_fits(pricer, request, (held[0] - 1, held[1]), split)
        assert not pinned_fits(pricer, request, (held[0], held[1] - 1), split)
