"""One update: what moves, what the loss counts, and that it may be cut in any way."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny
from gem_jax import sharding
from gem_jax.config import ConfigError, MeshConfig
from gem_jax.models.gem import Gem
from gem_jax.optimizer import merge, optimizer, split
from gem_jax.paths import flat
from gem_jax.step import fresh_state, gradients, micro_batches, train_step

# One recipe for many tests: its step is compiled once. Adam's ε damps what float noise would flip.
ALL_ROUND = tiny.changed(
    tiny.instruct(),
    optimizer={"learning_rate": 0.02, "warmup_steps": 0, "final_fraction": 0.5, "eps": 1e-3},
    train={"steps": 120, "loss_chunk": 16},
)
STAGE_0 = tiny.changed(
    ALL_ROUND, train={"objective": "pretrain", "trainable": tiny.pretrain().train.trainable}
)
MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 4, 2)]


def leaves(tree):
    return {path: np.asarray(leaf) for path, leaf in flat(tree).items()}


def assert_close(got, expected, **tolerance):
    got, expected = leaves(got), leaves(expected)
    assert got.keys() == expected.keys()
    for path, leaf in got.items():
        np.testing.assert_allclose(leaf, expected[path], err_msg=path, **tolerance)


def furthest(got, expected) -> float:
    got, expected = leaves(got), leaves(expected)
    return max(float(np.abs(got[path] - expected[path]).max()) for path in got)


@functools.cache
def differentiator(config):
    return jax.jit(functools.partial(gradients, config))


def grads_of(config, batch, dense=None, params=None):
    """(metrics, gradient) of the tiny model's parameters, or of others."""
    params = params or tiny.params(config.train.objective == "pretrain")
    return differentiator(config)(*split(params, config.train.trainable), batch, dense)


@functools.cache
def stepper(config):
    tx = optimizer(config.optimizer, config.train.steps)
    return jax.jit(functools.partial(train_step, config=config, tx=tx))


def after(config, batches):
    """(state, parameters, metrics of each) after a step on each batch."""
    moving, frozen = split(tiny.params(), config.train.trainable)
    state = fresh_state(optimizer(config.optimizer, config.train.steps), moving)
    told = []
    for batch in batches:
        state, metrics = stepper(config)(state, frozen, batch, None)
        told.append(metrics)
    return state, merge(state.moving, frozen), told


def changed(**train):
    return tiny.changed(ALL_ROUND, train=train)


def labelled(batch, counts):
    """The batch with so many labels in each row, its first ones behind the media."""
    place = np.arange(batch.tokens.shape[1]) - tiny.MEDIA
    return batch.replace(loss_mask=(place >= 0) & (place < np.array(counts)[:, None]))


@pytest.mark.parametrize(
    "trainable",
    [("ecg_projector", "mm_projector"), ("llm/layers/mlp", "llm/norm"), ALL_ROUND.train.trainable],
)
def test_frozen_parameters_rest_and_the_others_move(trainable):
    config = changed(trainable=trainable)
    assert config.optimizer.weight_decay > 0
    before = leaves(tiny.params())
    _, now, _ = after(config, [tiny.batch(8, seed=n) for n in range(3)])
    for path, leaf in leaves(now).items():
        same = leaf.tobytes() == before[path].tobytes()
        assert same != any(f"{path}/".startswith(f"{name}/") for name in trainable), path


def test_frozen_parameters_have_neither_gradient_nor_optimizer_state():
    config = changed(trainable=("mm_projector", "llm/norm"))
    moving, frozen = split(tiny.params(), config.train.trainable)
    assert not flat(moving).keys() & flat(frozen).keys()
    state = optimizer(config.optimizer, config.train.steps).init(moving)
    held = sum(leaf.size for leaf in jax.tree.leaves(state))
    size = sum(leaf.size for leaf in jax.tree.leaves(moving))
    assert held == 2 * size + 2  # two moments, AdamW's count and the schedule's
    _, grads = jax.eval_shape(
        functools.partial(gradients, config), moving, frozen, tiny.batch(2), None
    )
    assert flat(grads).keys() == flat(moving).keys()
    assert size < 0.1 * sum(leaf.size for leaf in jax.tree.leaves(tiny.params()))


