"""Bad input through the command line: refused in one line, or handled and said in `quality`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import wfdb

from data_prep import augment, teachers
from data_prep.intervals import measure_waves
from data_prep.marks import read_marks
from data_prep.records import LEADS, BadInput
from data_prep.sample_index import SAMPLE
from data_prep.shards import Example, read_shard, shard_files
from data_prep.waves import FIDUCIALS
from experiments.demo import model as demo_model
from gem_jax import checkpoint, cli
from gem_jax.config import ConfigError
from gem_jax.evaluate import read_predictions
from gem_jax.models.gem import abstract_params
from gem_jax.recipes import load_recipe
from gem_jax.tokenizer import save_tokenizer, train_tokenizer
from wfdb_records import edit_header, write

ROOT = Path(__file__).parents[1]
# 79 bpm, regular, without anything to beware of; 1000 per mV.
SOURCE = SAMPLE / "ludb" / "18"
RATE_HZ = 500
MISSING = -32768
RECIPE = f"{ROOT / 'experiments' / 'demo.py'}:align"
CHEST = LEADS[6:]
Rows = dict[str, np.ndarray]


def gem_jax(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gem_jax.cli", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def refused(cwd: Path, *args: object) -> str:
    """Returns the one line that `gem-jax ARGS` says when it refuses and writes nothing."""
    before = sorted(cwd.rglob("*"))
    done = gem_jax(*args, cwd=cwd)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"gem-jax {args[0]}")
    assert sorted(cwd.rglob("*")) == before
    return done.stderr


def source_rows() -> Rows:
    raw = wfdb.rdrecord(str(SOURCE), physical=False)
    return {lead: row.astype(np.int16) for lead, row in zip(LEADS, raw.d_signal.T, strict=True)}


def record(folder: Path, rows: Rows, rate_hz: int = RATE_HZ, **header: Any) -> Path:
    """Writes FOLDER/rec with 1000 per mV if nothing else is said; returns it without suffix."""
    folder.mkdir(parents=True)
    return write(folder / "rec", rows, rate_hz, **header)


# --- refused ---


def _shorten(stem: Path) -> None:
    os.truncate(stem.with_suffix(".dat"), stem.with_suffix(".dat").stat().st_size - 2)


SPOILED: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "no_header": (lambda stem: stem.with_suffix(".hea").unlink(), "no such record"),
    "no_data": (lambda stem: stem.with_suffix(".dat").unlink(), "rec.dat is missing"),
    "short_data": (_shorten, "119998 bytes, expected 120000"),
    "leaves": (lambda stem: edit_header(stem, "rec.dat", "../no_data/rec.dat"), "leaves the"),
    "empty": (lambda stem: stem.with_suffix(".hea").write_bytes(b""), "empty header"),
    "garbled": (lambda stem: stem.with_suffix(".hea").write_bytes(b"\xff\xd8 JF"), "garbled"),
    "pressure": (lambda stem: edit_header(stem, "/mV", "/mmHg"), "'mmHg' is no voltage"),
}


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each way a record can be spoiled, an empty one, and one good record."""
    folder = tmp_path_factory.mktemp("bad")
    rows = source_rows()
    for name, (spoil, _) in SPOILED.items():
        spoil(record(folder / name, rows))
    (folder / "nothing").mkdir()
    record(folder / "with space" / "good", rows)
    return folder


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_record_is_refused_by_every_verb(name: str, bad: Path, tmp_path: Path) -> None:
    stem, said = bad / name / "rec", SPOILED[name][1]
    assert said in refused(tmp_path, "measure", stem, "--json")
    assert said in refused(tmp_path, "render", stem, "--out", "a/page.png", "--boxes", "a/b.json")
    asked = ("--checkpoint", "nowhere", "--html", "a/page.html")
    assert said in refused(tmp_path, "interpret", stem, *asked)
    told = refused(tmp_path, "prep", stem.parent, "--out", "a/out")
    assert (said if name != "no_header" else "holds no record") in told


