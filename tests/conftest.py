"""Before any test: eight virtual devices, checked shapes, and what several tests read."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

# The models here are tiny: to optimise their programs costs far more than it saves.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 "
    "--xla_backend_optimization_level=0"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jaxtyping
import pytest

# Runs, the suite's own processes and those that tests start share their compiled programs.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    programs = tempfile.mkdtemp(prefix="gem_jax_programs_")
    atexit.register(shutil.rmtree, programs, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = programs
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

jaxtyping.install_import_hook(["data_prep", "gem_jax"], "typechecker.checked")

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

SAMPLE = Path(__file__).parents[1] / "data_prep" / "sample"


@pytest.fixture(scope="session")
def sample_record_path() -> Path:
    """A real record of the sample data, without suffix."""
    headers = sorted(SAMPLE.rglob("*.hea"), key=lambda path: ("ludb" not in path.parts, path))
    assert headers, f"{SAMPLE} holds no record"
    return headers[0].with_suffix("")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards of nine sample records, three of them held out, and a tokenizer."""
    from data_prep import prep
    from data_prep.shards import read_shard, shard_files
    from gem_jax.tokenizer import save_tokenizer, train_tokenizer

    folder = tmp_path_factory.mktemp("prepared")
    items = prep.corpus_items("sample")
    train = [item for item in items if item.split == "train"][::30][:6]
    items = train + [item for item in items if item.split == "test"][:3]
    measured, skipped = prep.measure(items, folder, processes=1)
    pages = {item.id: f"images/{item.id}.png" for item in items}
    examples = prep.instruct(items, measured, pages, "brief")
    prep.write(items, examples, folder, {}, skipped)
    texts = [
        turn["value"]
        for example in read_shard(shard_files(folder, "train")[0])
        for turn in example.conversations
    ]
    save_tokenizer(train_tokenizer(texts, 400), folder / "tokenizer", 512)
    return folder
