"""The dtype of weights: as it came, or another on request."""

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.models.gem import GemConfig
from gem_jax.models.llm import LlmConfig
from gem_jax.paths import part_of
from gem_jax.weights.files import Dtype, WeightsError

# The part of a config that tells the dtype of a part of the parameters; `llm` that of all others.
OWNERS = {"ecg_tower": "ecg", "vision_tower": "vision"}
Shapes = Mapping[str, jax.ShapeDtypeStruct]
Part = TypeVar("Part", bound=ClipConfig | EcgConfig | LlmConfig)


def retyped(config: GemConfig, dtype: Dtype) -> GemConfig:
    """Returns the config of the same model with all of its parameters in `dtype`."""
    typed = {
        part: requested(getattr(config, part), dtype)
        for part in ("ecg", "vision", "llm")
        if getattr(config, part) is not None
    }
    return dataclasses.replace(config, **typed)


def requested(config: Part, dtype: Dtype) -> Part:
    """Returns the part's config for parameters that become `dtype`."""
    return config if dtype == "keep" else with_dtype(config, dtype)


def with_dtype(config: Part, stored: str) -> Part:
    """Returns the part's config for parameters of the dtype `stored`."""
    # Half precision overflows at 65,504: float16 weights are computed with in float32.
    compute = "bfloat16" if stored == "bfloat16" else "float32"
    return dataclasses.replace(config, param_dtype=stored, dtype=compute)


def widened(config: GemConfig, shapes: Shapes) -> tuple[GemConfig, Shapes]:
    """Returns both with one dtype for each tower and one for all else, which loses no bit of any.

    A run may hold what moves in another dtype than what does not; official layouts know of one.
    """
    owners = {path: OWNERS.get(part_of(path), "llm") for path in shapes}
    dtypes: dict[str, np.dtype] = {}
    for path, owner in owners.items():
        dtype = shapes[path].dtype
        dtypes[owner] = jnp.promote_types(dtypes.get(owner, dtype), dtype)
    typed = {
        owner: with_dtype(getattr(config, owner), dtype.name)
        for owner, dtype in dtypes.items()
        if getattr(config, owner).param_dtype != dtype.name
    }
    wide = {
        path: jax.ShapeDtypeStruct(leaf.shape, dtypes[owners[path]])
        for path, leaf in shapes.items()
    }
    return dataclasses.replace(config, **typed), wide


def converted(name: str, tensor: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Returns the tensor in `dtype`, rounded to nearest; itself where it has that already.

    WeightsError names the tensor if a value of it is too large for `dtype`.
    """
    if tensor.dtype == dtype:
        return tensor
    with np.errstate(over="ignore"):
        rounded = tensor.astype(dtype)
    beyond = np.isinf(rounded) & np.isfinite(tensor)
    if beyond.any():
        worst, largest = np.abs(tensor[beyond]).max(), ml_dtypes.finfo(dtype).max
        raise WeightsError(
            f"{name}: got {float(worst):g}, expected at most {float(largest):g} in {dtype}; keep "
            f"its {tensor.dtype} or name another --dtype"
        )
    return rounded


def all_in(dtype: Dtype, shapes: Shapes) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the same shapes, all of them in `dtype`."""
    return {
        path: leaf if dtype == "keep" else jax.ShapeDtypeStruct(leaf.shape, dtype)
        for path, leaf in shapes.items()
    }
