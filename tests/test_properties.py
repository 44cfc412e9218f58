"""What must hold for every input, tried on many that Hypothesis makes up.

The examples are the same in every run. The long tests try many more of them.
"""

import itertools
import math
import sys
from collections.abc import Callable

import numpy as np
import papermill
import papermill.parameterize
import pytest
import tensorflow as tf
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nbformat import v4

from synthseg import frechet, masks, metrics, parameters, project, sampling, statistics
from synthseg.sampling import CropSettings
from synthseg.volumes import Volume

# Looking for a simpler failure takes minutes, and most of these are simple already.
PHASES = (Phase.explicit, Phase.generate)
ALWAYS = {"derandomize": True, "deadline": None, "database": None, "phases": PHASES}
LONG: list[Callable[[], None]] = []


def holds(examples: int = 50, **strategies: st.SearchStrategy) -> Callable:
    """A property that is tried on so many examples, and on twenty times as many in long tests."""

    def decorate(function: Callable) -> Callable:
        LONG.append(settings(max_examples=20 * examples, **ALWAYS)(given(**strategies)(function)))
        return settings(max_examples=examples, **ALWAYS)(given(**strategies)(function))

    return decorate


def planes(side: int, count: tuple[int, int] = (1, 4)) -> st.SearchStrategy:
    """Masks (n, side, side, 1), float32 in {0, 1}."""
    shape = st.integers(*count).map(lambda n: (n, side, side, 1))
    return arrays(np.float32, shape, elements=st.sampled_from([np.float32(0), np.float32(1)]))


SEEDS = st.integers(0, 2**32 - 1)
# Scores as they are reported: no two are closer than a thousandth unless they are the same.
SCORES = st.integers(-1000, 1000).map(lambda value: value / 1000)


# Tiling -------------------------------------------------------------------------------------------


@holds(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    tile=st.integers(1, 128),
    overlap=st.integers(0, 128),
)
def test_every_pixel_is_owned_by_exactly_one_tile(height, width, tile, overlap):
    if min(height, width) < tile or overlap >= tile:
        with pytest.raises(ValueError, match="Cannot tile"):
            sampling.tiles(height, width, tile, overlap)
        return
    number = math.prod(math.ceil((side - overlap) / (tile - overlap)) for side in (height, width))
    assume(number < 5000)
    owners, pixels = np.zeros((height, width), int), np.arange(height * width)
    pixels = pixels.reshape(height, width)
    parts = sampling.tiles(height, width, tile, overlap)
    for part in parts:
        owners[part.owned] += 1
        assert pixels[part.window].shape == (tile, tile)
        np.testing.assert_array_equal(pixels[part.window][part.inner], pixels[part.owned])
    assert (owners == 1).all()
    for axis in (0, 1):
        starts = sorted({part.window[axis].start for part in parts})
        assert all(b - a <= tile - overlap for a, b in itertools.pairwise(starts))


# Crops --------------------------------------------------------------------------------------------


@holds(
    examples=4,
    shape=st.tuples(st.integers(1, 4), st.integers(16, 30), st.integers(16, 30)),
    sides=st.tuples(st.integers(1, 16), st.integers(1, 16)).map(sorted),
    batch=st.integers(1, 3),
    resize=st.sampled_from(["area", "nearest"]),
    augment=st.sampled_from(sampling.AUGMENTATIONS),
    seed=st.integers(0, 4_000_000_000),
    first_step=st.integers(0, 3),
)
def test_crops_follow_from_seed_and_step(shape, sides, batch, resize, augment, seed, first_step):
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    volume = Volume.create(noise, noise > 128, 5, "noise")
    size, crop = sides
    chosen = CropSettings(crop=crop, size=size, batch=batch, resize=resize, augment=augment)
    stream = [
        (images.numpy(), foreground.numpy())
        for images, foreground in sampling.crops(volume, chosen, seed).take(4)
    ]
    for images, foreground in stream:
        assert images.shape == foreground.shape == (batch, size, size, 1)
        assert images.dtype == foreground.dtype == np.float32
        assert images.min() >= -1
        assert images.max() <= 1
        assert np.isin(foreground, (0, 1)).all()
    resumed = next(iter(sampling.crops(volume, chosen, seed, first_step)))
    np.testing.assert_array_equal(resumed[0], stream[first_step][0])
    np.testing.assert_array_equal(resumed[1], stream[first_step][1])


