"""LoRA's factors as PEFT stores them: their names, and the folder of an adapter read.

`base_model.model.` stands before an official name, `.lora_A.weight` (rank, in) and `.lora_B.weight`
(out, rank) behind it. Projectors trained beside the factors are PEFT's `modules_to_save`; LLaVA
keeps them in a file of their own, non_lora_trainables.bin, which is read too.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from gem_jax.config import LoraConfig
from gem_jax.lora import PARTS, A, B, merged_kernel
from gem_jax.models.gem import GemConfig
from gem_jax.paths import part_of
from gem_jax.weights.dtypes import converted
from gem_jax.weights.files import Shards, WeightsError, open_file
from gem_jax.weights.filling import Shapes, Source, require_fit, stacked
from gem_jax.weights.names import DENSE, Slot, gem_slots
from gem_jax.weights.peft_config import CONFIG, is_target, read_config

PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
BESIDE = "non_lora_trainables.bin"


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder, all of it checked and nothing of it read yet."""

    lora: LoraConfig
    factors: Source
    shapes: Shapes
    """Of the factors, in the dtype that they are stored in."""
    whole: list[Source]
    """Tensors that stand in place of the base's."""


def read_adapter(folder: Path, config: GemConfig, shapes: Shapes) -> Adapter:
    """Returns the adapter in `folder` for the model of `config`, whose parameters have `shapes`.

    Raises:
        WeightsError: naming the options that are not computed here; or all tensors that are
            missing, unknown or of a wrong shape.
    """
    said = read_config(folder)
    modules = {
        module
        for module, name in lora_modules(config)
        if part_of(module) in PARTS and is_target(name, said.targets)
    }
    if not modules:
        got = f"{folder / CONFIG}: target_modules: got {said.targets!r}"
        raise WeightsError(f"{got}, expected modules of the language model or a projector")
    expected = factor_slots(config, modules)
    factors, rest = _opened(folder)
    made = _factor_shapes(shapes, modules, said.rank)
    whole = [(rest, _whole_slots(config, said.whole))]
    if (folder / BESIDE).is_file():
        whole.append(_beside(open_file(folder / BESIDE), config))
    require_fit(folder, [(factors, expected), *whole], {**shapes, **made})
    dtype = factors.entries[next(iter(expected))].dtype
    typed = {path: jax.ShapeDtypeStruct(leaf.shape, dtype) for path, leaf in made.items()}
    lora = LoraConfig(said.rank, said.alpha, tuple(sorted(modules)))
    return Adapter(lora, (factors, expected), typed, whole)


def over(base: list[Source], whole: list[Source]) -> list[Source]:
    """Returns the tensors of `whole`, and those of the base whose place none of these takes."""
    taken = {(slot.path, slot.layer) for _, slots in whole for slot in slots.values()}
    kept = []
    for shards, slots in base:
        own = {name: s for name, s in slots.items() if (s.path, s.layer) not in taken}
        entries = {n: entry for n, entry in shards.entries.items() if n in own or n not in slots}
        kept.append((Shards(shards.folder, entries), own))
    return [*whole, *kept]


def merging(
    shapes: Shapes, sources: list[Source], adapter: Adapter
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (path, parameter), the factors merged in float32, then rounded to what `shapes` says.

    The caller drops one before it asks for the next.
    """
    factors = read_factors(adapter)
    scale = adapter.lora.alpha / adapter.lora.rank
    wide = {
        path: jax.ShapeDtypeStruct(leaf.shape, np.float32) if path + A in factors else leaf
        for path, leaf in shapes.items()
    }
    for path, leaf in stacked(wide, sources):
        if path + A in factors:
            leaf = np.asarray(merged_kernel(leaf, factors[path + A], factors[path + B], scale))
        yield path, converted(path, leaf, np.dtype(shapes[path].dtype))
        del leaf  # It is not kept while the next one is read.


def read_factors(adapter: Adapter) -> dict[str, np.ndarray]:
    """Returns the factors by their paths."""
    return dict(stacked(adapter.shapes, [adapter.factors]))


def factor_slots(config: GemConfig, modules: Collection[str]) -> dict[str, Slot]:
    """Returns the slot of each factor at the layers `modules`, paths, by its name in PEFT."""
    return {
        f"{PREFIX}{name.removesuffix('.weight')}.lora_{letter}.weight": Slot(
            slot.path + end, slot.layer, DENSE
        )
        for name, slot in gem_slots(config).items()
        if slot.path.removesuffix("/kernel") in modules
        for letter, end in (("A", A), ("B", B))
    }


def lora_modules(config: GemConfig) -> list[tuple[str, str]]:
    """Returns (path, official name) of each dense layer, for a stack's layers one by one."""
    return [
        (slot.path.removesuffix("/kernel"), name.removesuffix(".weight"))
        for name, slot in gem_slots(config).items()
        if slot.path.endswith("/kernel")
    ]


def _factor_shapes(shapes: Shapes, modules: Collection[str], rank: int) -> Shapes:
    made = {}
    for path in (f"{module}/kernel" for module in modules):
        *stack, inputs, outputs = shapes[path].shape
        made[path + A] = jax.ShapeDtypeStruct((*stack, inputs, rank), np.float32)
        made[path + B] = jax.ShapeDtypeStruct((*stack, rank, outputs), np.float32)
    return made


def _opened(folder: Path) -> tuple[Shards, Shards]:
    """Returns the adapter's factors, and what else its file holds."""
    found = [folder / name for name in (WEIGHTS, PICKLED) if (folder / name).is_file()]
    if not found:
        raise WeightsError(f"{folder}: got no adapter, expected {WEIGHTS} or {PICKLED}")
    entries = open_file(found[0]).entries
    factors = {name: entry for name, entry in entries.items() if ".lora_" in name}
    rest = {name: entry for name, entry in entries.items() if name not in factors}
    return Shards(folder, factors), Shards(folder, rest)


def _whole_slots(config: GemConfig, modules: Collection[str]) -> dict[str, Slot]:
    """Returns the slots of the tensors of `modules`, ends of official names, by names in PEFT."""
    return {
        PREFIX + name: slot
        for name, slot in gem_slots(config).items()
        if any(f".{module}." in f".{name}" for module in modules)
    }


def _beside(shards: Shards, config: GemConfig) -> Source:
    """Returns LLaVA's file of what it trained beside the factors, whatever stands before a name."""
    known = {
        prefix + name: slot
        for name, slot in gem_slots(config).items()
        for prefix in ("", "model.", PREFIX)
    }
    return shards, {name: known[name] for name in shards.entries if name in known}
