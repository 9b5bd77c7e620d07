"""The README.md of an exported folder: what is in it and how the original code loads it."""

from collections import Counter
from collections.abc import Mapping

import jax

from gem_jax.models.gem import GemConfig
from gem_jax.paths import part_of
from gem_jax.weights.hf_export import ECG_DIR, VISION_DIR

CARD = """---
library_name: transformers
tags: [ecg, electrocardiogram, llava, gem]
---
# GEM: a 12-lead ECG, its page and a question in, a grounded answer out

Exported by gem-jax. {parameters}.

| part | sizes |
|---|---|
| ECG encoder | {ecg} |
| image encoder | {pixels} x {pixels} pixels, {layers} layers of {width} |
| projectors | ECG: {ecg_projector}, then with the page: {mm_projector} |
| language model | {vocabulary} tokens, {llm_layers} layers of {llm_width}, length {length} |

- The layout is the original's (GEM, LLaVA): `model*.safetensors` holds every part. The towers lie
  once more in `{vision_dir}/` and `{ecg_dir}/`, where `config.json` points to; its paths are
  relative, so run the original code with this folder as the working directory.
- `{ecg_dir}/` has the ECG encoder alone: the text towers of its pretraining are not part of GEM.
- `gem-jax import` reads the folder back bit for bit.

Not a medical device: for research only, not for diagnosis or treatment.
"""

CARD_LLAVA = """---
library_name: transformers
tags: [llava]
---
# LLaVA: an image and a question in, an answer out

Exported by gem-jax. {parameters}.

| part | sizes |
|---|---|
| image encoder | {pixels} x {pixels} pixels, {layers} layers of {width} |
| projector | {mm_projector} |
| language model | {vocabulary} tokens, {llm_layers} layers of {llm_width}, length {length} |

- The layout is the original's (LLaVA): `model*.safetensors` holds every part. The image encoder
  lies once more in `{vision_dir}/`, where `config.json` points to; its path is relative, so run the
  original code with this folder as the working directory.
- `gem-jax import` reads the folder back bit for bit.

Not a medical device: for research only, not for diagnosis or treatment.
"""

CARD_ALONE = """---
library_name: transformers
---
# A language model, exported by gem-jax

{parameters}: {vocabulary} tokens, {llm_layers} layers of {llm_width}, length {length}.
transformers loads it as {family}; `gem-jax import` reads the folder back bit for bit.

Not a medical device: for research only, not for diagnosis or treatment.
"""


def model_card(config: GemConfig, parameters: str) -> str:
    """Returns the card's Markdown; `parameters` is the count for people."""
    ecg, vision, llm = config.ecg, config.vision, config.llm
    said = {
        "parameters": parameters[:1].upper() + parameters[1:],
        "vocabulary": llm.vocab_size,
        "llm_layers": llm.num_layers,
        "llm_width": llm.hidden_dim,
        "length": config.max_length,
    }
    if vision is None:
        return CARD_ALONE.format(**said, family=llm.family)
    said |= {
        "pixels": vision.image_size,
        "layers": vision.num_layers,
        "width": vision.hidden_dim,
        "mm_projector": config.mm_projector,
        "vision_dir": VISION_DIR,
    }
    if ecg is None:
        return CARD_LLAVA.format(**said)
    sizes = f"{ecg.num_leads} x {ecg.seq_length} samples, {ecg.num_layers} layers of {ecg.width}"
    return CARD.format(**said, ecg=sizes, ecg_projector=config.ecg_projector, ecg_dir=ECG_DIR)


def describe(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> str:
    """Returns the number of parameters of these shapes, by path: whole and by part, for people."""
    counts: Counter[str] = Counter()
    for path, leaf in shapes.items():
        counts[part_of(path)] += leaf.size
    parts = ", ".join(f"{part} {count:,}" for part, count in counts.items())
    return f"{sum(counts.values()):,} parameters ({parts})"
