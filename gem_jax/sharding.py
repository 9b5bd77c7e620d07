"""Where each parameter lies on a device mesh: one table from a parameter's path to its axes.

Mesh axes: `data` repeats the parameters and cuts the batch, `fsdp` cuts both, `tensor` cuts heads
and hidden units within a layer (Megatron's column-then-row order: one all-reduce a sub-layer).
Layers are stacked on axis 0, which the scan walks: it is never cut. Computation follows from these
shardings by itself (`jax.jit`, AxisType.Auto); activations are tied to the rows where blocks begin
(`models.layers.by_rows`), gradients to their parameters.
"""

import math
import re
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gem_jax.config import ConfigError, MeshConfig
from gem_jax.models.layers import ROW_AXES

AXES = (*ROW_AXES, "tensor")

# Exactly one rule matches a path as a whole: a new parameter is placed on purpose or not at all.
PARAM_RULES: tuple[tuple[str, P], ...] = (
    (r"llm/embed_tokens/embedding", P("tensor", "fsdp")),
    (r"llm/lm_head/kernel", P("fsdp", "tensor")),
    (r"llm/norm/scale", P()),
    (r"llm/layers/(input|post_attention)_layernorm/scale", P()),
    (r"llm/layers/self_attn/[qkv]_proj/kernel", P(None, "fsdp", "tensor")),
    (r"llm/layers/self_attn/[qkv]_proj/bias", P(None, "tensor")),
    (r"llm/layers/self_attn/o_proj/kernel", P(None, "tensor", "fsdp")),
    (r"llm/layers/mlp/(gate|up)_proj/kernel", P(None, "fsdp", "tensor")),
    (r"llm/layers/mlp/down_proj/kernel", P(None, "tensor", "fsdp")),
    (r"(ecg|mm)_projector/(linear|\d+)/kernel", P("fsdp", "tensor")),
    (r"(ecg|mm)_projector/(linear|\d+)/bias", P("tensor")),
    (r"image_newline", P()),
    (r"ecg_tower/(class|positional)_embedding", P()),
    (r"ecg_tower/conv1/kernel", P(None, None, "fsdp")),
    (r"ecg_tower/ln_(pre|post)/(scale|bias)", P()),
    (r"ecg_tower/proj/kernel", P("fsdp", "tensor")),
    (r"ecg_tower/blocks/ln_[12]/(scale|bias)", P()),
    (r"ecg_tower/blocks/(in_proj|c_fc)/kernel", P(None, "fsdp", "tensor")),
    (r"ecg_tower/blocks/(in_proj|c_fc)/bias", P(None, "tensor")),
    (r"ecg_tower/blocks/(out|c)_proj/kernel", P(None, "tensor", "fsdp")),
    (r"ecg_tower/blocks/(out|c)_proj/bias", P()),
    (r"vision_tower/(class|position)_embedding", P()),
    (r"vision_tower/patch_embedding/kernel", P(None, None, None, "fsdp")),
    (r"vision_tower/(pre_layrnorm|post_layernorm)/(scale|bias)", P()),
    (r"vision_tower/layers/layer_norm[12]/(scale|bias)", P()),
    (r"vision_tower/layers/([qkv]_proj|fc1)/kernel", P(None, "fsdp", "tensor")),
    (r"vision_tower/layers/([qkv]_proj|fc1)/bias", P(None, "tensor")),
    (r"vision_tower/layers/(out_proj|fc2)/kernel", P(None, "tensor", "fsdp")),
    (r"vision_tower/layers/(out_proj|fc2)/bias", P()),
    # Factors of LoRA: the axis that a kernel cuts of its inputs or outputs; the rank is never cut.
    (r"llm/lm_head/kernel_lora_a", P("fsdp", None)),
    (r"llm/lm_head/kernel_lora_b", P(None, "tensor")),
    (r"llm/layers/self_attn/[qkv]_proj/kernel_lora_a", P(None, "fsdp", None)),
    (r"llm/layers/self_attn/[qkv]_proj/kernel_lora_b", P(None, None, "tensor")),
    (r"llm/layers/self_attn/o_proj/kernel_lora_a", P(None, "tensor", None)),
    (r"llm/layers/self_attn/o_proj/kernel_lora_b", P(None, None, "fsdp")),
    (r"llm/layers/mlp/(gate|up)_proj/kernel_lora_a", P(None, "fsdp", None)),
    (r"llm/layers/mlp/(gate|up)_proj/kernel_lora_b", P(None, None, "tensor")),
    (r"llm/layers/mlp/down_proj/kernel_lora_a", P(None, "tensor", None)),
    (r"llm/layers/mlp/down_proj/kernel_lora_b", P(None, None, "fsdp")),
    (r"(ecg|mm)_projector/(linear|\d+)/kernel_lora_a", P("fsdp", None)),
    (r"(ecg|mm)_projector/(linear|\d+)/kernel_lora_b", P(None, "tensor")),
    (r"dense_head/(waves|qrs|summary)/(kernel|bias)", P()),
)