def test_a_prefix_is_of_whole_components():
    for unknown in ("llm/nor", "ll", "llm/norm/scale/0"):
        with pytest.raises(ConfigError, match=r"train.trainable: got \["):
            split(tiny.params(), ("mm_projector", unknown))


def whole_loss(params, batch):
    """The same loss from all logits at once."""
    logits = Gem(tiny.MODEL).apply({"params": params}, batch)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
    return (each * batch.loss_mask).sum() / batch.loss_mask.sum()


@pytest.fixture(scope="module")
def whole():
    """(batch, the loss of all logits at once, its gradient)."""
    batch = tiny.batch(4)
    moving, frozen = split(tiny.params(), ALL_ROUND.train.trainable)

    def loss(moving, batch):
        return whole_loss(merge(moving, frozen), batch)

    return batch, *jax.jit(jax.value_and_grad(loss))(moving, batch)


@pytest.mark.parametrize("chunk", [1, 16, 4096])
def test_the_loss_in_chunks_is_the_whole_one(whole, chunk):
    batch, loss, grads = whole
    metrics, ours = grads_of(changed(loss_chunk=chunk), batch)
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-6)
    assert_close(ours, grads, atol=1e-6)
    assert furthest(jax.tree.map(lambda leaf: leaf * 1.001, grads), grads) > 1e-5, "the control"


def sizes(jaxpr) -> set[tuple[int, ...]]:
    """The shape of every array that the program makes, in whatever part of it."""
    found = set()
    for eqn in jaxpr.eqns:
        found |= {var.aval.shape for var in eqn.outvars}
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            found |= sizes(inner) if hasattr(inner, "eqns") else set()
    return found


def test_logits_of_all_tokens_never_exist():
    batch, vocab = tiny.batch(8), tiny.MODEL.llm.vocab_size
    moving, frozen = split(tiny.params(), ALL_ROUND.train.trainable)
    most = {}
    for chunk in (16, 40):
        differentiate = functools.partial(gradients, changed(loss_chunk=chunk))
        made = sizes(jax.make_jaxpr(differentiate)(moving, frozen, batch, None).jaxpr)
        most[chunk] = max(np.prod(shape) for shape in made if shape and shape[-1] == vocab)
    assert most == {16: 8 * 16 * vocab, 40: 8 * 40 * vocab}


@pytest.mark.parametrize("counts", [(1, 2, 20, 20), (3, 0, 0, 22)])
def test_any_accumulation_gives_the_same_gradient(counts):
    batch = labelled(tiny.batch(4, length=60), counts)
    metrics, grads = grads_of(ALL_ROUND, batch)
    for accumulate in (2, 4):
        told, ours = grads_of(changed(accumulate=accumulate), batch)
        assert_close(ours, grads, atol=5e-6, rtol=1e-5)
        assert float(told["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-6)
        np.testing.assert_allclose(told["row_loss"], metrics["row_loss"], rtol=1e-5)
    assert told["row_labels"].tolist() == list(counts)
    assert float(metrics["row_loss"].sum() / sum(counts)) == pytest.approx(float(metrics["loss"]))
    _, original = grads_of(changed(accumulate=4, loss_weighting="microbatch"), batch)
    assert furthest(original, grads) > 1e-3, "the control: a mean of means is another loss"


def test_microbatch_weighting_is_the_mean_of_the_micro_batches_means():
    batch = labelled(tiny.batch(4, length=60), (1, 2, 20, 20))
    metrics, grads = grads_of(changed(accumulate=4, loss_weighting="microbatch"), batch)
    singles = [jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], batch) for row in range(4)]
    apart = [grads_of(ALL_ROUND, single) for single in singles]
    mean = jax.tree.map(lambda *each: sum(each) / 4, *(own for _, own in apart))
    assert_close(grads, mean, atol=1e-6)
    losses = [float(told["loss"]) for told, _ in apart]
    assert float(metrics["loss"]) == pytest.approx(np.mean(losses), rel=1e-6)


