"""Tokenizers by folder: the ids and texts of the original, of LLaMA in both manners; our own."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_jax.config import ConfigError
from gem_jax.tokenizer import EOS, load_tokenizer, save_tokenizer, train_tokenizer

GOLDENS = Path(__file__).parent / "goldens"
RAW = json.loads((GOLDENS / "text.json").read_text())["tokenizer_raw"]
TEXTS = ["Rate 72 bpm. Axis normal, 45 degrees.", "USER: <image>\nDescribe this ECG. ASSISTANT:"]
OWN = train_tokenizer(TEXTS * 4, 400)
KINDS = ("llama legacy", "llama later", "qwen")


def changed(folder, dest, **settings):
    """A copy of a tokenizer's folder with other settings."""
    shutil.copytree(folder, dest, copy_function=shutil.copyfile)
    path = dest / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return dest


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    llama, folder = GOLDENS / "tokenizer_llama", tmp_path_factory.mktemp("tokenizers")
    later = changed(llama, folder / "later", legacy=False)
    folders = (llama, later, GOLDENS / "tokenizer_qwen")
    return {kind: load_tokenizer(each) for kind, each in zip(KINDS, folders, strict=True)}


def kind_of(case):
    return KINDS[2] if case["tokenizer"] == "qwen" else KINDS[not case["legacy"]]


@pytest.mark.parametrize("case", RAW, ids=lambda case: f"{kind_of(case)} {case['text']!r}")
def test_ids_and_texts_are_the_originals(case, tokenizers):
    tokenizer = tokenizers[kind_of(case)]
    assert tokenizer.encode_with_bos(case["text"]) == case["ids"]
    assert tokenizer.decode(case["ids"]) == case["decoded_skip_special"]


def test_the_two_manners_of_llama_differ_after_a_special_token(tokenizers):
    legacy, later = (tokenizers[kind].encode("x</s>y").ids for kind in KINDS[:2])
    assert legacy != later
    assert len(legacy) == len(later) + 1


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(st.sampled_from("a1 é✓\n:</s>▁"), max_size=20))
def test_pieces_lie_in_order_and_cover_every_character(kind, text, tokenizers):
    pieces = tokenizers[kind].encode(text)
    covered = set()
    for start, end in zip(pieces.starts, pieces.ends, strict=True):
        covered |= set(range(start, end))
    assert covered == set(range(len(text)))
    assert list(pieces.starts) == sorted(pieces.starts)


@pytest.mark.parametrize("kind", KINDS)
def test_a_special_token_in_the_text_is_its_id(kind, tokenizers):
    tokenizer = tokenizers[kind]
    for name, id in tokenizer.special.items():
        pieces = tokenizer.encode(f"ab{name}")
        assert (pieces.ids[-1], pieces.starts[-1], pieces.ends[-1]) == (id, 2, 2 + len(name))
        assert name not in tokenizer.decode(pieces.ids)
        assert tokenizer.decode(pieces.ids, skip_special=False).endswith(name)


def test_special_ids_and_the_size_are_those_of_the_files(tokenizers):
    llama, qwen = tokenizers["llama legacy"], tokenizers["qwen"]
    assert (llama.bos_id, llama.eos_id, llama.unk_id, llama.pad_id) == (1, 2, 0, None)
    assert (llama.num_tokens, llama.adds_bos) == (512, True)
    assert (qwen.bos_id, qwen.eos_id, qwen.pad_id, qwen.unk_id) == (None, 498, 496, None)
    assert (qwen.num_tokens, qwen.adds_bos) == (499, False)
    assert qwen.token_id("!") == 0  # no padding: a character
    assert qwen.token_id("<s>") is None


def test_without_add_bos_token_there_is_none(tmp_path):
    folder = changed(GOLDENS / "tokenizer_llama", tmp_path / "bare", add_bos_token=False)
    assert load_tokenizer(folder).encode_with_bos("Hello") == [431, 464, 464, 462]


def test_added_tokens_lengthen_the_vocabulary(tmp_path):
    folder = changed(GOLDENS / "tokenizer_llama", tmp_path / "added")
    (folder / "added_tokens.json").write_text('{"<pad>": 512}')
    tokenizer = load_tokenizer(folder)
    assert tokenizer.num_tokens == 513
    assert tokenizer.encode("a<pad>").ids[-1] == 512


