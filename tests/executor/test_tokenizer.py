"""Tokenizers against transformers', the gguf library and brute force, and their refusals."""

from __future__ import annotations

import json
import random
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tpplan.executor.tokenizer import Tokenizer, load_tokenizer

TEXTS = [
    "Hello world",
    "12345 and 3.14, a1b22",
    "  6  7\n 8",
    "Grüße naïve café ½ Ⅷ ٣٤",
    "日本語のテキスト नमस्ते שלום",
    "🙂 👨‍👩‍👧‍👦 🏳️‍🌈",
    "\n\n\t  x\r\n   ",
    "don't I'll WE'VE 's",
    "<|im_start|>user\nhi<|im_end|><|endoftext|>",
    "\x00\x01\ufffd",
    "x" * 300,
    "",
]
CORPUS = ["the cat sat on the mat, the cat ate 12 rats", "Grüße naïve café", "low lower lowest new newer newest"]
CHATML = "{% for m in messages %}<s>{{ m.role }}:{{ m.content }}</s>{% endfor %}"


@pytest.fixture(scope="module")
def demo(demo_gguf: Path) -> Tokenizer:
    return load_tokenizer(demo_gguf)


@pytest.fixture(scope="module")
def reference(demo_gguf: Path) -> Any:
    """transformers' tokenizer of the demo model, with the pre-tokenizer of SmolLM2's own tokenizer.json.

    transformers (5.23) takes GPT-2's for each GGUF file whose `tokenizer.ggml.pre` it does not list, such as smollm:
    it does not set digits apart, so "  6" becomes two spaces and a 6 where the model was trained on one double space.
    """
    tokenizer = AutoTokenizer.from_pretrained(demo_gguf.parent, gguf_file=demo_gguf.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def byte_level(directory: Path, **config: Any) -> Backend:
    """Writes a small byte-level model with BOS into `directory`, as Llama 3's files are made."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|eot|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    backend.save(str(directory / "tokenizer.json"))
    config = {
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>"},
        "chat_template": CHATML,
    } | config
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return backend


def sentencepiece(path: Path, **changed: Any) -> list[tuple[str, float, int]]:
    """Writes a small SentencePiece-style GGUF file; its (token, score, type) rows."""
    rows: list[tuple[str, float, int]] = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    rows += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    merged = ["th", "at", "▁t", "▁th", "the", "▁the", "▁c", "cat", "▁cat", "▁▁", "an", "ana", "nan", "banana"]
    rows += [(token, -float(i), 1) for i, token in enumerate(merged)]
    rows += [(token, -100.0 - i, 1) for i, token in enumerate("▁thecabnsm,.é日")]
    tokens, scores, types = map(list, zip(*rows))
    fields = {"model": "llama", "tokens": tokens, "scores": scores, "token_type": types}
    write_gguf(path, **fields | {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0} | changed)
    return rows


def write_gguf(path: Path, **fields: Any) -> None:
    """A GGUF file with `tokenizer.ggml.*` fields, written by the gguf library."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in fields.items():
        key = name if "." in name else f"tokenizer.ggml.{name}"
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


@pytest.mark.parametrize("text", TEXTS)
def test_demo_encodes_and_decodes_as_transformers(text: str, demo: Tokenizer, reference: Any) -> None:
    """The demo model's ids and texts are transformers' on numbers, scripts, emoji, blanks and special tokens."""
    ids = demo.encode(text)
    assert ids == reference.encode(text)
    assert demo.decode(ids) == reference.decode(ids, skip_special_tokens=True)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=60))
def test_demo_takes_any_text(text: str, demo: Tokenizer, reference: Any) -> None:
    """Any Unicode text encodes as transformers does, and decodes to itself where the vocabulary has all its bytes."""
    ids = demo.encode(text)
    assert ids == reference.encode(text)
    if not any(c in "\x04\x06\x13\x14\x16\x1d" or c >= "\U00040000" for c in text):  # bytes without a token
        assert demo.decode(ids) == text


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 49151), max_size=60))
def test_demo_streams_any_ids_as_transformers_decodes_them(ids: list[int], demo: Tokenizer, reference: Any) -> None:
    """Streamed text of random ids, broken characters included, adds up to transformers' decoding of them all."""
    stream = demo.stream()
    parts = [*map(stream.push, ids), stream.finish()]
    assert "".join(parts) == demo.decode(ids) == reference.decode(ids, skip_special_tokens=True)


