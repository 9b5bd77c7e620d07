"""The loss of the original's batches and its gradient, parameter by parameter."""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from gem_jax.models.gem import Gem
from gem_jax.objectives import text_sums
from gem_jax.reference import read_reference
from gem_jax.reference_batch import batch_of, overridden
from gem_jax.weights.read import read_gem
from official_names import apart, official

GOLDENS = Path(__file__).parent / "goldens"
# The batch whose gradient the original's file holds.
CASES = {"gem_llama_tiny": "main", "gem_qwen_tiny": "main", "gem_anyres_tiny": "unpad"}
# The original trains neither encoder: they run without gradients.
FROZEN = ("ecg_tower", "vision_tower")


@pytest.fixture(scope="module", params=CASES)
def golden(request):
    """(parameters, batch, the original's loss, its gradients, ours of (parameters, batch))."""
    folder, name = GOLDENS / request.param, CASES[request.param]
    config, params = read_gem(folder)
    reference = read_reference(folder / "reference.npz", config)
    (case,) = [case for case in reference.forward if case.name == name]
    own, longest = overridden(config, case.inputs.overrides, name)
    batch = batch_of(own, reference, case.inputs, longest, name)

    def loss(trained, frozen, batch):
        apply = functools.partial(Gem(own).apply, {"params": trained | frozen})
        logits_of = functools.partial(apply, method="logits")
        # Chunks that do not divide the rows: the loss is the whole one all the same.
        sums = text_sums(logits_of, apply(batch, method="hidden"), batch, 50)
        return sums.sum() / batch.loss_mask.sum()

    compiled = jax.jit(jax.value_and_grad(loss))

    def run(params, batch):
        frozen = {part: params[part] for part in FROZEN}
        trained = {part: tree for part, tree in params.items() if part not in FROZEN}
        value, tree = compiled(trained, frozen, batch)
        return float(value), official(config, jax.device_get(tree))

    return params, batch, case.loss, load_file(folder / "grads.safetensors"), run


def test_loss_and_every_gradient_are_the_originals(golden):
    params, batch, loss, gradients, run = golden
    value, ours = run(params, batch)
    assert abs(value - loss) < 1e-5
    assert not any(part in name for name in gradients for part in FROZEN)
    far = {name: by for name, by in apart(ours, gradients).items() if by > 1e-4}
    assert not far


def test_exchanged_layers_and_anothers_ecg_are_seen(golden):
    params, batch, loss, gradients, run = golden
    layers = jax.tree.map(lambda stacked: stacked[[1, 0, 2]], params["llm"]["layers"])
    swapped = params | {"llm": params["llm"] | {"layers": layers}}
    others = batch.replace(ecg=np.roll(batch.ecg, 1, axis=0))
    for given in ((swapped, batch), (params, others)):
        value, ours = run(*given)
        assert abs(value - loss) > 1e-5
        assert min(apart(ours, gradients).values()) > 1e-4
