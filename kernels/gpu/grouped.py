"""Grouped-affine weights as products on GPUs read them: `w = (code - zero) * scale + minimum`, groups along the input.

A place is a position along the input. Places go in runs of `run`, and `planes` runs make a tile: 4 of 4-bit codes, 2 of
8-bit ones. Row by row a tile holds `run` int16, and word p has the codes of places p, run + p, ... of its tile, the
first in its low bits (8-bit codes with their top bit flipped). So one shift and mask gives two neighbouring places of
one run at once, wherever the matrix units want them, and a tile's rows are pieces of 64 or 128 bytes.

codes: int16 `[halves * blocks, tiles, 16, run]`, blocks of 16 rows: what a program reads lies in one piece. table:
int32 `[halves * blocks, groups, 1 or 2, 16]`; a word has the scale in its low 16 bits and the zero, an integer, or the
minimum above, or two words have float32s. Words of small groups are as short as they can be: int16 for a scale alone,
and for codes of 8 bits for scale and minimum, which count with two float16s of `factors`, int32 `[halves * blocks,
factors, 16]`; int8 and int16 for codes of scales alone. Where groups are ragged, `groups_of_runs` names the group of
each run, and runs are filled up with places of no input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

BLOCK = 16  # rows
RUNS = (64, 32, 16)
SMALL_GROUP = (
    32  # inputs; words of 4 bytes are copied ahead, shorter ones are not, and that is worth 3 % of a larger group
)
NONE, ZEROS, MINIMUMS = range(3)  # what a table holds beside scales
FLOAT16, BFLOAT16, FLOAT32, CODES = range(4)  # how
TABLES = {torch.float16: FLOAT16, torch.bfloat16: BFLOAT16, torch.float32: FLOAT32, torch.int8: CODES}


@dataclass(frozen=True)
class GroupedWeight:
    """A matrix of `rows` outputs and `places` inputs, or `halves` such one after the other (gate, up).

    Tile t has group t >> `group_shift`, or `groups_per_tile` of its own; of ragged ones `groups_of_runs` says it.
    `zero` is taken off every code, unless the table has zeros. Group g has factor (g + `skipped`) // `factor_groups`.
    """

    codes: torch.Tensor
    table: torch.Tensor
    groups_of_runs: torch.Tensor | None
    bits: int
    rows: int
    places: int
    halves: int
    zero: int
    second: int
    table_format: int
    group_shift: int
    groups_per_tile: int
    factors: torch.Tensor | None = None
    factor_groups: int = 1
    skipped: int = 0

    @property
    def planes(self) -> int:
        return 16 // self.bits

    @property
    def run(self) -> int:
        return self.codes.shape[3]

    @property
    def tiles(self) -> int:
        return self.codes.shape[1]

    @property
    def groups(self) -> int:
        return self.table.shape[1]

    @property
    def blocks(self) -> int:
        """Of a half."""
        return self.codes.shape[0] // self.halves

    @property
    def factor_numbers(self) -> tuple[int, int, int]:
        """For kernels: factors of a row, groups of each, groups of the first one that are not here."""
        return 1 if self.factors is None else self.factors.shape[1], self.factor_groups, self.skipped

    @property
    def nbytes(self) -> int:
        more = [tensor.nbytes for tensor in (self.groups_of_runs, self.factors) if tensor is not None]
        return self.codes.nbytes + self.table.nbytes + sum(more)


def pack(
    codes: torch.Tensor,
    group_of_input: torch.Tensor | int,
    scales: torch.Tensor,
    minimums: torch.Tensor | None = None,
    zeros: torch.Tensor | None = None,
    *,
    bits: int = 4,
    zero: int = 0,
    halves: int = 1,
    runs: tuple[int, ...] = RUNS,
    factors: tuple[torch.Tensor, torch.Tensor | None] | None = None,
    factor_groups: int = 1,
    skipped: int = 0,
) -> tuple[GroupedWeight, torch.Tensor | None]:
    """The weight, and the input of each of its places, int32 [places], -1 for none; None where inputs stay as they are.

    codes: uint8 [N, K], one a byte; group_of_input: a group's size, or int [K] in any order; scales, minimums: float16,
    bfloat16 or float32 [N, groups], or int8, with `factors` float16 [N, (groups + skipped) / factor_groups] of either;
    zeros: uint8 [N, groups]. With `halves` 2 the first N / 2 rows are the gate's.
    Results of other rows of one matrix may be concatenated, where N divides by 16. `runs`: a choice, longest first.
    """
    check(codes, group_of_input, scales, minimums, zeros, bits)
    N, K = codes.shape
    if isinstance(group_of_input, int):
        group_of_input = torch.arange(K, device=codes.device) // group_of_input
    planes, group_of_input = 16 // bits, group_of_input.to(codes.device)
    sorted_inputs = torch.argsort(group_of_input, stable=True)
    sizes = torch.bincount(group_of_input, minlength=scales.shape[1])
    regular = _regular(sizes.tolist(), planes, runs)
    groups_of_runs = None
    if regular is not None:
        run, group_shift, groups_per_tile = regular
        order = None if bool((sorted_inputs.diff() > 0).all()) else sorted_inputs.int()
        codes = codes if order is None else codes[:, sorted_inputs]
    else:
        run = _ragged_run(sizes, runs)
        group_shift, groups_per_tile = 0, planes
        order, groups_of_runs = _runs(sorted_inputs, sizes, run, planes)
        codes = torch.where(order >= 0, codes[:, order.clamp(min=0).long()], 0).to(torch.uint8)
    places = codes.shape[1]
    second = minimums if minimums is not None else zeros
    weight = GroupedWeight(
        _words(codes, bits, run, halves), _table(scales, second, K, halves), groups_of_runs, bits, N // halves, places,
        halves, zero if zeros is None else 0, NONE if second is None else ZEROS if second is zeros else MINIMUMS,
        TABLES[scales.dtype], group_shift, groups_per_tile, _factors(factors, halves), factor_groups, skipped,
    )  # fmt: skip
    return weight, order


def stacked(weights: Sequence[GroupedWeight], halves: int = 1) -> GroupedWeight | None:
    """One below the other; with `halves` 2, as the halves of one. None where they do not go together."""
    first, *others = weights
    rows = [weight.rows for weight in weights]
    if not all(_alike(first, other) for other in others):
        return None
    if (halves == 2 and rows[0] != rows[1]) or (halves == 1 and any(n % BLOCK for n in rows[:-1])):
        return None
    names = ["codes", "table", *(["factors"] if first.factors is not None else [])]
    joined = {name: torch.cat([getattr(weight, name) for weight in weights]) for name in names}
    return replace(first, **joined, rows=rows[0] if halves == 2 else sum(rows), halves=halves)  # type: ignore[arg-type]


def _alike(one: GroupedWeight, other: GroupedWeight) -> bool:
    """In all but rows and numbers."""
    own: dict[str, Any] = {"codes": None, "table": None, "factors": None, "groups_of_runs": None, "rows": 0}
    runs, others = one.groups_of_runs, other.groups_of_runs
    same = runs is others or (runs is not None and others is not None and torch.equal(runs, others))
    return same and one.run == other.run and replace(one, **own) == replace(other, **own)


def check(
    codes: torch.Tensor,
    group_of_input: torch.Tensor | int,
    scales: torch.Tensor,
    minimums: torch.Tensor | None,
    zeros: torch.Tensor | None,
    bits: int,
) -> None:
    """ValueError where operands of `pack` do not belong together."""
    (N, K), groups = codes.shape, scales.shape[1]
    if bits not in (4, 8):
        raise ValueError(f"codes of {bits} bits: widen them to 4 or 8")
    if scales.dtype not in TABLES:
        raise ValueError(f"scales of {scales.dtype}: convert them to float16, bfloat16, float32 or int8")
    if zeros is not None and minimums is not None:
        raise ValueError("zeros beside minimums: fold the zeros into the minimums")
    for name, table in (("scales", scales), ("minimums", minimums), ("zeros", zeros)):
        if table is not None and table.shape != (N, groups):
            raise ValueError(f"{name} of shape {tuple(table.shape)}, {N} rows of {groups} groups expected")
    if minimums is not None and minimums.dtype is not scales.dtype:
        raise ValueError(f"minimums of {minimums.dtype} beside scales of {scales.dtype}: convert one of them")
    count = -(-K // group_of_input) if isinstance(group_of_input, int) else int(group_of_input.max()) + 1
    if count > groups or (not isinstance(group_of_input, int) and len(group_of_input) != K):
        raise ValueError(f"{K} inputs in {count} groups do not fit {groups} groups of scales: check the group indices")


def _regular(sizes: list[int], planes: int, choice: tuple[int, ...]) -> tuple[int, int, int] | None:
    """run, group_shift, groups_per_tile of groups of one size; None of ragged ones."""
    size = sizes[0]
    if len(sizes) == 1:
        return choice[0], 24, 1
    if any(other != size for other in sizes[:-1]) or sizes[-1] > size:
        return None
    for run in choice:
        runs = size // run
        if size % run == 0 and runs & (runs - 1) == 0:
            return run, max(0, (runs // planes).bit_length() - 1), max(1, planes // runs)
    return None


def _ragged_run(sizes: torch.Tensor, choice: tuple[int, ...]) -> int:
    """The longest that does not fill up much more than shorter ones: all that is read, but runs of 64 twice as fast as
    runs of 16.
    """
    filled = {run: int((-(-sizes // run) * run).sum()) for run in choice}
    return next(run for run in choice if filled[run] <= 1.5 * filled[choice[-1]])


def _runs(order: torch.Tensor, sizes: torch.Tensor, run: int, planes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """order: of inputs by group -> the input of each place, and the group of each run, both for whole tiles."""
    runs = -(-sizes // run)
    total = -(-int(runs.sum()) // planes) * planes
    groups = torch.zeros(total, dtype=torch.int32, device=order.device)
    groups[: int(runs.sum())] = torch.repeat_interleave(torch.arange(len(sizes), device=order.device), runs).int()
    begin, used = (runs.cumsum(0) - runs) * run, sizes.cumsum(0) - sizes
    at = torch.repeat_interleave(begin - used, sizes) + torch.arange(len(order), device=order.device)
    places = torch.full((total * run,), -1, dtype=torch.int32, device=order.device)
    places[at] = order.int()
    return places, groups


def _words(codes: torch.Tensor, bits: int, run: int, halves: int) -> torch.Tensor:
    """uint8 [N, places] -> int16 [halves * blocks, tiles, 16, run]."""
    planes, (N, K) = 16 // bits, codes.shape
    rows, tiles = N // halves, -(-K // (run * planes))
    blocks = -(-rows // BLOCK)
    full = torch.zeros(halves, blocks * BLOCK, tiles * planes * run, dtype=torch.uint8, device=codes.device)
    full[:, :rows, :K] = codes.view(halves, rows, K) ^ (128 if bits == 8 else 0)
    parts = full.view(halves * blocks, BLOCK, tiles, planes, run).permute(3, 0, 2, 1, 4)
    word = torch.zeros(parts.shape[1:], dtype=torch.int32, device=codes.device)
    for at, part in enumerate(parts):
        word |= part.int() << (bits * at)
    return word.to(torch.int16).contiguous()


def _table(scales: torch.Tensor, second: torch.Tensor | None, inputs: int, halves: int) -> torch.Tensor:
    """[N, groups] twice -> [halves * blocks, groups, 1 or 2, 16]."""
    pair = torch.stack([_bits(scales), torch.zeros_like(_bits(scales)) if second is None else _bits(second)], 2)
    if scales.dtype is torch.int8:
        pair = (pair[:, :, :1] & 0xFF | pair[:, :, 1:] << 8).short() if second is not None else scales[:, :, None]
    elif scales.dtype is not torch.float32:
        alone = second is None and inputs <= SMALL_GROUP * scales.shape[1]
        pair = pair[:, :, :1].short() if alone else pair[:, :, :1] & 0xFFFF | pair[:, :, 1:] << 16
    return _by_blocks(pair, halves)


def _factors(factors: tuple[torch.Tensor, torch.Tensor | None] | None, halves: int) -> torch.Tensor | None:
    """float16 [N, factors], once or twice -> int16 or int32 [halves * blocks, factors, 16]."""
    if factors is None:
        return None
    scales, minimums = factors
    word = _bits(scales)
    word = word.short() if minimums is None else word & 0xFFFF | _bits(minimums) << 16
    return _by_blocks(word[:, :, None], halves)[:, :, 0].contiguous()


def _by_blocks(words: torch.Tensor, halves: int) -> torch.Tensor:
    """[N, groups, words] -> [halves * blocks, groups, words, 16]; rows that fill up the last block are 0."""
    N, groups, each = words.shape
    rows = N // halves
    blocks = -(-rows // BLOCK)
    full = torch.zeros(halves, blocks * BLOCK, groups, each, dtype=words.dtype, device=words.device)
    full[:, :rows] = words.view(halves, rows, groups, each)
    return full.view(halves * blocks, BLOCK, groups, each).permute(0, 2, 3, 1).contiguous()


def _bits(values: torch.Tensor) -> torch.Tensor:
    """As int32: those of floats in the low half or in all of it, integers as they are."""
    if values.dtype is torch.float32:
        return values.contiguous().view(torch.int32)
    return (values.contiguous().view(torch.int16) if values.is_floating_point() else values).int()
