"""The encoders' own files: their tensors and slots, without the text towers beside them."""

from pathlib import Path

from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.weights.files import Shards, open_file, open_folder
from gem_jax.weights.filling import Source
from gem_jax.weights.names import ecg_slots, vision_slots

CLIP_VISION = "vision_model."
# The text half of a whole CLIPModel.
CLIP_TEXT = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
# CoCa's pretraining saves all of its towers behind this prefix; GEM has no use for the text's.
COCA_ECG = "module.ecg."
COCA_TEXT = ("module.text.", "module.text_decoder.", "module.logit_scale")


def image_encoder(folder: Path, config: ClipConfig) -> Source:
    """Returns the vision half of a CLIP folder, whole or alone."""
    entries = open_folder(folder).entries
    kept = {name: entry for name, entry in entries.items() if not name.startswith(CLIP_TEXT)}
    # transformers ≥ 5 saves a vision model alone without the prefix.
    bare = not any(name.startswith(CLIP_VISION) for name in kept)
    named = {CLIP_VISION * bare + name: entry for name, entry in kept.items()}
    return Shards(folder, named), vision_slots(config, "")


def ecg_encoder(file: Path, config: EcgConfig) -> Source:
    """Returns the ECG encoder of a file that its pretraining saved."""
    shards = open_file(file)
    kept = {name: e for name, e in shards.entries.items() if not name.startswith(COCA_TEXT)}
    return Shards(shards.folder, kept), ecg_slots(config, COCA_ECG)
