"""One token id from one row of logits: greedy, or drawn after temperature, top-k, top-p and min-p.

Knows distributions only. Knows nothing of models, tokens' meaning or when to stop.
"""

from __future__ import annotations

import math
import secrets

import torch

GREEDY_BELOW = 1e-5


class Sampler:
    """Draws token ids; filters in the order and with the semantics of transformers' logits processors.

    `temperature` 0 is greedy (below 1e-5 too, where float32 would overflow), the lowest id winning ties. `top_k` 0,
    `top_p` 1 and `min_p` 0 switch that filter off. Equal seeds draw equal ids; `seed` holds the one in use.
    Raises ValueError for a parameter out of its range.
    """

    def __init__(
        self, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0, seed: int | None = None
    ) -> None:
        _require(0 <= temperature < math.inf, "temperature", "0 (greedy) or a positive number", temperature)
        _require(isinstance(top_k, int) and top_k >= 0, "top-k", "0 (off) or a positive whole number", top_k)
        _require(0 < top_p <= 1, "top-p", "above 0 and at most 1 (off)", top_p)
        _require(0 <= min_p <= 1, "min-p", "between 0 (off) and 1", min_p)
        _require(seed is None or 0 <= seed < 2**63, "seed", "between 0 and 2^63 - 1", seed)
        self.temperature, self.top_k, self.top_p, self.min_p = temperature, top_k, top_p, min_p
        self.seed = secrets.randbits(32) if seed is None else seed
        self._generator = torch.Generator().manual_seed(self.seed)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken, so that devices need not hand over their logits."""
        return self.temperature < GREEDY_BELOW

    def __call__(self, logits: torch.Tensor) -> int:
        """The next id from `logits: [vocab]` float32. Raises ValueError where the largest is not a finite number."""
        best = int(logits.argmax())
        if not math.isfinite(logits[best]):  # argmax finds a NaN where there is one
            raise ValueError(f"the logits are not numbers (token {best}: {float(logits[best])}): damaged weights?")
        if self.greedy:
            return best
        return int(torch.multinomial(self.probabilities(logits), 1, generator=self._generator))

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """What is drawn from: `[vocab]`, 0 where a filter removed the token. Needs a temperature above 0."""
        scores = (logits - logits.max()) / self.temperature
        if self.top_k:
            scores = _top_k(scores, self.top_k)
        if self.top_p < 1:
            scores = _top_p(scores, self.top_p)
        if self.min_p:
            scores = _min_p(scores, self.min_p)
        return scores.softmax(-1)


def _top_k(scores: torch.Tensor, k: int) -> torch.Tensor:
    kept = scores.topk(min(k, len(scores))).values
    return scores.masked_fill(scores < kept[-1], -torch.inf)


def _top_p(scores: torch.Tensor, p: float) -> torch.Tensor:
    ascending, ids = scores.sort()
    removed = ascending.softmax(-1).cumsum(-1) <= 1 - p
    removed[-1] = False
    return scores.masked_fill(torch.empty_like(removed).scatter(0, ids, removed), -torch.inf)


def _min_p(scores: torch.Tensor, p: float) -> torch.Tensor:
    probabilities = scores.softmax(-1)
    return scores.masked_fill(probabilities < p * probabilities.max(), -torch.inf)


def _require(fits: bool, name: str, range_text: str, value: object) -> None:
    if not fits:
        raise ValueError(f"{name} must be {range_text}, not {value}")
