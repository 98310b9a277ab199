"""The smallest changes with which a model would fit: each is checked by a solve of its own.

Knows contexts, batches, number formats, splits by hand, caps, memory and devices as knobs. Knows nothing of time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import ceil
from typing import TYPE_CHECKING

from .limits import GIB, MIB
from .memory import device_caps
from .plan import Dtype
from .weight_formats import bytes_per_weight
from .wishes import given_by_hand

if TYPE_CHECKING:
    from .infeasible import Case

FORMATS: tuple[Dtype, ...] = ("bfloat16", "int8", "int4")
MOST_MIB = 2**24
PRECISION = 0.01  # of memory that is missing


def fixes(case: Case) -> list[str]:
    """Every change that was found to help, as it is written on the command line where it can be.

    Changes of the request are single ones; where none helps, together with a shorter number format. Memory is named
    where no cap can be raised instead, one more device where no change of the request helps.
    """
    caps = _cap_fix(case)
    found = [*_context_fix(case), *_batch_fix(case), *_format_fix(case), *_by_hand_fix(case), *caps]
    found = found or _with_shorter_formats(case)
    return [*found, *([] if caps else _memory_fix(case)), *([] if found else _device_fix(case))]


def _with_shorter_formats(case: Case) -> list[str]:
    """Number formats together with another change, the longest formats with which one helps."""
    for words, shorter in _formats(case):
        rest = _context_fix(shorter) + _batch_fix(shorter) + _by_hand_fix(shorter) + _cap_fix(shorter)
        if rest:
            return [f"{words} and {fix}" for fix in rest]
    return []


def _context_fix(case: Case) -> list[str]:
    w = case.request.workload
    least = w.prompt_tokens + w.new_tokens
    if w.context == least or not case.at_work(context=least).fits():
        return []
    return [f"--context {_largest(lambda n: case.at_work(context=n).fits(), least, w.context - 1)}"]


def _batch_fix(case: Case) -> list[str]:
    batch = case.request.workload.batch
    if batch == 1 or not case.at_work(batch=1).fits():
        return []
    return [f"--batch {_largest(lambda n: case.at_work(batch=n).fits(), 1, batch - 1)}"]


def _format_fix(case: Case) -> list[str]:
    """A shorter cache; the longest shorter weights that fit; where neither does alone, both."""
    formats = _formats(case)
    single = [words for words, shorter in formats if " and " not in words and shorter.fits()]
    alone = [w for w in single if w.startswith("--cache")] + [w for w in single if w.startswith("--dtype")][:1]
    pairs = (words for words, shorter in formats if " and " in words and not alone and shorter.fits())
    return alone or [words for words in [next(pairs, "")] if words]


def _formats(case: Case) -> list[tuple[str, Case]]:
    """Shorter number formats of the KV cache, of the weights, and of both, with the case that has them."""
    dtype, model = case.request.dtype, case.model
    assert dtype
    shorter = [form for form in FORMATS if bytes_per_weight(model, form) < bytes_per_weight(model, dtype)]
    weights = [(f"--dtype {form}", case.but(dtype=form)) for form in shorter]
    if case.request.cache_dtype == "bfloat16":
        return weights
    words = "--cache-dtype bfloat16"
    both = [(f"{name} and {words}", other.but(cache_dtype="bfloat16")) for name, other in weights]
    return [(words, case.but(cache_dtype="bfloat16")), *weights, *both]


def _by_hand_fix(case: Case) -> list[str]:
    """What was given by hand is taken back one by one, or, where that does not help, all at once."""
    names = list(given_by_hand(case.request))
    single = [name for name in names if case.but(**{name: None}).fits()]
    if single or len(names) < 2:
        return [f"no {_option(name)}" for name in single]
    return [f"no {' and no '.join(map(_option, names))}"] if case.but(**dict.fromkeys(names)).fits() else []


def _cap_fix(case: Case) -> list[str]:
    """The device whose cap needs least, within what it has free; where no single one suffices, all to one level."""
    given = case.request.caps
    singles = [answer for name in given if (answer := _raised(case, (name,)))]
    if singles:
        best = min(singles, key=lambda caps: sum(caps.values()) - sum(given[name] for name in caps))
    else:
        best = (len(given) > 1 and _raised(case, tuple(given))) or {}
    return [" ".join(f"--cap {name}={cap // MIB}MiB" for name, cap in best.items())] if best else []


def _raised(case: Case, names: tuple[str, ...]) -> dict[str, int] | None:
    """The lowest caps in whole MiB for these devices that fit, those that must rise."""
    free = dict(zip((d.name for d in case.profile.devices), device_caps(case.profile, {})))
    given = case.request.caps

    def at(mib: int) -> dict[str, int]:
        levels = {name: min(mib, free[name] // MIB) * MIB for name in names}
        return {name: level for name, level in levels.items() if level > given[name]}

    def enough(mib: int) -> bool:
        return case.but(caps=given | at(mib)).fits()

    most = max((free[name] // MIB for name in names), default=0)
    return at(_smallest(enough, 0, most)) if at(most) and enough(most) else None


def _memory_fix(case: Case) -> list[str]:
    """The device that needs least memory beyond what it has free, found to a hundredth; the others' caps stay."""
    least, best = MOST_MIB, ""
    for device in case.profile.devices:
        enough = partial(_fits_grown, case, device.name)
        if enough(int(least * (1 - PRECISION))):
            least, best = _smallest(enough, 0, int(least * (1 - PRECISION)), PRECISION), device.name
    uncapped = f" and no --cap {best}" if best in case.request.caps else ""
    return [f"{_rounded_up(least)} more memory on {best} than it has free{uncapped}"] if best else []


def _fits_grown(case: Case, name: str, mib: int) -> bool:
    return case.grown(name, mib * MIB).fits()


def _rounded_up(mib: int) -> str:
    return f"{mib} MiB" if mib < 4096 else f"{ceil(10 * mib * MIB / GIB) / 10:.1f} GiB"


def _device_fix(case: Case) -> list[str]:
    """A copy of one of the GPUs, the one with least memory that suffices."""
    gpus = sorted((d for d in case.profile.devices if d.kind != "cpu"), key=lambda d: d.free_bytes)
    enough = next((d.name for d in gpus if case.copied(d.name).fits()), None)
    return [f"one more device like {enough}"] if enough else []


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _largest(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The largest n in low..high that holds; `low` does, and so does everything below one that does."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _smallest(holds: Callable[[int], bool], low: int, high: int, precision: float = 0.0) -> int:
    """The smallest n in low..high that holds, or one that is larger by at most the share `precision`; `high` does."""
    while low < high and high - low > precision * high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return high
