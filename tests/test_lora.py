"""LoRA: the base's loss at the start, a base that stays as it is, and a merge that is exact."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from gem_jax import lora, sharding
from gem_jax.config import ConfigError, LoraConfig, MeshConfig
from gem_jax.lora_model import for_compute
from gem_jax.objectives import model_of
from gem_jax.optimizer import merge, optimizer, split
from gem_jax.paths import flat, nested
from gem_jax.start import initial_params, param_shapes
from gem_jax.step import fresh_state, train_step

LORA = LoraConfig(4, 8.0)
PROJECTOR_TOO = LoraConfig(4, 8.0, (*LORA.targets, r"mm_projector/\d"))
MODULES = 7


def config_of(adapters: LoraConfig = LORA, **sections):
    """Returns a recipe that trains adapters alone, with fields of some sections replaced."""
    plain = tiny.instruct()
    train = {"trainable": (), "init_parts": ()} | sections.pop("train", {})
    alone = dataclasses.replace(
        plain, train=dataclasses.replace(plain.train, **train), lora=adapters
    )
    return tiny.changed(alone, **sections)


@functools.cache
def begun(adapters: LoraConfig = LORA) -> dict:
    return initial_params(config_of(adapters), tiny.params())


def trained(params: dict, spread: float = 0.3) -> dict:
    """Returns the tree with random factors B, as if it had been trained."""
    rng = np.random.default_rng(1)
    return nested(
        {
            path: jnp.asarray(rng.normal(0, spread, leaf.shape), leaf.dtype)
            if path.endswith(lora.B)
            else leaf
            for path, leaf in flat(params).items()
        }
    )


def loss_of(config, params, batch=None):
    return _loss(config, params, batch or tiny.batch())


@functools.partial(jax.jit, static_argnums=0)
def _loss(config, params, batch):
    return tiny.mean_loss(config, params, batch)


@functools.partial(jax.jit, static_argnums=0)
def logits_of(config, params):
    computed = for_compute(params, config.model.llm.dtype)
    return model_of(config).apply({"params": computed}, jax.tree.map(jnp.asarray, tiny.batch()))


def bfloat16(config):
    llm = dataclasses.replace(config.model.llm, dtype="bfloat16", param_dtype="bfloat16")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, llm=llm))


def test_a_kernel_of_the_language_model_has_two_factors_and_nothing_else_has():
    factors = {path: leaf for path, leaf in flat(begun()).items() if lora.is_factor(path)}
    assert len(factors) == 2 * MODULES
    assert all(path.startswith("llm/layers/") for path in factors)
    for path, leaf in factors.items():
        kernel = flat(tiny.params())[lora.kernel_of(path)].shape
        ends = (kernel[1], 4) if path.endswith(lora.A) else (4, kernel[2])
        assert leaf.shape == (kernel[0], *ends)
        bound = kernel[1] ** -0.5 * path.endswith(lora.A)
        assert np.abs(leaf).max() == pytest.approx(bound, rel=0.1)
    base = flat(lora.merged(begun(), LoraConfig(4, 1e-30)))
    assert {path: leaf.shape for path, leaf in base.items()} == {
        path: leaf.shape for path, leaf in flat(tiny.params()).items()
    }


@pytest.mark.parametrize("half", [False, True])
def test_the_first_loss_is_the_base_s(half):
    own, plain = config_of(), tiny.instruct()
    if half:
        own, plain = bfloat16(own), bfloat16(plain)
    base = tiny.drawn(param_shapes(plain))
    params = initial_params(own, base)
    assert {leaf.dtype.name for path, leaf in flat(params).items() if lora.is_factor(path)} == {
        "float32"
    }
    assert loss_of(own, params) == loss_of(plain, base)
    assert loss_of(own, trained(params)) != loss_of(plain, base), "the factors count"


def test_targets_name_dense_layers_of_the_language_model_or_a_projector():
    found = [path for path in flat(begun(PROJECTOR_TOO)) if path.startswith("mm_projector/")]
    assert sum(map(lora.is_factor, found)) == 4
    for target, said in (
        ("llm/layers/self_attn/query", "'llm/layers/self_attn/query' names no dense layer"),
        ("self_attn/q_proj", "names no dense layer"),
        ("llm/.*", "llm/embed_tokens/embedding is no dense layer"),
        ("vision_tower/layers/fc1", "vision_tower/layers/fc1/kernel is no dense layer of llm"),
    ):
        with pytest.raises(ConfigError, match=rf"lora.targets: .*{said}"):
            param_shapes(config_of(LoraConfig(4, 8.0, (target,))))


def test_what_cannot_be_trained_is_refused():
    for fields, said in (
        ((0, 8.0), "lora.rank: got 0"),
        ((4, 0.0), "lora.alpha: got 0"),
        ((4, 8.0, ()), "lora.targets: got"),
        ((4, 8.0, ("llm/(",)), "expected a regular expression"),
    ):
        with pytest.raises(ConfigError, match=said):
            LoraConfig(*fields)
    with pytest.raises(ConfigError, match=r"lora.rank: got 32, expected below the width 32"):
        config_of(LoraConfig(32, 8.0))
    for part in ("llm", "llm/lm_head"):
        with pytest.raises(ConfigError, match="nothing of llm beside `lora`"):
            config_of(train={"trainable": ("mm_projector", part)})
    with pytest.raises(ConfigError, match=r"train.trainable: got .*at least one part"):
        dataclasses.replace(config_of(), lora=None)


def after(config, params: dict, steps: int) -> tuple[dict, dict, list[float]]:
    """Returns (moving, frozen, losses) after steps on one batch."""
    tx = optimizer(config.optimizer, config.train.steps)
    moving, frozen = split(params, config.train.trainable)
    # The step's buffers are given away.
    state = fresh_state(tx, jax.tree.map(jnp.copy, moving))
    step = jax.jit(functools.partial(train_step, config=config, tx=tx), donate_argnums=0)
    losses = []
    for _ in range(steps):
        state, metrics = step(state, frozen, tiny.batch(), None)
        losses.append(float(metrics["loss"]))
    return state, frozen, losses


def test_only_the_factors_move_and_have_a_state():
    config = config_of()
    state, frozen, _ = after(config, begun(), 3)
    assert all(map(lora.is_factor, flat(state.moving)))
    assert not any(map(lora.is_factor, flat(frozen)))
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert shapes == sorted(2 * [leaf.shape for leaf in jax.tree.leaves(state.moving)])
    assert {path: leaf.tobytes() for path, leaf in _host(frozen).items()} == {
        path: leaf.tobytes() for path, leaf in _host(tiny.params()).items()
    }
    for path, leaf in _host(state.moving).items():
        assert leaf.tobytes() != np.asarray(flat(begun())[path]).tobytes(), path


def _host(tree: dict) -> dict:
    return {path: np.asarray(leaf) for path, leaf in flat(tree).items()}


def test_parts_that_the_recipe_names_move_beside_the_factors():
    config = config_of(train={"trainable": ("mm_projector",)})
    moving, _ = split(begun(), config.train.trainable)
    whole = {path for path in flat(moving) if not lora.is_factor(path)}
    assert whole == {path for path in flat(tiny.params()) if path.startswith("mm_projector/")}


def test_one_batch_is_learnt_by_heart():
    config = config_of(
        LoraConfig(16, 32.0),
        optimizer={"learning_rate": 2e-2, "warmup_steps": 0, "weight_decay": 0.0},
        train={"steps": 200},
    )
    base = flat(tiny.params())
    # Drawn embeddings are so short that no hidden state could be sure of a token.
    base["llm/embed_tokens/embedding"] *= 20
    _, _, losses = after(config, initial_params(config, nested(base)), 200)
    assert losses[-1] < 0.01 < losses[0]


@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16", "remat": "full"}])
def test_factors_of_a_kernel_s_own_shape_are_told_from_it(options):
    """With rank 16, A of the keys and values has the kernel's shape (32, 16)."""
    config = config_of(LoraConfig(16, 8.0))
    llm = dataclasses.replace(config.model.llm, **options)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, llm=llm))
    _, gradients = _gradients(config, trained(begun(config.lora)), tiny.batch())
    assert len(flat(gradients)) == 2 * MODULES
    for path, leaf in _host(gradients).items():
        assert leaf.any(), path