def test_what_is_not_there_is_refused(bad: Path, tmp_path: Path) -> None:
    for args in (("measure",), ("render", "--out", "x.png"), ("interpret", "--checkpoint", "c")):
        said = refused(tmp_path, args[0], "nowhere/rec", *args[1:])
        assert "no such record: looked for nowhere/rec.hea" in said
    assert "no such corpus" in refused(tmp_path, "prep", "nowhere", "--out", "out")
    assert "holds no record" in refused(tmp_path, "measure", bad / "nothing")
    assert "holds no record" in refused(tmp_path, "measure", ".")
    assert "holds no record" in refused(tmp_path, "prep", bad / "nothing", "--out", "out")
    assert "is a folder" in refused(tmp_path, "render", bad / "nothing", "--out", "x.png")
    assert "is a folder" in refused(tmp_path, "interpret", bad / "nothing", "--checkpoint", "c")


def test_a_bad_record_in_a_folder_keeps_no_other_from_being_measured(
    bad: Path, tmp_path: Path
) -> None:
    done = gem_jax("measure", bad, bad / "nothing", "--json", cwd=tmp_path)
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    assert [json.loads(line)["record"] for line in lines] == [str(bad / "with space/good/rec")]
    told = done.stderr.splitlines()
    reasons = [line for line in told if line.startswith("gem-jax measure: ")]
    assert told[-len(reasons) :] == reasons, "the list comes last"
    assert len(reasons) == len(SPOILED)  # one has no header: it is no record; one is no folder
    for name, (_, said) in SPOILED.items():
        assert name == "no_header" or any(said in line for line in reasons)


