import numpy as np
import pytest

import wfdb_records
from data_prep.records import (
    LEADS,
    BadInput,
    Record,
    derive_leads,
    find,
    read,
    resample,
    select_leads,
)


def _record(leads=LEADS, num_samples=1000, rate_hz=100.0) -> Record:
    rows = wfdb_records.samples(num_samples, rate_hz)
    signal = np.stack([rows[lead] / 1000 for lead in leads]).astype(np.float32)
    return Record("made", tuple(leads), signal, rate_hz)


def test_record_checks_its_parts():
    good = _record()
    assert good.duration_s == 10.0
    with pytest.raises(ValueError, match="in this order"):
        Record("x", ("II", "I"), good.signal_mv[:2], 100.0)
    with pytest.raises(ValueError, match="in this order"):
        Record("x", ("I", "MLII"), good.signal_mv[:2], 100.0)
    with pytest.raises(ValueError, match="shape"):
        Record("x", ("I",), good.signal_mv[:2], 100.0)
    with pytest.raises(ValueError, match="float32"):
        Record("x", ("I",), good.signal_mv[:1].astype(float), 100.0)
    with pytest.raises(ValueError, match="positive"):
        Record("x", ("I",), good.signal_mv[:1], 0.0)
    with pytest.raises(ValueError, match="no sample"):
        Record("x", ("I",), good.signal_mv[:1, :0], 100.0)


@pytest.mark.parametrize("pair", [("I", "II"), ("I", "III"), ("II", "III")])
def test_two_limb_leads_give_the_other_four(pair):
    whole = _record()
    derived = derive_leads(_record((*pair, "V1")))
    assert derived.leads == (*LEADS[:6], "V1")
    assert derived.derived == tuple(lead for lead in LEADS[:6] if lead not in pair)
    np.testing.assert_allclose(derived.signal_mv[:6], whole.signal_mv[:6], atol=2e-3)


def test_derived_lead_is_missing_where_a_source_is():
    record = _record(("I", "II"))
    record.signal_mv[1, 100:150] = np.nan
    derived = derive_leads(record)
    missing = np.isnan(derived.signal_mv)
    assert not missing[0].any()
    assert all(np.array_equal(np.flatnonzero(row), np.arange(100, 150)) for row in missing[1:])


def test_nothing_is_derived_from_one_limb_lead_or_from_a_whole_record():
    assert derive_leads(one := _record(("II", "V1"))) is one
    assert derive_leads(whole := _record()) is whole


def test_nothing_is_derived_from_a_flat_lead():
    record = _record(("I", "II", "V1"))
    record.signal_mv[1] = 0.0
    assert derive_leads(record) is record
    assert "aVF" in derive_leads(_record(("I", "II", "V1"))).leads


def test_select_leads_keeps_canonical_order_and_names_what_is_missing():
    record = select_leads(_record(), ("V1", "I"))
    assert record.leads == ("I", "V1")
    np.testing.assert_array_equal(record.signal_mv[1], _record().signal_mv[6])
    with pytest.raises(BadInput, match="V6 is missing"):
        select_leads(_record(("I", "II")), ("V6",))


@pytest.mark.parametrize("rate_hz", [500.0, 250.0, 128.0])
def test_resample_keeps_the_waveform(rate_hz):
    time_s = np.arange(1000) / 100.0
    tone = np.sin(2 * np.pi * 3 * time_s, dtype=np.float64)[None].astype(np.float32) + 0.5
    new = resample(Record("x", ("I",), tone, 100.0), rate_hz)
    assert new.sampling_rate_hz == rate_hz
    assert new.duration_s == pytest.approx(10.0, abs=1 / rate_hz)
    expected = np.sin(2 * np.pi * 3 * np.arange(new.signal_mv.shape[1]) / rate_hz) + 0.5
    inner = slice(int(0.2 * rate_hz), -int(0.2 * rate_hz))
    np.testing.assert_allclose(new.signal_mv[0, inner], expected[inner], atol=5e-3)
    assert np.abs(new.signal_mv[0, inner] - 0.5).max() > 0.9  # the control: not just the mean


def test_resample_keeps_missing_samples_missing_and_no_others():
    record = _record(("I", "V1"))
    record.signal_mv[0, 200:300] = np.nan
    new = resample(record, 500.0)
    missing = np.flatnonzero(np.isnan(new.signal_mv[0]))
    assert missing[0] == 199 * 5 + 1
    assert missing[-1] == 300 * 5 - 1
    assert len(missing) == missing[-1] - missing[0] + 1
    assert not np.isnan(new.signal_mv[1]).any()
    assert (
        np.abs(new.signal_mv[0, :900] - resample(_record(), 500.0).signal_mv[0, :900]).max() < 1e-3
    )


def test_resample_of_a_missing_lead_and_of_the_same_rate():
    record = _record(("I", "V1"))
    assert resample(record, 100.0) is record
    record.signal_mv[0] = np.nan
    assert np.isnan(resample(record, 250.0).signal_mv[0]).all()


def test_find_sorts_below_folders_and_drops_suffixes(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b", "a", "deep/c"):
        wfdb_records.write(tmp_path / name, wfdb_records.samples())
    assert find([tmp_path]) == [tmp_path / "a", tmp_path / "b", tmp_path / "deep" / "c"]
    assert find([tmp_path / "b.hea", tmp_path / "b.dat", tmp_path / "nowhere"]) == [
        tmp_path / "b",
        tmp_path / "nowhere",
    ]


def test_find_refuses_an_empty_folder_and_nothing(tmp_path):
    with pytest.raises(BadInput, match="holds no record"):
        find([tmp_path])
    with pytest.raises(BadInput, match="empty path"):
        find([""])
    with pytest.raises(BadInput, match="empty path"):
        read("")
    with pytest.raises(BadInput, match="no record given"):
        find([])


@pytest.mark.parametrize("suffix", ["", ".hea", ".dat"])
def test_read_takes_the_path_with_and_without_suffix(tmp_path, suffix):
    stem = wfdb_records.write(tmp_path / "rec", wfdb_records.samples())
    record = read(f"{stem}{suffix}")
    assert record.name == str(stem)
    assert record.leads == LEADS
    assert record.signal_mv.dtype == np.float32


def test_read_refuses_folders_and_unknown_formats(tmp_path):
    with pytest.raises(BadInput, match="is a folder"):
        read(tmp_path)
    (tmp_path / "table.xlsx").write_text("1,2\n")
    with pytest.raises(BadInput, match=r"format \.xlsx is unknown"):
        read(tmp_path / "table.xlsx")