@holds(
    examples=10,
    image=arrays(np.uint8, st.integers(2, 6).map(lambda side: (side, side))),
)
def test_the_eight_orientations_form_a_group(image):
    every = np.arange(8)

    def dihedral(planes: np.ndarray) -> np.ndarray:
        return sampling.dihedral(planes[..., None], tf.constant(every))[..., 0].numpy()

    def orient(planes: np.ndarray) -> np.ndarray:
        return masks.orient(planes, every)

    places = np.arange(image.size, dtype=np.uint8).reshape(image.shape)
    groups = []
    for turn in (dihedral, orient):
        turned = turn(np.stack([places] * 8))
        group = {plane.tobytes() for plane in turned}
        assert len(group) == 8
        for plane in turned:  # one orientation after another is one of the eight
            assert {again.tobytes() for again in turn(np.stack([plane] * 8))} == group
        # Places move in the same way whatever they hold, so that masks follow their images.
        np.testing.assert_array_equal(turn(np.stack([image] * 8)), image.ravel()[turned])
        groups.append(group)
    assert groups[0] == groups[1]


@holds(examples=15, foreground=planes(8), seed=st.tuples(SEEDS, SEEDS))
def test_masks_follow_their_images(foreground, seed):
    images = foreground * 2 - 1
    turned, its_masks = sampling.augment_batch(
        tf.constant(images), tf.constant(foreground), tf.constant(seed, tf.int64), "dihedral"
    )
    np.testing.assert_array_equal(turned, its_masks * 2 - 1)


# Metrics ------------------------------------------------------------------------------------------


PAIRS = st.integers(1, 5).flatmap(
    lambda n: st.tuples(planes(5, (n, n)), planes(5, (n, n)), st.permutations(range(n)))
)


@holds(pairs=PAIRS)
def test_counts_add_up_and_scores_are_symmetric(pairs):
    prediction, target, order = pairs
    counts = metrics.count(prediction, target)
    dice, iou = counts.dice(), counts.iou()
    scored = ~np.isnan(dice)
    np.testing.assert_array_equal(scored, (prediction + target).any(axis=(1, 2, 3)))
    assert ((dice[scored] >= 0) & (dice[scored] <= 1)).all()
    np.testing.assert_allclose(dice, 2 * iou / (1 + iou))
    np.testing.assert_array_equal(metrics.count(target, prediction).dice(), dice)
    np.testing.assert_array_equal(
        metrics.count(prediction[order], target[order]).dice(), dice[order]
    )
    # One image of all slices side by side has the pooled score.
    side_by_side = metrics.count(prediction.reshape(1, -1, 5), target.reshape(1, -1, 5))
    np.testing.assert_array_equal(counts.pooled().dice(), side_by_side.dice())
    cut = len(target) // 2
    halves = [
        metrics.count(prediction[part], target[part]).true_positive.sum()
        for part in (np.s_[:cut], np.s_[cut:])
    ]
    assert sum(halves) == counts.true_positive.sum()
    perfect = metrics.count(target, target).dice()
    assert (perfect[target.any(axis=(1, 2, 3))] == 1).all()


@holds(examples=10, pairs=PAIRS, batch=st.integers(1, 5))
def test_pooled_dice_does_not_depend_on_batches(pairs, batch):
    prediction, target, _ = pairs
    metric = metrics.PooledDice()
    for part in range(0, len(target), batch):
        metric.update_state(target[part : part + batch], prediction[part : part + batch] * 2 - 1)
    expected = metrics.count(prediction, target).pooled().dice()[0]
    np.testing.assert_allclose(float(metric.result()), expected)
    whole = metrics.original_batch_dice(prediction * 2 - 1, target, len(target))
    np.testing.assert_allclose(whole, expected)


@holds(
    values=arrays(np.float64, (1, 2, 2), elements=st.floats()),
    target=arrays(np.uint8, (1, 2, 2), elements=st.integers(0, 1)),
)
def test_only_zeros_and_ones_are_counted(values, target):
    if np.isin(values, (0, 1)).all():
        metrics.count(values, target)
        return
    with pytest.raises(ValueError, match="threshold"):
        metrics.count(values, target)


# Masks --------------------------------------------------------------------------------------------