def test_stage_0_accumulates_to_the_same_gradient():
    batch, dense = tiny.batch(8), tiny.dense(8)
    metrics, grads = grads_of(STAGE_0, batch, dense)
    told, ours = grads_of(tiny.changed(STAGE_0, train={"accumulate": 2}), batch, dense)
    assert_close(ours, grads, atol=1e-6, rtol=1e-5)
    for name in ("loss", "loss_waves", "loss_qrs", "loss_summary", "loss_text"):
        assert float(told[name]) == pytest.approx(float(metrics[name]), rel=1e-5), name


def test_a_batch_is_one_step_in_however_many_micro_batches():
    for accumulate in (1, 4):
        state, _, _ = after(changed(accumulate=accumulate), [tiny.batch(8)] * 2)
        counts = {int(leaf) for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim == 0}
        assert int(state.step) == 2 and counts == {2}


def test_gradients_add_up_in_float32():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tiny.params())
    moving, frozen = split(params, ("llm",))
    config = changed(accumulate=4, trainable=("llm",))
    differentiate = functools.partial(gradients, config)
    jaxpr = jax.make_jaxpr(differentiate)(moving, frozen, tiny.batch(8), None).jaxpr
    (scan,) = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
    assert {var.aval.dtype for var in scan.outvars} == {jnp.dtype("float32")}
    _, grads = jax.eval_shape(differentiate, moving, frozen, tiny.batch(8), None)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("bfloat16")}


def test_a_batch_without_labels_has_loss_0_and_moves_nothing_but_decay():
    silent = labelled(tiny.batch(8), [0] * 8)
    for accumulate in (1, 4):
        _, now, (metrics,) = after(changed(accumulate=accumulate), [silent])
        assert float(metrics["loss"]) == int(metrics["labels"]) == float(metrics["grad_norm"]) == 0
        decay = 1 - ALL_ROUND.optimizer.learning_rate * ALL_ROUND.optimizer.weight_decay
        before = leaves(tiny.params())
        for path, leaf in leaves(now).items():
            part, name = path.split("/")[0], path.split("/")[-1]
            decays = part in ALL_ROUND.train.trainable and name not in ("scale", "bias")
            factor = decay if decays else 1.0
            np.testing.assert_allclose(leaf, before[path] * factor, rtol=1e-5, err_msg=path)
    _, _, (metrics,) = after(ALL_ROUND, [tiny.batch(8)])
    assert float(metrics["loss"]) > 0 and int(metrics["labels"]) == tiny.batch(8).loss_mask.sum()


def test_what_is_not_finite_is_seen_in_the_metrics():
    batch = tiny.batch(8)
    broken = batch.replace(ecg=np.full_like(batch.ecg, np.inf))
    _, _, told = after(ALL_ROUND, [batch, broken])
    finite = [
        {name: bool(np.isfinite(one[name])) for name in ("loss", "grad_norm")} for one in told
    ]
    assert all(finite[0].values()) and not any(finite[1].values())


def test_one_batch_is_learned_by_heart():
    batch = tiny.batch(8)
    _, _, told = after(ALL_ROUND, [batch] * 120)
    assert float(told[0]["loss"]) > 4.0
    assert float(told[-1]["loss"]) < 0.01
    draws = (np.random.default_rng(n).integers(3, 400, batch.targets.shape) for n in range(120))
    others = [batch.replace(targets=draw.astype(np.int32)) for draw in draws]
    _, _, told = after(ALL_ROUND, others)
    assert float(told[-1]["loss"]) > 4.0, "the control: other targets each time cannot be learned"


def test_the_state_is_donated():
    moving, frozen = split(jax.tree.map(jnp.copy, tiny.params()), ALL_ROUND.train.trainable)
    tx = optimizer(ALL_ROUND.optimizer, ALL_ROUND.train.steps)
    state = fresh_state(tx, moving)
    step = functools.partial(train_step, config=ALL_ROUND, tx=tx)
    compiled = jax.jit(step, donate_argnums=0).lower(state, frozen, tiny.batch(8), None).compile()
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert compiled.memory_analysis().alias_size_in_bytes == held
    compiled(state, frozen, tiny.batch(8), None)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


