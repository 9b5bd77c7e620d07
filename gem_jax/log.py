"""Metrics of a run: one JSON line a step, and a progress line with rate and time left."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from data_prep.files import write_whole
from data_prep.progress import LOG_PERIOD_S, TERMINAL_PERIOD_S, clock, write_line
from gem_jax.config import ConfigError

# Dense bf16 FLOP/s of one device by `device_kind`, from the makers' data sheets.
PEAK_FLOPS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}


def peak_flops() -> float | None:
    """Returns the FLOP/s of all devices together; None where the peak is not known."""
    peak = PEAK_FLOPS.get(jax.devices()[0].device_kind)
    return peak * jax.device_count() if peak else None


def mfu(flops: float, seconds: float) -> float | None:
    """Returns the share of the devices' peak that was used; None where the peak is not known."""
    peak = peak_flops()
    return flops / seconds / peak if peak else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a metrics.jsonl; an unfinished last line is left out.

    ConfigError names another line that is none.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith(b"\n")]
    return [_row(path, number, line) for number, line in enumerate(whole, 1)]


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or "step" not in row:
        raise ConfigError(
            f"{path}: line {number}: got no JSON object with `step`, expected one a step; remove "
            "the line"
        )
    return row


def truncate_metrics(path: Path, step: int) -> None:
    """Drops the rows at `step` and later, which a continued run writes again; only process 0.

    All processes read it, and raise ConfigError of `read_metrics` alike.
    """
    rows = [row for row in read_metrics(path) if row["step"] < step]
    if jax.process_index() == 0:
        write_whole(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def append_metrics(path: Path, row: dict[str, Any]) -> None:
    """Adds one row; only process 0 writes."""
    if jax.process_index() == 0:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def tell_formula(formula: str) -> None:
    """Tells stderr once how the MFU of the coming lines is counted; nothing where it is unknown."""
    peak = peak_flops()
    if peak and jax.process_index() == 0:
        devices = f"{jax.device_count()} × {jax.devices()[0].device_kind}"
        print(f"mfu: {formula}; of {peak / 1e9:,.0f} GFLOP/s of {devices}", file=sys.stderr)


def progress(label: str, first: int, total: int) -> Callable[[int, dict[str, Any]], None]:
    """Returns a function of (steps done, the last one's row) that tells stderr how far the run is.

    Of several processes the first one alone speaks.
    """
    live = sys.stderr.isatty()
    period_s = TERMINAL_PERIOD_S if live else LOG_PERIOD_S
    began = shown = time.monotonic()

    def tell(done: int, row: dict[str, Any]) -> None:
        nonlocal shown
        now = time.monotonic()
        if jax.process_index() != 0 or (now - shown < period_s and done < total):
            return
        shown = now
        rate = (done - first) / (now - began)
        left = f" ETA {clock((total - done) / rate)}" if done < total else ""
        used = "" if row.get("mfu") is None else f" mfu {row['mfu']:.0%}"
        text = f"{label} {done}/{total} {rate:.2f} steps/s loss {row['loss']:.3f}{used}{left}"
        write_line(text, live, last=done >= total)

    return tell
