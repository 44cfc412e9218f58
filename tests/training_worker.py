"""A small training run in a process of its own, which is killed and started again until it ends.

Called as ``training_worker.py KIND FOLDER KILLS SEED [eager]``, or with ``once`` in place of KILLS;
not a test by itself. The parent imports TensorFlow once and forks a process for each attempt. Every
other kill is sent by the parent at a random time; with the rest the process kills itself at a
random line of the code that stores or restores an epoch.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from synthseg import gan, joint, masks, sampling, segmenter, training, volumes

STEPS, EPOCHS = 6, 3
STORING = {"_store", "_restore", "replacing", "store", "on_epoch_end"}
"""Functions whose lines are counted for a deliberate kill, beside all of these files."""
STORING_FILES = ("zipfile.py", "zipfile/__init__.py", "npyio.py", "_npyio_impl.py", "saving_lib.py")


class Trainer(NamedTuple):
    """What ``training.fit`` is given, and how the outcome is scored."""

    model: keras.Model
    batches: Callable[[int], Any]
    callbacks: list[keras.callbacks.Callback]
    score: Callable[[], Any]


class Sizes(NamedTuple):
    """Small for the kills; large where the networks of several processes are compared."""

    crop: int = 64
    size: int = 32
    batch: int = 2
    width: int = 4


def squares() -> volumes.Volume:
    """Four slices of dark squares on noise."""
    rng = np.random.default_rng(0)
    mask = np.kron(rng.random((4, 6, 6)) < 0.3, np.ones((1, 32, 32))).astype(np.uint8)
    image = (150 - 70 * mask + rng.normal(0, 10, mask.shape)).astype(np.uint8)
    return volumes.Volume.create(image, mask, 5.0, "squares")


def cropping(sizes: Sizes) -> sampling.CropSettings:
    return sampling.CropSettings(sizes.crop, sizes.size, sizes.batch, "area", "classical")


def small(sizes: Sizes) -> segmenter.SegmenterSettings:
    return segmenter.SegmenterSettings(
        size=sizes.size,
        variant="half",
        channels=sizes.width,
        dropout=0.2,
        leak=0.3,
        lr=2e-3,
        schedule="cosine",
    )


def new_gan(sizes: Sizes) -> gan.Pix2Pix:
    """Ours: noise, and an average of the weights."""
    settings = replace(
        gan.original_settings(sizes.width, sizes.size),
        decoder="resize",
        adversarial="least-squares",
        norm="instance",
        noise="fresh",
        average=0.995,
    )
    return gan.Pix2Pix(settings, seed=3)


def build_gan(folder: Path, sizes: Sizes) -> Trainer:
    model = new_gan(sizes)
    _, some_masks = sampling.crop_arrays(squares(), cropping(sizes), 4, 5)

    def score() -> Any:  # what is stored last, not what the network in memory is
        generator, _ = gan.load_snapshot(folder / "snapshots", EPOCHS)
        return gan.generate(generator, some_masks, 9)

    def batches(first: int) -> Any:
        return sampling.crops(squares(), cropping(sizes), 1, first)

    return Trainer(model, batches, [gan.Snapshots(folder / "snapshots")], score)


def build_segmenter(folder: Path, sizes: Sizes) -> Trainer:
    volume, crops = squares(), cropping(sizes)
    model = segmenter.compiled(small(sizes), STEPS)
    clean = segmenter.CleanEvaluation(model, {"train": sampling.crop_arrays(volume, crops, 4, 5)})
    return Trainer(
        model,
        lambda first: sampling.crops(volume, crops, 1, first),
        [clean],
        lambda: segmenter.evaluate(model, volume, crops).pooled().dice(),
    )


def build_joint(folder: Path, sizes: Sizes, name: str = "live") -> Trainer:
    volume, crops, arm = squares(), cropping(sizes), joint.ARMS[name]
    bank = masks.component_bank(*sampling.at_network_scale(volume, crops), every=1)
    some = sampling.crop_arrays(volume, crops, 8, 5)
    prior = masks.count_and_area(some[1])
    grown = new_gan(sizes)
    model, own, networks, more = grown, None, None, []
    if arm.images == "live":
        own = joint.GANBatches(replace(crops, augment="dihedral"), seed=50, per_step=1)
    else:
        store, model = gan.Snapshots(folder / "grown"), None
        store.set_model(grown)
        for epoch in range(2):
            for weight in grown.generator_average.trainable_variables:
                weight.assign(weight * 1.1)
            store.on_epoch_end(epoch)
        networks = gan.load_snapshot(folder / "grown")
    network = segmenter.build_ritnet(small(sizes))
    trainer = joint.JointTrainer(network, small(sizes), arm, STEPS, 0.4, model, networks, seed=4)
    if networks:
        more = [joint.Replay(trainer, folder / "grown", EPOCHS)]

    def batches(first: int) -> Any:
        streams = {"crops": 1, "other": 2, "compose": 3, "paste": 4}
        given = (volume, crops, bank, prior, some[0][:0], streams.__getitem__)
        return joint.batches(arm, *given, first, own)

    return Trainer(
        trainer,
        batches,
        [segmenter.CleanEvaluation(network, {"train": some}), *more],
        lambda: segmenter.evaluate(network, volume, crops).pooled().dice(),
    )


BUILD = {
    "gan": build_gan,
    "segmenter": build_segmenter,
    "joint": build_joint,
    "replay": partial(build_joint, name="A8"),
}


def fit(kind: str, folder: Path, eager: bool, sizes: Sizes) -> dict:
    """Train, and return all that must not depend on interruptions."""
    training.reproducible(7)
    trainer = BUILD[kind](folder, sizes)
    trainer.model.run_eagerly = eager
    history = training.fit(
        trainer.model,
        trainer.batches,
        folder=folder,
        key="k",
        seed=7,
        name="fit",
        steps=STEPS,
        epochs=EPOCHS,
        after_epoch=lambda: None,
        callbacks=trainer.callbacks,
    )
    drawn = float(np.random.random())
    with np.load(folder / "fit.npz") as stored:
        arrays = {name: fingerprint(stored[name]) for name in stored.files if name != "state"}
    return {
        "history": history.to_csv(index=False),
        "file": (folder / "fit.history.csv").read_text(encoding="utf-8"),
        "score": fingerprint(trainer.score()),
        "next": drawn,
        "arrays": arrays,
        "left": sorted(path.name for path in (folder / "resume").iterdir()),
    }


def fingerprint(values: Any) -> str:
    return hashlib.sha256(np.asarray(values).tobytes()).hexdigest()


def die_at_line(left: int) -> None:
    """Let this process kill itself at the n-th line of what stores an epoch."""

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        code = frame.f_code
        if code.co_name not in STORING and not code.co_filename.endswith(STORING_FILES):
            return None
        if event == "line":
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def attempt(kind: str, folder: Path, eager: bool, line: int | None, limit: float) -> bool:
    """One process; returns whether it was killed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if line is not None:
                die_at_line(line)
            made = fit(kind, folder, eager, Sizes())
            sys.settrace(None)
            (folder / "result.json").write_text(json.dumps(made))
            status = 0
        finally:
            os._exit(status)
    end = time.monotonic() + limit
    ended, status = 0, 0
    while not ended:
        ended, status = os.waitpid(child, os.WNOHANG)
        if not ended and line is None and time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    assert os.WIFSIGNALED(status) or status == 0, "the training run failed"
    return os.WIFSIGNALED(status)


