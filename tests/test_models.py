"""The parts of the model: what reaches what, and that nothing else does."""

from __future__ import annotations

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

import tiny
from gem_jax.models.clip import ClipConfig, ClipEncoder
from gem_jax.models.ecg import EcgConfig, EcgEncoder
from gem_jax.models.gem import Gem, abstract_batch, abstract_params
from gem_jax.models.layers import (
    Projector,
    attention,
    causal_mask,
    projector_depth,
    rope,
    rotations,
)
from gem_jax.models.llm import REMAT, Llm, LlmConfig
from gem_jax.models.pretrain import Pretrain
from gem_jax.paths import flat


def compiled(model, **options):
    return jax.jit(lambda params, *args: model.apply({"params": params}, *args, **options))


logits_of = compiled(Gem(tiny.MODEL))
embedded = compiled(Gem(tiny.MODEL), method="embed")
media_of = compiled(Gem(tiny.MODEL), method="media")
ecg_tokens = compiled(EcgEncoder(tiny.MODEL.ecg))
image_tokens = compiled(ClipEncoder(tiny.MODEL.vision))


@pytest.fixture(scope="module")
def batch():
    return jax.tree.map(jnp.asarray, tiny.batch(rows=2, length=40))


@jax.jit
def llm_gradient(params, hidden, batch, query):
    """|d logits[query] / d embeddings| of the language model by token."""

    def total(hidden):
        mask = causal_mask(batch.segments)
        logits, _ = Llm(tiny.MODEL.llm).apply({"params": params}, hidden, batch.positions, mask)
        return jnp.square(logits[0, query]).sum()

    return jnp.abs(jax.grad(total)(hidden)[0]).sum(-1)


def test_no_token_sees_a_later_one(batch):
    hidden = jax.random.normal(jax.random.key(0), (*batch.tokens.shape, 32))
    for query in (0, 7, int(batch.segments[0].sum()) - 1):
        seen = np.asarray(llm_gradient(tiny.params()["llm"], hidden, batch, query))
        assert (seen[: query + 1] > 0).all()
        assert not seen[query + 1 :].any()


def test_padding_changes_nothing(batch):
    params = tiny.params()
    real = np.asarray(batch.segments) > 0
    noise = jax.random.randint(jax.random.key(1), batch.tokens.shape, 3, 400)
    other = batch.replace(tokens=jnp.where(real, batch.tokens, noise))
    expected = np.asarray(logits_of(params, batch))
    np.testing.assert_array_equal(np.asarray(logits_of(params, other))[real], expected[real])
    seen = batch.replace(segments=jnp.ones_like(batch.segments))
    last = int(batch.segments[0].sum())
    unmasked = np.asarray(logits_of(params, seen.replace(tokens=other.tokens)))
    assert not np.allclose(unmasked[0, last], expected[0, last]), "the control sees the noise"


def test_media_overwrite_their_places_alone(batch):
    params = tiny.params()
    text = params["llm"]["embed_tokens"]["embedding"][batch.tokens]
    got = np.asarray(embedded(params, batch))
    media = np.asarray(batch.media_index)
    np.testing.assert_array_equal(got[media < 0], np.asarray(text)[media < 0])
    features = np.asarray(media_of(params, batch.ecg, batch.image))
    assert features.shape == (2, tiny.MEDIA, tiny.MODEL.llm.hidden_dim)
    np.testing.assert_allclose(got[media >= 0].reshape(features.shape), features, atol=1e-6)
    assert not np.allclose(got[media >= 0], np.asarray(text)[media >= 0])


def test_the_order_of_the_features_is_ecg_then_image(batch):
    params = tiny.params()
    count = tiny.MODEL.ecg.num_tokens
    places = slice(1, 1 + tiny.MEDIA)
    before = np.asarray(embedded(params, batch))[:, places]
    ecg = np.asarray(embedded(params, batch.replace(ecg=batch.ecg + 1.0)))[:, places]
    image = np.asarray(embedded(params, batch.replace(image=-batch.image)))[:, places]
    assert (np.abs(ecg - before).max((0, 2)) > 0).tolist() == [True] * count + [False] * (
        tiny.MEDIA - count
    )
    assert (np.abs(image - before).max((0, 2)) > 0).tolist() == [False] * count + [True] * (
        tiny.MEDIA - count
    )


def test_ecg_features_pass_both_projectors(batch):
    params = tiny.params()
    count = tiny.MODEL.ecg.num_tokens
    before = np.asarray(media_of(params, batch.ecg, batch.image))

    def moved(part):
        changed = {**params, part: jax.tree.map(lambda leaf: leaf + 0.1, params[part])}
        after = np.asarray(media_of(changed, batch.ecg, batch.image))
        return np.abs(after - before).max((0, 2)) > 0

    assert moved("mm_projector").all()
    assert moved("ecg_projector").tolist() == [True] * count + [False] * (tiny.MEDIA - count)
    tokens, _ = ecg_tokens(params["ecg_tower"], batch.ecg[:, 0])
    between = compiled(Projector("linear", 16))(params["ecg_projector"], tokens)
    both = compiled(Projector("mlp2x_gelu", 32))(params["mm_projector"], between)
    np.testing.assert_allclose(before[:, :count], both, atol=1e-5)


