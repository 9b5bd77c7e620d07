"""A LoRA run's factors, and the projectors trained beside them → the folder of a PEFT adapter."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from gem_jax.config import LoraConfig
from gem_jax.lora import is_factor, kernel_of
from gem_jax.models.gem import GemConfig
from gem_jax.paths import part_of
from gem_jax.weights.files import WeightsError, write_json
from gem_jax.weights.filling import Shapes
from gem_jax.weights.names import gem_slots
from gem_jax.weights.peft import PREFIX, WEIGHTS, factor_slots, lora_modules
from gem_jax.weights.peft_config import CONFIG, config_json, short_names
from gem_jax.weights.stream import start_file
from gem_jax.weights.write import plan_tensors, write_tensors
from gem_jax.whole import whole_folder


def write_adapter(
    dest: Path,
    config: GemConfig,
    lora: LoraConfig,
    base: str | None,
    shapes: Shapes,
    leaves: Iterable[tuple[str, np.ndarray]],
) -> None:
    """Writes the adapter `dest` in one step: factors, and the projectors that `shapes` has too.

    `shapes` has the dtypes that are written; of `leaves`, (path, parameter), one is held at a time.
    """
    modules = {kernel_of(path).removesuffix("/kernel") for path in shapes if is_factor(path)}
    parts = {part_of(path) for path in shapes if not is_factor(path)}
    both = sorted(parts & {part_of(module) for module in modules})
    if both:
        got = f"{dest}: got {', '.join(both)} trained with factors and whole"
        raise WeightsError(f"{got}, expected one of them: PEFT has no words for both")
    slots = factor_slots(config, modules)
    slots |= {
        PREFIX + name: slot for name, slot in gem_slots(config).items() if slot.path in shapes
    }
    own = [name for module, name in lora_modules(config) if module in modules]
    targets = short_names(own, [name for _, name in lora_modules(config)])
    with whole_folder(dest) as folder:
        write_json(folder / CONFIG, config_json(lora, base, targets, parts))
        writer = start_file(folder / WEIGHTS, plan_tensors(slots, shapes))
        write_tensors([(writer, slots)], leaves)