@holds(foreground=planes(12), orientation=st.integers(0, 7))
def test_orientations_keep_components(foreground, orientation):
    counts, areas = masks.count_and_area(foreground)
    turned = masks.orient(foreground[..., 0], np.full(len(foreground), orientation))[..., None]
    turned_counts, turned_areas = masks.count_and_area(turned)
    np.testing.assert_array_equal(turned_counts, counts)
    np.testing.assert_array_equal(turned_areas, areas)


@holds(
    foreground=planes(12, (1, 3)),
    orientation=st.integers(0, 7),
    row=st.integers(-14, 14),
    column=st.integers(-14, 14),
)
def test_placing_loses_only_what_leaves_the_frame(foreground, orientation, row, column):
    plane = foreground[..., 0].astype(bool)
    grey = np.arange(plane.size, dtype=np.float32).reshape(plane.shape)
    every = np.arange(len(plane))
    turned, their_grey = (masks.orient(each, every * 0 + orientation) for each in (plane, grey))
    item, position, greys = masks.Bank(plane, grey).place(
        every, *(every * 0 + value for value in (orientation, row, column))
    )
    component, rows, columns = np.nonzero(turned)
    stays = np.isin(rows + row, range(12)) & np.isin(columns + column, range(12))
    np.testing.assert_array_equal(item, component[stays])
    np.testing.assert_array_equal(position, ((rows + row) * 12 + columns + column)[stays])
    np.testing.assert_array_equal(greys, their_grey[turned][stays])


