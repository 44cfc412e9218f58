"""Composing masks: the module against the loop of the original study."""

from collections.abc import Callable

import numpy as np
from skimage.measure import label

from benchmarks import examples
from benchmarks.timing import Budget, Contender, Prepared, Row, Worker, interleave

COUNT = 64


def compose_one_by_one(masks: np.ndarray, seed: int) -> np.ndarray:
    """The original's rule in the original's way: image by image, component by component.

    Label the mask, draw some of its components with replacement, turn and flip each, and take the
    union. The draws are those of :func:`synthseg.masks.compose_original`, so both agree.
    """
    rng = np.random.default_rng(seed)
    composed = []
    for mask in masks:
        labels = label(mask[..., 0] > 0, connectivity=2)
        union = np.zeros(labels.shape, np.float32)
        found = labels.max()
        if found > 0:
            number = rng.integers(3, max(4, found))
            drawn = rng.integers(1, found + 1, size=number)
            turns = rng.integers(1, 4, size=number)
            for component, turn in zip(drawn, turns, strict=True):
                single = np.where(labels == component, 1.0, 0.0)
                union = np.where(np.rot90(np.fliplr(single), turn) > 0, 1.0, union)
        composed.append(union[..., None].astype(np.float32))
    return np.stack(composed)


def one_by_one() -> Prepared:
    masks = examples.masks(COUNT)
    return Prepared(lambda: compose_one_by_one(masks, 0))


def ours_original_rule() -> Prepared:
    from synthseg.masks import compose_original

    masks = examples.masks(COUNT)
    return Prepared(lambda: compose_original(masks, 0))


def ours() -> Prepared:
    """From a bank and the prior of real crops, both of which a chapter makes once."""
    from synthseg.masks import component_bank, compose, count_and_area

    bank = component_bank(*examples.pair(100, seed=1), size=128, every=1)
    prior = count_and_area(examples.masks(COUNT))
    return Prepared(lambda: compose(bank, prior, COUNT, 0).masks)


def measure(plain: Worker, budget: Budget, progress: Callable[[str], None]) -> list[Row]:
    """Rows of the table; every contender uses NumPy only."""
    topic = f"composing {COUNT} masks"
    times = interleave(
        {
            "ours": Contender(plain, "composing:ours"),
            "ours, original's rule": Contender(plain, "composing:ours_original_rule"),
            "original's loop": Contender(plain, "composing:one_by_one"),
        },
        budget,
        progress,
    )
    rows = [Row(topic, name, times.summary(name), "s") for name in times.seconds]
    rows.append(
        Row(topic, "original's loop / ours", times.ratio("original's loop", "ours"), "x", 5.0)
    )
    ratio = times.ratio("original's loop", "ours, original's rule")
    rows.append(Row(topic, "original's loop / ours, original's rule", ratio, "x"))
    return rows
