"""A parameter's path, `llm/layers/self_attn/q_proj/kernel`: the vocabulary of every table here."""

from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict


def flat(tree: dict) -> dict[str, Any]:
    """Returns the leaves of a tree by path."""
    return flatten_dict(tree, sep="/")


def nested(leaves: dict[str, Any]) -> dict:
    """Returns the tree of leaves by path."""
    return unflatten_dict(leaves, sep="/")


def part_of(path: str) -> str:
    """Returns the top-level part that a path begins with, such as `llm`."""
    return path.split("/")[0]


def is_under(path: str, prefix: str) -> bool:
    """Returns whether `path` is `prefix` or begins with all of its components."""
    return f"{path}/".startswith(f"{prefix}/")