@pytest.fixture(scope="module")
def on_one_device():
    config, params, batch = config_of(PROJECTOR_TOO), trained(begun(PROJECTOR_TOO)), tiny.batch(8)
    return config, params, batch, *_gradients(config, params, batch)


def _gradients(config, params, batch):
    moving, frozen = split(params, config.train.trainable)
    loss = jax.jit(jax.value_and_grad(lambda moving: loss_of(config, merge(moving, frozen), batch)))
    return loss(moving)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 4, 2)])
def test_sharded_factors_give_the_same_loss_and_gradients(sizes, on_one_device):
    config, params, batch, loss, gradients = on_one_device
    mesh = sharding.make_mesh(MeshConfig(*sizes))
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, sharding.param_shardings(mesh, params))
        cut = jax.device_put(batch, sharding.batch_sharding(mesh))
        factor = placed["llm"]["layers"]["mlp"]["down_proj"]["kernel_lora_a"]
        assert factor.addressable_shards[0].data.size == factor.size // sizes[2]
        found, sharded = _gradients(config, placed, cut)
        assert abs(float(found) - float(loss)) < 1e-5
        for path, leaf in _host(sharded).items():
            np.testing.assert_allclose(leaf, flat(gradients)[path], atol=1e-5, err_msg=path)


def test_the_merge_is_the_sum_in_double_precision():
    params = trained(begun(PROJECTOR_TOO))
    whole, leaves = _host(lora.merged(params, PROJECTOR_TOO)), _host(params)
    assert whole.keys() == flat(tiny.params()).keys()
    for path, leaf in whole.items():
        if path + lora.A not in leaves:
            assert leaf.tobytes() == leaves[path].tobytes()
            continue
        a, b = (leaves[path + end].astype(np.float64) for end in (lora.A, lora.B))
        np.testing.assert_allclose(leaf, leaves[path] + 2.0 * (a @ b), atol=1e-6)


