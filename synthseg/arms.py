"""The arms of the comparison, and the questions that pairs of them answer.

An arm is one training run of the segmenter, by the rule of :mod:`synthseg.joint`.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from synthseg.settings import check_choices


@dataclass(frozen=True)
class Arm:
    """What a segmenter is trained on, and by which rule.

    Attributes
    ----------
    what : str
        The arm in plain words.
    real : int
        Batches of real images a step: 1, 2, or 0.
    augment : str
        Augmentation of all images that the segmenter learns from: ``"none"`` or ``"classical"``.
    images : str
        Images of the second batch: none, ``"real"`` ones, ``"copy-paste"``, or those of a
        generator that is ``"finished"``, ``"replayed"`` as it was when it was trained, or trained
        ``"live"`` in the same steps.
    masks : str
        Their masks: ``"real"``, ``"composed"`` from all slices, or ``"original"``: composed from
        the very mask whose real image is in this place of the first batch.
    schedule : str
        Weight of the second batch: ``"ramp"`` grows as ln(1 + 20 t / T), the original's ramp over
        its 20 epochs as a function of the share of training done; ``"constant"``.
    score : str
        Factor from the discriminator: ``"none"``; one for the ``"batch"`` (original); one for
        each ``"image"``, with mean 1; or the same ``"shuffled"`` among the images.
    judged_beside : str
        The mask that the discriminator sees beside a generated image: ``"composed"``, its own, or
        ``"real"`` (original), the one from which that was composed.
    statistics : str
        ``"real"``: only real images move BatchNorm's running statistics, with which the segmenter
        is tested; ``"mixed"`` (original): the second batch does too.
    recipe : str
        Settings of the GAN: ``"ours"`` or ``"original"``.
    """

    what: str
    real: Literal[0, 1, 2]
    augment: Literal["none", "classical"]
    images: Literal["none", "real", "copy-paste", "finished", "replayed", "live"]
    masks: Literal["none", "real", "composed", "original"]
    schedule: Literal["constant", "ramp"]
    score: Literal["none", "batch", "image", "shuffled"]
    judged_beside: Literal["composed", "real"]
    statistics: Literal["real", "mixed"]
    recipe: Literal["ours", "original"]

    def __post_init__(self) -> None:
        check_choices(self)

    @property
    def generated(self) -> bool:
        """Whether a generator draws the images of the second batch."""
        return self.images in ("finished", "replayed", "live")


_A0 = Arm(
    what="real images alone",
    real=1,
    augment="none",
    images="none",
    masks="none",
    schedule="constant",
    score="none",
    judged_beside="composed",
    statistics="real",
    recipe="ours",
)
_A1 = replace(_A0, what="A0 + classical augmentation", augment="classical")
_A4 = replace(_A1, what="A1 + GAN images of real masks", images="finished", masks="real")
_A5 = replace(_A4, what="A1 + GAN images of composed masks", masks="composed")
_A6 = replace(_A5, what="A5, GAN as it grows", images="replayed")
_A7 = replace(_A6, what="A6 + ramp", schedule="ramp")
_A8 = replace(_A7, what="A7 + score of each image", score="image")
ARMS = {
    "A0": _A0,
    "A1": _A1,
    "A1x2": replace(_A1, what="A1, twice the real images", real=2),
    "A2": replace(_A5, what="A1 + copy-paste", images="copy-paste"),
    "A3": replace(_A4, what="GAN images of real masks alone", real=0),
    "A4": _A4,
    "A4real": replace(_A4, what="A1 + real images of A4's masks", images="real"),
    "A5": _A5,
    "A6": _A6,
    "A7": _A7,
    "A8": _A8,
    "A8shuffled": replace(_A8, what="A8, scores shuffled", score="shuffled"),
    "A9": Arm(
        what="the original's joint training",
        real=1,
        augment="none",
        images="live",
        masks="original",
        schedule="ramp",
        score="batch",
        judged_beside="real",
        statistics="mixed",
        recipe="original",
    ),
    "live": replace(_A8, what="A8, GAN trained live", images="live"),
}
"""All arms by name, each written as another one with one change. They have equal steps, and are
paired by seed."""


class Contrast(NamedTuple):
    """A question: is the `measure` of the `first` arm larger than that of the `second`.

    `claim` is the number of the original's conclusion or conjecture, 0 for a control. `measure` is
    Dice on test slices, or the gap between Dice on seen and on unseen tissue. Two contrasts of one
    claim and one measure are one test, with the larger p.
    """

    claim: int
    question: str
    first: str
    second: str
    measure: Literal["dice", "gap"] = "dice"


CONTRASTS = [
    Contrast(2, "Does classical augmentation help?", "A1", "A0"),
    Contrast(2, "Does classical augmentation reduce over-fitting?", "A0", "A1", "gap"),
    Contrast(3, "Are synthetic images alone worse than real ones?", "A1", "A3"),
    Contrast(7, "Do composed masks help more than real masks?", "A5", "A4"),
    Contrast(7, "Does a generator help more than pasting real pixels?", "A5", "A2"),
    Contrast(8, "Does a growing weight help, at the same mean weight?", "A7", "A6"),
    Contrast(9, "Does the discriminator's score help?", "A8", "A7"),
    Contrast(10, "Is joint training better than as many real images?", "A8", "A1x2"),
    Contrast(10, "Does joint training over-fit less?", "A1x2", "A8", "gap"),
    Contrast(0, "Are GAN images of masks better than the real ones?", "A4", "A4real"),
    Contrast(0, "Does it matter which image gets which score?", "A8", "A8shuffled"),
    Contrast(0, "Does a replayed GAN do what one trained live does?", "A8", "live"),
    Contrast(0, "Does our joint training beat the original's?", "A8", "A9"),
]
"""Claims 1, 4, 5 and 6 are not about two arms."""
