"""The vocabulary in a GGUF file's metadata: byte-level BPE (`gpt2`) and SentencePiece (`llama`) models.

Knows llama.cpp's keys and defaults. Knows nothing of encoding or models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from ..planner.gguf_header import read_header
from .gguf_splits import SPLITS, WHOLE_WORDS
from .vocabulary import Vocabulary, check_bpe

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
MAX_TOKEN_CHARACTERS = 256
MAX_CHARACTERS = 1 << 24
END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>")


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary of the GGUF file `path`; ValueError for damaged metadata and for kinds that are not supported."""
    fields = read_header(path).metadata
    kind = fields.get("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise ValueError(f"tokenizer model {str(kind)[:40]!r} is not supported; 'gpt2' and 'llama' are")
    tokens = _list(fields, "tokens", str)
    types = _list(fields, "token_type", int, len(tokens), [NORMAL] * len(tokens))
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise ValueError("two tokens of the vocabulary are equal")
    backend = _byte_level(fields, ids) if kind == "gpt2" else _sentencepiece(fields, tokens, types)
    _add_special(backend, tokens, types)
    special = {
        name: _token_id(fields, name, len(tokens)) for name in ("bos", "eos", "eot", "eom", "unknown", "padding")
    }
    adds_bos = fields.get("tokenizer.ggml.add_bos_token", kind == "llama" or _pre(fields) in WHOLE_WORDS)
    return Vocabulary(
        backend,
        special["bos"] if adds_bos else None,
        _stop_ids(special, ids, types),
        _template(fields),
        _names(special, tokens),
    )


def _list(fields: dict[str, Any], name: str, kind: type, length: int | None = None, default: Any = None) -> list[Any]:
    values = fields.get(f"tokenizer.ggml.{name}", default)
    if not isinstance(values, list) or (values and type(values[0]) is not kind):
        raise ValueError(f"tokenizer.ggml.{name} is missing or not a list of {kind.__name__}")
    if length is not None and len(values) != length:
        raise ValueError(f"tokenizer.ggml.{name} has {len(values)} entries for {length} tokens")
    return values


def _pre(fields: dict[str, Any]) -> str:
    return str(fields.get("tokenizer.ggml.pre", "default"))


def _byte_level(fields: dict[str, Any], ids: dict[str, int]) -> Tokenizer:
    pre = _pre(fields)
    if pre not in SPLITS:
        raise ValueError(f"pre-tokenizer {pre[:40]!r} is not supported; these are: {', '.join(SPLITS)}")
    merges = [_pair(merge) for merge in _list(fields, "merges", str)]
    check_bpe(ids, merges)
    backend = Tokenizer(BPE(ids, merges, ignore_merges=pre in WHOLE_WORDS))
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(split), "isolated") for split in SPLITS[pre]]
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    return backend


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _sentencepiece(fields: dict[str, Any], tokens: list[str], types: list[int]) -> Tokenizer:
    """BPE whose merges are those that make a token, the highest score first, as SentencePiece merges."""
    ids = {token: i for i, token in enumerate(tokens)}
    scores = _list(fields, "scores", float, len(tokens))
    unknown = _token_id(fields, "unknown", len(tokens))
    merges = _merges(tokens, types, scores)
    check_bpe(ids, merges)
    backend = Tokenizer(
        BPE(ids, merges, unk_token=None if unknown is None else tokens[unknown], fuse_unk=True, byte_fallback=True)
    )
    prefix = [normalizers.Prepend("▁")] if fields.get("tokenizer.ggml.add_space_prefix", True) else []
    backend.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return backend


def _merges(tokens: list[str], types: list[int], scores: list[float]) -> list[tuple[str, str]]:
    lengths = [len(token) for token in tokens]
    if max(lengths, default=0) > MAX_TOKEN_CHARACTERS or sum(lengths) > MAX_CHARACTERS:
        raise ValueError(f"tokens longer than {MAX_TOKEN_CHARACTERS} characters, or {MAX_CHARACTERS:,} in all")
    pieces = {token for token, type_ in zip(tokens, types) if type_ == NORMAL}
    ranked = sorted((-score, i) for i, score in enumerate(scores) if types[i] == NORMAL)
    halves = ((tokens[i][:cut], tokens[i][cut:]) for _, i in ranked for cut in range(1, len(tokens[i])))
    return [(left, right) for left, right in halves if left in pieces and right in pieces]


def _add_special(backend: Tokenizer, tokens: list[str], types: list[int]) -> None:
    """Tokens that text is cut at first: control tokens are special, user-defined ones plain."""
    size = backend.get_vocab_size()
    for special, kinds in ((True, (CONTROL, UNKNOWN)), (False, (USER_DEFINED,))):
        found = [token for token, type_ in zip(tokens, types) if type_ in kinds and token]
        added = [AddedToken(token, normalized=False, special=special) for token in found]
        (backend.add_special_tokens if special else backend.add_tokens)(added)
    assert backend.get_vocab_size() == size, "tokens of the vocabulary keep their ids"


def _token_id(fields: dict[str, Any], name: str, size: int) -> int | None:
    token = fields.get(f"tokenizer.ggml.{name}_token_id")
    if token is not None and (type(token) is not int or not 0 <= token < size):
        raise ValueError(f"tokenizer.ggml.{name}_token_id is {str(token)[:40]}, not the id of one of {size} tokens")
    return token


def _stop_ids(special: dict[str, int | None], ids: dict[str, int], types: list[int]) -> frozenset[int]:
    """The declared ends, and the control tokens that end a turn by their name, as llama.cpp finds them."""
    named = {ids[token] for token in END_OF_TURN if token in ids and types[ids[token]] == CONTROL}
    declared = {token for name in ("eos", "eot", "eom") if (token := special[name]) is not None}
    return frozenset(named | declared)


def _names(special: dict[str, int | None], tokens: list[str]) -> dict[str, str]:
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    return {name: tokens[i] for key, name in names.items() if (i := special[key]) is not None}


def _template(fields: dict[str, Any]) -> str | None:
    template = fields.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise ValueError(f"tokenizer.chat_template is a {type(template).__name__}, not text")
    return template