def test_merged_logits_are_the_unmerged_ones():
    config, params = config_of(), trained(begun())
    whole = lora.merged(params, config.lora)
    unmerged = np.asarray(logits_of(config, params))
    plain = dataclasses.replace(config, lora=None, train=tiny.instruct().train)
    found = np.asarray(logits_of(plain, whole))
    np.testing.assert_allclose(found, unmerged, atol=1e-5)
    assert np.abs(found - np.asarray(logits_of(plain, tiny.params()))).max() > 0.1


def test_a_bfloat16_base_is_merged_in_float32_and_rounded_once():
    config = bfloat16(config_of())
    base = tiny.drawn(
        param_shapes(dataclasses.replace(config, lora=None, train=tiny.instruct().train))
    )
    params = trained(initial_params(config, base))
    leaves, whole = _host(params), _host(lora.merged(params, LORA))
    differing = 0
    for path in [path for path in whole if path + lora.A in leaves]:
        kernel, a, b = (leaves[path + end] for end in ("", lora.A, lora.B))
        exact = kernel.astype(np.float64) + 2.0 * (a.astype(np.float64) @ b.astype(np.float64))
        spacing = np.exp2(np.floor(np.log2(np.abs(exact) + 1e-30)) - 7)
        assert (np.abs(whole[path].astype(np.float64) - exact) <= 0.501 * spacing).all()
        short = (jnp.asarray(leaf, jnp.bfloat16) for leaf in (a, b))
        control = np.asarray(jnp.asarray(kernel) + jnp.bfloat16(2.0) * jnp.matmul(*short))
        differing += (control != whole[path]).sum()
    assert differing > 100, "a merge in bfloat16 is another"
    assert {leaf.dtype for leaf in whole.values()} == {leaf.dtype for leaf in _host(base).values()}


def test_the_merge_changes_logits_of_a_bfloat16_model_by_its_rounding_alone():
    config = bfloat16(config_of())
    plain = dataclasses.replace(config, lora=None, train=tiny.instruct().train)
    params = trained(initial_params(config, tiny.drawn(param_shapes(plain))), spread=0.1)
    unmerged = logits_of(config, params)
    found = logits_of(plain, lora.merged(params, LORA))
    size = float(jnp.std(unmerged))
    # bfloat16 has 8 bits: a rounding is up to 0.4 % off, and a logit has seen dozens.
    assert 0 < float(jnp.std(found - unmerged)) < 0.03 * size
    base = logits_of(plain, lora.merged(begun_with(params), LORA))
    assert float(jnp.std(found - base)) > 0.2 * size, "the factors count for more"


def begun_with(params: dict) -> dict:
    """Returns the tree with factors B of zero."""
    return trained(params, spread=0.0)
