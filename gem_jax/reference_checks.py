"""What a reference file must hold, and what of it does not fit together or not the model.

Each check yields texts, so that all that is wrong is told at once.
"""

import json
from collections.abc import Iterator, Mapping

import numpy as np

from gem_jax.models.gem import GemConfig
from gem_jax.tokens import IGNORED, IMAGE_TOKEN

# Of each array: numpy's kinds, and how many axes.
FORWARD = {
    "input_ids": ("iu", 2),
    "attention_mask": ("biu", 2),
    "labels": ("iu", 2),
    "slots": ("iu", 1),
    "config": ("U", 0),
    "merged_attention_mask": ("biu", 2),
    "merged_labels": ("iu", 2),
    "logits": ("f", 3),
    "loss": ("f", 0),
}
GENERATE = {
    "input_ids": ("iu", 2),
    "slots": ("iu", 1),
    "max_new_tokens": ("iu", 0),
    "new_tokens": ("iu", 1),
}
# What a case without placeholders, and one that sets nothing, may leave out.
ABSENT = {"slots": np.zeros(0, np.int64), "config": np.array("{}")}
KINDS = {"b": "booleans", "i": "integers", "u": "integers", "f": "floats", "U": "text"}


def _prefixes(names: Mapping[str, list[str]]) -> Iterator[tuple[str, dict[str, tuple[str, int]]]]:
    """Yields what stands before the keys of each case, and the arrays it must have."""
    yield from ((f"{name}.", FORWARD) for name in names["forward"])
    yield from ((f"gen.{name}.", GENERATE) for name in names["generate"])


def completed(
    arrays: Mapping[str, np.ndarray], names: Mapping[str, list[str]]
) -> dict[str, np.ndarray]:
    """Returns the arrays, and what a case may leave out as it is meant."""
    absent = {
        prefix + key: ABSENT[key]
        for prefix, table in _prefixes(names)
        for key in ABSENT
        if key in table
    }
    return {**absent, **arrays}


def malformed(arrays: Mapping[str, np.ndarray], names: Mapping[str, list[str]]) -> Iterator[str]:
    """Yields what is missing, and every array of another type or number of axes."""
    wanted = {
        prefix + key: what for prefix, table in _prefixes(names) for key, what in table.items()
    }
    for key in arrays.keys() & {f"{name}.tiles" for name in names["forward"]}:
        wanted[key] = ("iu", 0)
    wanted |= {key: ("f", 3) for key in arrays if key == "ecgs"}
    wanted |= {key: ("f", 4) for key in arrays if key == "images" or key.startswith("pixel_values")}
    if any(key.startswith("pixel_values") for key in arrays):
        wanted["image_sizes"] = ("iu", 2)
    for key, (kinds, axes) in wanted.items():
        if key not in arrays:
            yield f"{key}: missing"
            continue
        array = arrays[key]
        if array.ndim != axes or (array.dtype.kind not in kinds and array.size):
            yield (
                f"{key}: got {array.dtype} with {array.ndim} axes, expected {KINDS[kinds[-1]]} "
                f"with {axes}"
            )


def misfits(
    arrays: Mapping[str, np.ndarray], names: Mapping[str, list[str]], config: GemConfig
) -> Iterator[str]:
    """Yields every array that does not fit the others, or the model."""
    yield from _media_misfits(arrays, config)
    for prefix, table in _prefixes(names):
        case = {key: arrays[prefix + key] for key in table}
        yield from _id_misfits(prefix, case, config)
        yield from _slot_misfits(prefix, case["slots"], arrays, config)
        misfit = _forward_misfits if table is FORWARD else _generate_misfits
        yield from misfit(prefix, case, config)


def _id_misfits(prefix: str, case: Mapping[str, np.ndarray], config: GemConfig) -> Iterator[str]:
    ids, slots = case["input_ids"], case["slots"]
    mask = case.get("attention_mask", np.ones(ids.shape)).astype(bool)
    shown = ids == IMAGE_TOKEN
    if not ((ids >= 0) & (ids < config.llm.vocab_size) | shown).all():
        yield (
            f"{prefix}input_ids: got {ids.min()} to {ids.max()}, expected {IMAGE_TOKEN}, or 0 to "
            f"{config.llm.vocab_size - 1}"
        )
    if mask.shape != ids.shape:
        yield f"{prefix}attention_mask: got shape {mask.shape}, expected {ids.shape}"
        return
    if not mask.any(axis=-1).all() or not ids.size:
        yield f"{prefix}input_ids: got a row of no tokens, expected at least one"
    count = (shown & mask).sum()
    if len(slots) != count:
        yield f"{prefix}slots: got {len(slots)}, expected one for each of {count} placeholders"


