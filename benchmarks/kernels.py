"""What bounds the segmenter's step: where its time goes, and what its convolutions reach alone."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.networks import MATMUL
from benchmarks.timing import Budget, Contender, Prepared, Row, Summary, Worker, interleave

BATCH, CHANNELS = 8, 32
SHOWN = 12
"""Kinds of operations in the table, those that take longest."""


def convolution(side: int, kernel: int, inputs: int, part: str) -> Prepared:
    """One of the three parts of a convolution: forward, or the gradient of filter or input."""
    import tensorflow as tf

    def normal(*shape: int) -> tf.Tensor:
        return tf.random.stateless_normal(shape, (0, len(shape)))

    source, result = (normal(BATCH, side, side, count) for count in (inputs, CHANNELS))
    weights = normal(kernel, kernel, inputs, CHANNELS)
    options = {"strides": [1, 1, 1, 1], "padding": "SAME"}

    @tf.function
    def compute() -> tf.Tensor:
        if kernel == 1:  # as the module does it, a product of matrices
            pixels, outputs = (tf.reshape(each, (-1, each.shape[-1])) for each in (source, result))
            return {
                "forward": lambda: tf.matmul(pixels, weights[0, 0]),
                "filter": lambda: tf.matmul(pixels, outputs, transpose_a=True),
                "input": lambda: tf.matmul(outputs, weights[0, 0], transpose_b=True),
            }[part]()
        raw = tf.raw_ops
        return {
            "forward": lambda: raw.Conv2D(input=source, filter=weights, **options),
            "filter": lambda: raw.Conv2DBackpropFilter(
                input=source, filter_sizes=weights.shape, out_backprop=result, **options
            ),
            "input": lambda: raw.Conv2DBackpropInput(
                input_sizes=source.shape, filter=weights, out_backprop=result, **options
            ),
        }[part]()

    def call() -> None:
        for _ in range(10):
            compute()

    return Prepared(call, 10)


def profile(batch: int, steps: int = 10) -> tuple[dict[str, float], float]:
    """Seconds that each kind of operation takes in a segmenter's step, and the whole step."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    from benchmarks import ours

    step = ours.segmenter_step(batch)
    for _ in range(3):
        step.call()
    begun = time.perf_counter()
    for _ in range(steps):
        step.call()
    whole = (time.perf_counter() - begun) / steps
    options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=2, python_tracer_level=0)
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder, options)
        for _ in range(steps):
            step.call()
        tf.profiler.experimental.stop()
        (path,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    seconds: Counter[str] = Counter()
    for plane in space.planes:
        if plane.name == "/host:CPU":
            for event in (event for line in plane.lines for event in line.events):
                name, _, kind = plane.event_metadata[event.metadata_id].name.rpartition(":")
                if name and kind.isidentifier() and "::" not in name and "/" in name:
                    seconds[kind] += event.duration_ps / 1e12 / steps
    return dict(seconds), whole


def measure(tensorflow: Worker, budget: Budget, progress: Callable[[str], None]) -> list[Row]:
    """Rows of the table: shares of the step, and rates of convolutions beside the peak."""
    seconds, whole = tensorflow.ask("kernels:profile", batch=BATCH)
    topic = f"where the segmenter's step goes, batch {BATCH}"
    rows = []
    for kind, value in sorted(seconds.items(), key=lambda item: -item[1])[:SHOWN]:
        note = f"{100 * value / whole:.0f} % of {1000 * whole:.0f} ms"
        rows.append(Row(topic, kind, Summary(value, value, value), "s", note=note))

    flops, contenders = {}, {"matmul": Contender(tensorflow, "ours:matmul", {"size": MATMUL})}
    for side in (64, 16) if budget.quick else (64, 32, 16, 8):
        for kernel, inputs in ((3, CHANNELS), (1, 2 * CHANNELS)):
            for part in ("forward", "filter", "input"):
                name = f"{kernel} x {kernel}, {inputs} to {CHANNELS} channels, {side} px, {part}"
                options = {"side": side, "kernel": kernel, "inputs": inputs, "part": part}
                contenders[name] = Contender(tensorflow, "kernels:convolution", options)
                flops[name] = 2 * kernel**2 * inputs * CHANNELS * BATCH * side**2
    times = interleave(contenders, budget, progress)
    peak = 2 * MATMUL**3 / times.seconds["matmul"]
    topic = f"convolutions alone, batch {BATCH}, share of the matmul peak"
    for name, count in flops.items():
        rate = count / times.seconds[name]
        note = f"{np.median(rate) / 1e9:.0f} GFLOP/s"
        rows.append(Row(topic, name, Summary.of(100 * rate / peak), "%", note=note))
    return rows
