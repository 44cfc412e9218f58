"""Training steps: the module, the original's style, and PyTorch."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from benchmarks.timing import Budget, Contender, Row, Summary, Times, Worker, interleave

MATMUL = 3000
VARIANTS: dict[str, dict[str, bool]] = {
    "PyTorch": {"channels_last": False, "compiled": False},
    "PyTorch, channels last": {"channels_last": True, "compiled": False},
    "PyTorch, channels last, spinning": {"channels_last": True, "compiled": False},
    "PyTorch, channels last, compiled": {"channels_last": True, "compiled": True},
    "PyTorch, channels last, compiled, spinning": {"channels_last": True, "compiled": True},
}


class Torch(NamedTuple):
    """Two workers for PyTorch.

    OpenMP's threads can sleep or spin while they wait. Spinning is its default and is faster on an
    idle machine, and far slower on one that has other work, too.
    """

    sleeping: Worker
    spinning: Worker


def contenders(
    step: str, tensorflow: Worker, torch: Torch | None, budget: Budget, **options: Any
) -> dict[str, Contender]:
    """All that can do one kind of step."""
    chosen = {
        "ours": Contender(tensorflow, f"ours:{step}", options),
        "original's style": Contender(tensorflow, f"original_style:{step}", options, calls=1),
        "matmul": Contender(tensorflow, "ours:matmul", {"size": MATMUL}),
    }
    if torch is not None:
        for name, layout in VARIANTS.items():
            if budget.quick and layout["compiled"]:  # compiling takes minutes
                continue
            worker = torch.spinning if "spinning" in name else torch.sleeping
            chosen[name] = Contender(worker, f"torch_peers:{step}", {**options, **layout})
    return chosen


def _rows(
    topic: str, times: Times, against_style: float | None, against_torch: float | None
) -> list[Row]:
    rows = [Row(topic, name, times.summary(name), "s") for name in times.seconds]
    rows += [Row(topic, name, None, "s", note=why) for name, why in times.failed.items()]
    if "original's style" in times.seconds:
        ratio = times.ratio("original's style", "ours")
        rows.append(Row(topic, "original's style / ours", ratio, "x", against_style))
    best = times.best(list(VARIANTS))
    ratio_to_torch = times.ratio(best, "ours") if best else None
    note = f"best variant: {best}" if best else "PyTorch is not installed"
    rows.append(Row(topic, "PyTorch's best / ours", ratio_to_torch, "x", against_torch, note=note))
    return rows


def _rates(topic: str, times: Times, flops: int, share: float | None) -> list[Row]:
    peak = 2 * MATMUL**3 / times.seconds["matmul"]
    rate = flops / times.seconds["ours"]
    return [
        Row(
            topic,
            "ours",
            Summary.of(rate / 1e9),
            "GFLOP/s",
            note=f"{flops / 1e9:.1f} GFLOP, as in PyTorch",
        ),
        Row(topic, "matmul peak", Summary.of(peak / 1e9), "GFLOP/s"),
        Row(topic, "ours / matmul peak", Summary.of(100 * rate / peak), "%", share),
    ]


def _measure(
    step: str,
    topic: str,
    targets: tuple[float | None, float | None, float | None],
    tensorflow: Worker,
    torch: Torch | None,
    budget: Budget,
    progress: Callable[[str], None],
    **options: Any,
) -> list[Row]:
    against_style, against_torch, share = targets
    chosen = contenders(step, tensorflow, torch, budget, **options)
    times = interleave(chosen, budget, lambda text: progress(f"{topic}: {text}"))
    rows = _rows(topic, times, against_style, against_torch)
    if torch is not None:
        flops = torch.sleeping.ask("torch_peers:flops", maker=step, **options)
        rows += _rates(topic, times, flops, share)
    return rows


def segmenter(
    tensorflow: Worker, torch: Torch | None, budget: Budget, progress: Callable[[str], None]
) -> list[Row]:
    rows = []
    for batch in (8,) if budget.quick else (8, 16):
        topic = f"segmenter step, batch {batch}"
        targets = (6.0, 1.8, 45.0)
        rows += _measure(
            "segmenter_step", topic, targets, tensorflow, torch, budget, progress, batch=batch
        )
    return rows


def gan(
    tensorflow: Worker, torch: Torch | None, budget: Budget, progress: Callable[[str], None]
) -> list[Row]:
    rows = []
    for decoder in ("resize", "transposed"):
        topic = f"GAN step, {decoder} decoder"
        options = {"batch": 8, "width": 32, "decoder": decoder}
        targets = (None, 1.3, None)
        rows += _measure("gan_step", topic, targets, tensorflow, torch, budget, progress, **options)
    return rows


def joint(
    tensorflow: Worker, torch: Torch | None, budget: Budget, progress: Callable[[str], None]
) -> list[Row]:
    options = {"batch": 8, "width": 32, "decoder": "resize"}
    return _measure(
        "joint_step",
        "joint step, batch 8",
        (4.0, None, None),
        tensorflow,
        torch,
        budget,
        progress,
        **options,
    )


def fit(tensorflow: Worker, budget: Budget, progress: Callable[[str], None]) -> list[Row]:
    """What the callbacks and the storing of ``training.fit`` add to the bare step."""
    steps = 10 if budget.quick else 50
    times = interleave(
        {
            "bare step": Contender(tensorflow, "ours:segmenter_step", {"batch": 8}),
            "fit": Contender(tensorflow, "ours:fit", {"batch": 8, "steps": steps}, calls=1),
        },
        replace(budget, warm_up=1, rounds=max(2, budget.rounds // 3)),
        progress,
    )
    topic = f"fit, {steps} steps and storing"
    rows = [Row(topic, name, times.summary(name), "s") for name in times.seconds]
    return [*rows, Row(topic, "fit / bare step", times.ratio("fit", "bare step"), "x")]