def test_tokenizer_json_alone_reads_as_vocabulary_and_merges_do(tmp_path):
    official = GOLDENS / "gem_qwen_tiny"
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(official / name, alone / name)
    merged = tmp_path / "merged"
    merged.mkdir()
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json"):
        shutil.copyfile(official / name, merged / name)
    first, second = load_tokenizer(alone), load_tokenizer(merged)
    for case in RAW:
        assert first.encode(case["text"]) == second.encode(case["text"])
    assert (first.special, first.num_tokens) == (second.special, second.num_tokens)


def test_beside_a_tokenizer_json_the_tokenizer_model_decides(tmp_path):
    folder = changed(GOLDENS / "tokenizer_llama", tmp_path / "both")
    (folder / "tokenizer.json").write_bytes(OWN.files["tokenizer.json"])
    assert load_tokenizer(folder).encode("Hello").ids == (431, 464, 464, 462)
    (folder / "tokenizer.model").unlink()
    assert load_tokenizer(folder).encode("Hello").ids != (431, 464, 464, 462)


@given(st.text(max_size=40))
def test_our_own_gives_every_text_back(text):
    assert OWN.decode(OWN.encode(text).ids, skip_special=False) == text


def test_digits_are_single_pieces_of_our_own():
    pieces = OWN.encode("Rate 172 bpm")
    lengths = [end - start for start, end in zip(pieces.starts, pieces.ends, strict=True)]
    digits = [
        length for start, length in zip(pieces.starts, lengths, strict=True) if 5 <= start < 8
    ]
    assert digits == [1, 1, 1]


def test_our_own_saved_reads_the_same_also_for_transformers(tmp_path):
    from transformers import AutoTokenizer

    save_tokenizer(OWN, tmp_path, 120)
    ids = list(OWN.encode(TEXTS[0]).ids)
    again = load_tokenizer(tmp_path)
    assert list(again.encode(TEXTS[0]).ids) == ids
    assert (again.num_tokens, again.eos_id) == (OWN.num_tokens, OWN.token_id(EOS))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.encode(TEXTS[0]) == ids
    assert (theirs.pad_token_id, theirs.eos_token_id) == (0, 2)
    assert theirs.model_max_length == 120


def test_an_official_one_is_saved_byte_for_byte(tmp_path):
    source = GOLDENS / "tokenizer_llama"
    save_tokenizer(load_tokenizer(source), tmp_path, 2048)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_bytes() for path in source.iterdir()}
    save_tokenizer(load_tokenizer(source), tmp_path, 4096)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_max_length"] == 4096


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_crosses_to_another_process(kind, tokenizers):
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode("Heart rate 72")
    assert pickle.loads(pickle.dumps(tokenizer)).encode("Heart rate 72") == ids


@pytest.mark.parametrize(
    ("kind", "name", "content", "message"),
    [
        ("llama", "tokenizer.model", b"no model", "tokenizer.model: got"),
        ("llama", "tokenizer_config.json", b"{", "tokenizer_config.json: got"),
        ("llama", "tokenizer_config.json", b"[]", "expected an object"),
        ("llama", "tokenizer_config.json", b"[" * 100000, "tokenizer_config.json: got"),
        ("qwen", "merges.txt", b"a b c d\n", "expected a vocabulary and its merges"),
        ("qwen", "tokenizer.json", b"{}", "expected a tokenizer.json"),
        ("qwen", "tokenizer_config.json", b'{"tokenizer_class": "Bart"}', "'Bart'"),
        ("llama", "tokenizer.json", b"{", "tokenizer.json: got"),
        ("llama", "tokenizer_config.json", b'{"added_tokens_decoder": {"a": {}}}', "settings"),
        ("qwen", "tokenizer_config.json", b'{"added_tokens_decoder": [1]}', "settings"),
        ("qwen", "tokenizer_config.json", b'{"tokenizer_class": 7}', "settings"),
        ("qwen", "added_tokens.json", b'{"<new>": 700}', "got id 700, expected 499"),
    ],
)
def test_what_cannot_be_read_is_named(kind, name, content, message, tmp_path):
    folder = changed(GOLDENS / f"tokenizer_{kind}", tmp_path / "spoilt")
    (folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message) as raised:
        load_tokenizer(folder)
    assert "\n" not in str(raised.value)


def test_a_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"expected tokenizer\.model, tokenizer\.json"):
        load_tokenizer(tmp_path)
