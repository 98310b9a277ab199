"""What a model's files say about its tokens: the `tokenizers` object, where to stop, the chat template.

Knows what the readers of both formats share: the type they fill and the checks that the `tokenizers` library, which
crashes on some damaged vocabularies, does not make. Knows nothing of file formats or of decoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_TOKENS = 1 << 22


@dataclass(frozen=True)
class Vocabulary:
    """`bos_id`: put before a prompt by us, None where `backend` does it itself or the model wants none.

    `special_tokens`: the names a chat template may use (`bos_token`, ...) and their text.
    """

    backend: Tokenizer
    bos_id: int | None
    stop_ids: frozenset[int]
    chat_template: str | None
    special_tokens: dict[str, str]


def check_bpe(ids: Mapping[str, int], merges: Iterable[tuple[str, str]]) -> None:
    """ValueError unless the ids are distinct and within bounds and every merge joins two tokens to a third."""
    if not ids or min(ids.values()) < 0 or max(ids.values()) >= MAX_TOKENS:
        raise ValueError(f"token ids must lie between 0 and {MAX_TOKENS - 1:,}, and there must be one")
    if len(set(ids.values())) != len(ids):
        raise ValueError("two tokens have the same id")
    for left, right in merges:
        if left not in ids or right not in ids or left + right not in ids:
            raise ValueError(f"the merge {left[:40]!r} + {right[:40]!r} names a token that is not in the vocabulary")


@contextmanager
def one_line(source: object) -> Iterator[None]:
    """Turns what the `tokenizers` library raises, its panics included, into a ValueError of one line about `source`."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise ValueError(reason if reason.startswith(str(source)) else f"{source}: {reason}") from None
