"""Composed masks: the original's rule as it was, and ours beside real masks."""

import numpy as np
import pytest
import tifffile
from skimage.measure import label

from synthseg import masks

SIZE = 48


def drawn_masks(count, pieces, seed=0):
    """Masks with `pieces` L-shaped components each, far apart (an L has no symmetry)."""
    rng = np.random.default_rng(seed)
    planes = np.zeros((count, SIZE, SIZE, 1), np.float32)
    for plane in planes:
        for cell in rng.choice(9, pieces, replace=False):
            top, left = (16 * place + 3 for place in divmod(cell, 3))
            plane[top : top + 8, left : left + 2] = 1
            plane[top + 6 : top + 8, left : left + 6] = 1
    return planes


def bank_of(planes):
    return masks.component_bank(np.where(planes > 0, -0.5, 0.5), planes, every=1)


def glyph(plane):
    """The foreground cut out of its background: the same for any translation."""
    rows, columns = np.nonzero(plane)
    return plane[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].tobytes()


def orientations(planes):
    """Which of the eight orientations of the L occur in masks (n, size, size)."""
    single = drawn_masks(1, 1)[0, ..., 0] > 0
    known = [glyph(masks.orient(single, value)) for value in range(8)]
    assert len(set(known)) == 8
    return {known.index(glyph(plane > 0)) for plane in planes}


# The original's rule -------------------------------------------------------------------------


def transcription(mask, rng):
    """Row 19 of "What we changed" step by step, with as few of our tools as can be."""
    labels = label(mask[..., 0] > 0, connectivity=1)
    number = labels.max()
    draws = rng.integers(low=3, high=number - 1, endpoint=True) if number >= 4 else number
    union = np.zeros(labels.shape, bool)
    for _ in range(draws):
        drawn = rng.integers(low=1, high=number, endpoint=True)
        component = np.where(labels == drawn, True, False)
        quarter_turns = rng.integers(low=1, high=3, endpoint=True)
        for _ in range(quarter_turns):
            component = component.transpose()[::-1]  # counter-clockwise
        component = component[::-1]  # upside down
        union = np.logical_or(union, component)
    return union


@pytest.mark.parametrize("pieces", [0, 1, 2, 3, 4, 7])
def test_the_original_rule_is_the_originals(pieces):
    planes = drawn_masks(40, pieces)
    composed = masks.compose_original(planes, seed=3)
    rng = np.random.default_rng(3)
    for mask, new in zip(planes, composed, strict=True):
        np.testing.assert_array_equal(new[..., 0], transcription(mask, rng))


def test_the_original_rule_keeps_a_single_component_and_mirrors_it():
    single = drawn_masks(200, 1)
    composed = masks.compose_original(single, seed=1)
    np.testing.assert_array_equal(composed.sum(axis=(1, 2, 3)), single.sum(axis=(1, 2, 3)))
    assert orientations(composed[..., 0]) == {4, 5, 7}  # numbered as masks.orient does


def test_the_original_rule_joins_no_diagonal_neighbours():
    diagonal = np.zeros((50, 8, 8, 1), np.float32)
    diagonal[:, 1, 1] = diagonal[:, 2, 2] = 1
    areas = masks.compose_original(diagonal, seed=0).sum(axis=(1, 2, 3))
    assert set(areas) == {1, 2}  # two draws of two components, which may be the same one
    assert masks.components(diagonal[0]).max() == 1


def nearest_dice(new, known):
    """Highest Dice of each mask that is not empty with any known one in any orientation."""
    flat = new[new.any(axis=(1, 2, 3))].reshape(-1, new[0].size)
    best = np.zeros(len(flat))
    for value in range(8):
        turned = masks.orient(known[..., 0], value).reshape(len(known), -1)
        areas = flat.sum(axis=1)[:, np.newaxis] + turned.sum(axis=1)
        best = np.maximum(best, (2 * flat @ turned.T / areas).max(axis=1))
    return best


