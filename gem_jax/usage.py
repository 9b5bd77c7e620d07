"""A function's typed arguments as a command line, with bad usage told in one line."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import re
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any

# Of tyro's framed messages: the title, which its text repeats; lines between parts; the frame.
# Where stdout is not UTF-8, the frame is of blanks and hyphens.
TITLE = re.compile(r"\A.*$|^╭.*$", re.MULTILINE)
RULE = re.compile(r"(?<=\s)[─-]{3,}(?=\s)")
FRAME = re.compile(r"[╰╯│]")
STRAY = re.compile(r"(Unrecognized options: [^-].*?)(?=;|$)")
HELP = ("For full helptext", "Argument helptext")


def bind(main: Callable[..., Any], args: Sequence[str], prog: str) -> Callable[[], Any]:
    """Returns `main` with its arguments read from a command line, not yet called.

    What stands before the `*` in its signature is positional, the rest are flags.

    Raises:
        SystemExit: 0 after `--help`, 2 after one line on stderr about bad usage.
    """
    return read(_binder(main), args, prog)


def read(kind: Callable[..., Any], args: Sequence[str], prog: str) -> Any:
    """Returns what the function or dataclass `kind` makes of a command line.

    Raises:
        SystemExit: 0 after `--help`, 2 after one line on stderr about bad usage.
    """
    if "" in args:
        at = list(args).index("") + 1
        print(
            f"{prog}: argument {at} is empty, expected a name; see {prog} --help", file=sys.stderr
        )
        raise SystemExit(2)
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=args, prog=prog)
    except SystemExit:
        if said.getvalue():
            print(one_line(said.getvalue(), prog), file=sys.stderr)
        raise


def one_line(box: str, prog: str) -> str:
    """Returns tyro's framed message about bad usage as one line."""
    parts = [FRAME.sub(" ", part).split() for part in RULE.split(TITLE.sub("", box))]
    said = [" ".join(words) for words in parts if words]
    told = "; ".join(part.rstrip(".") for part in said if not part.startswith(HELP))
    told = STRAY.sub(r"\1; write paths side by side, and a list of an option as A,B", told)
    return f"{prog}: {told.replace(f'Missing from {prog}:', 'Missing:')}; see {prog} --help"


def _binder(main: Callable[..., Any]) -> Callable[..., Callable[[], Any]]:
    """Returns a function with the arguments of `main` that only binds them."""
    hints = typing.get_type_hints(main, include_extras=True)
    signature = inspect.signature(main)

    @functools.wraps(main)
    def binder(*args: Any, **kwargs: Any) -> Callable[[], Any]:
        return functools.partial(main, *args, **kwargs)

    parameters = [
        parameter.replace(
            annotation=hints[name],
            kind=parameter.POSITIONAL_ONLY
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            else parameter.kind,
        )
        for name, parameter in signature.parameters.items()
    ]
    binder.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return binder
