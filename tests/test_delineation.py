"""The delineation network: its twin in Flax, its shape rules, and what its probabilities say."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from hypothesis import given
from hypothesis import strategies as st

from data_prep import network
from data_prep.conditioning import MOMENT, RATE_HZ, between, bridged, frames, heights
from data_prep.decode import decode, find_beats
from data_prep.delineate import delineate
from data_prep.jumps import onset_at_jump
from data_prep.likeness import ALIKE, likeness
from data_prep.peaks import qrs_peak, smoothed, wave_peak
from experiments.delineator import Delineator, save
from experiments.made_ecgs import made_ecg
from synthetic import ecg


def shown(num_leads: int, num_frames: int = 64, seed: int = 0) -> np.ndarray:
    """Returns frames of a made record."""
    made = made_ecg(np.random.default_rng(seed), num_frames * 8, RATE_HZ)
    return frames(between(made.signal_mv[:num_leads].astype(np.float64)))


@pytest.mark.parametrize("num_leads", [1, 3, 12])
def test_the_network_is_its_twin_in_flax(num_leads: int) -> None:
    params = network.weights()
    seen = shown(num_leads)
    lead, joint = network.probabilities(params, seen)
    tree = {"params": unflatten_dict(dict(params), sep="/")}
    alive = np.ones((1, num_leads), np.float32)
    twin = [jax.nn.softmax(x[0]) for x in Delineator().apply(tree, seen[None], alive)]
    assert np.abs(lead - twin[0]).max() < 1e-4
    assert np.abs(joint - twin[1]).max() < 1e-4
    changed = {**params, "lead_stem/bias": params["lead_stem/bias"] + 0.1}
    assert np.abs(network.probabilities(changed, seen)[0] - twin[0]).max() > 1e-3


def test_dead_leads_take_no_part_in_the_twin() -> None:
    tree = {"params": unflatten_dict(dict(network.weights()), sep="/")}
    seen, alive = shown(4)[None], np.array([[1, 1, 0, 1]], np.float32)
    _, joint = Delineator().apply(tree, seen, alive)
    _, without = Delineator().apply(tree, seen[:, [0, 1, 3]], alive[:, [0, 1, 3]])
    assert np.abs(joint - without).max() < 1e-4


def test_the_order_of_the_leads_changes_nothing() -> None:
    seen, order = shown(6), np.array([3, 1, 5, 0, 4, 2])
    lead, joint = network.probabilities(network.weights(), seen)
    moved, same = network.probabilities(network.weights(), seen[order])
    assert np.abs(moved - lead[order]).max() < 1e-4
    assert np.abs(joint - same).max() < 1e-4


def test_a_long_record_goes_in_pieces_to_the_same_end() -> None:
    rng = np.random.default_rng(1)
    count = network.PIECE + 4 * network.BESIDE
    seen = rng.standard_normal((2, count, shown(1).shape[2])).astype(np.float32)
    whole = network._piece(network.weights(), seen)
    pieces = network.probabilities(network.weights(), seen)
    for one, other in zip(whole, pieces, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() < 1e-5
    network_alone = network._piece(network.weights(), seen[:, network.PIECE :])
    first = network.PIECE * one.shape[0] // count
    assert np.abs(network_alone[1][:40] - pieces[1][first : first + 40]).max() > 1e-3


def test_the_network_sees_no_more_than_a_record_of_100_hz_holds() -> None:
    time_s = np.arange(5000) / RATE_HZ

    def passed(hz: float) -> float:
        wave = np.sin(2 * np.pi * hz * time_s)[None]
        return float(between(wave)[0, 500:-500].std() / wave.std())

    assert passed(10.0) == pytest.approx(1.0, abs=0.01)
    assert passed(50.0) < 0.01
    assert passed(0.1) < 0.03


def test_stored_weights_come_back(tmp_path: Path) -> None:
    params = Delineator().init(jax.random.key(0), shown(2)[None], np.ones((1, 2)))["params"]
    flat = {path: np.asarray(x) for path, x in flatten_dict(params, sep="/").items()}
    save(flat, tmp_path / "w.npz")
    read = network.weights(tmp_path / "w.npz")
    assert read.keys() == flat.keys() == network.weights().keys()
    for path, x in flat.items():
        assert np.abs(read[path] - x).max() <= 1e-3 * np.abs(x).max() + 1e-7


def test_the_weights_that_come_along_are_small() -> None:
    assert network.WEIGHTS.stat().st_size < 2e6


def probabilities(waves: dict[str, list[tuple[int, int]]], count: int = 600) -> np.ndarray:
    """Returns class probabilities, S x K, that are sure of these waves."""
    of = np.zeros((count, len(network.CLASSES)))
    for wave, stretches in waves.items():
        for first, last in stretches:
            of[first:last, network.CLASSES.index(wave)] = 1.0
    of[:, 0] = 1.0 - of[:, 1:].sum(axis=1)
    return of


BEAT = {"p": [(100, 125)], "qrs": [(140, 165)], "t": [(210, 255)]}


def test_sure_waves_are_bounded_where_they_begin_and_end() -> None:
    joint = probabilities(BEAT)
    bounds = decode(np.stack([joint, joint]), joint)
    edges = np.array([[(100, 125), (140, 165), (210, 255)]]) * MOMENT - 0.5
    assert bounds == pytest.approx(np.stack([edges, edges]))


def test_a_bound_is_the_mean_of_what_is_left_open() -> None:
    joint, lead = probabilities(BEAT), probabilities(BEAT)
    lead[130:140, 2], lead[130:140, 0] = 0.5, 0.5  # begun or not, for 10 moments
    onset = decode(lead[None], joint)[0, 0, 1, 0]
    assert onset == pytest.approx(135 * MOMENT - 0.5)


def test_a_lead_that_shows_nothing_has_no_waves() -> None:
    joint = probabilities(BEAT)
    bounds = decode(np.stack([joint, probabilities({})]), joint)
    assert np.isfinite(bounds[0]).all()
    assert np.isnan(bounds[1]).all()


def test_a_p_without_qrs_is_a_beat_of_its_own() -> None:
    joint = probabilities({**BEAT, "p": [(100, 125), (300, 325), (400, 425)]})
    kinds = [[wave is not None for wave in beat] for beat in find_beats(joint)]
    assert kinds == [[True, True, True], [True, False, False], [True, False, False]]
    assert find_beats(probabilities({"p": BEAT["p"]})) == []


def test_a_chance_p_in_fibrillation_is_not_believed() -> None:
    qrs = [(60 + 100 * k, 85 + 100 * k) for k in range(5)]
    one = probabilities({"qrs": qrs, "p": [(130, 150)]})
    every = probabilities({"qrs": qrs, "p": [(30 + 100 * k, 50 + 100 * k) for k in range(5)]})
    assert [beat[0] for beat in find_beats(one)] == [None] * 5
    assert None not in [beat[0] for beat in find_beats(every)]


def test_a_single_qrs_of_a_long_record_is_not_believed() -> None:
    assert len(find_beats(probabilities(BEAT))) == 1
    assert find_beats(probabilities(BEAT, 1500)) == []


def test_beats_are_alike_and_noise_is_not() -> None:
    record, truth = ecg(early=(4,))
    middle = np.nanmean(truth.samples[0, :, [3, 5]], axis=0)
    assert likeness(record.signal_mv.astype(np.float64), middle) > 0.95
    noise = np.random.default_rng(0).normal(size=(3, 5000)).cumsum(axis=1)
    assert likeness(noise, middle) < ALIKE
    assert likeness(noise, middle[:1]) == 1.0


def test_a_beat_that_the_end_cuts_says_nothing_of_likeness() -> None:
    x = np.random.default_rng(0).standard_normal((2, 1000)) * 0.01
    for at in (200, 500, 800):
        x[:, at - 20 : at + 20] += np.hanning(40)
    whole = likeness(x, np.array([200.0, 500.0, 800.0]))
    assert whole > ALIKE
    assert likeness(x, np.array([200.0, 500.0, 800.0, 995.0])) == pytest.approx(whole)
    assert likeness(x, np.array([200.0, 350.0])) < ALIKE


def test_of_two_waves_after_a_qrs_the_larger_is_t() -> None:
    joint = probabilities({**BEAT, "t": [(210, 255), (300, 315)]})
    assert [beat[2] for beat in find_beats(joint)] == [(210, 255)]


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_bounds_of_any_probabilities_keep_their_order(seed: int, num_leads: int) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(num_leads + 1, 40, 4)).repeat(10, axis=1) * 4
    of = np.exp(noise) / np.exp(noise).sum(axis=-1, keepdims=True)
    bounds = decode(of[1:], of[0])
    p, qrs, t = np.moveaxis(bounds, 2, 0)
    with np.errstate(invalid="ignore"):
        assert not (qrs[..., 0] >= qrs[..., 1]).any()
        assert not (p[..., 1] > qrs[..., 0]).any()
        assert not (t[..., 0] <= qrs[..., 1]).any()
        assert not (t[:, :-1, 1] >= qrs[:, 1:, 0]).any()


def test_heights_pass_over_a_second_with_an_artefact() -> None:
    x = between(ecg()[0].signal_mv.astype(np.float64))
    spiked = x.copy()
    spiked[:, 2000:2010] += 30.0
    assert heights(spiked) == pytest.approx(heights(x), rel=0.05)
    assert np.sqrt((spiked**2).mean()) > 3 * np.sqrt((x**2).mean())


def test_gaps_are_bridged_by_lines() -> None:
    row = np.array([[1.0, np.nan, np.nan, 4.0, np.nan], [np.nan] * 5])
    assert (bridged(row) == [[1, 2, 3, 4, 4], [0, 0, 0, 0, 0]]).all()


def test_peaks_lie_on_the_raw_extremum() -> None:
    time = np.arange(200.0)
    bell = np.exp(-((time - 100) ** 2) / 200)
    signal = np.stack([bell, -bell])
    signal[0, 104] = 1.5  # within reach of the smooth peak
    bounds = np.broadcast_to([60.0, 140.0], (2, 1, 2))
    found = wave_peak(signal, smoothed(signal, 500.0), bounds, 500.0, "t")
    assert found.tolist() == [[104.0], [100.0]]
    assert qrs_peak(signal, bounds, 500.0).tolist() == [[104.0], [100.0]]
    gap = signal.copy()
    gap[0, 90] = np.nan
    found = wave_peak(gap, smoothed(signal, 500.0), bounds, 500.0, "p")
    assert np.isnan(found[0, 0])
    assert found[1, 0] == 100.0


def test_a_qrs_cut_by_the_records_end_has_no_bound_there() -> None:
    record, truth = ecg()
    at = int(truth.samples[0, 2, 4])
    cut = delineate(record.signal_mv[:, at - 5 :], 500.0)
    assert np.nanmedian(cut[:, 0, 4]) == pytest.approx(5, abs=4)
    assert np.isnan(cut[:, 0, :4]).all()
    whole = delineate(record.signal_mv, 500.0)
    assert np.isfinite(whole[:, 2, 3]).all()


def test_a_paced_complex_begins_at_its_jump() -> None:
    record, truth = ecg()
    x = record.signal_mv.astype(np.float64)
    bounds = truth.samples.reshape(12, -1, 3, 3)[..., [0, 2]].copy()
    assert (onset_at_jump(x, bounds) == bounds).all()
    spikes = bounds[0, :, 1, 0].astype(int) + 10
    paced = x.copy()
    paced[:, spikes] += 2.0
    moved = onset_at_jump(paced, bounds)
    assert (moved[:, :, 1, 0] == spikes - 1).all()
    assert (np.delete(moved, 1, axis=2) == np.delete(bounds, 1, axis=2)).all()
    artefact = x.copy()
    artefact[:, spikes[:1]] += 2.0
    assert (onset_at_jump(artefact, bounds) == bounds).all()
