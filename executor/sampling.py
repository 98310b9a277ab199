"""One token id from one row of logits: greedy, or drawn after temperature, top-k, top-p and min-p.

Knows distributions only. Knows nothing of models, tokens' meaning or when to stop.
"""

from __future__ import annotations

import math
import secrets

import torch

GREEDY_BELOW = 1e-5
FEW = (64, 1024, 16384)  # tokens that top-p looks at before it sorts all


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
        ids, scores = self._candidates(logits)
        sums = scores.exp().cumsum(0, dtype=torch.float64)
        drawn = torch.rand(1, generator=self._generator, dtype=torch.float64) * sums[-1]
        return int(ids[min(int(torch.searchsorted(sums, drawn, right=True)), len(ids) - 1)])

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """What is drawn from: `[vocab]`, 0 where a filter removed the token. Needs a temperature above 0."""
        ids, scores = self._candidates(logits)
        return torch.zeros_like(logits).index_copy_(0, ids, scores.softmax(-1))

    def _candidates(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids that no filter removed, and their logits over the temperature, less the largest of all: [candidates].

        Filters look at few tokens where they can: sorting a vocabulary takes longer than a GPU's token.
        """
        scores = (logits - logits.max()) / self.temperature
        ids = torch.arange(len(scores))
        for kept in (self._top_k, self._top_p, self._min_p):
            places = kept(scores)
            if places is not None:
                ids, scores = ids[places], scores[places]
        return ids, scores

    def _top_k(self, scores: torch.Tensor) -> torch.Tensor | None:
        """Places of the `top_k` largest, and of those that tie with the last of them; None for all."""
        if not self.top_k:
            return None
        least = scores.topk(min(self.top_k, len(scores))).values[-1]
        return (scores >= least).nonzero()[:, 0]

    def _top_p(self, scores: torch.Tensor) -> torch.Tensor | None:
        """Places of the largest, as many as have `top_p` of all probability together; None for all."""
        if self.top_p == 1:
            return None
        total = scores.exp().sum(dtype=torch.float64)
        for count in (*(n for n in FEW if n < len(scores)), len(scores)):
            largest, places = scores.topk(count)
            before = (largest.exp() / total).cumsum(0).roll(1)
            before[0] = 0.0
            enough = before >= self.top_p
            if enough[-1]:
                break
        return places[~enough].sort().values

    def _min_p(self, scores: torch.Tensor) -> torch.Tensor | None:
        """Places of those at least `min_p` times as likely as the likeliest; None for all."""
        if not self.min_p:
            return None
        return (scores >= math.log(self.min_p)).nonzero()[:, 0]


def _require(fits: bool, name: str, range_text: str, value: object) -> None:
    if not fits:
        raise ValueError(f"{name} must be {range_text}, not {value}")
