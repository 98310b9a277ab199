"""Text to token ids and back, for one model: prompts, chats, and text streamed as its tokens come.

Knows how tokens spell bytes. Knows nothing of the files they came from (see `hf_tokenizer`, `gguf_tokenizer`).
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import chat_template
from .vocabulary import Vocabulary, one_line

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE}
"""Byte-level BPE (GPT-2) writes the bytes that do not print as the characters from U+0100 on, in order."""
_BYTE_OF |= {chr(0x100 + i): byte for i, byte in enumerate(b for b in range(256) if b not in _PRINTABLE)}
_SPACE = "\u2581"
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


def load_tokenizer(path: str | Path, vocab: int | None = None) -> Tokenizer:
    """The tokenizer of the Hugging Face directory or `.gguf` file at `path`.

    `vocab`: rows of the model's embedding; ValueError where the tokenizer has ids beyond them, or where its files are
    missing, damaged, or of a kind that is not supported. About 0.3 s for 50,000 tokens.
    """
    path = Path(path)
    with one_line(path):
        if path.is_dir():
            from . import hf_tokenizer as reader
        else:
            from . import gguf_tokenizer as reader  # type: ignore[no-redef]
        tokenizer = Tokenizer(reader.read_vocabulary(path))
        if vocab is not None and tokenizer.size > vocab:
            raise ValueError(f"the tokenizer has ids up to {tokenizer.size - 1}, the model only {vocab} rows")
        return tokenizer


class Tokenizer:
    """`stop_ids`: the ids that end an answer. `size`: the highest id plus one."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._backend = vocabulary.backend
        self._added = self._backend.get_added_tokens_decoder()
        self._byte_level, self._strips = _spelling(self._backend.decoder)
        self.stop_ids = vocabulary.stop_ids
        self.size = max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """The ids of `text`, after the BOS token if the model's own tokenizer puts one and `add_special` is true.

        Special tokens written in the text become their ids. False is for text from `chat`, which has its BOS.
        ValueError for text that is not Unicode (lone surrogates).
        """
        with one_line("the prompt cannot be encoded"):
            ids: list[int] = self._backend.encode(text, add_special_tokens=add_special).ids
        bos = self._vocabulary.bos_id
        return [bos, *ids] if add_special and bos is not None else ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, without special tokens; bytes that are not UTF-8 become U+FFFD."""
        stream = Stream(self)
        return "".join([*map(stream.push, ids), stream.finish()])

    def stream(self) -> Stream:
        """A new decoder for ids that come one by one."""
        return Stream(self)

    def chat(self, messages: list[dict[str, str]]) -> str:
        """The model's prompt for `messages` (role and content), to be encoded with `add_special=False`.

        ValueError, advising --raw, where the model has no chat template or it fails.
        """
        if self._vocabulary.chat_template is None:
            raise ValueError(f"the model has no chat template; {chat_template.ADVICE}")
        return chat_template.render(self._vocabulary.chat_template, messages, self._vocabulary.special_tokens)

    def piece(self, token_id: int) -> bytes:
        """The UTF-8 bytes, possibly a part of a character, that a token adds to a text; none for special tokens."""
        added = self._added.get(token_id)
        if added and added.special:
            return b""
        token: str = self._backend.id_to_token(token_id) or ""
        if not self._byte_level:
            return _sentencepiece_piece(token)
        return token.encode() if added else _byte_level_piece(token)


class Stream:
    """Decodes ids one by one; text comes out in whole characters, and what has come out stands."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._piece = tokenizer.piece
        self._strip = tokenizer._strips
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The characters that `token_id` completes, often none."""
        return self._text(self._utf8.decode(self._piece(token_id)))

    def finish(self) -> str:
        """What an unfinished character leaves: U+FFFD or nothing."""
        return self._text(self._utf8.decode(b"", final=True))

    def _text(self, text: str) -> str:
        if self._strip and text:
            self._strip = False
            return text.removeprefix(" ")
        return text


def _spelling(decoder: Any) -> tuple[bool, bool]:
    """Whether tokens are byte-level, and whether a text's first space is dropped; ValueError for other spellings."""
    steps = json.loads(decoder.__getstate__()) if decoder is not None else {"type": "no decoder"}
    steps = steps.get("decoders", [steps])
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return True, False
    for step in steps:
        if step["type"] not in ("Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"):
            raise ValueError(
                f"the tokenizer decodes with {', '.join(kinds)}; byte-level and SentencePiece are supported"
            )
    return False, "Strip" in kinds or any(step.get("prepend_scheme", "never") != "never" for step in steps)


def _byte_level_piece(token: str) -> bytes:
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:
        return token.encode()


def _sentencepiece_piece(token: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(_SPACE, " ").encode()