def test_a_bad_record_in_a_folder_is_left_out_of_shards(bad: Path, tmp_path: Path) -> None:
    done = gem_jax("prep", bad, "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [row["id"] for row in manifest["records"]] == ["with space/good/rec"]
    skipped = {row["id"]: row["reason"] for row in manifest["skipped"]}
    assert set(skipped) == {f"{name}/rec" for name in SPOILED if name != "no_header"}
    for name, reason in skipped.items():
        assert SPOILED[name.removesuffix("/rec")][1] in reason
        assert f"skipped {name}: {reason}" in done.stderr


@pytest.mark.parametrize("suffix", ["", ".hea", ".dat"])
def test_a_record_is_named_with_or_without_suffix(suffix: str, bad: Path, tmp_path: Path) -> None:
    done = gem_jax("render", bad / f"with space/good/rec{suffix}", "--out", "a b.png", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["a b.png"]


USAGE = [
    (("measure",), "no record given"),
    (("measure", "--nope"), "--nope"),
    (("render", "rec"), "--out"),
    (("render", "rec", "--out", "x.png", "--gain", "7"), "Expected one of"),
    (("prep", "sample"), "--out"),
    (("prep", "sample", "--out", "x", "--limit", "0"), "--limit: got 0"),
    (("evaluate", "--data", "x"), "--out"),
    (("interpret", "rec"), "--checkpoint"),
    (("interpret", "rec", "--checkpoint", "c", "--max-new-tokens", "0"), "got 0"),
    (("export", "c"), "required"),
    (("train", RECIPE), "--run-dir"),
    (("train", RECIPE, "--run-dir", "x", "--train.steps", "many"), "--train.steps"),
]


@pytest.mark.parametrize(("args", "said"), USAGE)
def test_bad_usage_is_one_line(args: tuple[str, ...], said: str, tmp_path: Path) -> None:
    assert said in refused(tmp_path, *args)


def test_a_target_that_cannot_be_written_is_refused(bad: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    stem = bad / "with space/good/rec"
    assert "file/x.png" in refused(tmp_path, "render", stem, "--out", "file/x.png")
    assert "file/out" in refused(tmp_path, "prep", stem.parent, "--out", "file/out")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("line", ["def f(:", "import no_such_module", "def f(x): return x"])
def test_a_broken_recipe_is_told_by_its_line(line: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"{line}\n")
    with pytest.raises(ConfigError, match=r"mine\.py failed in .*, line \d+: \w+Error: ") as told:
        load_recipe(f"{tmp_path / 'mine.py'}:f")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("line", ['{"id": 1', '{"id": "a"}', "[]", "\udcff"])
def test_predictions_that_are_none_are_told_by_their_line(line: str, tmp_path: Path) -> None:
    path, good = tmp_path / "predictions.jsonl", '{"id": "a", "shown": "b", "answer": "c"}'
    path.write_text(f"{good}\n{line}\n", errors="surrogateescape")
    with pytest.raises(BadInput, match=r"predictions\.jsonl, line 2: got "):
        read_predictions(path)
    path.write_text(f"{good}\n{line}", errors="surrogateescape")  # a run was stopped there
    assert read_predictions(path) == {("a", "b"): "c"}


# --- checkpoints ---


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model with random parameters."""
    folder = tmp_path_factory.mktemp("checkpoint")
    config, rng = demo_model(), np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: (0.05 * rng.normal(size=leaf.shape)).astype(leaf.dtype),
        abstract_params(config),
    )
    tokenizer = train_tokenizer(["Rate 70 bpm. Normal axis, 45 degrees."], 300)
    save_tokenizer(tokenizer, folder / "tokenizer", config.max_length)
    checkpoint.save_model(folder / "ckpt", config, params, folder / "tokenizer", {"name": "random"})
    return folder / "ckpt"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `prep` makes of a record at 100 Hz, one of 3 s, and one with a gap and a flat lead."""
    folder = tmp_path_factory.mktemp("prepared")
    for name in ("hz_100", "s_3", "gap", "flat"):
        VARIANTS[name](folder / "records" / name, source_rows())
    done = gem_jax("prep", "records", "--out", "out", "--style", "brief", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "out"


NO_CHECKPOINT = ["nowhere", "file", "empty", "without_model", "without_weights"]


@pytest.fixture(autouse=True)
def _same_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def no_checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What is no checkpoint, by its name in `tmp_path`."""
    (tmp_path / "file").write_text("no checkpoint")
    for name in NO_CHECKPOINT[2:]:
        (tmp_path / name).mkdir()
    for name in NO_CHECKPOINT[3:]:
        (tmp_path / name / "tokenizer").mkdir()
        (tmp_path / name / "checkpoints" / "0").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    model = {"model": json.loads(json.dumps(checkpoint.to_dict(demo_model())))}
    (tmp_path / "without_weights" / "config.json").write_text(json.dumps(model))
    return request.param


@pytest.mark.parametrize("no_checkpoint", NO_CHECKPOINT, indirect=True)
def test_what_is_no_checkpoint_is_refused(
    no_checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(tmp_path / no_checkpoint), str(tmp_path / "dest")]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert no_checkpoint in told.err
    assert not list(tmp_path.glob("dest*"))


def test_an_export_to_nowhere_is_refused(
    ckpt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert cli.main(["export", str(ckpt), str(tmp_path / "file" / "dest")]) == 2
    told = capsys.readouterr().err
    assert "Not a directory, expected a path that can be used" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("no_checkpoint", ["without_weights"], indirect=True)
def test_what_is_no_checkpoint_is_refused_by_every_verb(
    no_checkpoint: str, bad: Path, prepared: Path, ckpt: Path, tmp_path: Path
) -> None:
    (shard,) = shard_files(prepared, "train")
    given = ("--checkpoint", no_checkpoint)
    data = ("--data.tokenizer", ckpt / "tokenizer", "--data.shards", prepared)
    verbs: Sequence[tuple[object, ...]] = (
        ("export", no_checkpoint, "dest"),
        ("interpret", bad / "with space/good/rec", *given, "--html", "page.html"),
        ("evaluate", "--data", shard, "--train-data", shard, "--out", "out", *given),
        ("train", RECIPE, "--run-dir", "run", "--init", no_checkpoint, *data),
        ("import", no_checkpoint, "dest"),
    )
    for args in verbs:
        assert no_checkpoint in refused(tmp_path, *args)


def test_interpret_takes_eight_leads_and_refuses_fewer(ckpt: Path, tmp_path: Path) -> None:
    rows = source_rows()
    eight = record(tmp_path / "eight", {lead: rows[lead] for lead in ("I", "II", *CHEST)})
    three = record(tmp_path / "three", {lead: rows[lead] for lead in ("I", "II", "V1")})
    asked = ("--checkpoint", ckpt, "--max-new-tokens", 2)
    said = refused(tmp_path, "interpret", three, *asked, "--html", "page.html")
    assert "leads V2, V3, V4, V5, V6 are missing, expected all twelve" in said
    done = gem_jax("interpret", eight, *asked, "--json", "--html", "page.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert "III, aVR, aVL, aVF derived from I and II" in told["quality"]["reasons"]
    assert "not a medical device" in told["caution"]
    assert "<img" in (tmp_path / "page.html").read_text()


# --- handled, and said in `quality` ---


def _only(rows: Rows, start: int = 0, stop: int | None = None, **leads: np.ndarray) -> Rows:
    return {lead: leads.get(lead, row)[start:stop] for lead, row in rows.items()}


def _gap(row: np.ndarray, start: int, stop: int) -> np.ndarray:
    row = row.copy()
    row[start:stop] = MISSING
    return row


def _spelled(rows: Rows) -> Rows:
    other = {"I": "Lead I", "aVR": "AVR", "V6": "v6"}
    return {other.get(lead, lead): row for lead, row in reversed(rows.items())}


def _long(rows: Rows) -> Rows:
    """The record's whole cycles, from its first R peak to its last, again and again for 60 s."""
    peaks = read_marks(SOURCE).samples[LEADS.index("II"), :, FIDUCIALS.index("qrs_peak")]
    first, last = int(np.nanmin(peaks)), int(np.nanmax(peaks))
    return {lead: np.tile(row[first:last], 10)[: 60 * RATE_HZ] for lead, row in rows.items()}


def _false_gains(rows: Rows) -> list[str]:
    """What LUDB's own headers say: every lead spans 1 mV."""
    return [f"{np.ptp(row.astype(int))}(0)/mV" for row in rows.values()]


VARIANTS: Mapping[str, Callable[[Path, Rows], Path]] = {
    "unharmed": record,
    "microvolt": lambda at, rows: record(at, rows, gain="1(0)/µV"),
    "volt": lambda at, rows: record(at, rows, gain="1000000(0)/V"),
    "hz_100": lambda at, rows: record(at, {n: row[::5] for n, row in rows.items()}, 100),
    "spelled": lambda at, rows: record(at, _spelled(rows)),
    "s_3": lambda at, rows: record(at, _only(rows, 1000, 2500)),
    "s_60": lambda at, rows: record(at, _long(rows)),
    "gap": lambda at, rows: record(at, _only(rows, V2=_gap(rows["V2"], 1000, 1600))),
    "flat": lambda at, rows: record(at, _only(rows, V3=np.full_like(rows["V3"], 7))),
    "flat_one": lambda at, rows: record(at, _only(rows, I=np.zeros_like(rows["I"]))),
    "eight": lambda at, rows: record(at, {n: rows[n] for n in ("I", "II", *CHEST)}),
    "one_lead": lambda at, rows: record(at, {"II": rows["II"]}),
    "false_gains": lambda at, rows: record(at, rows, gain=_false_gains(rows)),
    "other_unit": lambda at, rows: record(at, rows, gain="1(0)/mV"),
}
SAID = [
    ("microvolt", None, "stored in µV, converted to mV"),
    ("volt", None, "stored in V, converted to mV"),
    ("hz_100", None, "sampled at 100 Hz: times are no finer than 10 ms"),
    ("spelled", None, "leads spelled otherwise: v6 for V6, AVR for aVR, Lead I for I"),
    ("spelled", None, "leads stored in another order: V6 V5 V4"),
    ("s_3", None, "3.0 s long, not the usual 10 s"),
    ("s_60", None, "60.0 s long, not the usual 10 s"),
    ("gap", "V2", "missing for 1.20 s of 10.00 s"),
    ("flat", "V3", "flat: one value throughout"),
    ("flat_one", "I", "flat: one value throughout"),
    ("eight", None, "III, aVR, aVL, aVF derived from I and II"),
    ("one_lead", None, "not recorded: I, III, aVR"),
    ("false_gains", None, "II = I + III holds in the raw samples and not in mV"),
    ("other_unit", None, "unit or gain of the file is false"),
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What `measure --json` prints of every variant, by its name."""
    folder, rows = tmp_path_factory.mktemp("handled"), source_rows()
    for name, make in VARIANTS.items():
        make(folder / name, rows)
    done = gem_jax("measure", ".", "--json", "--processes", 1, cwd=folder)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    return {one["record"].removesuffix("/rec"): one for one in told}


def reasons(one: Mapping[str, Any], lead: str | None = None) -> str:
    quality = one["quality"]
    return "; ".join((quality["leads"][lead] if lead else quality)["reasons"])


@pytest.mark.parametrize(("name", "lead", "said"), SAID)
def test_an_oddity_is_said_where_it_is(name: str, lead: str | None, said: str, measured) -> None:
    assert said in reasons(measured[name], lead)
    others = [other for other in LEADS if other != lead and name != "one_lead"]
    if lead:
        assert {reasons(measured[name], other) for other in others} == {""}


def test_the_unharmed_record_has_nothing_said_of_it(measured) -> None:
    assert set(measured) == set(VARIANTS)
    assert reasons(measured["unharmed"]) == ""
    assert {reasons(measured["unharmed"], lead) for lead in LEADS} == {""}
    assert measured["unharmed"]["quality"]["lead_identity"]["verdict"] == "ok"


@pytest.mark.parametrize("name", VARIANTS)
def test_the_heart_rate_stays(name: str, measured) -> None:
    expected = measured["unharmed"]["global"]["heart_rate_bpm"]
    assert expected == pytest.approx(79, abs=1)
    assert measured[name]["global"]["heart_rate_bpm"] == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("name", ["microvolt", "volt", "spelled", "eight"])
def test_another_way_of_storing_changes_no_number(name: str, measured) -> None:
    for key, expected in measured["unharmed"]["global"].items():
        assert measured[name]["global"][key] == pytest.approx(expected, abs=4), key
    r_mv = [beat["r_amp_mv"] for beat in measured["unharmed"]["leads"]["V5"]["beats"]]
    assert [beat["r_amp_mv"] for beat in measured[name]["leads"]["V5"]["beats"]] == pytest.approx(
        r_mv, abs=2e-3
    )


def test_four_of_eight_leads_are_marked_derived(measured) -> None:
    def derived(name: str) -> list[str]:
        return [lead for lead, of in measured[name]["leads"].items() if of["derived"]]

    assert derived("eight") == ["III", "aVR", "aVL", "aVF"]
    assert list(measured["eight"]["leads"]) == list(LEADS)
    assert derived("unharmed") == []


def test_false_gains_leave_times_and_take_amplitudes_and_axis(measured) -> None:
    false, true = measured["false_gains"], measured["unharmed"]
    amplitudes = [key for key in true["leads"]["V5"]["beats"][0] if "_mv" in key]
    assert len(amplitudes) == 7
    assert false["global"]["axis_deg"] is None
    assert true["global"]["axis_deg"] is not None
    for lead in LEADS:
        beats = false["leads"][lead]["beats"]
        assert {beat[key] for beat in beats for key in amplitudes} == {None}
        known = [beat[key] for beat in true["leads"][lead]["beats"] for key in amplitudes]
        assert any(value is not None for value in known)
    for key in ("qrs_ms", "qt_ms", "pr_ms"):
        assert false["global"][key] == pytest.approx(true["global"][key], abs=10), key


def test_a_flat_lead_has_no_waves_and_gives_no_axis(measured) -> None:
    marks = [beat["qrs_peak"] for beat in measured["flat"]["leads"]["V3"]["beats"]]
    assert set(marks) == {None}
    assert measured["flat"]["global"]["axis_deg"] == pytest.approx(
        measured["unharmed"]["global"]["axis_deg"], abs=2
    )
    assert measured["flat_one"]["global"]["axis_deg"] is None


# --- and used for training ---


def changed(example: Example, seed: int) -> tuple[float, str]:
    """Returns the heart rate of an augmented record and its text, made anew as for training."""
    clean, known = example.signal(), example.measured()
    change = augment.draw(np.random.default_rng(seed), clean.duration_s)
    moved, waves = augment.apply(clean, known.waves, change)
    m = measure_waves(moved, waves, known.quality)
    assert np.isfinite(augment.add_noise(moved, change).signal_mv).any()
    expected = known.summary["heart_rate_bpm"] / change.time_scale
    return abs((m.summary["heart_rate_bpm"] or expected) - expected), teachers.template_answer(
        m, example.id, "brief"
    )


def test_odd_records_can_be_augmented(prepared: Path) -> None:
    (shard,) = shard_files(prepared, "train")
    examples = list(read_shard(shard))
    assert sorted(one.id for one in examples) == ["flat/rec", "gap/rec", "hz_100/rec", "s_3/rec"]
    for example in examples:
        apart, texts = zip(*(changed(example, seed) for seed in range(30)), strict=True)
        assert max(apart) < 5, example.id
        assert len(set(texts)) > 20
