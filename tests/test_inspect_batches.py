"""What --inspect prints: every row's text as it was written, with media and what is learnt."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import official
import tiny
from gem_jax import inspect_batches, train
from gem_jax.data import train_batches
from gem_jax.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(prepared):
    return load_tokenizer(prepared / "tokenizer")


def test_batches_are_told_with_text_media_and_what_is_learnt(prepared, tokenizer, tmp_path):
    rows = [official.row(number) for number in range(7)]
    text = {"ecg": None, "image": None}
    turns = [
        {"from": "human", "value": "What is a lead?"},
        {"from": "gpt", "value": "A view."},
        {"from": "human", "value": "How many?"},
        {"from": "gpt", "value": "Twelve."},
    ]
    rows.append(official.row(7, **text, conversations=turns))
    path = official.write(tmp_path / "data.json", rows)
    config = official.config(prepared, official.source(path), shuffle=False)
    lines = list(inspect_batches.told(config, tokenizer, 2))
    assert lines[0] == inspect_batches.LEGEND
    steps = [line for line in lines if line.startswith("step")]
    assert len(steps) == 2 and steps[1].startswith("step 1: 4 rows × 128 tokens, ")
    got = list(train_batches(config, tokenizer, 0))[:2]
    assert [int(re.search(r"(\d+) learnt", line)[1]) for line in steps] == [
        one.num_learnt for one in got
    ]
    ecg = config.model.ecg_tokens
    said = [line.strip() for line in lines if line.startswith("    ")]
    for number in range(7):
        assert f"{{{ecg} + {tiny.MEDIA - ecg}}}" in said[number]
        assert re.search(rf"Rate\?.*⟦ ?{60 + number} bpm\.</s>⟧$", said[number])
    assert re.search(r"lead\?.*⟦ ?A view\.</s>⟧.*many\?.*⟦ ?Twelve\.</s>⟧$", said[7])
    assert "{" not in said[7]
    named = [line for line in lines if line.startswith("  row")]
    assert [line.split(": ")[1] for line in named] == [f"row{number}" for number in range(8)]


def test_what_is_told_begins_where_the_run_goes_on(prepared, tokenizer, tmp_path):
    path = official.write(tmp_path / "data.json", [official.row(number) for number in range(9)])
    config = official.config(prepared, official.source(path))
    whole = list(inspect_batches.told(config, tokenizer, 9))
    later = list(inspect_batches.told(config, tokenizer, 1, first_step=2))
    begins = whole.index(later[1])
    assert whole[begins : begins + len(later) - 1] == later[1:]
    assert sum(line.startswith("step") for line in whole) == 4, "not beyond the run's last step"


def test_inspect_prints_and_trains_nothing(prepared, tmp_path, capsys):
    recipe = str(Path(__file__).parents[1] / "experiments" / "demo.py") + ":finetune"
    flags = {
        "--run-dir": tmp_path / "run",
        "--data.shards": prepared / "shards",
        "--data.tokenizer": prepared / "tokenizer",
        "--data.batch-size": 2,
        "--data.cut": "original",
        "--inspect": 1,
    }
    assert train.cli([recipe, *(str(text) for pair in flags.items() for text in pair)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == inspect_batches.LEGEND and lines[1].startswith("step 0: 2 rows × ")
    assert len(lines) == 6 and all("⟦" in line for line in (lines[3], lines[5]))
    assert not (tmp_path / "run").exists()