def campaign(kind: str, base: Path, kills: int, seed: int, eager: bool) -> dict:
    """A run that is left alone, and others that are killed until enough kills have hit."""
    choose, folders = random.Random(seed), [base / "straight", base / "broken-0"]
    for folder in folders:
        folder.mkdir(parents=True)
    begun = time.monotonic()
    assert not attempt(kind, folders[0], eager, None, 1e9)
    took, killed, number = time.monotonic() - begun, 0, 0
    while killed < kills:
        number += 1
        assert number < 4 * kills + 4, "the training runs end before they are killed"
        line = choose.randrange(60, 3000) if number % 2 else None
        if attempt(kind, folders[-1], eager, line, choose.uniform(0.3, 1.0) * took):
            killed += 1
        else:  # it ended: begin again, so that the number of kills is as asked for
            folders.append(base / f"broken-{number}")
            folders[-1].mkdir()
    assert not attempt(kind, folders[-1], eager, None, 1e9)
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    return {"killed": killed, "results": results}


if __name__ == "__main__":
    kind, folder, kills, *options = sys.argv[1:]
    if kills == "once":  # to compare processes
        sizes = Sizes(160, 128, 8, 32) if "large" in options else Sizes()
        Path(folder).mkdir()
        print(json.dumps(fit(kind, Path(folder), "eager" in options, sizes)))
    else:
        print(json.dumps(campaign(kind, Path(folder), int(kills), 1, "eager" in options)))
