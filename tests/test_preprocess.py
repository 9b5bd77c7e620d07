"""What the model reads of a record, and what it refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from data_prep.records import BadInput, select_leads
from gem_jax.models.ecg import EcgConfig
from gem_jax.preprocess import ecg_array, image_array, seen
from synthetic import ecg

CONFIG = EcgConfig.coca_vit_b_32()


def test_a_long_record_is_read_to_the_models_end_and_says_so() -> None:
    record, _ = ecg(duration_s=30.0)
    shown = seen(record, CONFIG)
    assert shown.duration_s == 10.0
    assert "the model reads the first 10 s of 30 s" in shown.notes
    np.testing.assert_array_equal(ecg_array(shown, CONFIG), ecg_array(record, CONFIG))
    short, _ = ecg(duration_s=10.0)
    assert seen(short, CONFIG) is short


def test_a_short_record_is_followed_by_zeros_and_missing_samples_are_zero() -> None:
    record, _ = ecg(duration_s=4.0)
    signal_mv = record.signal_mv.copy()
    signal_mv[0, 100:200] = np.nan
    array = ecg_array(dataclasses.replace(record, signal_mv=signal_mv), CONFIG)
    assert array.shape == (12, 5000)
    assert not array[:, 2000:].any() and not array[0, 100:200].any()
    np.testing.assert_array_equal(array[1, :2000], record.signal_mv[1])


def test_another_rate_gives_the_same_array() -> None:
    slow, fast = (ecg_array(ecg(rate_hz=rate)[0], CONFIG) for rate in (250.0, 500.0))
    assert np.abs(slow - fast)[:, 50:-50].max() < 0.05
    assert np.abs(fast).max() > 0.5


def test_fewer_than_twelve_leads_and_other_units_are_refused() -> None:
    record, _ = ecg()
    with pytest.raises(BadInput, match="aVF, V1"):
        ecg_array(select_leads(record, ("I", "II", "III", "aVR", "aVL")), CONFIG)
    with pytest.raises(BadInput, match="expected at most 50 mV"):
        ecg_array(dataclasses.replace(record, signal_mv=record.signal_mv * 1000), CONFIG)


def test_a_wide_page_keeps_its_ends() -> None:
    from PIL import Image

    from gem_jax.models.clip import ClipConfig

    page = Image.new("RGB", (200, 50), "white")
    page.paste("black", (0, 0, 20, 50))
    array = image_array(page, ClipConfig(100, 20, 32, 2, 2, 64), "pad")
    assert array.shape == (100, 100, 3)
    middle = array[50, :, 0]
    assert middle[:8].max() < -1.5 < 1.5 < middle[20:].min()
    with pytest.raises(BadInput, match="expected pad"):
        image_array(page, ClipConfig(100, 20, 32, 2, 2, 64), "ori")
