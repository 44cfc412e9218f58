"""The crop pipeline: does the segmenter ever wait for data?"""

from collections.abc import Callable
from dataclasses import replace

from benchmarks.timing import Budget, Contender, Row, Summary, Worker, interleave

BATCH = 8


def measure(tensorflow: Worker, budget: Budget, progress: Callable[[str], None]) -> list[Row]:
    """Rows of the table; crops with the costliest augmentation."""
    steps = 3 if budget.quick else 10
    crops = {"batch": BATCH, "augment": "classical"}
    times = interleave(
        {
            "a batch of crops": Contender(tensorflow, "ours:crops", crops, calls=1),
            "step, resident batch": Contender(tensorflow, "ours:segmenter_step", {"batch": BATCH}),
            "step, crops": Contender(
                tensorflow, "ours:segmenter_step_on_crops", {**crops, "steps": steps}, calls=1
            ),
        },
        replace(budget, warm_up=1),
        progress,
    )
    topic = f"crop pipeline, batch {BATCH}"
    alone, step = times.seconds["a batch of crops"], times.seconds["step, resident batch"]
    waiting = 100 * (times.seconds["step, crops"] / step - 1)
    return [
        *(Row(topic, name, times.summary(name), "s") for name in times.seconds),
        Row(topic, "crops alone", Summary.of(BATCH / alone), "images/s"),
        Row(topic, "crops alone / step", Summary.of(100 * alone / step), "%", at_most=5.0),
        Row(topic, "step on crops, longer by", Summary.of(waiting), "%"),
    ]
