"""Evaluation of a checkpoint: `gem-jax evaluate --task claims --data SHARD --checkpoint CKPT`.

Answers are kept as they come in predictions.jsonl, and a run that was stopped goes on behind them;
evaluation.json says whose answers they are and about which ECGs, so that none are mixed;
scores.json is last.
"""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_prep.files import write_whole
from data_prep.progress import track
from data_prep.records import BadInput

if TYPE_CHECKING:
    from gem_jax.inputs import Exhibit


def main(
    *,
    data: Path,
    out: Path,
    checkpoint: Path | None = None,
    predictions: Path | None = None,
    task: Literal["claims"] = "claims",
    train_data: Path | None = None,
    images: Path | None = None,
    reading: Literal["ours", "original"] = "ours",
    max_new_tokens: int = 64,
) -> int:
    """Score answers about held-out ECGs against the signal, with two controls that must fail.

    Args:
        data: Shard of held-out records that `gem-jax prep` wrote.
        out: Folder for predictions.jsonl and scores.json; a stopped run goes on in it.
        checkpoint: The model that answers.
        predictions: A predictions.jsonl to score instead.
        task: What is asked and how it is scored.
        train_data: Shard of training records, for the best constant answer; the one beside `data`
            if it is not named.
        images: Folder below which each record's `image` lies, to show instead of the page that is
            drawn from it.
        reading: How record and picture become the model's input: leads by name, at 500 Hz; or as
            the original GEM reads them, in the order and at the rate of the file.
        max_new_tokens: Where an answer without an end is cut.
    """
    from gem_jax.tasks import claims

    if (checkpoint is None) == (predictions is None):
        raise BadInput("evaluate: got both or neither, expected --checkpoint or --predictions")
    if max_new_tokens < 1:
        raise BadInput(f"--max-new-tokens: got {max_new_tokens}, expected 1 or more")
    cases = _usable(claims.load(data), data)
    train_cases = claims.load(train_data or _beside(data))
    if checkpoint is not None:
        shown = {case.id: exhibit_of(case, images, reading) for case in cases}
        predictions = answer_all(checkpoint, cases, shown, out, max_new_tokens)
    assert predictions is not None
    own, other = _answers(predictions, cases)
    table = claims.score(own, other, cases, train_cases)
    write_whole(out / "scores.json", _json(table))
    print(as_text(table))
    print(f"{out / 'scores.json'}")
    return 0


def _beside(data: Path) -> Path:
    path = data.with_name(data.name.replace("test-", "train-", 1))
    if path == data or not path.is_file():
        raise BadInput(
            f"{data}: has no train-… shard beside it, expected one for the best constant answer; "
            "name it by --train-data"
        )
    return path


def _usable(cases: Sequence[Any], data: Path) -> list[Any]:
    """Returns the cases whose ECG a model can take, and names the others on stderr.

    BadInput when fewer than two are left.
    """
    from gem_jax.preprocess import require_fit

    usable = []
    for case in cases:
        try:
            require_fit(case.record)
        except BadInput as bad:
            print(f"skipped {bad}", file=sys.stderr)
        else:
            usable.append(case)
    if len(usable) < 2:
        raise BadInput(
            f"{data}: got {len(usable)} usable records, expected at least two: a control shows "
            "each question another patient's ECG"
        )
    return usable


def exhibit_of(case: Any, images: Path | None, reading: Literal["ours", "original"]) -> "Exhibit":
    """Returns what the model is shown of a case; BadInput when its picture is missing."""
    from gem_jax.inputs import Exhibit

    image = images / case.image if images else None
    if image and not image.is_file():
        raise BadInput(
            f"{case.id}: {image}: no such file, expected the record's picture; correct --images"
        )
    return Exhibit(case.record, image, reading)


def _questions(cases: Sequence[Any]) -> list[tuple[str, str]]:
    """Returns (id of the question, id of the ECG shown): each its own, then each the next one's."""
    ids = [case.id for case in cases]
    return [(id, id) for id in ids] + list(zip(ids, ids[1:] + ids[:1], strict=True))