def make_mesh(config: MeshConfig) -> Mesh:
    """Returns the mesh of all devices; an axis of size -1 takes what the others leave.

    ConfigError when the sizes do not multiply to the number of devices.
    """
    sizes = (config.data, config.fsdp, config.tensor)
    count = jax.device_count()
    given = math.prod(size for size in sizes if size != -1)
    shape = tuple(count // given if size == -1 else size for size in sizes)
    if math.prod(shape) != count:
        raise ConfigError(
            f"mesh: got {dict(zip(AXES, sizes, strict=True))}, expected sizes whose product is the "
            f"number of devices, {count}"
        )
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def param_spec(path: str) -> P:
    """Returns the spec of the parameter at `path`; ValueError unless exactly one rule matches."""
    found = [spec for pattern, spec in PARAM_RULES if re.fullmatch(pattern, path)]
    if len(found) != 1:
        raise ValueError(f"{path}: got {len(found)} matching rules of PARAM_RULES, expected one")
    return found[0]


def param_shardings(mesh: Mesh, params: Any) -> Any:
    """Returns the tree of shardings of a parameter tree (arrays or their shapes)."""
    return jax.tree.map_with_path(
        lambda keys, leaf: NamedSharding(mesh, fitted(param_spec(_path(keys)), leaf.shape, mesh)),
        params,
    )


def state_shardings(mesh: Mesh, state: Any, params: Any) -> Any:
    """Returns the tree of shardings of a training state whose leaves repeat the parameters'.

    A leaf whose path ends in a parameter's and that has its shape (AdamW's moments) lies as the
    parameter does; any other (counts) is replicated.
    """
    shapes = {_path(keys): leaf.shape for keys, leaf in jax.tree.leaves_with_path(params)}

    def sharding(keys: tuple, leaf: Any) -> NamedSharding:
        names = _path(keys).split("/")
        for start in range(len(names)):
            path = "/".join(names[start:])
            if shapes.get(path) == leaf.shape:
                return NamedSharding(mesh, fitted(param_spec(path), leaf.shape, mesh))
        return NamedSharding(mesh, P())

    return jax.tree.map_with_path(sharding, state)


def placed_shapes(shapes: Any, where: Any) -> Any:
    """Returns the tree of shapes whose leaves say where they lie: what orbax reads onto a mesh."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        where,
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of anything whose axis 0 is the batch: cut by data and fsdp."""
    return NamedSharding(mesh, P(ROW_AXES))


def as_params(tree: Any) -> Any:
    """Returns a tree whose leaves repeat parameters, placed as they are: for use under `jax.jit`.

    As it is without a mesh. Left alone, XLA's partitioner may hold whole gradients on each device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return tree
    return jax.tree.map_with_path(
        lambda keys, leaf: jax.lax.with_sharding_constraint(
            leaf, fitted(param_spec(_path(keys)), leaf.shape, mesh)
        ),
        tree,
    )


def replicated(x: jax.Array) -> jax.Array:
    """Returns x whole on every device, for every process to read; as it is without a mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, P())


def fitted(spec: P, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> P:
    """Returns `spec` without the mesh axes whose size does not divide the dimension.

    Such a dimension is replicated: a tiny model runs on any mesh, a large one divides evenly.
    """
    names = (*spec, *(None,) * (len(shape) - len(spec)))
    return P(
        *(
            name if name is not None and size % mesh.shape[name] == 0 else None
            for name, size in zip(names, shape, strict=True)
        )
    )


def _path(keys: tuple) -> str:
    """Returns the path of a leaf, whatever holds it: dict, dataclass, named tuple or list."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")
