"""The demo: one command takes real ECGs to a trained, evaluated and exported tiny GEM.

`gem-jax demo [--out runs/demo] [--fresh]`. Each step is the function that the verb of its name
calls, keeps what it finished, and is passed over when it is run again.
"""

import dataclasses
import json
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.files import write_whole
from data_prep.records import BadInput
from data_prep.sample_index import sample_records
from data_prep.teachers import Style

if TYPE_CHECKING:
    from gem_jax.interpret import Interpretation

STAGES = ("pretrain", "align", "finetune")
STAGE_NAMES = {
    "pretrain": "stage 0: ECG encoder and language model, each alone",
    "align": "stage 1: alignment, the projectors move",
    "finetune": "stage 2: instruction tuning, the language model with them",
}
STYLE: Style = "brief"
# Says that the folder is a demo's, and of which length.
MARKER = ".gem_jax_demo"


def main(*, out: Path = Path("runs/demo"), fresh: bool = False, quick: bool = False) -> int:
    """Take real ECGs to a trained, evaluated, exported tiny GEM, in about five minutes on a CPU.

    Args:
        out: Folder for everything that is made. An interrupted demo goes on in it.
        fresh: Remove what an earlier demo made there and begin again.
        quick: A few records and a few training steps: shows that all parts work, learns nothing.
    """
    recipes = recipe_file()
    _refuse_foreign(out)
    if fresh and out.exists():
        shutil.rmtree(out)
    _refuse_other_length(out, quick)
    if (out / "done.json").is_file():
        print(f"the demo is done (--fresh repeats it)\n{told(out)}")
        return 0
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text(json.dumps({"quick": quick}) + "\n")
    began = time.monotonic()
    prepare(out, recipes, quick)
    train_stages(out, recipes, quick)
    _say("evaluate: held-out records, and another patient's ECG as the control")
    evaluate(out, quick)
    _say("export to the Hugging Face layout and import back")
    largest = round_trip(out)
    _say("interpret one held-out record, report")
    write_report(out, largest)
    seconds = round(time.monotonic() - began)
    (out / "done.json").write_text(json.dumps({"seconds": seconds}) + "\n")
    print(f"done in {seconds} s\n{told(out)}")
    return 0


def recipe_file() -> Path:
    """Returns experiments/demo.py of the checkout; BadInput outside of one."""
    path = Path(__file__).parents[1] / "experiments" / "demo.py"
    if not path.is_file():
        raise BadInput(
            f"{path}: missing, expected a checkout of the repository: its experiments/ hold the "
            "demo's recipes; clone it and run `make demo`"
        )
    return path


def told(out: Path) -> str:
    """Returns where the results lie, and the score table."""
    from gem_jax.evaluate import as_text

    table = json.loads((out / "scores.json").read_text())
    places = {
        "report": out / "report.html",
        "scores": out / "scores.json",
        "checkpoint": out / "finetune",
        "Hugging Face layout": out / "export",
    }
    lines = [f"{name + ':':21}{path}" for name, path in places.items()]
    return "\n".join([as_text(table), "", *lines])


def _say(step: str) -> None:
    print(f"— {step}", file=sys.stderr, flush=True)


def _refuse_foreign(out: Path) -> None:
    """Refuses a folder with something in it that no demo made: `--fresh` would remove it."""
    if out.exists() and any(out.iterdir()) and not (out / MARKER).exists():
        raise BadInput(f"{out}: was not made by the demo, expected its folder; name another --out")


def _refuse_other_length(out: Path, quick: bool) -> None:
    """Refuses to go on with a whole demo where a quick one began, or the other way round."""
    if (out / MARKER).is_file() and json.loads((out / MARKER).read_text())["quick"] != quick:
        kind = "whole" if quick else "--quick"
        raise BadInput(
            f"{out}: holds a {kind} demo; add --fresh to replace it or name another --out"
        )


def prepare(out: Path, recipes: Path, quick: bool) -> None:
    """Measures, draws and words the sample's records, and trains the tokenizer on the texts."""
    from data_prep import prep

    if not (out / "data" / "manifest.json").is_file():
        _say("measure, render and instruct the sample's records")
        prep.main("sample", out=out / "data", style=STYLE, limit=24 if quick else None)
    if not (out / "tokenizer" / "tokenizer_config.json").is_file():
        from data_prep.shards import read_shard
        from gem_jax.recipes import load_recipe
        from gem_jax.tokenizer import save_tokenizer, train_tokenizer
        from gem_jax.tokens import texts_of, turns_of

        model = load_recipe(f"{recipes}:{STAGES[0]}").model
        texts = [
            text
            for example in read_shard(_shard(out, "train"))
            for text in texts_of(model.template, turns_of(example.conversations))
        ]
        tokenizer = train_tokenizer(texts, model.llm.vocab_size)
        save_tokenizer(tokenizer, out / "tokenizer", model.max_length)


def _shard(out: Path, split: str) -> Path:
    return out / "data" / "shards" / f"{split}-00000-of-00001.array_record"