def test_the_original_rule_on_real_crops(epfl_folder):
    """On 512 crops of the EPFL training stack: what a run of the original's code gave."""
    stack = tifffile.imread(epfl_folder / "training_groundtruth.tif") > 0
    rng = np.random.default_rng(5)
    sampled = np.arange(1, 320, 2.5).astype(int)  # 128 px, nearest neighbour
    corners = zip(*(rng.integers(0, end, 512) for end in (165, 449, 705)), strict=True)
    crops = [stack[z, y : y + 320, x : x + 320][np.ix_(sampled, sampled)] for z, y, x in corners]
    real = np.stack(crops)[..., np.newaxis].astype(np.float32)
    composed = masks.compose_original(real, seed=5)
    single = np.array([label(mask[..., 0] > 0, connectivity=1).max() == 1 for mask in real])
    assert composed[single].sum() == real[single].sum()
    assert composed.sum() / real.sum() == pytest.approx(0.75, abs=0.05)
    assert (nearest_dice(composed, real) > 0.95).mean() == pytest.approx(0.21, abs=0.04)


# Ours ----------------------------------------------------------------------------------------


def test_a_bank_holds_each_whole_component_along_its_box():
    planes = drawn_masks(4, pieces=3)
    planes[0, 20:30, :1] = 1  # cut by the edge
    planes[1, 47, 40] = 1  # a speck, at the edge, too
    bank = bank_of(planes)
    assert len(bank) == 12
    for component in bank:
        assert component.mask.shape == component.pixels.shape == (8, 6)
        np.testing.assert_array_equal(component.pixels, np.where(component.mask, -0.5, 0.5))
    with pytest.raises(ValueError, match="no whole component"):
        bank_of(planes * 0)


def test_composed_masks_match_number_and_area():
    planes = np.concatenate([drawn_masks(60, 2), drawn_masks(60, 4, seed=1), drawn_masks(30, 0)])
    prior = masks.count_and_area(planes)
    composed = masks.compose(bank_of(planes), prior, SIZE, 300, seed=5)
    for real, new in zip(prior, masks.count_and_area(composed.masks), strict=True):
        assert new.mean() == pytest.approx(real.mean(), rel=0.15)
        assert (new == 0).mean() == pytest.approx((real == 0).mean(), abs=0.1)


def test_composed_components_occur_in_all_eight_orientations():
    planes = drawn_masks(20, pieces=1)
    composed = masks.compose(bank_of(planes), masks.count_and_area(planes), SIZE, 300, seed=2)
    whole = [plane for plane in composed.masks[..., 0] if plane.sum() == 24]
    assert orientations(whole) == set(range(8))


def test_a_step_has_draws_of_its_own_and_the_same_again():
    planes = drawn_masks(10, pieces=3)
    first, again, later = (
        masks.compose(bank_of(planes), masks.count_and_area(planes), SIZE, 8, (1, step)).masks
        for step in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, later)


def test_copy_paste_puts_real_pixels_on_backgrounds():
    planes = drawn_masks(10, pieces=3)
    composed = masks.compose(bank_of(planes), masks.count_and_area(planes), SIZE, 12, seed=1)
    backgrounds = np.full((3, SIZE, SIZE, 1), 0.25, np.float32)
    images = masks.copy_paste(composed, backgrounds, seed=0)
    np.testing.assert_array_equal(images, np.where(composed.masks > 0, -0.5, 0.25))
    with pytest.raises(ValueError, match="without mitochondria"):
        masks.copy_paste(composed, backgrounds[:0], seed=0)


def test_erasing_leaves_tissue_alone_and_no_mitochondrion():
    planes = drawn_masks(5, pieces=6)
    planes[4] = 1  # nothing but mitochondrion: nothing to paint with
    rng = np.random.default_rng(0)
    images = np.where(planes > 0, -0.9, rng.uniform(0, 1, planes.shape)).astype(np.float32)
    erased = masks.erase(images, planes, seed=1)
    assert erased.shape == (4, SIZE, SIZE, 1)
    assert erased.min() >= 0
    assert np.isin(erased, images).all()
    far = np.stack([masks.binary_dilation(plane > 0, iterations=3) for plane in planes[:4]]) == 0
    np.testing.assert_array_equal(erased[far], images[:4][far])
