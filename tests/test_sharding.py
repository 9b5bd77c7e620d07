"""The sharding table: each parameter by exactly one rule, and the same logits on any mesh."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from experiments.demo import model as demo_model
from gem_jax import sharding
from gem_jax.config import ConfigError, MeshConfig
from gem_jax.lora import A, B
from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.models.gem import Batch, Gem, GemConfig, abstract_batch, abstract_params
from gem_jax.models.layers import by_rows
from gem_jax.models.llm import LlmConfig
from gem_jax.models.pretrain import Pretrain


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return sharding.make_mesh(MeshConfig(2, 2, 2))


def gem_7b(family: str = "llama") -> GemConfig:
    llm = LlmConfig(32000, 4096, 32, 32, 32, 128, 11008, 10000.0, 1e-5, family=family)
    ecg, vision = EcgConfig.coca_vit_b_32(), ClipConfig.vit_l_14_336()
    return GemConfig(
        *(ecg, vision, llm, "linear", "mlp2x_gelu", 1, (2,), 0, "ori", 4096), image_newline=True
    )


def paths(tree) -> dict:
    return {sharding._path(keys): leaf for keys, leaf in jax.tree.leaves_with_path(tree)}


def stage_0_params(config: GemConfig):
    batch = abstract_batch(config, 1, 8)
    return jax.eval_shape(Pretrain(config).init, jax.random.key(0), batch)["params"]


@pytest.mark.parametrize(
    "params",
    [
        pytest.param(lambda: abstract_params(demo_model()), id="demo"),
        pytest.param(lambda: stage_0_params(demo_model()), id="stage 0"),
        pytest.param(lambda: abstract_params(gem_7b()), id="GEM-7B"),
        pytest.param(lambda: abstract_params(gem_7b(family="qwen2")), id="Qwen"),
    ],
)
def test_every_parameter_has_exactly_one_rule(params):
    for path, leaf in paths(params()).items():
        spec = sharding.param_spec(path)
        assert len(spec) <= len(leaf.shape), path
        if "/layers/" in path or "/blocks/" in path:
            assert not spec or spec[0] is None, f"{path}: the scanned axis is cut"


def test_no_rule_is_dead():
    found = [*paths(abstract_params(gem_7b("qwen2"))), *paths(stage_0_params(demo_model()))]
    found += [path + factor for path in found for factor in (A, B) if path.endswith("/kernel")]
    for pattern, _ in sharding.PARAM_RULES:
        assert any(re.fullmatch(pattern, path) for path in found), pattern


def test_a_renamed_parameter_is_refused(mesh):
    params = abstract_params(demo_model())
    params["llm"]["layers"]["self_attn"]["query"] = params["llm"]["layers"]["self_attn"].pop(
        "q_proj"
    )
    with pytest.raises(
        ValueError, match=r"llm/layers/self_attn/query/kernel: got 0 matching rules"
    ):
        sharding.param_shardings(mesh, params)


def test_two_matching_rules_are_refused(monkeypatch):
    twice = (*sharding.PARAM_RULES, (r"llm/norm/.*", P()))
    monkeypatch.setattr(sharding, "PARAM_RULES", twice)
    with pytest.raises(ValueError, match="llm/norm/scale: got 2 matching rules"):
        sharding.param_spec("llm/norm/scale")


def test_most_of_gem_7b_is_cut_by_fsdp_and_tensor(mesh):
    params = abstract_params(gem_7b())
    shardings = sharding.param_shardings(mesh, params)
    sizes = jax.tree.map(lambda leaf: leaf.size, params)
    held = jax.tree.map(
        lambda leaf, where: int(np.prod(where.shard_shape(leaf.shape))), params, shardings
    )
    share = sum(jax.tree.leaves(held)) / sum(jax.tree.leaves(sizes))
    assert share == pytest.approx(0.25, rel=0.01)


def test_an_axis_that_does_not_divide_is_replicated(mesh):
    assert sharding.fitted(P("fsdp", "tensor"), (5, 4), mesh) == P(None, "tensor")
    assert sharding.fitted(P("fsdp"), (4, 3), mesh) == P("fsdp", None)


def test_moments_lie_as_their_parameters(mesh):
    params = abstract_params(demo_model())
    state = {"moving": params, "adam": jax.eval_shape(optax.adamw(1e-3).init, params)}
    found = paths(sharding.state_shardings(mesh, state, params))
    own = paths(sharding.param_shardings(mesh, params))
    for path, where in own.items():
        assert found[f"moving/{path}"] == found[f"adam/0/mu/{path}"] == where
    assert found["adam/0/count"].spec == P()


def test_a_mesh_that_does_not_fit_the_devices_is_refused():
    with pytest.raises(ConfigError, match="expected sizes whose product is the number of devices"):
        sharding.make_mesh(MeshConfig(data=3 * jax.device_count()))


def test_blocks_begin_with_their_rows_cut(mesh):
    config = demo_model()
    batch = abstract_batch(config, 8, config.num_media_tokens + 1)
    params = abstract_params(config)

    def constraints(batch):
        def forward(params, batch):
            return Gem(config).apply({"params": params}, batch)

        return str(jax.make_jaxpr(forward)(params, batch)).count("sharding_constraint[")

    assert constraints(batch) == 0, "without a mesh"
    with jax.set_mesh(mesh):
        assert constraints(batch) == 3, "one in each tower's block and one in the LLM's"
        assert constraints(abstract_batch(config, 3, config.num_media_tokens + 1)) == 0
        cut = jax.jit(lambda x: by_rows(x, axis=1))(jnp.zeros((3, 8, 5)))
    assert cut.sharding.spec == P(None, ("data", "fsdp"))


def test_gradients_lie_as_their_parameters(mesh):
    params = abstract_params(demo_model())
    zeros = jax.jit(lambda: sharding.as_params(jax.tree.map(jnp.zeros_like, params)))
    with jax.set_mesh(mesh):
        found = jax.tree.map(lambda leaf: leaf.sharding, zeros())
    own = sharding.param_shardings(mesh, params)
    for path, where in paths(own).items():
        assert paths(found)[path].is_equivalent_to(where, len(paths(params)[path].shape)), path


def random_batch(config: GemConfig, rows: int) -> Batch:
    rng = np.random.default_rng(0)
    length = config.num_media_tokens + 9
    media = np.r_[[-1] * 4, np.arange(config.num_media_tokens), [-1] * 5]
    tokens = rng.integers(0, config.llm.vocab_size, (rows, length))
    size = config.vision.image_size
    return Batch(
        tokens=tokens,
        positions=np.tile(np.arange(length), (rows, 1)),
        segments=np.ones((rows, length), int),
        media_index=np.tile(media, (rows, 1)),
        targets=tokens,
        loss_mask=np.ones((rows, length), bool),
        ecg=rng.normal(size=(rows, 1, config.ecg.num_leads, config.ecg.seq_length)).astype("f4"),
        image=rng.normal(size=(rows, 1, size, size, 3)).astype("f4"),
    )


@pytest.fixture(scope="module")
def on_one_device():
    config = demo_model()
    batch = jax.tree.map(jnp.asarray, random_batch(config, 8))
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.1, leaf.shape), leaf.dtype),
        abstract_params(config),
    )
    forward = jax.jit(lambda params, batch: Gem(config).apply({"params": params}, batch))
    return forward, params, batch, np.asarray(forward(params, batch))


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_sharded_logits_are_the_unsharded_ones(sizes, on_one_device):
    forward, params, batch, expected = on_one_device
    mesh = sharding.make_mesh(MeshConfig(*sizes))
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, sharding.param_shardings(mesh, params))
        cut = jax.device_put(batch, sharding.batch_sharding(mesh))
        kernel = placed["llm"]["layers"]["mlp"]["up_proj"]["kernel"]
        assert kernel.addressable_shards[0].data.size == kernel.size // (sizes[1] * sizes[2])
        np.testing.assert_allclose(np.asarray(forward(placed, cut)), expected, atol=1e-5)
