"""The study's verdicts on tables whose answers are known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from synthseg import verdicts

SEEDS = 10


def rows(amount, name, seed, dice, scored="test", units=("slice 0", "slice 1", "block 0 0")):
    """Counts of a run with this Dice in every unit: 2000 pixels of either kind of foreground."""
    hits = round(1000 * dice)
    for unit in units:
        counts = {"tp": hits, "fp": 1000 - hits, "fn": 1000 - hits}
        label = {"amount": amount, "name": name, "seed": seed, "scored": scored, "unit": unit}
        yield {**label, **counts}


def tables(scores, generators=(), seeds=SEEDS):
    """Tables of arms (name -> Dice of each seed), all at the smallest amount."""
    arms = [
        row
        for name, values in scores.items()
        for seed, dice in enumerate(values, 1)
        for row in rows("window", name, seed, dice, units=("slice 0", "block 0 0", "block 0 1"))
    ]
    columns = ["name", "seed", "images", "frechet", "stripes_2", "stripes_4"]
    drawn = pd.DataFrame(list(generators), columns=columns)
    return verdicts.Tables(pd.DataFrame(arms), drawn, pd.DataFrame(), seeds, random_gans=24)


def test_dice_pools_the_counts_of_slices_and_leaves_out_blocks():
    frame = pd.DataFrame(
        [*rows("all", "A1", 3, 0.5), *rows("all", "A1", 3, 0.9, units=["slice 2"])]
    )
    assert verdicts.scores(frame)["all", "A1", 3] == pytest.approx((0.5 + 0.5 + 0.9) / 3)


def test_the_gap_is_of_the_same_tissue_and_waits_for_both_networks():
    seen = {1: 0.9, 2: 0.8, 3: 0.7}
    unseen = {1: 0.6, 2: 0.5, 3: 0.4}  # of seed k's network on the part of its partner
    made = [
        row
        for seed in seen
        for scored, values in (("seen", seen), ("unseen", unseen))
        for row in rows("window", "A0", seed, values[seed], scored)
    ]
    made += list(rows("window", "A0", 1, 0.5))
    none = pd.DataFrame()
    whole = verdicts.Tables(pd.DataFrame(made), none, none, 3, 0)
    expected = [0.9 - 0.4, 0.8 - 0.6, 0.7 - 0.5]
    np.testing.assert_allclose(verdicts.gaps(whole, "window", "A0"), expected)
    partly = whole._replace(seeds=4)  # the partner of seed 2 is seed 4, which is missing
    assert verdicts.gaps(partly, "window", "A0").to_dict() == pytest.approx({1: 0.5, 3: 0.1})


def test_arms_are_compared_with_the_seeds_that_both_have():
    made = tables({"A1": [0.8, 0.7, 0.6], "A0": [0.7, 0.5]})
    part = verdicts.compare_arms(made, "window", 2, "?", "A1", "A0", "Dice")
    np.testing.assert_allclose(part.values, [0.1, 0.2])
    assert part.interval.estimate == pytest.approx(0.15)
    assert part.tissue.estimate == pytest.approx(0.15)


def test_verdicts_by_sign_p_and_margin():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.002, SEEDS)

    def compared(shift):
        return verdicts.Compared(7, "?", "A − B", "Dice", noise - noise.mean() + shift)

    assert compared(0.1).p == 2 / 2**SEEDS  # all differences have one sign
    assert verdicts.verdict([compared(0.1), compared(0.2)], 0.02, SEEDS) == "supported"
    assert verdicts.verdict([compared(0.1), compared(-0.2)], 0.02, SEEDS) == "refuted"
    assert verdicts.verdict([compared(0.0)], 0.9, SEEDS) == "equivalent"
    assert verdicts.verdict([compared(0.004)], 0.02, SEEDS) == "supported, within the margin"
    wide = replace(compared(0), values=20 * noise)
    assert verdicts.verdict([wide], 0.9, SEEDS) == "undecided"
    assert verdicts.verdict([compared(0.1), compared(0.1)], 0.02, SEEDS + 1) == "not yet computed"


def test_a_claim_of_two_parts_has_one_p():
    def compared(values):
        return verdicts.Compared(7, "?", "A − B", "Dice", np.array(values))

    good, weak, bad = compared([1.0, 2.0, 3.0]), compared([1.0, -1.0, 0.5]), compared([-1, -2, -3])
    assert verdicts.claim_p([good, weak]) == weak.p > good.p == 0.25
    assert verdicts.claim_p([good, bad]) == 2 * bad.p == 0.5  # it fails if either part does
    assert verdicts.claim_p([bad]) == 0.25


def test_seeds_needed_agree_with_the_plan():
    # Power of a t-test with 10 seeds at 0.05 and an effect of 1.0 sd is 0.80 (Cohen's tables).
    values = np.array([-1.0, 1.0]) * np.sqrt(0.5) + 1.0
    assert values.std(ddof=1) == pytest.approx(1.0)
    assert verdicts.seeds_needed(values, 0.05) == 10
    assert verdicts.seeds_needed(values, 0.005) > 15
    half = values - 0.5  # half the effect: four times the seeds, but for a small constant
    assert verdicts.seeds_needed(half, 0.05) == pytest.approx(4 * 10, abs=8)
    assert verdicts.seeds_needed(np.zeros(5), 0.05) == float("inf")


def test_a_run_that_stands_twice_in_a_table_is_refused(tmp_path):
    frame = pd.DataFrame([{"key": key, **row} for key in "ab" for row in rows("all", "A1", 1, 0.5)])
    frame.to_csv(tmp_path / "study_arms.csv", index=False)
    with pytest.raises(ValueError, match=r"two runs of .*A1"):
        verdicts.read_tables(tmp_path, {"seeds": 1, "random_gans": 0})


def test_before_the_first_run_there_is_no_verdict(tmp_path):
    parts, claims = verdicts.answer(
        verdicts.read_tables(tmp_path, {"seeds": SEEDS, "random_gans": 24})
    )
    assert set(claims["verdict"]) == {"not yet computed"}
    assert (parts["seeds"] == 0).all()


def test_the_whole_answer():
    rng = np.random.default_rng(1)
    base = 0.6 + rng.normal(0, 0.03, SEEDS)

    def like(shift, spread=0.004):
        return base + shift + rng.normal(0, spread, SEEDS)

    names = ("A1again", "A4", "A4real", "A4-constant-noise", "A6", "A7", "A8", "A8shuffled")
    scores = {name: like(0.05, 0.02) for name in names}
    scores |= {"A0": base, "A1": like(0.05), "A1x2": like(0.05), "A2": like(0.1), "A5": like(0.05)}
    scores |= {"A3": like(-0.2), "A9": like(0)[:6], "live": like(0)[:2]}
    generators = [
        {
            "name": f"gan-{recipe}-{decoder}",
            "seed": seed,
            "images": "generated",
            "stripes_2": level * rng.uniform(0.9, 1.1),
            "stripes_4": level * rng.uniform(0.9, 1.1),
        }
        for recipe in ("ours", "original")
        for decoder, level in (("transposed", 3.0), ("resize", 1.0))
        for seed in range(1, SEEDS + 1)
    ]
    made = tables(scores, generators)
    quality = np.linspace(60, 200, 24)
    random = [
        row
        for seed in range(24)
        for row in rows("all", "A3-random", seed, 0.8 - quality[seed] / 1000)
    ]
    made = made._replace(
        arms=pd.concat([made.arms, pd.DataFrame(random)]),
        generators=pd.concat(
            [
                made.generators,
                pd.DataFrame(
                    {"name": "gan-random", "seed": range(24), "images": "generated"}
                ).assign(frechet=quality),
            ]
        ),
    )
    parts, claims = verdicts.answer(made)
    found = claims.set_index("claim")["verdict"]
    assert found[3] == "supported"
    assert found[4] == "supported"
    assert found[5] == "refuted"  # worse images, worse segmenters: distance predicts Dice
    assert found[7] == "refuted"  # copy-paste is better than composed GAN images
    assert found[1] == "not yet computed"  # nothing was scored on seen tissue here
    tested = found != "not yet computed"
    assert (claims["p"].notna() == tested.to_numpy()).all()
    assert (claims["adjusted p"] >= claims["p"])[tested.to_numpy()].all()
    stripes = parts[parts["claim"] == 4]["difference"]
    np.testing.assert_allclose(stripes, np.log(3), atol=0.1)
    described = parts[parts["contrast"] == "A8 − A9"]
    assert described["seeds"].item() == 6
    assert described["p"].isna().all()