def test_the_encoders_read_what_lies_under_a_token():
    params = tiny.params()
    # With the blocks silenced only the embedding of the patches is left.
    silent = jax.tree.map(jnp.zeros_like, params["ecg_tower"]["blocks"])
    tower = {**params["ecg_tower"], "blocks": silent}
    ecg = jnp.zeros((2, 12, 1000))
    changed = ecg.at[:, 3, 250:260].set(1.0)
    before, after = (np.asarray(ecg_tokens(tower, each)[0]) for each in (ecg, changed))
    assert np.flatnonzero(np.abs(after - before).max((0, 2))).tolist() == [1 + 250 // 100]
    silent = jax.tree.map(jnp.zeros_like, params["vision_tower"]["layers"])
    tower = {**params["vision_tower"], "layers": silent}
    image = jnp.zeros((2, 32, 32, 3))
    changed = image.at[:, 20, 3].set(1.0)
    before, after = (np.asarray(image_tokens(tower, each)[0]) for each in (image, changed))
    assert np.flatnonzero(np.abs(after - before).max((0, 2))).tolist() == [2]


def test_the_selected_layer_is_counted_from_the_end():
    image = jnp.asarray(tiny.batch(1).image[:, 0])
    config = ClipConfig(32, 16, 16, 3, 2, 32, select_layer=-2)
    shapes = jax.eval_shape(ClipEncoder(config).init, jax.random.key(0), image)["params"]
    params = tiny.drawn(shapes)
    cut = jax.tree.map(lambda leaf: leaf[:2], params["layers"])
    shorter = dataclasses.replace(config, num_layers=2, select_layer=-1)
    selected = compiled(ClipEncoder(config))(params, image)[0]
    last = compiled(ClipEncoder(shorter))({**params, "layers": cut}, image)[0]
    np.testing.assert_allclose(selected, last, atol=1e-5)
    other = dataclasses.replace(config, select_layer=-1)
    assert not np.allclose(compiled(ClipEncoder(other))(params, image)[0], last, atol=1e-3)


def test_rope_depends_on_distance_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

    def turns(at):
        return rotations(jnp.array([[at]]), 4, 10_000.0)

    def product(at, of):
        return float((rope(q, turns(at)) * rope(k, turns(of))).sum())

    assert product(7, 3) == pytest.approx(product(104, 100), abs=1e-4)
    assert product(7, 3) != pytest.approx(product(7, 4), abs=1e-3)
    np.testing.assert_array_equal(rope(q, turns(0)), q)


def test_segments_do_not_see_each_other():
    mask = np.asarray(causal_mask(jnp.array([[1, 1, 2, 2, 0, 0]])))[0, 0]
    assert mask.tolist() == [
        [True, False, False, False, False, False],
        [True, True, False, False, False, False],
        [False, False, True, False, False, False],
        [False, False, True, True, False, False],
        [False, False, False, False, True, False],
        [False, False, False, False, False, True],
    ]


def test_grouped_heads_are_repeated_heads():
    q, k, v = (jax.random.normal(jax.random.key(n), (1, 5, 4, 8)) for n in range(3))
    grouped = attention(q, k[:, :, ::2], v[:, :, ::2])
    repeated = attention(q, jnp.repeat(k[:, :, ::2], 2, 2), jnp.repeat(v[:, :, ::2], 2, 2))
    np.testing.assert_allclose(grouped, repeated, atol=1e-6)


@pytest.mark.parametrize("way", ["blocks", "whole"])
def test_remat_changes_what_is_computed_twice_and_no_gradient(batch, way):
    hidden = jax.random.normal(jax.random.key(0), (2, 40, 32))
    mask, params = causal_mask(batch.segments), tiny.params()["llm"]

    def gradient(remat):
        model = Llm(dataclasses.replace(tiny.MODEL.llm, remat=remat, attention=way))

        def total(params):
            return model.apply({"params": params}, hidden, batch.positions, mask)[0].std()

        return jax.grad(total)

    plain = jax.tree.leaves(jax.jit(gradient("none"))(params))
    products, norms = {}, {}
    for remat in REMAT:
        program = str(jax.make_jaxpr(gradient(remat))(params))
        products[remat], norms[remat] = program.count("dot_general"), program.count("rsqrt")
        got = jax.tree.leaves(jax.jit(gradient(remat))(params))
        for one, expected in zip(got, plain, strict=True):
            np.testing.assert_allclose(one, expected, atol=1e-6)
    assert norms["none"] < norms["dots"] <= norms["full"]
    assert products["dots"] < products["full"]
    # Blocks make their probabilities again at all events, and `dots` keeps their results.
    again = products["dots"] - products["none"]
    assert again == 0 if way == "blocks" else again > 0


def test_stage_0_shares_its_parts_with_gem():
    gem, stage_0 = flat(abstract_params(tiny.MODEL)), flat(tiny.params(stage_0=True))
    assert {path.split("/")[0] for path in stage_0} == {"ecg_tower", "llm", "dense_head"}
    for path, leaf in stage_0.items():
        if not path.startswith("dense_head/"):
            assert gem[path].shape == leaf.shape, path


def test_stage_0_reads_every_token_and_the_text(batch):
    said, logits = compiled(Pretrain(tiny.MODEL))(tiny.params(stage_0=True), batch)
    assert said["waves"].shape == said["qrs"].shape == (2, 10, 12, 3)
    assert said["summary"].shape == (2, 6)
    assert logits.shape == (2, 40, tiny.MODEL.llm.vocab_size)


def changed(**fields):
    return dataclasses.replace(tiny.MODEL, **fields)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: EcgConfig(1000, 12, 99, 16, 1, 8, 2.0, 8), "ecg.seq_length: got 1000"),
        (lambda: ClipConfig(30, 16, 16, 1, 2, 32), "vision.image_size: got 30"),
        (lambda: ClipConfig(32, 16, 16, 1, 2, 32, select_layer=-3), "vision.select_layer: got -3"),
        (lambda: ClipConfig(32, 16, 16, 1, 2, 32, activation="x"), "vision.activation: got 'x'"),
        (lambda: LlmConfig(9, 32, 1, 4, 3, 8, 48, 1e4, 1e-5), "llm.num_heads: got 4"),
        (lambda: LlmConfig(9, 32, 1, 4, 2, 7, 48, 1e4, 1e-5), "llm.head_dim: got 7"),
        (lambda: LlmConfig(9, 32, 1, 4, 2, 8, 48, 1e4, 1e-5, remat="all"), "llm.remat: got 'all'"),
        (lambda: changed(eos_token_ids=(2, 400)), r"model.eos_token_ids\[1\]: got 400"),
        (lambda: changed(max_length=15), "model.max_length: got 15"),
        (lambda: changed(mm_projector="mlp0x_gelu"), "projector: got"),
        (lambda: changed(patch_merge="spatial_unpad"), "model.patch_merge: got spatial_unpad"),
        (lambda: changed(image_mode="anyres"), "model.grid_pinpoints: got none"),
        (lambda: changed(vision=None), "model.ecg: got an ECG encoder without"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make, field):
    with pytest.raises(ValueError, match=field):
        make()


