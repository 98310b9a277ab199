"""Which steps a GPU runs as one launch, who adds residuals, and how a pass is cut into rows that were warmed up."""

from __future__ import annotations

import pytest
from plans import block, ranges
from splits import random_split

from tpplan.executor.gpu.groups import groups
from tpplan.executor.gpu.pieces import BUCKETS, pieces
from tpplan.executor.gpu.residuals import Residuals
from tpplan.planner.layer_graph import device_steps, pass_steps
from tpplan.planner.model_spec import ModelSpec, Rope
from tpplan.planner.plan import LayerPlan, Split
from tpplan.planner.steps import Kind


def model(layers: int = 2) -> ModelSpec:
    return ModelSpec(
        architecture="llama", layers=layers, hidden=128, heads=8, kv_heads=4, head_dim=16, mlp=256, vocab=4096,
        context=128, norm_eps=1e-5, rope=Rope(), tied_embeddings=False, qkv_bias=False, o_bias=False, mlp_bias=False,
        qk_norm=False, windows=(0,) * layers,
    )  # fmt: skip


def split_of(
    attention: list[int], mlp: list[int], strategy: str = "row", head: tuple[int, ...] = (2048, 2048)
) -> Split:
    layer = LayerPlan(block(strategy, attention, [64, 64]), block(strategy, mlp, [64, 64]))
    return Split(ranges([2048, 2048]), (layer,) * 2, ranges(head))


def kinds(split: Split, device: int) -> list[str]:
    steps = list(device_steps(pass_steps(model(), split, 1, 1), device))
    return ["+".join(step.role for step in group) for group in groups(steps)]


def test_row_blocks_are_six_launches() -> None:
    """Between two exchanges of a row split: qkv, rope, attention, output; gate and up with activation, down."""
    attention = ["qkv", "rope", "attention", "o_proj", "residual+push_hidden+pull_hidden+norm"]
    mlp = ["gate_up+swiglu", "down_proj", "residual+push_hidden+pull_hidden+norm"]
    expected = ["embed", "push_hidden+pull_hidden+norm", *(attention + mlp) * 2, "lm_head", "argmax"]
    assert kinds(split_of([4, 4], [128, 128]), 0) == expected
    assert kinds(split_of([4, 4], [128, 128]), 1) == [name.replace("residual+", "") for name in expected]


def test_one_device_exchanges_nothing() -> None:
    """Alone, a device adds its residual and norms in one launch."""
    alone = Split(
        ranges([4096, 0]), (LayerPlan(block("row", [8, 0], []), block("row", [256, 0], [])),) * 2, ranges([4096, 0])
    )
    names = kinds(alone, 0)
    assert names[:2] == ["embed", "norm"]
    assert names.count("residual+norm") == 4
    assert kinds(alone, 1) == []


def test_column_blocks_gather_before_and_after() -> None:
    """The gather of inputs and that of outputs are launches of their own; only the latter is normed."""
    names = kinds(split_of([4, 4], [128, 128], "column"), 0)
    assert names[5:8] == ["push_inputs+pull_inputs", "o_proj", "residual+push_hidden+pull_hidden+norm"]


@pytest.mark.parametrize("seed", range(40))
def test_groups_keep_every_step_in_order(seed: int) -> None:
    """No step is lost, doubled or moved, whatever the split; no launch takes part in two exchanges."""
    split = random_split(model(3), 3, seed)
    for phase in ("decode", "prefill"):
        for device in range(3):
            steps = list(device_steps(pass_steps(model(3), split, 1, 1, phase=phase), device))
            cut = list(groups(steps))
            assert [step for group in cut for step in group] == steps
            for group in cut:
                assert len({step.collective for step in group if step.kind in (Kind.PUSH, Kind.PULL)}) <= 1
                assert sum(step.kind is Kind.PULL for step in group) <= 1


def test_residuals_are_local_where_all_consumers_hold_them() -> None:
    """Equal sets add their own residual; a consumer from outside the block makes parts travel in float32."""
    assert Residuals.of(split_of([4, 4], [128, 128])).local == {
        (0, "attention"),
        (0, "mlp"),
        (1, "attention"),
        (1, "mlp"),
    }
    narrow = Residuals.of(split_of([8, 0], [128, 128], head=(4096, 0)))
    assert narrow.local == {(0, "mlp"), (1, "mlp")}
    steps = pass_steps(model(), split_of([8, 0], [128, 128], head=(4096, 0)), 1, 1)
    exact = {(step.layer, step.block): narrow.exact(step) for step in steps if step.kind is Kind.PUSH}
    assert exact[0, "attention"]
    assert not exact[0, "mlp"]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_exact_is_priced_as_exact(seed: int) -> None:
    """The layer graph, which is priced, and the executor agree on every push and pull whose values are not rounded."""
    split = random_split(model(3), 3, seed)
    residuals = Residuals.of(split)
    for step in pass_steps(model(3), split, 1, 1):
        if step.kind in (Kind.PUSH, Kind.PULL):
            assert step.exact == residuals.exact(step), step.name


@pytest.mark.parametrize(
    ("rows", "position", "capacity"),
    [(1, 0, 8), (7, 0, 7), (7, 1, 8), (256, 0, 256), (200, 60, 300), (3, 253, 256), (255, 1, 256)],
)
def test_pieces_cover_the_rows_within_the_cache(rows: int, position: int, capacity: int) -> None:
    """Passes follow each other without gap, in warmed sizes, and never write beyond the cache."""
    at = position
    for taken, bucket in pieces(rows, position, capacity):
        assert bucket in BUCKETS
        assert 1 <= taken <= bucket
        assert at + bucket <= capacity
        at += taken
    assert at == position + rows


def test_rows_are_padded_where_there_is_room() -> None:
    """A pass of 100 rows is one of 128."""
    assert list(pieces(100, 0, 4096)) == [(100, 128)]