def train_stages(out: Path, recipes: Path, quick: bool) -> None:
    """Trains the three stages, each from the one before; a finished one is passed over."""
    from gem_jax import checkpoint, train
    from gem_jax.recipes import load_recipe

    before: Path | None = None
    for stage in STAGES:
        config = load_recipe(f"{recipes}:{stage}")
        data = dataclasses.replace(
            config.data, shards=str(out / "data"), tokenizer=str(out / "tokenizer")
        )
        config = dataclasses.replace(config, data=data)
        if quick:
            config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=4))
        run_dir = out / stage
        if checkpoint.complete_steps(run_dir)[-1:] != [config.train.steps]:
            _say(STAGE_NAMES[stage])
            train.run(config, run_dir, before, label=stage)
        before = run_dir


def evaluate(out: Path, quick: bool) -> None:
    """Answers about the held-out records and scores the answers."""
    from gem_jax import evaluate as program

    program.main(
        data=_shard(out, "test"),
        out=out,
        checkpoint=out / STAGES[-1],
        max_new_tokens=8 if quick else 64,
    )


def round_trip(out: Path) -> float:
    """Exports the model, imports it back, and returns the largest difference of their logits.

    Raises:
        RuntimeError: when a logit differs.
    """
    from gem_jax.weights import load, save

    for folder in (out / "export", out / "imported"):
        if folder.exists():
            shutil.rmtree(folder)
    save.main(out / STAGES[-1], out / "export")
    load.main(out / "export", out / "imported")
    largest = logit_difference(out, out / STAGES[-1], out / "imported")
    if largest != 0.0:
        raise RuntimeError(f"export and import changed the logits by up to {largest}, expected 0")
    return largest


def logit_difference(out: Path, first: Path, second: Path) -> float:
    """Returns the largest difference of two checkpoints' logits on a held-out record's prompt."""
    import jax
    import jax.numpy as jnp

    from gem_jax import answers
    from gem_jax.data import as_arrays
    from gem_jax.inputs import Exhibit, room_for
    from gem_jax.models.gem import Gem
    from gem_jax.tasks import claims

    case = claims.load(_shard(out, "test"))[0]
    shown = (Exhibit(case.record),)
    logits = []
    for path in (first, second):
        model = answers.load_model(path)
        asked = [answers.prompt(model, answers.Question(case.question, shown))]
        length = answers.prompt_length(model.config, asked)
        batch = answers.prompts(model.config, asked, [shown], room_for(model.config, 1), length)
        said: Any = jax.jit(Gem(model.config).apply)({"params": model.params}, as_arrays(batch))
        logits.append(said[0, : batch.segments.sum()])
    return float(jnp.abs(logits[0] - logits[1]).max())


def interpretations(out: Path) -> list["Interpretation"]:
    """Returns those of the first held-out record and of the one with most contradicted claims."""
    from data_prep.claims import check, parse
    from data_prep.instruct import QUESTIONS
    from data_prep.records import read
    from gem_jax import answers, interpret
    from gem_jax.evaluate import read_predictions
    from gem_jax.inputs import Exhibit
    from gem_jax.tasks import claims

    told = read_predictions(out / "predictions.jsonl")
    cases = claims.load(_shard(out, "test"))

    def contradicted(case: claims.Case) -> int:
        verdicts = check(parse(told[case.id, case.id]), case.truth)
        return sum(one.verdict == "contradicted" for one in verdicts)

    paths = {record.id: record.path for record in sample_records()}
    model = answers.load_model(out / STAGES[-1])
    found = []
    for case in (cases[0], max(cases, key=contradicted)):
        record = dataclasses.replace(read(paths[case.id]), name=case.id)
        found.append(interpret.interpret(model, Exhibit(record), QUESTIONS[STYLE], 64))
    return found


def write_report(out: Path, largest: float) -> None:
    """Interprets the first held-out record, and the worst answered one, and writes report.html."""
    from gem_jax import interpret, log, report

    first, worst = interpretations(out)
    print(interpret.as_text(first))
    curves = {STAGE_NAMES[s]: log.read_metrics(out / s / "metrics.jsonl") for s in STAGES}
    artefacts: dict[str, str | Path] = {
        "records, measured, drawn and worded": out / "data",
        "tokenizer": out / "tokenizer",
        "training runs": ", ".join(str(out / stage) for stage in STAGES),
        "answers to the held-out records": out / "predictions.jsonl",
        "scores": out / "scores.json",
        "weights in the Hugging Face layout": out / "export",
        f"the same, imported back (logits differ by {largest:g})": out / "imported",
    }
    table = json.loads((out / "scores.json").read_text())
    note = (
        f"{max(row['n'] for row in table.values())} held-out records. The truth of rate and "
        "intervals is the cardiologists' own marks, of the axis the QRS areas within them; rhythm, "
        "P waves and findings in single leads are judged by our own measurement. Heart rate and "
        "axis were named beforehand."
    )
    units = {STAGE_NAMES["pretrain"]: "sum of parts"}
    sections = [
        interpret.as_html(first, "A held-out ECG, and what the model says of it"),
        interpret.as_html(worst, "Where it errs: the answer with the most contradicted claims"),
        report.curves_html(curves, units),
        report.scores_html(table, note),
        report.artefacts_html(artefacts),
    ]
    subtitle = "A tiny GEM, trained on real ECGs by this demo; every claim checked."
    write_whole(out / "report.html", report.document("gem_jax demo", sections, subtitle).encode())