def test_stream_waits_for_whole_characters(demo: Tokenizer) -> None:
    """An emoji spelt by several tokens comes out once, whole, and never as a replacement character."""
    ids = demo.encode("a 🦙 日")
    stream = demo.stream()
    parts = [stream.push(token) for token in ids]
    assert len(ids) > 5
    assert "".join(parts) == "a 🦙 日"
    assert not any("\ufffd" in part for part in parts)
    assert sum("🦙" in part for part in parts) == 1


def test_demo_chat_and_stops(demo: Tokenizer, reference: Any) -> None:
    """The chat prompt is transformers', is encoded without another BOS, and <|im_end|> ends the answer."""
    messages = [{"role": "system", "content": "Short."}, {"role": "user", "content": "What is 2 + 2?"}]
    for chat in (messages, messages[1:]):
        text = demo.chat(chat)
        assert text == reference.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        expected = reference.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert demo.encode(text, add_special=False) == expected
    assert demo.stop_ids == {reference.eos_token_id, reference.convert_tokens_to_ids("<|endoftext|>")}


def test_demo_loads_quickly(demo_gguf: Path) -> None:
    """The best of three loads of 49,152 tokens takes well under a second."""
    durations = []
    for _ in range(3):
        started = time.perf_counter()
        load_tokenizer(demo_gguf)
        durations.append(time.perf_counter() - started)
    assert min(durations) < 0.7


