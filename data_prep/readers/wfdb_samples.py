"""Digital samples out of the bytes of a WFDB data file, in every format of WFDB.

https://physionet.org/physiotools/wag/signal-5.htm. N samples, in the order of the file.
"""

from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, UInt8

from data_prep.records import BadInput

BYTES = {
    "8": Fraction(1),
    "16": Fraction(2),
    "24": Fraction(3),
    "32": Fraction(4),
    "61": Fraction(2),
    "80": Fraction(1),
    "160": Fraction(2),
    "212": Fraction(3, 2),
    "310": Fraction(4, 3),
    "311": Fraction(4, 3),
}
FLAC_BITS = {"508": 8, "516": 16, "524": 24}
NOTHING = 2**31 - 1  # every sample of a signal without samples; no other has it
_FLAC_STEP = 1 << 18
# The value that says "no sample here"; format 8, of differences, has none.
_MISSING = {
    "16": -(2**15),
    "24": -(2**23),
    "32": -(2**31),
    "61": -(2**15),
    "80": -(2**7),
    "160": -(2**15),
    "212": -(2**11),
    "310": -(2**9),
    "311": -(2**9),
    "508": -(2**7),
    "516": -(2**15),
    "524": -(2**23),
}


def missing(form: str, samples: Int[np.ndarray, "N"]) -> Bool[np.ndarray, "N"]:
    """True where a sample carries its format's mark of a missing one."""
    return samples == _MISSING.get(form, NOTHING)


def num_bytes(form: str, count: int) -> int:
    """Bytes that `count` samples need; the last pair or triplet may be cut short."""
    if form == "310":  # its third sample is spread over the other two's bytes
        return count // 3 * 4 + (0, 2, 4)[count % 3]
    return -(-count * BYTES[form] // 1)


def read_bytes(data: Path, offset: int, form: str, count: int) -> Int[np.ndarray, "N"]:
    """`count` samples of a file that holds them, from a byte on."""
    raw = np.fromfile(data, np.uint8, count=num_bytes(form, count), offset=offset)
    return decode(form, raw, count)


def decode(form: str, raw: UInt8[np.ndarray, "B"], count: int) -> Int[np.ndarray, "N"]:
    """`count` samples out of their bytes; those of format 8 are differences."""
    match form:
        case "8":
            return raw.view(np.int8)
        case "16":
            return raw.view("<i2")
        case "61":
            return raw.view(">i2")
        case "32":
            return raw.view("<i4")
        case "80":
            return raw.astype(np.int16) - 128
        case "160":
            return raw.view("<u2").astype(np.int32) - 2**15
        case "24":
            wide = np.zeros((count, 4), np.uint8)
            wide[:, 1:] = raw.reshape(-1, 3)
            return wide.reshape(-1).view("<i4") >> 8
        case "212":
            low, both, high = _blocks(raw, 3)
            pairs = np.stack([low | (both & 0x0F) << 8, high | (both & 0xF0) << 4], axis=1)
            return _signed(pairs, 12)[:count]
        case "310":
            a, b, c, d = _blocks(raw, 4)
            first, second = a | b << 8, c | d << 8
            triplets = [first >> 1 & 0x3FF, second >> 1 & 0x3FF, first >> 11 | second >> 11 << 5]
            return _signed(np.stack(triplets, axis=1), 10)[:count]
        case "311":
            a, b, c, d = _blocks(raw, 4)
            word = a | b << 8 | c << 16 | d << 24
            triplets = [word & 0x3FF, word >> 10 & 0x3FF, word >> 20 & 0x3FF]
            return _signed(np.stack(triplets, axis=1), 10)[:count]
    raise ValueError(f"format {form}")


def _blocks(raw: UInt8[np.ndarray, "B"], size: int) -> Int[np.ndarray, "size K"]:
    """The bytes of each place in blocks of `size`, the last filled up with zeros."""
    whole = np.zeros(-(-len(raw) // size) * size, np.uint8)
    whole[: len(raw)] = raw
    return whole.reshape(-1, size).T.astype(np.int32)


def _signed(samples: Int[np.ndarray, "K P"], bits: int) -> Int[np.ndarray, "N"]:
    """Two's complement of so many bits as numbers."""
    half = 1 << (bits - 1)
    return (samples.reshape(-1) ^ half) - half


def read_flac(data: Path, form: str, count: int) -> Int[np.ndarray, "N C"]:
    """`count` samples of each channel of a FLAC file.

    Raises:
      BadInput: it is damaged, or holds fewer, or finer samples than its format.
    """
    import soundfile

    try:
        with soundfile.SoundFile(str(data)) as file:
            bits = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}.get(file.subtype, 99)
            # libsndfile fails where one call asks for more than 2**24 samples.
            samples = np.concatenate(
                [
                    file.read(min(_FLAC_STEP, count - done), dtype="int32", always_2d=True)
                    for done in range(0, count, _FLAC_STEP)
                ]
            )
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise BadInput(f"{data}: damaged FLAC ({error}); fetch the file again") from None
    if bits > FLAC_BITS[form] or len(samples) < count:
        raise BadInput(
            f"{data}: FLAC of {len(samples)} samples of {bits} bits, expected {count} of at most "
            f"{FLAC_BITS[form]}; fetch the file again"
        )
    return samples >> (32 - bits)