def _slot_misfits(
    prefix: str, slots: np.ndarray, arrays: Mapping[str, np.ndarray], config: GemConfig
) -> Iterator[str]:
    if not len(slots):
        return
    if not config.vision:
        yield f"{prefix}input_ids: got placeholders, expected none: the model takes no images"
        return
    tiled = sum(key.startswith("pixel_values_") for key in arrays)
    stored = {"images": len(arrays["images"]) if "images" in arrays else tiled}
    if config.ecg:
        stored["ecgs"] = len(arrays.get("ecgs", ()))
    for kind, count in stored.items():
        if not count:
            yield f"{kind}: missing, expected what {prefix}slots names"
        elif not 0 <= slots.min() <= slots.max() < count:
            yield f"{prefix}slots: got {slots.tolist()}, expected 0 to {count - 1} ({kind})"


def _generate_misfits(
    prefix: str, case: Mapping[str, np.ndarray], config: GemConfig
) -> Iterator[str]:
    rows = len(case["input_ids"])
    if rows != 1:
        yield f"{prefix}input_ids: got {rows} rows, expected 1"
    if case["max_new_tokens"] < 1:
        yield f"{prefix}max_new_tokens: got {case['max_new_tokens']}, expected 1 or more"


def _forward_misfits(
    prefix: str, case: Mapping[str, np.ndarray], config: GemConfig
) -> Iterator[str]:
    merged = case["merged_attention_mask"].shape
    shapes = {
        "labels": case["input_ids"].shape,
        "merged_attention_mask": (len(case["input_ids"]), *merged[1:]),
        "merged_labels": merged,
        "logits": (*merged, config.llm.vocab_size),
    }
    for key, shape in shapes.items():
        if case[key].shape != shape:
            yield f"{prefix}{key}: got shape {case[key].shape}, expected {shape}"
    labels, ids = case["labels"], case["input_ids"]
    known = (labels >= 0) & (labels < config.llm.vocab_size) | (labels == IGNORED)
    if labels.shape == ids.shape and len(wrong := labels[~known & (ids != IMAGE_TOKEN)]):
        yield (
            f"{prefix}labels: got {wrong[0]}, expected {IGNORED}, or 0 to "
            f"{config.llm.vocab_size - 1}"
        )
    try:
        overrides = json.loads(str(case["config"][()]))
    except (ValueError, RecursionError) as error:
        overrides = error
    if not isinstance(overrides, dict):
        yield f"{prefix}config: got {overrides!r}, expected a JSON object"


def _media_misfits(arrays: Mapping[str, np.ndarray], config: GemConfig) -> Iterator[str]:
    """Yields shared inputs of other sizes than the encoders take, or that nothing takes."""
    pixels = [key for key in arrays if key == "images" or key.startswith("pixel_values_")]
    expected: dict[str, tuple[int, ...] | None] = {}
    if "ecgs" in arrays:
        ecg = config.ecg
        expected["ecgs"] = (ecg.num_leads, ecg.seq_length) if ecg else None
    for key in pixels:
        vision = config.vision
        expected[key] = (3, vision.image_size, vision.image_size) if vision else None
    for key, shape in expected.items():
        got = arrays[key].shape
        if shape is None:
            yield f"{key}: got {got}, expected none: the model has no encoder for it"
        elif got[1:] != shape or not len(arrays[key]):
            yield f"{key}: got shape {got}, expected one or more of {shape}"
    tiled = [key for key in pixels if key != "images"]
    names = {f"pixel_values_{i}" for i in range(len(tiled))}
    if tiled and (set(tiled) != names or arrays["image_sizes"].shape != (len(tiled), 2)):
        yield (
            f"image_sizes: got shape {arrays['image_sizes'].shape} and {sorted(tiled)}, expected "
            "(S, 2) and pixel_values_0 to pixel_values_(S - 1)"
        )
    elif tiled and arrays["image_sizes"].min() < 1:
        yield f"image_sizes: got {arrays['image_sizes'].min()}, expected 1 pixel or more"