def bank_of(areas: list[int], side: int) -> masks.Bank:
    """Bars of these lengths, each in the centre of its frame, with grey values of their own."""
    frames = np.zeros((len(areas), side, side), bool)
    for frame, area in zip(frames, areas, strict=True):
        frame[side // 2, (side - area) // 2 : (side - area) // 2 + area] = True
    greys = np.linspace(-1, -0.5, len(areas), dtype=np.float32)
    return masks.Bank(frames, np.where(frames, greys[:, None, None], np.float32(1)))


@holds(
    areas=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    real=planes(16, (1, 3)),
    count=st.integers(0, 4),
    seed=SEEDS,
)
def test_composed_masks_add_nothing(areas, real, count, seed):
    bank = bank_of(areas, 16)
    composed = masks.compose(bank, masks.count_and_area(real), count, seed)
    assert composed.masks.shape == composed.pixels.shape == (count, 16, 16, 1)
    assert np.isin(composed.masks, (0, 1)).all()
    assert (composed.pixels[composed.masks == 0] == 0).all()
    # Inside a mask are pixels of components, nothing of what was around them in the real image.
    assert (composed.pixels[composed.masks == 1] <= -0.5).all()
    asked = min(len(bank), int(masks.count_and_area(real)[0].max()))
    assert (masks.count_and_area(composed.masks)[0] <= asked).all()
    assert (composed.masks.sum(axis=(1, 2, 3)) <= sum(sorted(areas)[len(areas) - asked :])).all()
    again = masks.compose(bank, masks.count_and_area(real), count, seed)
    np.testing.assert_array_equal(composed.masks, again.masks)
    np.testing.assert_array_equal(composed.pixels, again.pixels)


@holds(area=st.integers(1, 4), seed=SEEDS)
def test_components_that_do_not_overlap_keep_their_area(area, seed):
    real = np.zeros((1, 16, 16, 1), np.float32)
    real[0, 2, :area] = real[0, 8, :area] = 1
    composed = masks.compose(
        bank_of([area] * 3, 16), masks.count_and_area(real), 3, seed, candidates=200
    )
    np.testing.assert_array_equal(masks.count_and_area(composed.masks)[1], 2 * area)


def test_composing_from_nothing_is_refused():
    with pytest.raises(ValueError, match="there is none"):
        masks.compose(bank_of([1], 16), masks.count_and_area(np.zeros((0, 16, 16, 1))), 1, 0)


@holds(foreground=planes(12), seed=SEEDS)
def test_the_original_rule_draws_from_the_components_it_is_given(foreground, seed):
    composed = masks.compose_original(foreground, seed)
    assert composed.shape == foreground.shape
    assert np.isin(composed, (0, 1)).all()
    areas, before = masks.count_and_area(composed)[1], masks.count_and_area(foreground)[1]
    np.testing.assert_array_equal(areas > 0, before > 0)
    # Three or n - 1 components are drawn, and one may come more than once, turned differently.
    drawn = np.maximum(3, masks.count_and_area(foreground)[0] - 1)
    assert (areas <= drawn * before).all()


# Statistics ---------------------------------------------------------------------------------------


@holds(
    examples=30,
    values=st.lists(SCORES, min_size=2, max_size=8).flatmap(
        lambda values: st.tuples(st.just(values), st.permutations(values))
    ),
)
def test_the_permutation_test_is_exact(values):
    differences, shuffled = values
    p_value = statistics.paired_permutation_test(differences)
    assert 2 / 2 ** len(differences) <= p_value <= 1
    # A whole number of the sign patterns is as extreme.
    assert (p_value * 2 ** len(differences)) % 1 == 0
    assert statistics.paired_permutation_test(shuffled) == p_value
    assert statistics.paired_permutation_test([-value for value in differences]) == p_value


@holds(
    values=st.lists(SCORES, min_size=2, max_size=8),
    margins=st.tuples(st.integers(1, 1000), st.integers(1, 1000)).map(sorted),
)
def test_equivalence_within_margins(values, margins):
    narrow, wide = (statistics.equivalence_test(values, margin / 1000) for margin in margins)
    assert 0 <= wide <= narrow <= 1
    mirrored = statistics.equivalence_test([-value for value in values], margins[0] / 1000)
    assert mirrored == pytest.approx(narrow)


@holds(
    values=st.lists(st.floats(0, 1), min_size=1, max_size=10).flatmap(
        lambda values: st.tuples(st.just(values), st.permutations(range(len(values))))
    )
)
def test_holm_never_lowers_a_value(values):
    raw, order = np.array(values[0]), list(values[1])
    adjusted = statistics.holm(raw)
    assert ((adjusted >= raw) & (adjusted <= 1)).all()
    assert (np.diff(adjusted[np.argsort(raw)]) >= 0).all()
    assert adjusted.min() == min(1, raw.min() * len(raw))
    np.testing.assert_allclose(statistics.holm(raw[order]), adjusted[order])


@holds(examples=8, values=st.lists(SCORES, min_size=2, max_size=10), seed=SEEDS)
def test_intervals_are_finite_and_in_order(values, seed):
    for interval in (
        statistics.bca_interval(values, seed),
        statistics.interquartile_mean_interval(values, seed),
    ):
        assert interval.low <= interval.high
        slack = 1e-12
        assert min(values) - slack <= interval.low
        assert interval.high <= max(values) + slack
        assert min(values) - slack <= interval.estimate <= max(values) + slack


@holds(
    examples=10,
    value=st.floats(0.001, 1) | st.floats(-1, -0.001),
    noise=st.lists(st.integers(-4, 4), min_size=2, max_size=5),
    seed=SEEDS,
)
def test_rounding_is_no_spread(value, noise, seed):
    values = value + np.array(noise) * np.spacing(value)
    interval = statistics.bca_interval(values, seed)
    for end in (interval.low, interval.estimate, interval.high):
        assert end == pytest.approx(value, rel=1e-12)
    margin = 2 * abs(value) + 0.1
    assert statistics.equivalence_test(values, margin) == 0
    assert statistics.equivalence_test(values + margin, margin / 2) == pytest.approx(1)


# Distances ----------------------------------------------------------------------------------------


FEATURES = st.tuples(st.integers(2, 8), st.integers(2, 8), st.integers(1, 6), SEEDS)


@holds(
    sizes=FEATURES, spread=st.floats(0.01, 100), shift=st.floats(-100, 100), scale=st.floats(0, 10)
)
def test_distances_are_symmetric(sizes, spread, shift, scale):
    count, other_count, length, seed = sizes
    rng = np.random.default_rng(seed)
    first = rng.normal(scale=spread, size=(count, length))
    second = rng.normal(scale=scale, size=(other_count, length)) + shift
    tolerance = 1e-9 * max(1, np.square(first).sum() + np.square(second).sum())
    frechet_distance, kernel_distance = frechet.frechet_distance, frechet.kernel_distance
    assert frechet_distance(first, second) >= 0
    assert frechet_distance(first, second) == pytest.approx(
        frechet_distance(second, first), abs=tolerance
    )
    assert frechet_distance(first, rng.permutation(first)) == pytest.approx(0, abs=tolerance)
    assert frechet_distance(first, first + shift) == pytest.approx(
        length * shift**2, abs=tolerance, rel=1e-9
    )
    forward, backward = kernel_distance(first, second), kernel_distance(second, first)
    assert forward == pytest.approx(backward, rel=1e-9, abs=1e-9 * max(1, tolerance**3))
    assert math.isfinite(forward)


# Parameters ---------------------------------------------------------------------------------------


HOSTILE = [
    "a; touch x",
    "$(touch x)",
    "`touch x`",
    "' or \"",
    "a b",
    "back\\slash\\n",
    "new\nline",
    "\0",
    "Grüße, 世界 \U0001f52c \u202e",
    "%s %d {} {0.__class__}",
    "../../x",
    "!!python/object/apply:os.system ['touch x']",
    "&a [*a, *a]",
    "[[[" * 500,
    "2024-13-45",
    "1_000",
    "0x",
    "1e999",
    "9" * 5000,
    ".nan",
    "-.inf",
    "1:30",
    "~",
    "<<",
    "=",
    "a" * 100_000,
]
TEXTS = st.one_of(st.sampled_from(HOSTILE), st.text(), st.text("0123456789+-._eExo:,[]{}!&*~'\"\\"))
DEFAULTS = st.sampled_from([True, False, 0, 1, 0.5, "phantom", "", None])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, -(10**400)]),
    st.floats(),
    TEXTS,
)


