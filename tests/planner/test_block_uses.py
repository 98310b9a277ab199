"""Who does what: bytes and times of the blocks add up to what the whole plan holds and takes."""

from __future__ import annotations

import pytest
from plans import plan_by_hand
from profiles import make_model, make_profile

from tpplan.planner.block_uses import block_uses
from tpplan.planner.layer_graph import pass_steps
from tpplan.planner.memory import device_bytes
from tpplan.planner.plan import Workload
from tpplan.planner.price import Pricer

WORK = Workload(prompt_tokens=300, new_tokens=50, context=512)
SHARES = {
    "uneven": ([2, 1], [1024, 512], [3072, 1024], "row"),
    "column": ([1, 2], [512, 1024], [1024, 3072], "column"),
    "one alone": ([3, 0], [1536, 0], [0, 4096], "row"),
}


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize("tied", [True, False])
def test_bytes_and_times_add_up(name: str, tied: bool) -> None:
    """Bytes of blocks and rest are `device_bytes`; times are those of the graph's steps, over the pass."""
    heads, columns, rows, strategy = SHARES[name]
    model = make_model(layers=5, vocab=4096, tied_embeddings=tied)
    profile = make_profile([1.0, 0.7])
    split = plan_by_hand(model, ["cpu:0", "cpu:1"], heads, columns, rows, strategy, strategy).split
    pricer = Pricer(model, profile, "float32", WORK)
    uses, rests = block_uses(pricer, split)
    steps = pass_steps(model, split, 1, pricer.decode_context)
    length_s = pricer.pass_s(split, 1, pricer.decode_context)
    for d, held in enumerate(device_bytes(model, split, WORK, "float32")):
        mine = [use for use in uses if use.device == f"cpu:{d}"]
        assert sum(use.bytes for use in mine) + rests[d].bytes == held.total
        busy = sum(use.decode_share for use in mine)
        assert busy == pytest.approx(sum(pricer.cost.step_s(s) for s in steps if s.device == d) / length_s)
        assert busy + rests[d].decode_share == pytest.approx(1)
        assert -1e-9 < rests[d].prefill_share <= 1


def test_units_are_means_of_layers() -> None:
    """KV heads and columns a layer, rows of the vocabulary."""
    model = make_model(layers=2, vocab=4096)
    split = plan_by_hand(model, ["cpu:0", "cpu:1"], [2, 1], [1024, 512], [3072, 1024]).split
    uses, _ = block_uses(Pricer(model, make_profile([1.0, 0.7]), "float32", WORK), split)
    found = {(use.device, use.block): use.units for use in uses}
    assert found["cpu:0", "attention"] == 2
    assert found["cpu:1", "mlp"] == 512
    assert found["cpu:0", "head"] == 3072
