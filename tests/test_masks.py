"""Composed masks: orientations, draws and the match with real masks."""

import numpy as np
import pytest
from scipy import stats

from synthseg import masks


def drawn_masks(count, pieces, size=48, seed=0):
    """Masks with `pieces` L-shaped components each, far apart (an L has no symmetry)."""
    rng = np.random.default_rng(seed)
    planes = np.zeros((count, size, size, 1), np.float32)
    for plane in planes:
        cells = rng.choice(9, pieces, replace=False)
        for cell in cells:
            row, column = divmod(cell, 3)
            top, left = row * 16 + 3, column * 16 + 3
            plane[top : top + 8, left : left + 2] = 1
            plane[top + 6 : top + 8, left : left + 6] = 1
    return planes


def signature(plane):
    """The foreground cut out of its background: the same for any translation."""
    rows, columns = np.nonzero(plane)
    return plane[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].tobytes()


def test_count_and_area():
    planes = drawn_masks(5, pieces=4)
    counts, areas = masks.count_and_area(planes)
    np.testing.assert_array_equal(counts, 4)
    np.testing.assert_array_equal(areas, 4 * (16 + 8))


def test_diagonal_neighbours_belong_together():
    assert masks.components(np.eye(4)).max() == 1


def test_the_original_rule_reaches_three_mirrored_orientations():
    single = np.zeros((1, 48, 48, 1), np.float32)
    single[0, 20:28, 20:22] = single[0, 26:28, 20:26] = 1
    planes = np.repeat(single, 200, axis=0)
    composed = masks.compose_original(planes, seed=1)
    labels = [masks.components(plane) for plane in composed]
    seen = {signature(found == 1) for found in labels if found.max() == 1}
    eight = masks.orient(np.repeat(single[..., 0] > 0, 8, axis=0), np.arange(8))
    mirrored = {signature(plane) for plane in eight[5:]}
    rotated = {signature(plane) for plane in eight[:4]}
    assert seen & mirrored
    assert not seen & rotated


def test_the_original_rule_loses_foreground():
    planes = drawn_masks(300, pieces=6)
    composed = masks.compose_original(planes, seed=0)
    # 3 to 5 of 6 are drawn, 4 on average, and copies in different places may overlap.
    assert 0.5 < composed.sum() / planes.sum() < 4 / 6
    assert masks.compose_original(np.zeros((2, 48, 48, 1)), seed=0).sum() == 0


def bank_of(planes):
    images = np.where(planes > 0, -0.5, 0.5).astype(np.float32)
    return masks.component_bank(images, planes, size=48, every=1)


def test_bank_holds_each_component_once_in_the_centre():
    planes = drawn_masks(4, pieces=3)
    bank = bank_of(planes)
    assert len(bank) == 12
    assert (bank.masks.sum(axis=(1, 2)) == 24).all()
    assert (bank.pixels[bank.masks] == -0.5).all()
    with pytest.raises(ValueError, match="no whole component"):
        masks.component_bank(planes * 0, planes * 0, size=48)


def test_bank_leaves_out_what_the_edge_cuts():
    planes = drawn_masks(1, pieces=2)
    planes[0, 20:30, :2] = 1
    assert len(bank_of(planes)) == 2


def test_composed_masks_match_number_and_area():
    planes = np.concatenate([drawn_masks(60, 2), drawn_masks(60, 4, seed=1), drawn_masks(30, 0)])
    composed = masks.compose(bank_of(planes), masks.count_and_area(planes), 300, seed=5)
    counts, areas = masks.count_and_area(planes)
    new_counts, new_areas = masks.count_and_area(composed.masks)
    assert abs(new_counts.mean() - counts.mean()) < 0.15 * counts.mean()
    assert abs(new_areas.mean() - areas.mean()) < 0.15 * areas.mean()
    assert abs((new_counts == 0).mean() - (counts == 0).mean()) < 0.1


def test_composed_components_occur_in_all_eight_orientations():
    planes = drawn_masks(20, pieces=1)
    composed = masks.compose(bank_of(planes), masks.count_and_area(planes), 300, seed=2).masks[
        ..., 0
    ]
    whole = [plane for plane in composed if plane.sum() == 24]
    shape = bank_of(planes).masks[:1]
    eight = masks.orient(np.repeat(shape, 8, axis=0), np.arange(8)).astype(np.float32)
    expected = {signature(plane) for plane in eight}
    assert len(expected) == 8
    assert {signature(plane) for plane in whole} == expected


def test_composing_is_deterministic():
    planes = drawn_masks(10, pieces=3)
    first, second, other = (
        masks.compose(bank_of(planes), masks.count_and_area(planes), 8, seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.masks, second.masks)
    assert not np.array_equal(first.masks, other.masks)


def test_copy_paste_puts_real_pixels_on_backgrounds():
    planes = drawn_masks(10, pieces=3)
    composed = masks.compose(bank_of(planes), masks.count_and_area(planes), 12, seed=1)
    backgrounds = np.full((3, 48, 48, 1), 0.25, np.float32)
    images = masks.copy_paste(composed, backgrounds, seed=0)
    np.testing.assert_allclose(images[composed.masks > 0], -0.5)
    np.testing.assert_allclose(images[composed.masks == 0], 0.25)
    with pytest.raises(ValueError, match="without mitochondria"):
        masks.copy_paste(composed, backgrounds[:0], seed=0)


def test_placing_turns_moves_and_cuts_off():
    frames = np.zeros((2, 4, 4), bool)
    frames[0, 1, :3] = frames[1, 2:, 3] = True
    bank = masks.Bank(frames, np.arange(32, dtype=np.float32).reshape(2, 4, 4))
    item, position, greys = bank.place(*np.array([[1, 0, 0], [0, 4, 1], [0, 1, 0], [-2, 2, -2]]))
    placed = np.full((3, 16), -1)
    placed[item, position] = greys
    nothing = [-1] * 4
    moved = [nothing, nothing, [-1, 26 + 1, -1, -1], [-1, 30 + 1, -1, -1]]
    mirrored = [nothing, nothing, [-1, -1, -1, 6], nothing]  # 4 5 6 was mirrored to  _ 6 5 4
    turned = [nothing, nothing, nothing, nothing]  # a column left of the frame
    np.testing.assert_array_equal(placed.reshape(3, 4, 4), [moved, mirrored, turned])


def test_drawing_without_replacement_is_fair():
    drawn = masks.draw_without_replacement(np.random.default_rng(0), 4, rows=24_000, count=3)
    ordered, times = np.unique(drawn, axis=0, return_counts=True)
    assert len(ordered) == 4 * 3 * 2  # each ordered choice of 3 different ones of 4
    assert all(len(set(row)) == 3 for row in ordered.tolist())
    assert stats.chisquare(times).pvalue > 0.001


def test_boxes_hold_what_is_placed():
    bank = bank_of(drawn_masks(4, pieces=3))
    every = np.arange(len(bank))
    low, high = bank.boxes
    for orientation in range(masks.EIGHT):
        turned = masks.orient(bank.masks, np.full(len(bank), orientation))
        for axis, other in ((0, 2), (1, 1)):
            occupied = turned.any(axis=other)  # (n, size)
            np.testing.assert_array_equal(low[axis, orientation, every], occupied.argmax(axis=1))
            last = 48 - occupied[:, ::-1].argmax(axis=1)
            np.testing.assert_array_equal(high[axis, orientation, every], last)
