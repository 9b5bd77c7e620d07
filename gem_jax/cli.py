"""`gem-jax VERB`: each verb is the program of one module, imported only when it is called.

A module offers `main(...)`, whose typed arguments and docstring are its command line; one that
must read something before its flags are known offers `cli(args) -> int` instead.
Exit status: 0 done; 1 a fault of ours; 2 bad usage or input; 130 after Ctrl-C; 143 after SIGTERM.
"""

from __future__ import annotations

import ast
import errno
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from gem_jax.signals import ending_signals
from gem_jax.usage import bind


class Verb(NamedTuple):
    """The module of a verb and what it does, in one line."""

    module: str
    does: str


VERBS = {
    "demo": Verb("gem_jax.demo", "Take real ECGs to a trained, evaluated, exported tiny GEM."),
    "measure": Verb("data_prep.measure", "Measure every beat in every lead of records."),
    "render": Verb("data_prep.render", "Draw a record as a printed ECG page."),
    "prep": Verb("data_prep.prep", "Turn a corpus or a folder of records into instruction shards."),
    "train": Verb("gem_jax.train", "Train the model of a recipe; run again to go on."),
    "evaluate": Verb("gem_jax.evaluate", "Score a checkpoint or its predictions on a task."),
    "interpret": Verb("gem_jax.interpret", "Answer about one ECG and check each claim."),
    "export": Verb("gem_jax.weights.save", "Write a checkpoint in a Hugging Face layout."),
    "import": Verb("gem_jax.weights.load", "Read a Hugging Face checkpoint into ours."),
    "verify": Verb("gem_jax.verify", "Compare a checkpoint with the original's outputs."),
}

# What the system may say of a path or disk of the user's.
NOT_OURS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
)
# What a user can put right. Named, not imported: whoever raised it has imported it.
REFUSALS = (
    ("data_prep.records", "BadInput"),
    ("gem_jax.config", "ConfigError"),
    ("gem_jax.templates", "TokenError"),
    ("gem_jax.weights.files", "WeightsError"),
)


def main(args: Sequence[str] | None = None) -> int:
    """Returns the exit status of `gem-jax ARGS`; without `args` those of the process."""
    given = list(sys.argv[1:] if args is None else args)
    if given in (["-h"], ["--help"]):
        print(overview())
        return 0
    if not given or given[0] not in VERBS:
        what = f"verb {given[0]!r}" if given else "no verb"
        return _refuse("gem-jax", f"got {what}, expected one of {', '.join(VERBS)}")
    return _guarded(given[0], given[1:])


def overview() -> str:
    """Returns the help of `gem-jax`: every verb with its line."""
    lines = [f"  {name:<10} {verb.does}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: gem-jax VERB [--help] …",
            "",
            *lines,
            "",
            "Research software, not a medical device.",
        ]
    )


def _guarded(verb: str, args: list[str]) -> int:
    """Returns the verb's exit status, with what it raises for the user turned into one."""
    prog = f"gem-jax {verb}"
    try:
        with ending_signals():
            status = _run(verb, args, prog)
            sys.stdout.flush()
            return status
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, `head` say, has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in NOT_OURS:
            raise
        where = error.filename2 or error.filename or "writing"
        return _refuse(prog, f"{where}: {error.strerror}, expected a path that can be used")
    except ValueError as error:
        if not is_refusal(error):
            raise
        return _refuse(prog, str(error))


def _run(verb: str, args: list[str], prog: str) -> int:
    name = VERBS[verb].module
    if args in (["-h"], ["--help"]) and _defines(name, "cli"):
        print(ast.get_docstring(_syntax(name)) or VERBS[verb].does)
        return 0
    module: ModuleType = importlib.import_module(name)
    if hasattr(module, "cli"):
        return int(module.cli(args))
    return int(bind(module.main, args, prog)() or 0)


def _syntax(module: str) -> ast.Module:
    """Returns the parsed source of a module that is not imported: `train --help` needs no JAX."""
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"{module} is not installed")
    return ast.parse(Path(found.origin).read_text(encoding="utf-8"))


def _defines(module: str, function: str) -> bool:
    return any(isinstance(n, ast.FunctionDef) and n.name == function for n in _syntax(module).body)


def is_refusal(error: BaseException) -> bool:
    """Returns whether an error speaks of the user's input, not of a fault of ours."""
    return any((kind.__module__, kind.__qualname__) in REFUSALS for kind in type(error).__mro__)


def _refuse(prog: str, message: str) -> int:
    print(f"{prog}: {' '.join(message.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
