"""The delineation network in NumPy: which wave each moment of each lead belongs to.

Every lead passes the same small network; what the leads have in common is worked out once, on the
mean over leads, by a deeper U-Net whose features go back to each lead (the idea of sets: Zaheer et
al., Deep Sets, 2017; U-Net: Ronneberger et al., 2015). So any number of leads in any order will do.
`experiments/delineator.py` is its twin in Flax and trains the weights; a test holds them equal.

Axes: L leads, T frames, C channels, S moments, K classes; see conditioning.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float

WEIGHTS = Path(__file__).with_name("delineator.npz")
CLASSES = ("none", "p", "qrs", "t")
TOGETHER = 6  # leads at a time: what fits the cache
PIECE, BESIDE = 4096, 128  # frames at a time, and those beside them that the network looks at
JOINT_DEPTH, LEAD_DEPTH = 4, 3  # resolutions of the U-Net of all leads, and of each lead's
Params = Mapping[str, np.ndarray]
Array = np.ndarray


@cache
def weights(path: Path = WEIGHTS) -> Params:
    """Returns the trained parameters by path, float32."""
    with np.load(path) as stored:
        return {name: stored[name].astype(np.float32) for name in stored.files}


def probabilities(
    params: Params, frames: Float[np.ndarray, "L T F"]
) -> tuple[Float[np.ndarray, "L S K"], Float[np.ndarray, "S K"]]:
    """Returns the probability of each class in each lead, and in the record as a whole.

    Long records go in pieces, with so much beside them that the result is the same.

    Args:
        params: of `weights`.
        frames: of `conditioning.frames`; T is a multiple of 2 ** (JOINT_DEPTH - 1).
    """
    count = frames.shape[1]
    if count <= PIECE + 2 * BESIDE:
        return _piece(params, frames)
    own, joint = [], []
    for first in range(0, count, PIECE):
        begin, last = max(first - BESIDE, 0), min(first + PIECE, count)
        of_leads, of_all = _piece(params, frames[:, begin : last + BESIDE])
        step = len(of_all) // (min(last + BESIDE, count) - begin)
        inside = slice((first - begin) * step, (last - begin) * step)
        own.append(of_leads[:, inside])
        joint.append(of_all[inside])
    return np.concatenate(own, axis=1), np.concatenate(joint)


def _piece(
    params: Params, frames: Float[np.ndarray, "L T F"]
) -> tuple[Float[np.ndarray, "L S K"], Float[np.ndarray, "S K"]]:
    lead = _dense(params, "lead_stem", frames)
    for i in range(2):
        lead = _block(params, f"lead_block_{i}", lead)
    levels = _joint(params, _pooled(lead))
    joint = _classes(params, "joint_out", levels[0])
    own = [
        _classes(params, "lead_out", _each_lead(params, some, levels))
        for some in np.array_split(lead, -(-len(lead) // TOGETHER))
    ]
    return np.concatenate(own), joint


def _pooled(lead: Float[np.ndarray, "L T C"]) -> Float[np.ndarray, "1 T D"]:
    """Returns mean and root mean square over the leads."""
    square = np.einsum("ltc,ltc->tc", lead, lead) / len(lead)
    return np.concatenate([lead.mean(axis=0), np.sqrt(square + 1e-4)], axis=-1)[None]


def _joint(params: Params, x: Float[np.ndarray, "1 T C"]) -> list[Array]:
    """Returns the features of all leads together at each resolution, finest first."""
    x = _block(params, "joint_block", _dense(params, "joint_stem", x))
    finer = []
    for depth in range(1, JOINT_DEPTH):
        finer.append(x)
        x = _dense(params, f"joint_down_{depth}", _halved(x))
        for i in range(2):
            x = _block(params, f"joint_down_{depth}_block_{i}", x)
    x = _block(params, "joint_bottom_block", x)
    levels = []
    for depth in reversed(range(1, JOINT_DEPTH)):
        x = finer.pop() + _dense(params, f"joint_up_{depth}", _doubled(x))
        x = _block(params, f"joint_up_{depth}_block", x)
        levels.append(x)
    return levels[::-1]


def _each_lead(
    params: Params, lead: Float[np.ndarray, "L T C"], levels: list[Array]
) -> Float[np.ndarray, "L T E"]:
    """Returns each lead's features, told what all leads have in common at each resolution."""
    x = lead
    finer = []
    for depth in range(LEAD_DEPTH):
        x = _dense(params, f"lead_down_{depth}", _halved(x) if depth else x)
        x += _dense(params, f"lead_told_{depth}", levels[depth])
        x = _block(params, f"lead_down_{depth}_block", x)
        finer.append(x)
    x = _block(params, "lead_bottom_block", finer.pop())
    for depth in reversed(range(LEAD_DEPTH - 1)):
        x = finer.pop() + _dense(params, f"lead_up_{depth}", _doubled(x))
        x = _block(params, f"lead_up_{depth}_block", x)
    return x


def _classes(params: Params, path: str, x: Float[np.ndarray, "L T C"]) -> Array:
    """Returns class probabilities; without the axis of leads if joint."""
    logits = _dense(params, path, np.maximum(x, 0)).reshape(len(x), -1, len(CLASSES))
    highest = np.maximum.reduce([logits[..., k] for k in range(len(CLASSES))])
    raised = np.exp(logits - highest[..., None])
    raised /= sum(raised[..., k] for k in range(len(CLASSES)))[..., None]
    return raised[0] if path.startswith("joint") else raised


def _dense(params: Params, path: str, x: Float[np.ndarray, "L T C"]) -> Array:
    out = x.reshape(-1, x.shape[-1]) @ params[f"{path}/kernel"]  # one product, not one a lead
    out += params[f"{path}/bias"]
    return out.reshape(*x.shape[:-1], -1)


def _block(params: Params, path: str, x: Float[np.ndarray, "L T C"]) -> Array:
    """Returns x + convolution(relu(x)) along time, zeros beyond both ends."""
    kernel, bias = params[f"{path}/kernel"], params[f"{path}/bias"]
    width, channels = kernel.shape[:2]
    num_leads, num_frames = x.shape[:2]
    # One long row with zeros between the leads: then every width-th window is one row of a matrix
    # that needs no copy, and `width` products make the convolution.
    apart = num_frames + width - 1
    count = -(-num_leads * apart // width)
    padded = np.zeros(((count + 2) * width, channels), np.float32)
    inside = padded[: num_leads * apart].reshape(num_leads, apart, channels)
    np.maximum(x, 0, out=inside[:, width // 2 : width // 2 + num_frames])
    out = np.empty((count, width, kernel.shape[2]), np.float32)
    flat = kernel.reshape(width * channels, -1)
    for first in range(width):
        window = padded[first : first + count * width].reshape(count, width * channels)
        np.matmul(window, flat, out=out[:, first])
    rows = out.reshape(count * width, -1)[: num_leads * apart]
    result = x + rows.reshape(num_leads, apart, -1)[:, :num_frames]
    result += bias
    return result


def _halved(x: Float[np.ndarray, "L T C"]) -> Array:
    """Returns half as many frames with the channels of two each."""
    return x.reshape(len(x), x.shape[1] // 2, 2 * x.shape[2])


def _doubled(x: Float[np.ndarray, "L T C"]) -> Array:
    return np.repeat(x, 2, axis=1)
