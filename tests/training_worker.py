"""A small training in a process of its own, which is killed and started again until it ends.

Called as ``training_worker.py KIND FOLDER KILLS SEED [eager]``; not a test by itself. The parent
imports TensorFlow once and forks a process for each attempt. Of the kills, every other one is sent
by the parent at a random time; with the rest the process kills itself at a random line of the code
that stores an epoch, the writing of the HDF5 file included.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import h5py
import keras
import numpy as np

from synthseg import gan, joint, sampling, segmenter, training, volumes

STEPS, EPOCHS = 6, 3
STORING = {"_backup", "_restore", "make_lasting", "write_text", "store_epoch", "save_snapshot"}
"""Functions whose lines are counted for a deliberate kill, beside all of Keras' HDF5 files."""


def little_volume() -> volumes.Volume:
    """Four slices of dark squares on noise."""
    rng = np.random.default_rng(0)
    mask = np.kron(rng.random((4, 6, 6)) < 0.3, np.ones((1, 32, 32))).astype(np.uint8)
    image = (150 - 70 * mask + rng.normal(0, 10, mask.shape)).astype(np.uint8)
    return volumes.Volume.create(image, mask, 5.0, "squares")


def fit(
    kind: str,
    folder: Path,
    eager: bool,
    steps: int = STEPS,
    epochs: int = EPOCHS,
    large: bool = False,
) -> dict:
    """Train, and return all that must not depend on interruptions."""
    training.reproducible(7)
    volume = little_volume()
    size, batch, width = (128, 8, 32) if large else (32, 2, 4)
    cropping = sampling.CropSettings(160 if large else 64, size, batch, augment="classical")
    small = segmenter.SegmenterSettings(size, channels=width, lr=2e-3, schedule="cosine")
    images, masks = sampling.crop_arrays(volume, cropping, 2 * batch, 5)
    callbacks: list[keras.callbacks.Callback] = []
    original = gan.original_settings(width, size)

    def batches(first_step: int) -> Any:
        real = sampling.crops(volume, cropping, 1, first_step)
        if kind != "joint":
            return real
        return joint.pairs(real, sampling.pool(images, masks, batch, 2, first_step, "dihedral"))

    if kind == "gan":
        model: keras.Model = gan.Pix2Pix(gan.GANSettings(size=size, width=width), seed=3)
        callbacks.append(gan.Snapshots(folder / "snapshots"))
    elif kind == "segmenter":
        model = segmenter.compiled(small, steps)
        callbacks.append(segmenter.CleanEvaluation(model, {"train": (images, masks)}))
    else:
        rule = joint.JointSettings(
            steps,
            schedule="ramp",
            score="batch",
            discriminator_sees="real",
            batch_statistics="mixed",
        )
        network = gan.Pix2Pix(original, seed=3)
        for number in (1, 2):
            for weight in network.generator.trainable_variables:
                weight.assign(weight * 1.1)
            gan.save_snapshot(network, folder / "grown", number)
        model = joint.new_trainer(small, rule, network, seed=4)
        callbacks.append(segmenter.CleanEvaluation(model.segmenter, {"train": (images, masks)}))
        callbacks.append(joint.Replay(network, folder / "grown", [1, 2], epochs))
    model.run_eagerly = eager

    history = training.fit(
        model,
        batches,
        folder=folder,
        key="k",
        seed=7,
        name="fit",
        steps=steps,
        epochs=epochs,
        after_epoch=lambda: None,
        callbacks=callbacks,
    )
    if kind == "gan":
        score = gan.generate(model.generator_average, model.settings, masks, 9)
    else:
        network = model if kind == "segmenter" else model.segmenter
        score = segmenter.evaluate(network, volume, cropping).pooled().dice()
    return {
        "history": history.to_csv(index=False),
        "file": (folder / "fit.history.csv").read_text(encoding="utf-8"),
        "scores": hashlib.sha256(np.asarray(score).tobytes()).hexdigest(),
        "next": float(np.random.random()),
        "weights": {
            str(path.relative_to(folder)): datasets(path)
            for path in sorted(folder.rglob("*.weights.h5"))
        },
        "left": sorted(path.name for path in folder.rglob("*") if "resume" in str(path.parent)),
    }


def datasets(path: Path) -> dict[str, str]:
    """Fingerprint of each array in a file of weights; not of the time that it took."""
    found: dict[str, str] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and name != "synthseg/state":
            found[name] = hashlib.sha256(np.asarray(item[()]).tobytes()).hexdigest()

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def die_at_line(number: int) -> None:
    """Let this process kill itself at the n-th line of what stores an epoch."""
    left = number

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        code = frame.f_code
        if code.co_name not in STORING and not code.co_filename.endswith("saving_lib.py"):
            return None
        if event == "line":
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def attempt(kind: str, folder: Path, eager: bool, line: int | None, limit: float) -> bool:
    """One process; returns whether it was killed."""
    result = folder / "result.json"
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if line is not None:
                die_at_line(line)
            made = fit(kind, folder, eager)
            sys.settrace(None)
            result.write_text(json.dumps(made))
            status = 0
        finally:
            os._exit(status)
    end = time.monotonic() + limit
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if line is None and time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    if os.WIFSIGNALED(status):
        return True
    assert status == 0, "the training failed"
    return False


def main() -> None:
    kind, base, kills, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    eager, choose = "eager" in sys.argv[5:], random.Random(seed)
    straight, broken = base / "straight", base / "broken"
    straight.mkdir(parents=True)
    broken.mkdir()
    begun = time.monotonic()
    assert not attempt(kind, straight, eager, None, 1e9)
    took, killed, number = time.monotonic() - begun, 0, 0
    while killed < kills:
        number += 1
        assert number < 4 * kills + 4, "the trainings end before they are killed"
        line = choose.randrange(60, 3000) if number % 2 else None
        if attempt(kind, broken, eager, line, choose.uniform(0.3, 1.0) * took):
            killed += 1
        else:  # it ended: begin again, so that the number of kills is as asked for
            (broken / "result.json").unlink()
            broken.rename(base / f"ended-{number}")
            broken.mkdir()
    assert not attempt(kind, broken, eager, None, 1e9)
    results = [json.loads((folder / "result.json").read_text()) for folder in (straight, broken)]
    results += [
        json.loads((folder / "result.json").read_text())
        for folder in base.glob("ended-*")
        if (folder / "result.json").is_file()
    ]
    print(json.dumps({"killed": killed, "results": results}))


if __name__ == "__main__":
    if sys.argv[3] == "once":  # KIND FOLDER once [eager] [large]: to compare processes
        options = {name: name in sys.argv[4:] for name in ("eager", "large")}
        print(json.dumps(fit(sys.argv[1], Path(sys.argv[2]), **options)))
    else:
        main()