def read_predictions(path: Path) -> dict[tuple[str, str], str]:
    """Returns {(id, id of the ECG shown): answer}; an unfinished last line is left out."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file, expected predictions.jsonl")
    told = {}
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            row = json.loads(line)
            told[str(row["id"]), str(row["shown"])] = str(row["answer"])
        except (ValueError, TypeError, KeyError) as error:
            raise BadInput(
                f"{path}, line {number}: got {line[:60]!r}, expected a JSON object with id, shown "
                "and answer; correct the line, or remove the file and answer again"
            ) from error
    return told


def _answers(predictions: Path, cases: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Returns the answers to each case with its own ECG, and with another patient's.

    BadInput when one is missing.
    """
    told = read_predictions(predictions)
    asked = _questions(cases)
    missing = [key for key in asked if key not in told]
    if missing:
        raise BadInput(
            f"{predictions}: has {len(asked) - len(missing)} of {len(asked)} answers, the first "
            f"missing is {missing[0]}; answer them all"
        )
    own = [told[key] for key in asked if key[0] == key[1]]
    return own, [told[key] for key in asked if key[0] != key[1]]


def answer_all(
    checkpoint: Path,
    cases: Sequence[Any],
    exhibits: Mapping[str, "Exhibit"],
    out: Path,
    max_new_tokens: int,
) -> Path:
    """Writes OUT/predictions.jsonl: every question with its own ECG and with another patient's.

    BadInput when OUT holds another model's answers, or answers about other ECGs.
    """
    from gem_jax import answers
    from gem_jax.checkpoint import locate, saved_at

    path = out / "predictions.jsonl"
    located = locate(checkpoint)
    whose = {
        "checkpoint": f"{located.root}/checkpoints/{located.step}",
        "saved": saved_at(located),
        "ecgs": _digest(cases, exhibits),
        "at_most": max_new_tokens,
    }
    _refuse_another(out / "evaluation.json", whose, path)
    done = read_predictions(path) if path.exists() else {}
    questions = {case.id: case.question for case in cases}
    todo = [key for key in _questions(cases) if key not in done]
    if not todo:
        return path
    model = answers.load_model(checkpoint)
    asked = [answers.Question(questions[own], (exhibits[shown],), own) for own, shown in todo]
    texts = answers.answer(model, asked, max_new_tokens=max_new_tokens)
    write_whole(out / "evaluation.json", _json(whose))
    _drop_unfinished_line(path)
    for (own, shown), text in zip(todo, track(texts, len(todo), "answer"), strict=True):
        row = {"id": own, "shown": shown, "answer": text.answer, "reason": text.reason}
        _append(path, json.dumps(row, ensure_ascii=False) + "\n")
    return path


def _digest(cases: Sequence[Any], exhibits: Mapping[str, "Exhibit"]) -> str:
    """Returns a hash of what is asked about which signals: two folders may share their ids."""
    said = hashlib.sha256()
    for case in cases:
        shown = exhibits[case.id]
        said.update(f"{case.id}\n{case.question}\n{shown.reading}\n".encode())
        said.update(case.record.signal_mv.tobytes())
        said.update(shown.image.read_bytes() if shown.image else b"")
    return said.hexdigest()[:16]


def _refuse_another(path: Path, whose: dict[str, Any], predictions: Path) -> None:
    if not predictions.exists():
        return
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if before != whose:
        raise BadInput(
            f"{predictions}: holds answers of {before}, expected of {whose}; name a new --out, or "
            "score these by --predictions"
        )


def _append(path: Path, line: str) -> None:
    """Adds a line to a file, which is there only once it has something to say."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line)


def _drop_unfinished_line(path: Path) -> None:
    if path.exists():
        text = path.read_text(encoding="utf-8")
        path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")


def as_text(table: dict[str, dict[str, Any]]) -> str:
    """Returns the score table for a terminal; `*` where the interval excludes 0, better."""
    head = (
        f"{'claim type':18} {'n':>3} {'unsaid':>6} {'unit':18} {'model':>7} {'const.':>7} "
        f"{'other':>7} {'difference [95 % CI]':>25}"
    )
    lines = [head]
    for quantity, row in table.items():
        interval = f"{row['difference']:+.2f} [{row['ci_low']:+.2f}, {row['ci_high']:+.2f}]"
        mark = "*" if row["ci_high"] < 0 else " "
        lines.append(
            f"{quantity:18} {row['n']:3d} {row['unsaid']:6d} {row['unit']:18} {row['model']:7.2f} "
            f"{row['constant']:7.2f} {row['other_patient']:7.2f} {interval:>25}{mark}"
        )
    return "\n".join(lines)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