def test_projectors_by_their_official_names():
    assert [projector_depth(kind) for kind in ("identity", "linear", "mlp2x_gelu")] == [0, 1, 2]
    for kind in ("mlpx_gelu", "mlp2x_relu", "resnet"):
        with pytest.raises(ValueError, match="expected identity, linear or mlpNx_gelu"):
            projector_depth(kind)
    x = jnp.ones((1, 3, 8))
    params = Projector("mlp3x_gelu", 4).init(jax.random.key(0), x)["params"]
    assert sorted(params) == ["0", "2", "4"]
    np.testing.assert_array_equal(Projector("identity", 8).apply({}, x), x)


def added_before_the_root(jaxpr) -> list[float]:
    """What is added to each variance of the program, in whatever part of it."""
    made = {var: eqn for eqn in jaxpr.eqns for var in eqn.outvars}
    roots = [made[eqn.invars[0]] for eqn in jaxpr.eqns if eqn.primitive.name == "rsqrt"]
    found = [float(eqn.invars[1].val) for eqn in roots if eqn.primitive.name == "add"]
    for eqn in jaxpr.eqns:
        for inner in jaxprs_in_params(eqn.params):
            found += added_before_the_root(inner)
    return found


def test_every_norm_has_the_epsilon_of_its_parts_config():
    """D-08: flax's own is 1e-6, which nobody's logits show until a variance is small."""
    told = {"ecg": 3e-5, "vision": 2e-5, "llm": 7e-6}
    parts = {
        name: dataclasses.replace(getattr(tiny.MODEL, name), norm_eps=epsilon)
        for name, epsilon in told.items()
    }
    model = dataclasses.replace(tiny.MODEL, **parts)
    whole = abstract_params(model), abstract_batch(model, 1, 40)
    program = jax.make_jaxpr(lambda params, batch: Gem(model).apply({"params": params}, batch))
    found = collections.Counter(np.round(added_before_the_root(program(*whole).jaxpr), 7))
    # An encoder has two in its block, one before it and one behind; the language model no first.
    assert found == {3e-5: 4, 2e-5: 4, 7e-6: 3}
