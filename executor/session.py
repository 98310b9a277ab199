"""A plan opened on this machine, ready to generate.

Knows when to load (see `loading`) and the loop of generation. Knows nothing of text (see `tokenizer`) or how plans are
found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import msgspec
import torch

from ..hwprofiles.device_names import cores_of
from ..hwprofiles.host_memory import available_bytes
from ..kernels.worker import Worker
from ..planner.memory import device_bytes
from ..planner.model_spec import ModelSpec
from ..planner.plan import DTYPE_BYTES, PREFILL_CHUNK, Phase, Plan
from ..planner.steps import Kind
from ..planner.weight_formats import matrix_bytes
from .loading import DTYPES, Runners, load
from .phases import phase_steps, steps_of_any_phase
from .sampling import Sampler
from .trace import Trace
from .weight_files import check_weights, open_weights


@dataclass(frozen=True)
class Generation:
    """`prefill_s`: first prompt token to first new token. `decode_s_per_token`: mean over the later ones, 0 if none."""

    token_ids: tuple[int, ...]
    finish_reason: str
    prefill_s: float
    decode_s_per_token: float
    read_bytes_per_token: int

    @property
    def decode_tokens_per_s(self) -> float:
        return 1 / self.decode_s_per_token if self.decode_s_per_token else 0.0


class Session:
    """Use as `with Session.open(plan, model, path) as session`; leaving it ends all threads and frees the memory."""

    def __init__(
        self, plan: Plan, model: ModelSpec, workers: dict[int, Worker], runners: Runners, logits: torch.Tensor
    ) -> None:
        self.plan, self.model, self.logits = plan, model, logits
        self._workers, self._runners = workers, runners
        self.trace: Trace | None = None
        self.notes: list[str] = []  # what a user should know of how the weights are held

    @classmethod
    def open(cls, plan: Plan, model: ModelSpec, path: str | Path) -> Session:
        """Loads every device's slices, all devices at once. ValueError when plan, model, files or machine disagree."""
        if model.fingerprint != plan.model_fingerprint:
            raise ValueError(f"the plan was made for another model than {path}; run tpplan solve {path} again")
        _refuse_what_cannot_run(plan, model)
        cores = {name: cores_of(name) for name in plan.devices}
        _refuse_full_memory(plan, model)
        steps = phase_steps(model, plan.split)
        busy = [d for d in range(len(plan.devices)) if steps_of_any_phase(steps, d)]
        workers = {d: Worker(name := plan.devices[d], cores[name]) for d in busy}
        try:
            with open_weights(path, model) as files:
                check_weights(files, model)
                logits = torch.zeros(model.vocab)
                session = cls(plan, model, workers, load(plan, model, files, workers, logits), logits)
                if plan.dtype not in DTYPES:
                    session.notes = [
                        f"{count} matrices in {kind} are held as float32: {kind} is not computed with as it is"
                        for kind, count in files.widened.items()
                    ]
                return session
        except BaseException:
            _close(workers.values())
            raise

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._runners["decode"].staging.abort()
        _close(self._workers.values())

    def generate(
        self,
        prompt_ids: Sequence[int],
        max_new_tokens: int,
        sampler: Sampler,
        stop_ids: Collection[int] = (),
        on_token: Callable[[int], None] = lambda token: None,
    ) -> Generation:
        """Streams new ids through `on_token` until a stop id (not streamed) or `max_new_tokens`.

        ValueError when the prompt is empty, has unknown ids, or does not fit the plan's context with the new tokens.
        """
        self._refuse(prompt_ids, max_new_tokens)
        started = time.perf_counter()
        token = self._prefill(prompt_ids, sampler)
        first = time.perf_counter()
        tokens: list[int] = []
        reason, position, last = "length", len(prompt_ids), first
        while True:
            if token in stop_ids:
                reason = "stop"
                break
            tokens.append(token)
            on_token(token)
            if len(tokens) == max_new_tokens:
                break
            token = self.step([token], position, sampler)
            last = time.perf_counter()
            position += 1
        decoded = position - len(prompt_ids)
        per_token_s = (last - first) / decoded if decoded else 0.0
        read_bytes = self.read_bytes_per_token(len(prompt_ids) + decoded // 2)
        return Generation(tuple(tokens), reason, first - started, per_token_s, read_bytes)

    def step(self, tokens: Sequence[int], position: int, sampler: Sampler | None, phase: Phase = "decode") -> int:
        """One pass; the next token by `sampler`, or -1 without one (then no logits are made).

        `phase`: whose way of summing counts; a chunk of a prompt is prefill, of one token too.
        """
        started_ns, runner = time.monotonic_ns(), self._runners[phase]
        runner.run(tokens, position, logits=sampler is not None)
        if self.trace is not None:
            self.trace.add(started_ns, len(tokens), runner.programs)
        if sampler is None:
            return -1
        return runner.best_token() if sampler.greedy else sampler(self.logits)

    def _prefill(self, prompt_ids: Sequence[int], sampler: Sampler) -> int:
        token = -1
        for begin in range(0, len(prompt_ids), PREFILL_CHUNK):
            chunk = prompt_ids[begin : begin + PREFILL_CHUNK]
            last = begin + len(chunk) == len(prompt_ids)
            token = self.step(chunk, begin, sampler if last else None, "prefill")
        return token

    def _refuse(self, prompt_ids: Sequence[int], max_new_tokens: int) -> None:
        context = self.plan.workload.context
        if not prompt_ids:
            raise ValueError("the prompt is empty; give at least one token")
        if max_new_tokens < 1:
            raise ValueError("nothing to generate: --max-new-tokens must be at least 1")
        if max(prompt_ids) >= self.model.vocab or min(prompt_ids) < 0:
            raise ValueError(f"the tokenizer gave id {max(prompt_ids)}, but the model has {self.model.vocab} tokens")
        longest = len(prompt_ids) + max_new_tokens - 1  # the last new token is never fed back
        if longest > self.model.context:
            raise ValueError(
                f"{len(prompt_ids)} prompt tokens and {max_new_tokens} new ones exceed the model's "
                f"{self.model.context} positions: ask for less"
            )
        if longest > context:
            raise ValueError(
                f"{len(prompt_ids)} prompt tokens and {max_new_tokens} new ones exceed the plan's context, {context}: "
                f"ask for less, or run tpplan solve with --context {longest}"
            )

    def read_bytes_per_token(self, context: int) -> int:
        """Bytes of weights and cache that all devices read for one token at `context` cached positions."""
        steps = [bound.step for program in self._runners["decode"].programs for bound in program.bound]
        weights = sum(
            matrix_bytes(self.model, self.plan.dtype, s.in_features * s.out_features, s.role)
            for s in steps
            if s.kind is Kind.LINEAR
        )
        cached = sum(2 * s.in_features for s in steps if s.kind is Kind.ATTENTION)
        return weights + cached * DTYPE_BYTES[self.plan.cache_dtype] * context


def _refuse_what_cannot_run(plan: Plan, model: ModelSpec) -> None:
    for name in plan.devices:
        if not name.startswith("cpu"):
            raise ValueError(
                f"the plan is for a device {name!r}, which run cannot use: plans for machines of the catalogue can be "
                "simulated and exported"
            )
    if plan.dtype not in DTYPES and not (plan.dtype == "native" or model.quant is not None):
        raise ValueError(
            f"the plan holds weights in {plan.dtype}, which run cannot use yet: such plans can be simulated and "
            "exported; to run the model, solve with --dtype bfloat16 or float32"
        )


def _refuse_full_memory(plan: Plan, model: ModelSpec) -> None:
    one_sequence = msgspec.structs.replace(plan.workload, batch=1)
    needed = sum(held.total for held in device_bytes(model, plan.split, one_sequence, plan.dtype, plan.cache_dtype))
    if needed > (free := available_bytes()):
        raise ValueError(
            f"the plan needs {needed / 2**20:.0f} MiB of host memory, {free / 2**20:.0f} MiB are free: "
            "close other programs, or run tpplan profile and solve again"
        )


def _close(workers: Collection[Worker]) -> None:
    for worker in workers:
        worker.close()
