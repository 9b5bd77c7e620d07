"""Two processes make the batches of one, each its own rows, and know of each other's."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import official
from gem_jax.config import SourceConfig, to_dict
from gem_jax.data import train_batches
from gem_jax.hosts import exchange
from gem_jax.tokenizer import load_tokenizer

PROGRAM = """
    import hashlib, json, sys
    from pathlib import Path
    import jax
    import numpy as np

    address, index = sys.argv[1], int(sys.argv[2])
    jax.distributed.initialize(address, 2, index)
    from gem_jax.config import Config, from_dict, read_json
    from gem_jax.data import train_batches
    from gem_jax.hosts import exchange
    from gem_jax.sharding import make_mesh
    from gem_jax.tokenizer import load_tokenizer

    jax.set_mesh(make_mesh(from_dict(Config, read_json(Path(sys.argv[3])), "config").mesh))
    assert exchange({"told": "x" * (index + 1)}) == [{"told": "x"}, {"told": "xx"}]
    config = from_dict(Config, read_json(Path(sys.argv[3])), "config")
    for got in train_batches(config, load_tokenizer(Path(config.data.tokenizer)), 0):
        rows = [
            hashlib.sha256(b"".join(np.ascontiguousarray(leaf[at]).tobytes()
                for leaf in jax.tree.leaves(got.batch))).hexdigest()
            for at in range(len(got.rows))
        ]
        told = [got.rows, got.record_ids, got.num_tokens, got.num_learnt, got.tasks, got.skipped]
        print(json.dumps([rows, got.batch.tokens.shape[1], *told]), flush=True)
"""


def facts(got):
    leaves = [leaf for leaf in vars(got.batch).values() if leaf is not None]
    rows = [
        hashlib.sha256(b"".join(np.ascontiguousarray(leaf[at]).tobytes() for leaf in leaves))
        for at in range(len(got.rows))
    ]
    told = [got.rows, got.record_ids, got.num_tokens, got.num_learnt, got.tasks, got.skipped]
    digests = [row.hexdigest() for row in rows]
    return json.loads(json.dumps([digests, got.batch.tokens.shape[1], *told]))


@pytest.fixture
def two(tmp_path):
    """A function: the recipe → the lines that each of two processes prints."""
    script, recipe = tmp_path / "program.py", tmp_path / "config.json"
    script.write_text(textwrap.dedent(PROGRAM))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "XLA_FLAGS": "",
        "JAX_PLATFORMS": "cpu",
    }

    def run(config) -> list[list]:
        recipe.write_text(json.dumps(to_dict(config)))
        command = [sys.executable, str(script), address]
        running = [
            subprocess.Popen(
                [*command, str(index), str(recipe)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for index in range(2)
        ]
        told = [process.communicate(timeout=250) for process in running]
        assert [process.returncode for process in running] == [0, 0], told
        # Gloo prints its greetings there too.
        lines = [out.splitlines() for out, _ in told]
        return [[json.loads(line) for line in own if line.startswith("[[")] for own in lines]

    return run


def test_two_hosts_make_the_batches_of_one(two, prepared, tmp_path, capsys):
    rows = [official.row(number) for number in range(9)]
    rows[4]["image"] = "missing.png"
    # The longest row of a batch is on one host, and one that is too long is found by one.
    rows[7]["conversations"][1]["value"] = "Nothing but a long answer. " * 6
    rows[2]["conversations"][1]["value"] = "Nothing but a long answer. " * 12
    path = official.write(tmp_path / "data.json", rows)
    parts = official.source(path), SourceConfig(str(prepared / "shards"))
    config = official.config(prepared, *parts, augment=True, bucket=16, max_broken=2)
    whole = [facts(got) for got in train_batches(config, load_of(config), 0)]
    hosts = two(config)
    assert len(hosts[0]) == len(hosts[1]) == len(whole) == 4
    for alone, first, second in zip(whole, *hosts, strict=True):
        assert first[0] + second[0] == alone[0], "the rows, array by array"
        assert (first[2], second[2], alone[2]) == ([0, 1], [2, 3], [0, 1, 2, 3])
        assert first[1] == second[1] == alone[1], "one length"
        assert first[3:] == second[3:] == alone[3:]
    assert len({alone[1] for alone in whole}) > 1
    assert not set(hosts[0][0][0]) & set(hosts[1][0][0]), "the control: other rows"


def load_of(config):
    return load_tokenizer(Path(config.data.tokenizer))


def test_one_process_hears_itself():
    assert exchange({"a": [1]}) == [{"a": [1]}]
