"""A few steps of a run under JAX's profiler: `train --profile N`."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

# The first step compiles, the second begins with an empty queue: neither is what a run is like.
PASSED_OVER = 2


@contextlib.contextmanager
def profiled(folder: Path, first: int, steps: int) -> Iterator[Callable[[int, Any], None]]:
    """Yields what a loop calls before each step, with the step and the state; traces `steps` steps.

    The trace lies in `folder`: for XProf, and as perfetto_trace.json.gz for ui.perfetto.dev. A
    run that ends before leaves a shorter one; `steps` 0 leaves none.
    """
    begin, end = first + PASSED_OVER, first + PASSED_OVER + steps
    running = False

    def before(step: int, state: Any) -> None:
        nonlocal running
        if step in (begin, end) and steps:
            # Steps run behind the loop: those before belong to no trace, those in it to this one.
            jax.block_until_ready(state)
        if step == begin and steps:
            jax.profiler.start_trace(folder, create_perfetto_trace=True)
            running = True
        elif step == end and running:
            jax.profiler.stop_trace()
            running = False

    try:
        yield before
    finally:
        if running:
            jax.profiler.stop_trace()
