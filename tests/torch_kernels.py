"""What the kernels of `kernels.gpu` compute, in plain torch on any device: the binder is tested with these.

Exchanges go through a dictionary of what was pushed, since all devices are run by one thread in the order of a pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from tpplan.executor.gpu.exchanges import Moved
from tpplan.executor.gpu.residuals import Residuals
from tpplan.executor.gpu.state import POSITION, GpuState
from tpplan.kernels import attention, embed, norm, rope, swiglu


def _root(squares: torch.Tensor | None, width: int, eps: float) -> torch.Tensor | float:
    return 1.0 if squares is None else torch.rsqrt(squares.sum(1, keepdim=True) / width + eps)


def _scaled(hidden, weight, scaled, squares, part=None) -> None:  # type: ignore[no-untyped-def]
    if part is not None:
        hidden += part
    scaled.copy_(hidden * weight)
    squares.zero_()
    squares[:, 0] = (hidden * hidden).sum(1)


def _product(x, weight, bias, squares, width, eps):  # type: ignore[no-untyped-def]
    out = (x.float() @ weight.float().t()) * _root(squares, width, eps)
    return out if bias is None else out + bias


def _linear(x, weight, bias, out, squares=None, width=0, eps=0.0) -> None:  # type: ignore[no-untyped-def]
    out.copy_(_product(x, weight, bias, squares, width, eps))


def _gate_up(x, weight, bias, out, squares=None, width=0, eps=0.0) -> None:  # type: ignore[no-untyped-def]
    _swiglu(_product(x, weight, bias, squares, width, eps), out)


def _swiglu(both, out) -> None:  # type: ignore[no-untyped-def]
    exact = torch.empty(out.shape)
    swiglu.reference(both.float(), exact)
    out.copy_(exact)


def _rope(qkv, cos, sin, norms, eps, keys, values, control) -> None:  # type: ignore[no-untyped-def]
    rope.reference(qkv, cos, sin, norms, eps, keys, values, int(control[POSITION]))


def _prefill(q, keys, values, control, window, out, group, skipped) -> None:  # type: ignore[no-untyped-def]
    exact = torch.empty(out.shape)
    position = int(control[POSITION])
    attention.reference(q.float().contiguous(), keys, values, position, window, exact, group, skipped)
    out.copy_(exact)


def _decode(q, keys, values, control, window, out, group, skipped, scratch) -> None:  # type: ignore[no-untyped-def]
    _prefill(q, keys, values, control, window, out, group, skipped)


def _argmax(logits, offset, best_id, best_value, scratch) -> None:  # type: ignore[no-untyped-def]
    best_id[0], best_value[0] = int(logits.argmax()) + offset, float(logits.max())


@dataclass
class Exchange:
    """Push and pull apart, so that one thread can run all pushes of a site before its pulls."""

    moved: Moved
    push: Callable[[int], None]
    pull: Callable[[int], None]


class DictExchanges:
    """Pushes into a dictionary, pulls from it; parts are rounded as they would be on their way."""

    def __init__(self, residuals: Residuals) -> None:
        self.residuals = residuals
        self.pushed: dict[tuple[int, int], torch.Tensor] = {}

    def ready(self, moved: Moved) -> bool:
        """Whether all that is pulled has been pushed."""
        peers = moved.pull.peers if moved.pull else ()
        return all((moved.site, p) in self.pushed for p in peers)

    def bind(self, s: GpuState, moved: Moved) -> tuple[Any, torch.Tensor | None]:
        squares = None if moved.norm_weight is None else torch.zeros(16, 3)

        def push(rows: int) -> None:
            if not moved.width:
                return
            values = s.view(moved.source, rows, moved.width).float()
            if (own := moved.own_residual) is not None:
                values = values + s.view("hidden", rows, s.model.hidden)[:, slice(*own.span)]
            exact = self.residuals.exact(moved.push or moved.pull)  # type: ignore[arg-type]
            form = torch.float32 if exact else s.formats.weights
            self.pushed[moved.site, s.device] = values.to(form).float().clone()

        def pull(rows: int) -> None:
            step = moved.pull
            if step is None:
                return
            parts = [self.pushed[moved.site, p] for p in step.peers]
            if step.role == "pull_parts":
                parts = [part[:, slice(*step.span)] for part in parts]
            found = torch.cat(parts, dim=1) if step.combine == "concat" else sum(parts[1:], parts[0].clone())
            if moved.adds_hidden:
                found = found + s.view("hidden", rows, s.model.hidden)
            s.view(moved.target, rows, step.out_features).copy_(found)
            if moved.norm_weight is not None:
                scaled = s.view("scaled", rows, s.model.hidden)
                if rows <= 16:
                    _scaled(found, moved.norm_weight, scaled, squares[:rows])
                else:
                    norm.reference(found, moved.norm_weight, s.model.norm_eps, scaled)

        return Exchange(moved, push, pull), squares


KERNELS = {
    "norm": SimpleNamespace(scaled=_scaled, norm=norm.reference),
    "linear": SimpleNamespace(linear=_linear),
    "products": SimpleNamespace(many_rows=_linear),
    "gate_up": SimpleNamespace(gate_up=_gate_up),
    "swiglu": SimpleNamespace(swiglu=_swiglu),
    "rope": SimpleNamespace(rope=_rope),
    "attention": SimpleNamespace(decode=_decode, prefill=_prefill, scratch=lambda *_: None),
    "embed": SimpleNamespace(embed=embed.reference),
    "argmax": SimpleNamespace(argmax=_argmax, scratch=lambda _: None),
}