@settings(max_examples=30, deadline=None)
@given(text=st.text(alphabet="lower newst <s>|eot/é🙂1", max_size=30))
def test_directory_equals_transformers(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A Hugging Face directory encodes (BOS, special tokens in the text) and decodes as transformers does."""
    directory = tmp_path_factory.mktemp("hf")
    byte_level(directory)
    ours, theirs = load_tokenizer(directory), PreTrainedTokenizerFast.from_pretrained(directory)
    assert ours.encode(text) == theirs.encode(text)
    assert ours.encode(text, add_special=False) == theirs.encode(text, add_special_tokens=False)
    assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text), skip_special_tokens=True)


def test_directory_stop_ids_come_from_every_file(tmp_path: Path) -> None:
    """Ids in generation_config.json and config.json and the tokenizer's own EOS all end an answer."""
    byte_level(tmp_path)
    assert load_tokenizer(tmp_path).stop_ids == {1}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    (tmp_path / "config.json").write_text('{"eos_token_id": 7}')
    assert load_tokenizer(tmp_path).stop_ids == {1, 2, 7}


def test_directory_chat_template_forms(tmp_path: Path) -> None:
    """chat_template.jinja wins over the config, whose list form uses its default; none at all advises --raw."""
    messages = [{"role": "user", "content": "hi"}]
    byte_level(tmp_path)
    assert load_tokenizer(tmp_path).chat(messages) == "<s>user:hi</s>"
    byte_level(
        tmp_path, chat_template=[{"name": "rag", "template": "r"}, {"name": "default", "template": "{{ bos_token }}d"}]
    )
    assert load_tokenizer(tmp_path).chat(messages) == "<s>d"
    (tmp_path / "chat_template.jinja").write_text("{{ eos_token }}file\n")
    assert load_tokenizer(tmp_path).chat(messages) == "</s>file"
    (tmp_path / "chat_template.jinja").unlink()
    byte_level(tmp_path, chat_template=None)
    with pytest.raises(ValueError, match="no chat template; use --raw"):
        load_tokenizer(tmp_path).chat(messages)


def brute_force(text: str, rows: list[tuple[str, float, int]]) -> list[str]:
    """SentencePiece's BPE: join the neighbours that make the best-scored token, leftmost first; bytes for the rest."""
    scores = {token: score for token, score, type_ in rows if type_ == 1}
    parts = list("▁" + text.replace(" ", "▁"))
    while True:
        pairs = [(-scores[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in scores]
        if not pairs:
            break
        i = min(pairs)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    spelt = [[p] if p in scores else [f"<0x{byte:02X}>" for byte in p.encode()] for p in parts]
    return [token for tokens in spelt for token in tokens]


def test_sentencepiece_equals_brute_force(tmp_path: Path) -> None:
    """A `llama` GGUF vocabulary merges by score, falls back to bytes and puts BOS, as SentencePiece does."""
    rows = sentencepiece(tmp_path / "m.gguf")
    tokenizer = load_tokenizer(tmp_path / "m.gguf", vocab=len(rows))
    draw = random.Random(0)
    texts = ["the cat", " banana  the", "日本 é🙂", "x"] + [
        "".join(draw.choices("thecabns é日x", k=20)) for _ in range(200)
    ]
    for text in texts:
        expected = [rows.index(row) for token in brute_force(text, rows) for row in rows if row[0] == token]
        assert tokenizer.encode(text) == [1, *expected]
        assert tokenizer.decode([1, *expected, 2]) == text


def test_sentencepiece_directory_decodes_as_transformers(tmp_path: Path) -> None:
    """Llama 2's decoder in tokenizer.json, byte tokens included, gives transformers' text; broken bytes give U+FFFD."""
    vocab = {"<unk>": 0} | {f"<0x{byte:02X}>": byte + 1 for byte in range(256)} | {"▁": 257, "a": 258, "▁a": 259}
    backend = Backend(models.BPE(vocab, [("▁", "a")], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_tokens(["▁▁▁", "<think>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    for text in ["a a", "  a", "日a é", "🙂🙂", "a   a<think>"]:
        ids = tokenizer.encode(text)
        assert ids == backend.encode(text).ids
        assert tokenizer.decode(ids) == backend.decode(ids) == text
    assert tokenizer.decode([0xE6 + 1, 258]) == "\ufffda"


def test_byte_level_gguf_equals_directory(tmp_path: Path) -> None:
    """The same vocabulary with the names GGUF gives its pre-tokenizer and BOS encodes as from tokenizer.json."""
    byte_level(tmp_path)
    model = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    fields: dict[str, Any] = {
        "model": "gpt2",
        "tokens": sorted(model["vocab"], key=model["vocab"].__getitem__),
        "token_type": [3] * 3 + [1] * (len(model["vocab"]) - 3),
        "merges": [" ".join(merge) for merge in model["merges"]],
        "bos_token_id": 0,
        "eos_token_id": 1,
        "eot_token_id": 2,
    }
    directory = load_tokenizer(tmp_path)
    for pre, adds_bos in [("gpt-2", True), ("gpt-2", False), ("llama-bpe", None), ("qwen2", None), ("default", None)]:
        path = tmp_path / f"{pre}.gguf"
        write_gguf(path, pre=pre, **fields, **({} if adds_bos is None else {"add_bos_token": adds_bos}))
        tokenizer = load_tokenizer(path)
        assert tokenizer.stop_ids == {1, 2}
        bos = [0] if adds_bos or pre == "llama-bpe" else []
        for text in ["the lowest cat", "Grüße</s><|eot|>newer", ""]:
            assert tokenizer.encode(text) == bos + directory.encode(text, add_special=False)
            assert tokenizer.decode(tokenizer.encode(text)) == directory.decode(directory.encode(text))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no tokenizer.json"),
        ("", "damaged or incomplete"),
        ('{"model": {"type": "BPE", "vocab": {"a": 0', "damaged or incomplete"),
        ("[" * 100_000, "damaged or incomplete"),
        (
            '{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}}',
            "'a' [+] 'b' names a token that is not",
        ),
        ('{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["ab"]}}', "is not two tokens"),
        ('{"model": {"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []}}', "same id"),
        ('{"model": {"type": "BPE", "vocab": {"a": 4000000000}, "merges": []}}', "ids must lie between"),
        (
            '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": [{"id": -1}]}',
            "added token's id",
        ),
        (
            '{"model": {"vocab": {"a": 0}}, "post_processor": {"type": "Sequence", "processors": '
            '[{"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}]}]}}',
            "post-processor does not define '<s>'",
        ),
        ('{"version": "1.0", "model": {"type": "Magic", "vocab": {"a": 0}, "merges": []}}', "Magic|variant"),
        ('{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}', "decodes with no decoder"),
    ],
)
def test_damaged_directories_are_one_line(content: str | None, reason: str, tmp_path: Path) -> None:
    """A missing, truncated or lying tokenizer.json is refused in one line that names the directory."""
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=reason) as caught:
        load_tokenizer(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_mutated_files_load_or_are_one_line(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Random damage to tokenizer.json or a GGUF file leaves a tokenizer that works or one line, whatever else."""
    directory = tmp_path_factory.mktemp("damaged")
    path = directory / data.draw(st.sampled_from(["tokenizer.json", "m.gguf"]))
    byte_level(directory) if path.suffix == ".json" else sentencepiece(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path.write_bytes(content)
    refusal = ""
    try:
        tokenizer = load_tokenizer(directory if path.suffix == ".json" else path)
        tokenizer.decode(tokenizer.encode("the cat é"))
    except ValueError as error:
        refusal = str(error)
    assert "\n" not in refusal


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("tokenizer_config.json", '{"chat_template": 3}', "is a int, not text"),
        ("tokenizer_config.json", "[]", "damaged or incomplete"),
        ("generation_config.json", '{"eos_token_id": ["x"]}', "not token ids"),
        ("generation_config.json", '{"eos_token_id": -1}', "not token ids"),
    ],
)
def test_damaged_small_files_are_one_line(name: str, content: str, reason: str, tmp_path: Path) -> None:
    """The small files beside tokenizer.json are checked too."""
    byte_level(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=reason):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"model": "bert"}, "'bert' is not supported"),
        ({"model": "gpt2", "merges": ["a b"], "pre": "strange"}, "pre-tokenizer 'strange' is not supported"),
        ({"model": "gpt2", "merges": ["th zz"]}, "'th' [+] 'zz' names a token that is not"),
        ({"model": "gpt2"}, "merges is missing"),
        ({"tokens": "x"}, "tokens is missing or not a list of str"),
        ({"tokens": ["a", "a"], "token_type": [1, 1]}, "two tokens of the vocabulary are equal"),
        ({"scores": [0.5]}, "scores has 1 entries"),
        ({"token_type": [1]}, "token_type has 1 entries"),
        ({"eos_token_id": 99999}, "eos_token_id is 99999"),
        ({"eos_token_id": "end"}, "eos_token_id is end"),
        ({"tokenizer.chat_template": 7}, "chat_template is a int"),
    ],
)
def test_damaged_gguf_metadata_is_one_line(changed: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """GGUF fields that are unknown, missing or disagree are refused in one line that names the file and the field."""
    sentencepiece(tmp_path / "m.gguf", **changed)
    with pytest.raises(ValueError, match=reason) as caught:
        load_tokenizer(tmp_path / "m.gguf")
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_ids_beyond_the_model_are_refused(tmp_path: Path) -> None:
    """A tokenizer with more ids than the model has embedding rows is refused; fewer are fine."""
    size = byte_level(tmp_path).get_vocab_size()
    assert load_tokenizer(tmp_path, vocab=size).size == size
    with pytest.raises(ValueError, match=f"ids up to {size - 1}, the model only {size - 1} rows"):
        load_tokenizer(tmp_path, vocab=size - 1)
    assert load_tokenizer(tmp_path, vocab=size + 9).decode([size + 3]) == ""


def test_text_that_is_not_unicode_is_refused(tmp_path: Path) -> None:
    """Lone surrogates, as undecodable shell arguments give, are one clear line."""
    byte_level(tmp_path)
    with pytest.raises(ValueError, match=r"^the prompt cannot be encoded: [^\n]+$"):
        load_tokenizer(tmp_path).encode("a\udcff")
