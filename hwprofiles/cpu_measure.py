"""What only CPU devices have measured: exchanges through their slots, and what describes them."""

from __future__ import annotations

from collections.abc import Sequence

from ..kernels.worker import Worker
from .exchange import QUICK_SIZES, SIZES, Exchange
from .host_memory import cpu_model
from .profile import OpPoint
from .timing import Bench


def exchange_points(benches: Sequence[Bench], quick: bool, flag_s: float) -> list[list[OpPoint]]:
    """Pushes, and pulls of as many slices as there are devices (own included) and of one more; the flag's way apart."""
    points: list[list[OpPoint]] = [[] for _ in benches]
    for values in QUICK_SIZES if quick else SIZES:
        exchange = Exchange(benches, values)
        for extra in (0, 1):
            together = exchange.together(extra)
            for d, mine in enumerate(points):
                alone = exchange.alone(d, extra)
                if extra == 0:
                    mine.append(OpPoint("push", 1, values, values, alone[0], together[d][0]))
                pull_s = max(together[d][1] - flag_s, alone[1])
                mine.append(OpPoint("pull", 1, values, values, alone[1], pull_s, peers=len(benches) + extra))
    return points


def described(worker: Worker) -> str:
    """`AMD EPYC 7B13, 2 core(s)`."""
    return f"{cpu_model()}, {len(worker.cores)} core(s)"
