"""The vocabulary of a Hugging Face model directory: tokenizer.json and the small files beside it.

Knows which file holds what, and which one wins. Knows nothing of encoding or of models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer

from ..hwprofiles.files import read_small
from .vocabulary import MAX_TOKENS, Vocabulary, check_bpe


class _Model(msgspec.Struct):
    type: str | None = None
    vocab: dict[str, int] | list[Any] = {}
    merges: list[str | tuple[str, str]] = []


class _AddedToken(msgspec.Struct):
    id: int


class _Named(msgspec.Struct):
    id: str


class _Piece(msgspec.Struct):
    SpecialToken: _Named | None = None


class _Processor(msgspec.Struct):
    single: list[_Piece] = []
    special_tokens: dict[str, Any] = {}
    processors: list[_Processor] = []


class _TokenizerJson(msgspec.Struct):
    model: _Model
    added_tokens: list[_AddedToken] = []
    post_processor: _Processor | None = None


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary of the directory `path`; tokenizer.json puts a BOS token itself. ValueError for damaged files."""
    data = _read(path / "tokenizer.json")
    if data is None:
        raise ValueError("no tokenizer.json; name a directory that has one, or a .gguf file")
    _check(data)
    backend = Tokenizer.from_buffer(data)
    backend.no_truncation()
    backend.no_padding()
    config = _object(path / "tokenizer_config.json")
    names = _special_tokens(_object(path / "special_tokens_map.json")) | _special_tokens(config)
    _mark_special(backend, names)
    stop_ids = _eos_ids(_object(path / "generation_config.json")) | _eos_ids(_object(path / "config.json"))
    eos = backend.token_to_id(names.get("eos_token", ""))
    stop_ids |= frozenset() if eos is None else {eos}
    return Vocabulary(backend, None, stop_ids, _chat_template(path, config), names)


def _read(path: Path) -> bytes | None:
    """The file's bytes, or None where there is no such file."""
    return read_small(path) if path.is_file() else None


def _decode(name: str, data: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{name} is damaged or incomplete: {error}") from None


def _object(path: Path) -> dict[str, Any]:
    data = _read(path)
    return {} if data is None else _decode(path.name, data, dict[str, Any])


def _check(data: bytes) -> None:
    """ValueError for what the `tokenizers` library would crash on."""
    content: _TokenizerJson = _decode("tokenizer.json", data, _TokenizerJson)
    if any(not 0 <= token.id < MAX_TOKENS for token in content.added_tokens):
        raise ValueError(f"tokenizer.json: an added token's id is not between 0 and {MAX_TOKENS - 1:,}")
    model = content.model
    if isinstance(model.vocab, dict):
        check_bpe(model.vocab, map(_pair, model.merges))
    if content.post_processor:
        _check_processor(content.post_processor)


def _check_processor(processor: _Processor) -> None:
    for piece in processor.single:
        if piece.SpecialToken and piece.SpecialToken.id not in processor.special_tokens:
            raise ValueError(f"tokenizer.json: its post-processor does not define {piece.SpecialToken.id[:40]!r}")
    for part in processor.processors:
        _check_processor(part)


def _pair(merge: str | tuple[str, str]) -> tuple[str, str]:
    if isinstance(merge, tuple):
        return merge
    left, space, right = merge.partition(" ")
    if not space or " " in right:
        raise ValueError(f"tokenizer.json: the merge {merge[:80]!r} is not two tokens")
    return left, right


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """The `..._token` entries, each a string or an object with its `content`."""
    entries = {name: value for name, value in config.items() if name.endswith("_token")}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in entries.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _mark_special(backend: Tokenizer, names: dict[str, str]) -> None:
    """The named tokens that tokenizer.json holds as plain ones become special, as in transformers."""
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    plain = [text for text in names.values() if text not in added and backend.token_to_id(text) is not None]
    backend.add_special_tokens(plain)


def _eos_ids(config: dict[str, Any]) -> frozenset[int]:
    ids = config.get("eos_token_id")
    ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
    if any(type(token) is not int or not 0 <= token < MAX_TOKENS for token in ids):
        raise ValueError(f"eos_token_id is {str(ids)[:80]}, not token ids")
    return frozenset(ids)


def _chat_template(path: Path, config: dict[str, Any]) -> str | None:
    """chat_template.jinja, else tokenizer_config.json's template, where a list holds named ones."""
    if (text := _read(path / "chat_template.jinja")) is not None:
        return text.decode()
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise ValueError(f"the chat template in tokenizer_config.json is a {type(template).__name__}, not text")
    return template
