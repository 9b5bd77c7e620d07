"""The training step and decoding, beside the same model in transformers and PyTorch.

    python -m benchmarks.train_step                      both shapes, 1 and 2 threads, on the CPU
    python -m benchmarks.train_step --shapes 256x6 --threads 2 --what train
    python -m benchmarks.train_step --card               GEM-7B on the accelerator: LoRA and full

Every measurement is a process of its own on its own cores, ours and the peer's in turn; the weights
are the same on both sides, and so must the first loss be. Peak memory is what a process takes above
its loaded libraries. Without torch our side is measured alone.
"""

import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Literal

from gem_jax import usage

What = Literal["train", "decode"]
SIDES = ("jax", "torch")
# The same weights give the same first loss, up to the order of sums.
SAME_LOSS = 1e-3


def main(
    *,
    shapes: tuple[str, ...] = ("256x6", "768x12"),
    threads: tuple[int, ...] = (1, 2),
    what: tuple[What, ...] = ("train", "decode"),
    card: bool = False,
    xla_flags: str = "",
) -> int:
    """Print tokens/s, peak memory and their ratios; on a card also MFU.

    Args:
        shapes: Of the language model, hidden width x layers; see benchmarks/step_shapes.py.
        threads: Cores of a measurement.
        what: The training step, or generate with its cache.
        card: GEM-7B in bfloat16 on the accelerator instead.
        xla_flags: XLA_FLAGS of our side.
    """
    print(_versions(), flush=True)
    measured: list[dict[str, Any]] = []
    if card:
        for kind in ("lora", "full"):
            measured.append(_run("jax", "card", kind, None, xla_flags))
            print(_card_line(kind, measured[-1]), flush=True)
        return _status(measured)
    sides = SIDES if importlib.util.find_spec("torch") else SIDES[:1]
    print("shape    threads what    gem_jax tokens/s, peak     PyTorch tokens/s, peak     ratio")
    for shape in shapes:
        for count in threads:
            for each in what:
                said = [_run(side, each, shape, count, xla_flags) for side in sides]
                _require_same(said, shape)
                print(_line(shape, count, each, said), flush=True)
                measured += said
    return _status(measured)


def _status(measured: Sequence[dict[str, Any]]) -> int:
    return int(any("failed" in said for said in measured))


def _run(side: str, what: str, shape: str, threads: int | None, xla_flags: str) -> dict[str, Any]:
    """Returns what one measurement says, made in a process that has only its cores."""
    command = [sys.executable, "-m", "benchmarks.train_step", "--one", side, what, shape]
    count = str(threads or os.cpu_count())
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC")
    env = os.environ | dict.fromkeys(names, count) | {"XLA_FLAGS": xla_flags}
    if threads:
        env |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*command, count], env=env, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing"]
        return {"failed": f"ended with {done.returncode}: {said[-1]}"}
    return json.loads(done.stdout.splitlines()[-1])


def one(side: str, what: str, shape: str, threads: str) -> None:
    """Measures in this process and prints the figures as JSON."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    from benchmarks import step_shapes

    measure: Any
    if side == "torch":
        from benchmarks import step_torch as measure
    else:
        from benchmarks import step_jax as measure
    loaded = _peak_bytes()
    if what == "card":
        said = measure.trained_on_card(shape)
    else:
        verb = measure.trained if what == "train" else measure.decoded
        said = verb(step_shapes.SHAPES[shape]) | {"peak_bytes": _peak_bytes() - loaded}
    print(json.dumps(said))


def _peak_bytes() -> int:
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _require_same(said: Sequence[dict[str, Any]], shape: str) -> None:
    """Raises ValueError when the sides do not compute the same."""
    losses = [one["loss"] for one in said if "loss" in one]
    if losses and max(losses) - min(losses) > SAME_LOSS:
        raise ValueError(
            f"{shape}: got first losses {losses}, expected the same model on all sides"
        )
    firsts = [one["first"] for one in said if "first" in one]
    if firsts and firsts[0] != firsts[-1]:
        raise ValueError(f"{shape}: got first tokens {firsts}, expected the same of all sides")


def _line(shape: str, threads: int, what: str, said: Sequence[dict[str, Any]]) -> str:
    cells = [
        one.get("failed") or f"{one['tokens_per_s']:9.1f} {one['peak_bytes'] / 2**20:7.0f} MiB"
        for one in said
    ]
    rates = [one.get("tokens_per_s") for one in said]
    ratio = f"{rates[0] / rates[1]:.2f}×" if len(rates) == 2 and all(rates) else "–"
    used = f"  {said[0]['flops_per_s'] / 1e9:.1f} GFLOP/s" if "flops_per_s" in said[0] else ""
    return f"{shape:8} {threads:7} {what:7} {'    '.join(cells)}    {ratio}{used}"


def _card_line(kind: str, said: dict[str, Any]) -> str:
    if "failed" in said:
        return f"{kind}: {said['failed']}"
    used = "unknown (no peak known)" if said["mfu"] is None else f"{said['mfu']:.1%}"
    return (
        f"GEM-7B {kind} on {said['device']}: {said['tokens_per_s']:.0f} tokens/s, MFU {used}, "
        f"peak {said['peak_bytes'] / 2**30:.1f} GiB; {said['formula']}"
    )


def _versions() -> str:
    names = ("jax", "flax", "optax", "qwix", "torch", "transformers")
    found = [
        f"{name} {importlib.metadata.version(name)}"
        for name in names
        if importlib.util.find_spec(name)
    ]
    return f"{platform.machine()}, {os.cpu_count()} cores; {', '.join(found)}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(*sys.argv[2:])
    else:
        sys.exit(usage.bind(main, sys.argv[1:], "python -m benchmarks.train_step")())