@pytest.fixture(scope="module")
def unsharded():
    """(recipe, batch of 16 rows, metrics, gradient) on one device."""
    config, batch = changed(accumulate=2), tiny.batch(16)
    return config, batch, *grads_of(config, batch)


def on_mesh(sizes, config, batch, dense=None):
    """(metrics, gradient) with parameters and batch cut over a mesh."""
    mesh = sharding.make_mesh(MeshConfig(*sizes))
    params = tiny.params(config.train.objective == "pretrain")
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, sharding.param_shardings(mesh, params))
        batch, dense = jax.device_put((batch, dense), sharding.batch_sharding(mesh))
        return grads_of(config, batch, dense, placed)


@pytest.mark.parametrize("mesh", MESHES)
def test_sharded_loss_and_gradients_are_the_unsharded_ones(mesh, unsharded):
    config, batch, metrics, grads = unsharded
    told, ours = on_mesh(mesh, config, batch)
    kernel = ours["llm"]["layers"]["mlp"]["up_proj"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // (mesh[1] * mesh[2])
    assert float(told["loss"]) == pytest.approx(float(metrics["loss"]), abs=1e-5)
    assert_close(ours, grads, atol=1e-5)
    np.testing.assert_allclose(told["row_loss"], metrics["row_loss"], atol=1e-4)
    assert told["row_loss"].sharding.is_fully_replicated
    others = differentiator(config)(
        *split(tiny.params(), config.train.trainable), tiny.batch(16, seed=1), None
    )
    assert furthest(others[1], grads) > 1e-3, "the control: another batch's"


def test_sharded_stage_0_is_the_unsharded_one():
    batch, dense = tiny.batch(8), tiny.dense(8)
    metrics, grads = grads_of(STAGE_0, batch, dense)
    told, ours = on_mesh((1, 8, 1), STAGE_0, batch, dense)
    assert float(told["loss"]) == pytest.approx(float(metrics["loss"]), abs=1e-5)
    assert_close(ours, grads, atol=1e-5)


def test_a_device_without_labels_leaves_the_others_mean(unsharded):
    config, batch, metrics, grads = unsharded
    others = np.arange(16) // 2 != 3  # the fourth of eight devices holds rows 6 and 7
    silent = batch.replace(loss_mask=batch.loss_mask & others[:, None])
    told, ours = on_mesh((8, 1, 1), config, silent)
    mean = metrics["row_loss"][others].sum() / metrics["row_labels"][others].sum()
    assert float(told["loss"]) == pytest.approx(float(mean), abs=1e-5)
    anything = silent.replace(tokens=np.where(others[:, None], silent.tokens, 5))
    assert_close(ours, grads_of(config, anything)[1], atol=1e-5)
    assert furthest(ours, grads) > 1e-3, "the control: with the device's labels"


def test_a_devices_rows_stay_with_it():
    mesh = sharding.make_mesh(MeshConfig(8, 1, 1))
    with jax.set_mesh(mesh):
        rows = jax.device_put(np.arange(16), sharding.batch_sharding(mesh))
        cut = jax.jit(micro_batches, static_argnums=1)
        (micro,) = cut([rows], 2)
        text = cut.lower([rows], 2).compile().as_text()
        with pytest.raises(ConfigError, match=r"train.accumulate: got 4, expected .*\(32\)"):
            cut([rows], 4)
    assert micro.tolist() == [list(range(0, 16, 2)), list(range(1, 16, 2))]
    assert not any(word in text for word in ("all-to-all", "all-gather", "collective-permute"))


def test_the_mean_loss_is_that_of_the_labelled_tokens():
    batch, config = tiny.batch(3), ALL_ROUND
    told = float(jax.jit(functools.partial(tiny.mean_loss, config))(tiny.params(), batch))
    logits_of = jax.jit(functools.partial(Gem(tiny.MODEL).apply, {"params": tiny.params()}))
    said = np.asarray(jax.nn.log_softmax(logits_of(batch)))
    row, at = np.nonzero(batch.loss_mask)
    assert told == pytest.approx(-said[row, at, batch.targets[row, at]].mean(), rel=1e-5)
    assert told != pytest.approx(-said.reshape(-1, 400).mean(), rel=1e-3)
