"""Mixtures: shares, epochs, and one sequence for every number of workers and every beginning."""

from __future__ import annotations

import collections
import multiprocessing

import jax
import numpy as np
import pytest

import official
import tiny
from gem_jax.config import Config, ConfigError, SourceConfig, from_dict, to_dict
from gem_jax.data import heldout_batches, train_batches, train_mixture
from gem_jax.mixture import open_mixture, order
from gem_jax.run_folder import refuse_other_data, write_data
from gem_jax.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(prepared):
    return load_tokenizer(prepared / "tokenizer")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two official files, of 9 and of 3 rows."""
    folder = tmp_path_factory.mktemp("files")
    numbers = {"many": range(9), "few": range(20, 23)}
    return {
        name: official.write(folder / f"{name}.json", [official.row(each) for each in own])
        for name, own in numbers.items()
    }


def mixed(prepared, files, weights=(None, None), **fields) -> Config:
    parts = [
        official.source(files[name], weight=weight)
        for name, weight in zip(("many", "few"), weights, strict=True)
    ]
    return official.config(prepared, *parts, **fields)


def drawn(config, count):
    """Returns (source, index) of the first places of the run."""
    places = order(config, open_mixture(config, config.data.sources, "data.mixture"))
    return [places[place] for place in range(count)]


def test_without_weights_each_record_is_seen_once_before_any_again(prepared, files):
    seen = drawn(mixed(prepared, files), 36)
    whole = [(0, index) for index in range(9)] + [(1, index) for index in range(3)]
    epochs = [seen[first : first + 12] for first in (0, 12, 24)]
    assert all(sorted(epoch) == whole for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3, "another order each time"
    in_order = drawn(mixed(prepared, files, shuffle=False), 24)
    assert in_order == whole + whole


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0), (0.2, 0.8)])
def test_weights_are_the_shares_of_the_rows(weights, prepared, files):
    seen = drawn(mixed(prepared, files, weights), 200)
    share = np.mean([number == 0 for number, _ in seen])
    assert share == pytest.approx(weights[0] / sum(weights), abs=0.01)
    for number, size in ((0, 9), (1, 3)):
        own = [index for source, index in seen if source == number]
        for first in range(0, len(own) - size, size):
            assert sorted(own[first : first + size]) == list(range(size))


def test_sources_of_one_size_are_not_shuffled_alike(prepared, files):
    parts = [official.source(files["many"], weight=1.0)] * 2
    seen = drawn(official.config(prepared, *parts), 36)
    orders = [[index for source, index in seen if source == number] for number in (0, 1)]
    assert orders[0] != orders[1]


def test_the_order_is_the_seeds(prepared, files):
    one, other = (drawn(mixed(prepared, files, seed=seed), 24) for seed in (1, 2))
    assert one == drawn(mixed(prepared, files, seed=1), 24) != other


def test_shards_and_official_files_make_one_mixture(prepared, files, tokenizer):
    parts = SourceConfig(str(prepared / "shards")), official.source(files["many"])
    config = official.config(prepared, *parts, augment=True)
    made = list(train_batches(config, tokenizer, 0))
    counted = collections.Counter(task for got in made for task in got.tasks)
    assert set(counted) == {"shards", "many"} and sum(counted.values()) == 16
    for got in made:
        assert [id.startswith("row") for id in got.record_ids] == [
            task == "many" for task in got.tasks
        ]
    named = official.config(prepared, parts[0], official.source(files["few"], task="grounding"))
    assert "grounding" in {task for got in train_batches(named, tokenizer, 0) for task in got.tasks}
    alone = official.config(prepared, parts[1])
    assert next(train_batches(alone, tokenizer, 0)).tasks == ()


def alike(one, other) -> bool:
    leaves = zip(jax.tree.leaves(one.batch), jax.tree.leaves(other.batch), strict=True)
    return one.record_ids == other.record_ids and all(np.array_equal(a, b) for a, b in leaves)


def test_d03_rows_are_the_same_for_every_number_of_workers_and_every_beginning(
    prepared, files, tokenizer
):
    config = mixed(prepared, files, (3.0, 1.0), augment=True)
    whole = list(train_batches(config, tokenizer, 0))
    assert len(whole) == 4
    for workers, first in ((1, 0), (2, 1)):
        with_workers = tiny.changed(config, data={"workers": workers})
        made = list(train_batches(with_workers, tokenizer, first))
        assert len(made) == 4 - first
        assert all(map(alike, made, whole[first:]))
    assert not any(map(alike, whole[1:], whole)), "the control: a step off"
    assert not multiprocessing.active_children()


def test_held_out_rows_come_once_in_one_order_and_unchanged(prepared, files, tokenizer):
    parts = official.source(files["many"]), SourceConfig(str(prepared / "shards"), split="test")
    config = mixed(prepared, files, augment=True, held_out=parts, batch_size=5)
    first, second = (list(heldout_batches(config, tokenizer)) for _ in range(2))
    assert all(map(alike, first, second))
    assert len(first) == 3
    ids = [id for got in first for id in got.record_ids if id]
    assert len(ids) == len(set(ids)) == 12 and ids[:9] == [f"row{number}" for number in range(9)]
    last = first[-1]
    assert last.record_ids[2:] == ("", "", "")
    assert last.batch.loss_mask[:2].any(axis=1).all() and not last.batch.loss_mask[2:].any()
    assert (last.batch.segments[2:].sum(axis=1) > 0).all(), "rows, so that no mean is of nothing"
    beside_shards = tiny.changed(config, data={"mixture": (), "shards": str(prepared / "shards")})
    assert all(map(alike, first, heldout_batches(beside_shards, tokenizer)))
    few = tiny.changed(config, data={"held_out_rows": 4})
    (some,) = heldout_batches(few, tokenizer)
    kept = {id for id in some.record_ids if id}
    assert len(kept) == 4 and kept < set(ids)


def test_wrong_mixtures_are_refused(prepared, files, tmp_path, tokenizer):
    with pytest.raises(ConfigError, match=r"data.mixture.weight: got .* all with a weight"):
        mixed(prepared, files, (1.0, None))
    with pytest.raises(ConfigError, match=r"data.mixture.weight: got 0"):
        mixed(prepared, files, (0.0, 1.0))
    with pytest.raises(ConfigError, match=r"data.shards: got .* no mixture too"):
        mixed(prepared, files, shards="somewhere")
    for path, said in (("none.json", "No such file"), ("folder", "without a training shard")):
        config = official.config(prepared, official.source(tmp_path / path))
        with pytest.raises(ConfigError, match=said):
            train_batches(config, tokenizer, 0)
    with pytest.raises(ConfigError, match=r"data.held_out: got none"):
        heldout_batches(mixed(prepared, files), tokenizer)
    empty = official.config(prepared, official.source(official.write(tmp_path / "e.json", [])))
    with pytest.raises(ConfigError, match=r"e.json without a row"):
        train_batches(empty, tokenizer, 0)


def test_a_mixture_is_the_same_after_json(prepared, files):
    config = mixed(prepared, files, (3.0, 1.0))
    assert from_dict(Config, to_dict(config), "config") == config


def test_a_run_does_not_go_on_with_other_records(prepared, files, tmp_path):
    path = official.write(tmp_path / "data.json", [official.row(number) for number in range(3)])
    parts = official.source(path), SourceConfig(str(prepared / "shards"))
    config = official.config(prepared, *parts)
    opened = train_mixture(config)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    refuse_other_data(run_dir, opened)
    write_data(run_dir, opened)
    refuse_other_data(run_dir, train_mixture(config))
    official.write(path, [official.row(number) for number in range(4)])
    with pytest.raises(ConfigError, match=r"run/data.json: .*/data.json changed since the run beg"):
        refuse_other_data(run_dir, train_mixture(config))