def is_like(value: object, default: object) -> bool:
    if isinstance(value, (int, float)) and not abs(value) <= sys.float_info.max:
        return False
    if default is None:
        return value is None or type(value) in (int, float)
    return type(value) is type(default)


@holds(examples=200, text=TEXTS, default=DEFAULTS)
def test_a_setting_is_of_its_type_or_refused(text, default):
    if isinstance(default, str):
        assert parameters.parse("name", text, default) == text
        return
    try:
        value = parameters.parse("name", text, default)
    except parameters.ParameterError as error:
        message = str(error)
    else:
        assert is_like(value, default)
        return
    assert message.startswith("name is")
    assert len(message) < 400


@holds(examples=100, value=SCALARS, default=DEFAULTS)
def test_a_value_is_taken_whole_or_refused(value, default):
    try:
        taken = parameters.convert("name", value, default)
    except parameters.ParameterError:
        assert not is_like(value, default)
    else:
        assert is_like(taken, default)
        assert taken == (float(value) if isinstance(default, float) else value)


@holds(
    examples=25,
    settings=st.lists(
        st.one_of(
            TEXTS,
            st.builds("{}={}".format, st.sampled_from(["steps", "data", "seed", "lr"]), TEXTS),
        ),
        max_size=2,
    ),
    data=st.none() | TEXTS,
)
def test_a_plan_is_complete_or_refused(settings, data):
    try:
        planned = parameters.plan([3], "smoke", data, 0, settings)[3]
    except project.RunError:
        return
    defaults = parameters.default_parameters(parameters.chapter_path(3))
    assert set(planned) == set(defaults)
    assert all(is_like(planned[name], defaults[name]) for name in planned)
    assert planned["folder"] == "runs/smoke"


@holds(examples=100, text=TEXTS, number=st.floats(), whole=st.integers())
def test_papermill_hands_values_over(text, number, whole):
    source = 'text = ""\nnumber = 0.0\nwhole = 0\nnothing = 1\nflag = False'
    cell = v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    metadata = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python"}}
    notebook = v4.new_notebook(cells=[cell], metadata={**metadata, "papermill": {}})
    given = {"text": text, "number": number, "whole": whole, "nothing": None, "flag": True}
    injected = papermill.parameterize.parameterize_notebook(notebook, given).cells[1]
    assert "injected-parameters" in injected.metadata["tags"]
    arrived: dict[str, object] = {}
    exec(injected.source, arrived)
    del arrived["__builtins__"]
    assert list(arrived) == list(given)
    assert arrived.pop("number") == pytest.approx(given.pop("number"), rel=0, abs=0, nan_ok=True)
    assert arrived == given


# All of them, on many examples --------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("check", LONG, ids=lambda check: check.__name__.removeprefix("test_"))
def test_with_many_examples(check: Callable[[], None]) -> None:
    check()
