import json
import re
import shutil
from collections import Counter

import numpy as np
import pytest
import wfdb

from data_prep.marks import read_marks
from data_prep.readers.wfdb_header import read_header
from data_prep.records import LEADS, BadInput, read
from data_prep.sample_builder import Traits, _choose_test, _ludb_traits, _quantile_gap, _write
from data_prep.sample_index import SAMPLE, sample_records

RECORDS = sample_records()


def test_the_split_is_84_and_80_to_train_on_and_36_of_ludb_held_out():
    counts = Counter((record.corpus, record.split) for record in RECORDS)
    assert counts == {("ludb", "train"): 84, ("ludb", "test"): 36, ("ptbxl", "train"): 80}
    assert len({record.id for record in RECORDS}) == len(RECORDS)
    assert len({record.path for record in RECORDS}) == len(RECORDS)


def test_every_file_is_in_the_manifest_and_as_its_checksum_says():
    sample_records(verify=True)
    manifest = json.loads((SAMPLE / "manifest.json").read_text(encoding="utf-8"))
    listed = {name for entry in manifest["records"] for name in entry["sha256"]}
    present = {path.relative_to(SAMPLE).as_posix() for path in SAMPLE.glob("*/*")}
    assert present - listed == {"ludb/LICENSE.txt", "ptbxl/LICENSE.txt"}
    assert listed <= present


def test_an_altered_or_missing_file_is_noticed(tmp_path):
    (tmp_path / "ludb").mkdir()
    entry = json.loads((SAMPLE / "manifest.json").read_text(encoding="utf-8"))["records"][0]
    for name in entry["sha256"]:
        shutil.copy(SAMPLE / name, tmp_path / name)
    (tmp_path / "manifest.json").write_text(json.dumps({"records": [entry]}), encoding="utf-8")
    assert len(sample_records(tmp_path, verify=True)) == 1
    first = tmp_path / next(iter(entry["sha256"]))
    first.write_bytes(first.read_bytes() + b"x")
    with pytest.raises(BadInput, match="sha256"):
        sample_records(tmp_path, verify=True)
    first.unlink()
    with pytest.raises(BadInput, match="missing"):
        sample_records(tmp_path, verify=True)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(BadInput, match="garbled"):
        sample_records(tmp_path)


@pytest.mark.parametrize("record", RECORDS[::9], ids=lambda record: record.id)
def test_records_read_clean(record):
    ecg = read(record.path)
    assert ecg.leads == ecg.stored_leads == LEADS
    assert ecg.signal_mv.shape == (12, 5000)
    assert ecg.sampling_rate_hz == 500
    assert ecg.calibrated
    assert ecg.notes == ()
    assert not any("checksum" in note for notes in ecg.lead_notes.values() for note in notes)
    assert ecg.meta["sex"] in ("F", "M")
    if record.corpus == "ludb":
        assert ecg.meta["diagnoses"][0].startswith("Rhythm")
        assert read_marks(record.path).leads == LEADS
    else:
        assert ecg.meta["report"]


def test_headers_carry_1000_per_mv_and_nothing_that_identifies():
    keys = set()
    for record in RECORDS:
        header = read_header(record.path.with_name(record.path.name + ".hea"))
        assert {(signal.gain, signal.baseline, signal.unit) for signal in header.signals} == {
            (1000.0, 0, "mV")
        }
        assert {signal.format for signal in header.signals} == {"516"}
        keys |= {text.split(":")[0] for text in header.comments if re.match(r"<?[a-z ]+>?:", text)}
    assert keys == {"<age>", "<sex>", "<diagnoses>", "age", "sex", "scp codes", "fold", "report"}


def test_flac_halves_the_signals():
    size = sum(path.stat().st_size for path in SAMPLE.glob("*/*.dat"))
    assert size < 0.5 * len(RECORDS) * 12 * 5000 * 2


def test_flac_keeps_every_digital_sample(tmp_path):
    rng = np.random.default_rng(0)
    samples = rng.integers(-32768, 32768, (700, 12))
    samples[:10] = [-32768, 32767] * 6
    wfdb.wrsamp(
        "a",
        fs=500,
        units=["mV"] * 12,
        sig_name=list(LEADS),
        d_signal=samples,
        fmt=["16"] * 12,
        adc_gain=[1000.0] * 12,
        baseline=[0] * 12,
        write_dir=str(tmp_path),
    )
    (tmp_path / "out").mkdir()
    _write(tmp_path / "a", tmp_path / "out", "a", 1000.0, [])
    copy = wfdb.rdrecord(str(tmp_path / "out" / "a"), physical=False)
    np.testing.assert_array_equal(copy.d_signal, samples)


def test_held_out_records_spread_like_the_rest():
    ludb = [record for record in RECORDS if record.corpus == "ludb"]
    traits = {record.id: _ludb_traits(record.path, ("I", "II", "aVF")) for record in ludb}
    test = {record.id for record in RECORDS if record.split == "test"}
    for what in ("rate_bpm", "axis_deg"):
        held = [getattr(traits[name], what) for name in traits if name in test]
        rest = [getattr(traits[name], what) for name in traits if name not in test]
        assert _quantile_gap(held, rest) < 0.25
        slow = sorted(getattr(trait, what) for trait in traits.values())
        assert _quantile_gap(slow[:36], slow[36:]) > 0.8  # the control: a split by the quantity
    rhythms = Counter(traits[name].group for name in test)
    assert rhythms["Rhythm: Atrial fibrillation."] == 3
    assert rhythms["Rhythm: Sinus bradycardia."] == 4


def test_the_split_is_drawn_the_same_every_time():
    traits = {
        str(n): Traits(40.0 + n, -60.0 + 2 * n, "sinus" if n % 4 else "AF") for n in range(60)
    }
    test = _choose_test(traits, 50)
    assert test == _choose_test(traits, 50)
    assert len(test) == 36
    assert sum(traits[name].group == "AF" for name in test) == 9


def test_licences_and_attribution_are_there():
    assert "ODC Attribution License" in (SAMPLE / "ludb" / "LICENSE.txt").read_text(
        encoding="utf-8"
    )
    assert "Creative Commons Attribution 4.0" in (SAMPLE / "ptbxl" / "LICENSE.txt").read_text(
        encoding="utf-8"
    )
    text = (SAMPLE / "README.md").read_text(encoding="utf-8")
    for word in ("Kalyakulina", "Wagner", "ODC-By 1.0", "CC BY 4.0", "1000 per mV", "FLAC"):
        assert word in text
