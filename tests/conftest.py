"""Before any test: eight virtual devices, checked shapes, and what several tests read."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jaxtyping
import pytest

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
