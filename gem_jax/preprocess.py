"""A record and its page as the arrays the model takes.

Ours reads a record by the names and at the rate it has: leads in canonical order, resampled to
500 Hz, missing samples 0 mV, padded with zeros or cut at the end to the model's length. Axes:
L leads, T samples, N the model's samples, H W pixels.
"""

import dataclasses

import numpy as np
from jaxtyping import Float
from PIL import Image

from data_prep.records import LEADS, BadInput, Record, resample
from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig

MODEL_RATE_HZ = 500.0
# |mV| beyond this is a record in another unit: no heart gives it, and half precision overflows.
MAX_ABS_MV = 50.0
# OpenAI's CLIP was trained with these channel means and deviations; LLaVA keeps them.
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def ecg_array(record: Record, config: EcgConfig) -> Float[np.ndarray, "L N"]:
    """Returns the twelve leads in mV at the model's length.

    Raises:
        BadInput: when a lead is missing or a value is beyond 50 mV.
    """
    signal_mv = resample(require_fit(record), MODEL_RATE_HZ).signal_mv
    return fit_length(np.nan_to_num(signal_mv), config.seq_length)


def require_fit(record: Record) -> Record:
    """Returns the record if the model can take it.

    Raises:
        BadInput: when a lead is missing or a value is beyond 50 mV.
    """
    missing = [lead for lead in LEADS if lead not in record.leads]
    if missing:
        raise BadInput(
            f"{record.name}: leads {', '.join(missing)} are missing, expected all twelve; the "
            "model cannot take fewer (`gem-jax measure` can)"
        )
    peak_mv = float(np.nanmax(np.abs(record.signal_mv), initial=0.0))
    if peak_mv > MAX_ABS_MV:
        raise BadInput(
            f"{record.name}: got {peak_mv:.0f} mV, expected at most {MAX_ABS_MV:.0f} mV; check "
            "the unit and the gain in the header"
        )
    return record


def seen(record: Record, config: EcgConfig) -> Record:
    """Returns the beginning of the record that the model reads, with a note if that is not all."""
    seen_s = config.seq_length / MODEL_RATE_HZ
    if record.duration_s <= seen_s:
        return record
    note = f"the model reads the first {seen_s:g} s of {record.duration_s:g} s"
    return dataclasses.replace(
        record,
        signal_mv=record.signal_mv[:, : round(seen_s * record.sampling_rate_hz)],
        notes=(*record.notes, note),
    )


def fit_length(signal_mv: Float[np.ndarray, "L T"], length: int) -> Float[np.ndarray, "L N"]:
    """Returns the signal cut, or padded with zeros, at its end."""
    padding = max(length - signal_mv.shape[1], 0)
    return np.pad(signal_mv[:, :length], ((0, 0), (0, padding))).astype(np.float32)


def image_array(image: Image.Image, config: ClipConfig, mode: str) -> Float[np.ndarray, "H W 3"]:
    """Returns the page resized (bicubic) and normalised for CLIP.

    `pad` puts it on a square of CLIP's mean colour first, so that a wide page keeps its ends.

    Raises:
        BadInput: for an unknown mode.
    """
    if mode != "pad":
        raise BadInput(f"model.image_mode: got {mode!r}, expected pad")
    size = (config.image_size, config.image_size)
    pixels = np.asarray(_square(image.convert("RGB")).resize(size, Image.Resampling.BICUBIC))
    return (pixels.astype(np.float32) / 255 - CLIP_MEAN) / CLIP_STD


def _square(image: Image.Image) -> Image.Image:
    side = max(image.size)
    colour = tuple(int(mean * 255) for mean in CLIP_MEAN)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
