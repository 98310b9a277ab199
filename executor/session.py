"""A plan opened on this machine, ready to generate.

Knows when to load (see `loading`) and the loop of generation. Knows nothing of text (see `tokenizer`) or how plans are
found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

from ..hwprofiles.device_names import is_gpu
from ..planner.model_spec import ModelSpec
from ..planner.plan import DTYPE_BYTES, Phase, Plan
from ..planner.steps import Kind
from ..planner.weight_formats import matrix_bytes
from .gpu.requirements import check_torch, check_triton
from .loading import DTYPES
from .opening import open_on_cpus, refuse_what_cannot_run
from .passes import Runner
from .sampling import Sampler
from .trace import Trace
from .weight_files import WeightFiles, open_weights


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

    def __init__(self, plan: Plan, model: ModelSpec, runners: Mapping[Phase, Runner], logits: torch.Tensor) -> None:
        self.plan, self.model, self.logits = plan, model, logits
        self._runners, self._held = runners, ExitStack()
        self.trace: Trace | None = None
        self.notes: list[str] = []  # what a user should know of how the weights are held

    @classmethod
    def open(
        cls,
        plan: Plan,
        model: ModelSpec,
        path: str | Path,
        progress: Callable[[int], None] = lambda loaded_bytes: None,
    ) -> Session:
        """Loads every device's slices, all devices at once, telling `progress` the bytes of weights as they come.

        ValueError when plan, model, files or machine disagree.
        """
        if model.fingerprint != plan.model_fingerprint:
            raise ValueError(f"the plan was made for another model than {path}; run tpplan solve {path} again")
        refuse_what_cannot_run(plan, model)
        logits = torch.zeros(model.vocab)
        with ExitStack() as held, open_weights(path, model) as files:
            open_devices = _open_with_gpus if any(map(is_gpu, plan.devices)) else open_on_cpus
            runners = open_devices(plan, model, files, logits, progress, held)
            session = cls(plan, model, runners, logits)
            session._held = held.pop_all()
            if plan.workload.batch > 1:
                session.notes.append(f"the plan is for {plan.workload.batch} sequences at once; one was generated")
            if plan.dtype not in DTYPES:
                session.notes += [
                    f"{count} matrices in {kind} are held as float32: {kind} is not computed with as it is"
                    for kind, count in files.widened.items()
                ]
            return session

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._held.close()

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
        tokens: list[int] = []
        reason, steps, started = "length", 0, time.perf_counter()
        first = last = started
        with closing(self._tokens(prompt_ids, max_new_tokens, sampler)) as stream:
            for steps, token in enumerate(stream):
                last = time.perf_counter()
                first = last if steps == 0 else first
                if token in stop_ids:
                    reason = "stop"
                    break
                tokens.append(token)
                on_token(token)
        per_token_s = (last - first) / steps if steps else 0.0
        read_bytes = self.read_bytes_per_token(len(prompt_ids) + steps // 2)
        return Generation(tuple(tokens), reason, first - started, per_token_s, read_bytes)

    def _tokens(self, prompt_ids: Sequence[int], count: int, sampler: Sampler) -> Generator[int, None, None]:
        """`count` tokens after the prompt. Greedy ones may be handed from device to device, without the host."""
        position = len(prompt_ids)
        yield (token := self._prefill(prompt_ids, sampler))
        if sampler.greedy and self.trace is None:
            yield from self._runners["decode"].decode(token, position, count - 1)
        else:
            for at in range(position, position + count - 1):
                yield (token := self.step([token], at, sampler))

    def step(self, tokens: Sequence[int], position: int, sampler: Sampler | None, phase: Phase = "decode") -> int:
        """One pass; the next token by `sampler`, or -1 without one (then no logits are made).

        `phase`: whose way of summing counts; a chunk of a prompt is prefill, of one token too.
        """
        started_ns, runner = time.monotonic_ns(), self._runners[phase]
        runner.timed = self.trace is not None
        runner.run(tokens, position, logits=sampler is not None)
        if self.trace is not None:
            self.trace.add(started_ns, len(tokens), runner.all_programs)
        if sampler is None:
            return -1
        if sampler.greedy:
            return runner.best_token()
        runner.gather_logits()
        return sampler(self.logits)

    def _prefill(self, prompt_ids: Sequence[int], sampler: Sampler) -> int:
        token, rows = -1, self.plan.workload.chunk_rows
        for begin in range(0, len(prompt_ids), rows):
            chunk = prompt_ids[begin : begin + rows]
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
        steps = [step for program in self._runners["decode"].all_programs for step in program.steps]
        weights = sum(
            matrix_bytes(self.model, self.plan.dtype, s.in_features * s.out_features, s.role)
            for s in steps
            if s.kind is Kind.LINEAR
        )
        cached = sum(2 * s.in_features for s in steps if s.kind is Kind.ATTENTION)
        return weights + cached * DTYPE_BYTES[self.plan.cache_dtype] * context


def _open_with_gpus(
    plan: Plan,
    model: ModelSpec,
    files: WeightFiles,
    logits: torch.Tensor,
    progress: Callable[[int], None],
    held: ExitStack,
) -> Mapping[Phase, Runner]:
    """Not imported before a plan needs it: Triton is optional."""
    check_torch()
    check_triton()
    from .gpu.opening import open_with_gpus

    return open_with_gpus(plan, model, files, logits, progress, held)
