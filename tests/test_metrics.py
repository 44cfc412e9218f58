"""Scores with known values."""

import numpy as np
import pytest

from synthseg import metrics


def disk(radius, centre, size=64):
    rows, columns = np.indices((size, size))
    return ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2).astype(np.uint8)


def test_disks():
    outer, inner = disk(20, (32, 32)), disk(10, (32, 32))
    counts = metrics.count(inner[None], outer[None])
    assert counts.true_positive[0] == inner.sum()
    assert counts.false_positive[0] == 0
    # One disk inside the other: Dice = 2 r^2 / (r^2 + R^2) = 0.4, IoU = r^2 / R^2 = 0.25.
    np.testing.assert_allclose(counts.dice(), 0.4, atol=0.01)
    np.testing.assert_allclose(counts.iou(), 0.25, atol=0.01)


def test_pooled_is_not_the_mean_of_slices():
    target = np.stack([disk(20, (32, 32)), disk(2, (10, 10)), np.zeros((64, 64), np.uint8)])
    prediction = np.stack([disk(20, (32, 32)), disk(2, (50, 50)), np.zeros((64, 64), np.uint8)])
    counts = metrics.count(prediction, target)
    np.testing.assert_allclose(counts.dice(), [1, 0, np.nan])  # nothing to find: no score
    big, small = disk(20, (32, 32)).sum(), disk(2, (10, 10)).sum()
    np.testing.assert_allclose(counts.pooled().dice(), [big / (big + small)])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="Shapes differ"):
        metrics.count(np.zeros((1, 4, 4)), np.zeros((1, 4, 5)))
    with pytest.raises(ValueError, match="prediction has values"):
        metrics.count(np.full((1, 4, 4), 0.3), np.zeros((1, 4, 4)))


def test_pooled_dice_does_not_depend_on_batches():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(12, 8, 8, 1)).astype(np.float32)
    target = (rng.random((12, 8, 8, 1)) < 0.3).astype(np.float32)
    metric = metrics.PooledDice()
    for part in (slice(0, 1), slice(1, 7), slice(7, 12)):
        metric.update_state(target[part], logits[part])
    expected = metrics.count(logits > 0, target).pooled().dice()[0]
    np.testing.assert_allclose(float(metric.result()), expected)
    metric.reset_state()
    assert np.isnan(float(metric.result()))


def test_the_originals_dice_depends_on_batches():
    logits = np.ones((4, 8, 8, 1), np.float32)
    target = np.zeros((4, 8, 8, 1), np.float32)
    target[0] = 1
    target[1:, :2] = 1
    one, two = (metrics.original_batch_dice(logits, target, batch) for batch in (4, 2))
    assert one == pytest.approx(2 * 112 / (256 + 112))
    assert two == pytest.approx((2 * 80 / (128 + 80) + 2 * 32 / (128 + 32)) / 2)
    # A second batch with nothing to find: 1 if nothing is found, and 0 if something is.
    target[2:] = 0
    logits[2:] = -1
    assert metrics.original_batch_dice(logits, target, 2) == pytest.approx((160 / 208 + 1) / 2)


def test_spectrum_of_a_wave_peaks_at_its_frequency():
    rows = np.arange(64)
    wave = np.sin(2 * np.pi * rows / 8)[None, :, None, None] * np.ones((1, 64, 64, 1))
    frequency, power = metrics.radial_power_spectrum(wave)
    assert frequency[power.argmax()] == pytest.approx(1 / 8)
    assert frequency[-1] == 0.5


def test_spectrum_of_white_noise_is_flat_at_its_variance():
    noise = np.random.default_rng(0).normal(scale=3, size=(50, 64, 64, 1))
    _, power = metrics.radial_power_spectrum(noise)
    np.testing.assert_allclose(power[4:], 9, rtol=0.15)


# On the lines of a frequency white noise of variance 1 has 2 n^3, stripes of amplitude a have
# a^2 n^4; a wave of period 4 has half its amplitude at this frequency, half at its negative.
@pytest.mark.parametrize(("period", "share"), [(2, 1), (4, 1 / 4)])
@pytest.mark.parametrize("columns", [True, False])
def test_stripes_of_a_period_exceed_their_surroundings(period, share, columns):
    size, amplitude = 64, 0.5
    noise = np.random.default_rng(0).normal(size=(100, size, size, 1))
    wave = amplitude * np.cos(2 * np.pi * np.arange(size) / period)
    striped = noise + (wave[:, None] if columns else wave[:, None, None])
    expected = 1 + share * amplitude**2 * size / 2
    assert metrics.axis_power(striped, period) == pytest.approx(expected, rel=0.05)
    assert metrics.axis_power(striped, 6 - period) == pytest.approx(1, abs=0.05)


def test_variety_of_layout_survives_blur_and_that_of_pixels_does_not():
    rng = np.random.default_rng(0)
    levels = np.tile([-2.0, 2.0], 20)[:, None, None, None] * np.ones((40, 64, 64, 1))
    assert metrics.variety(levels) == pytest.approx(2)
    assert metrics.variety(levels, blur=12) == pytest.approx(2)
    pixels = rng.normal(scale=2, size=(200, 64, 64, 1))
    assert metrics.variety(pixels) == pytest.approx(2, rel=0.01)
    # A Gaussian blur divides the spread of white noise by 2 sqrt(pi) times its width.
    blurred = 2 / (2 * np.pi**0.5 * 4)
    assert metrics.variety(pixels, blur=4) == pytest.approx(blurred, rel=0.15)
    assert metrics.variety(np.repeat(levels[:1], 3, axis=0)) == 0
