"""The house: its documents promise what is there, and nothing names what lies outside."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from gem_jax.cli import VERBS

ROOT = Path(__file__).parents[1]
PACKAGES = ("data_prep", "gem_jax")
# Put together here so that this file does not name what it forbids.
OUTSIDE = re.compile(
    "|".join(
        (
            r"(?<![\w.])/wo" + r"rk/",
            r"\.\./sha" + r"red",
            r"/tmp/b" + r"rief",
            r"\bissue #?\d",
            r"py" + r"pi\b",
            r"pythonhos" + r"ted",
        )
    ),
    re.IGNORECASE,
)
TEXT = {".py", ".md", ".toml", ".cff", ".json", ".hea", ".txt", ""}
ROOM_NAMES = {"utils", "common", "helpers", "base", "registry", "constants", "misc"}


def files() -> Iterator[Path]:
    """Yields every text file that git tracks or would."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.is_file() and path.suffix in TEXT:
            yield path


def modules() -> list[str]:
    """Returns the files of both packages as `data_prep/records.py`, without empty ones."""
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return sorted(path.relative_to(ROOT).as_posix() for path in paths if path.stat().st_size)


def test_no_file_names_what_lies_outside() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {hit[0]}"
        for path in files()
        if (hit := OUTSIDE.search(path.read_text(encoding="utf-8", errors="replace")))
    ]
    assert found == []


def test_what_lies_outside_is_recognised() -> None:
    for text in ("see ../sha" + "red/x", "in /wo" + "rk/main", "closes issue " + "#4"):
        assert OUTSIDE.search(text)
    assert not OUTSIDE.search("frame/work/flow, a shared issue")


def test_documents_name_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name in ("README.md", "WORKSPACE.md", ".ci/run", "Makefile"):
        named = set(re.findall(r"\bmake (?:--[\w-]+ )*([a-z]+)\b", (ROOT / name).read_text()))
        assert named <= targets | {"a"}, name
    readme = (ROOT / "README.md").read_text()
    assert readme.index("make demo") < readme.index("make test") < 1500


def test_documents_name_verbs_that_exist() -> None:
    for name in ("README.md", "WORKSPACE.md"):
        named = set(re.findall(r"\bgem-jax ([a-z]+)\b", (ROOT / name).read_text()))
        assert named <= set(VERBS), name
    assert set(re.findall(r"\bgem-jax ([a-z]+)\b", (ROOT / "README.md").read_text())) >= set(
        VERBS
    ) - {"demo"}


def test_every_verb_has_its_module() -> None:
    assert {f"{verb.module.replace('.', '/')}.py" for verb in VERBS.values()} <= set(modules())


def test_the_map_and_the_rooms_agree() -> None:
    tree = (ROOT / "WORKSPACE.md").read_text().split("```")[1]
    mapped, room = set(), ""
    for line in tree.splitlines():
        first = line.split()[0] if line.split() else ""
        if not line.startswith(" "):
            room = first if first.endswith("/") else ""
        if first.endswith(".py") and room.rstrip("/") in PACKAGES:
            mapped.add(room + first)
    assert sorted(mapped) == modules()


def test_no_room_without_a_purpose() -> None:
    assert [name for name in modules() if Path(name).stem in ROOM_NAMES] == []


def test_data_prep_runs_without_jax() -> None:
    names = [
        m.removesuffix(".py").replace("/", ".") for m in modules() if m.startswith("data_prep")
    ]
    code = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        "print([m for m in ('jax', 'flax', 'optax', 'gem_jax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_the_set_up_brings_neither_torch_nor_tensorflow() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[\[<>=]", need)[0] for need in project["dependencies"]]
    fixed = ("jax", "flax", "optax", "orbax-checkpoint", "transformers", "tensorflow-datasets")
    assert {*fixed, "grain", "wfdb", "neurokit2"} <= set(names)
    assert not {"torch", "tensorflow"} & set(names)
    bounded = [need for need in project["dependencies"] if not ("<" in need and ">=" in need)]
    assert bounded == [], "a tested range has two ends"


def test_licences_are_told() -> None:
    notice = (ROOT / "NOTICE").read_text()
    for told in ("ODC-BY", "CC BY 4.0", "186181", "Scientific Data 7 (2020) 154", "1000 per"):
        assert told in notice
    for name in ("README.md", "NOTICE"):
        assert "not a medical device" in (ROOT / name).read_text().lower(), name
