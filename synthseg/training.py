"""Training that can be interrupted: it resumes exactly, after the last finished epoch."""

import gc
import json
import os
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from IPython import get_ipython
from IPython.display import display

from synthseg.project import sha256, show_duration


class Diverged(ValueError):
    """A training run whose loss or weights are no longer finite numbers."""


def reproducible(seed: int) -> None:
    """Set the random seeds of Python, NumPy and Keras, and make CPUs compute the same each time.

    Grappler rewrites graphs in an order that varies between processes; off on CPUs, 1 to 2 %
    slower. On GPUs, where that would cost much more, numbers may differ in their last digits.
    """
    # TensorFlow reads this when it computes for the first time.
    os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    if not tf.config.list_physical_devices("GPU"):  # some operations have no such variant there
        tf.config.experimental.enable_op_determinism()
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    keras.utils.set_random_seed(seed)


def fit(
    model: keras.Model,
    make_dataset: Callable[[int], tf.data.Dataset],
    *,
    folder: Path,
    key: str,
    seed: int,
    name: str,
    steps: int,
    epochs: int,
    after_epoch: Callable[[], None],
    callbacks: Iterable[keras.callbacks.Callback] = (),
    **fit_kwargs: Any,
) -> pd.DataFrame:
    """Train a model by its ``fit()``, so that an interrupted training run resumes exactly.

    After each epoch all that training changes is stored: the weights, the states of the optimisers
    and those of the layers' random numbers. Started again, the same training run goes on after the
    last finished epoch, and a complete one is loaded instead of repeated. A stored epoch that
    cannot be read is renamed to ``*.damaged`` with a warning, and training begins anew.

    Parameters
    ----------
    model : keras.Model
        Built and compiled; one with optimisers of its own has built them.
    make_dataset : callable
        Takes the number of steps already done; returns the endless dataset of batches from there.
    folder : Path
        Gets ``<name>.npz`` and ``<name>.history.csv``, and meanwhile ``resume/``.
    key, name : str
        Only files with the same key, name, steps, epochs and shapes of weights are resumed. The
        name is unique in the folder.
    seed : int
        With the name, the seed of what follows, which does not depend on an interruption then.
    steps, epochs : int
        Training steps, rounded down to equally long epochs; each epoch is a row of the history.
    after_epoch : callable
        Called when an epoch has been stored.
    callbacks : iterable of keras.callbacks.Callback
        What they add to ``logs`` in ``on_epoch_end`` appears in the history. One that is to be
        resumed, too, keeps its own files.
    **fit_kwargs
        Further arguments of ``fit()``.

    Returns
    -------
    pandas.DataFrame
        One row an epoch: ``epoch`` (from 1), ``step`` (steps done), and the logged values.

    Raises
    ------
    Diverged
        If at the end of an epoch a logged value (but a Dice, which may be undefined), a weight or
        an optimiser's state is NaN or infinite. Nothing of that epoch is stored.
    OSError
        If an epoch cannot be stored; the one before is kept.
    """
    if steps < 1 or epochs < 1:
        raise ValueError(f"{name} has {steps} steps in {epochs} epochs: at least 1 each.")
    epochs = min(epochs, steps)
    per_epoch = steps // epochs
    key = sha256([key, name, steps, epochs, [list(weight.shape) for weight in model.weights]])
    final = folder / f"{name}.npz"
    checkpoint = folder / "resume" / f"{name}-{key[:8]}.npz"
    state = _restore(model, final, key) or _restore(model, checkpoint, key)
    state = state or {"key": key, "history": [], "seconds": 0.0}
    rows, status = state["history"], _Status(name, epochs * per_epoch, state["seconds"])

    def check(epoch: int, logs: Mapping[str, Any] | None) -> None:
        if broken := _not_finite(model, logs or {}):
            good = f"step {rows[-1]['step']} in {checkpoint}" if rows else "none"
            raise Diverged(
                f"{name} diverged by step {(epoch + 1) * per_epoch}: {broken} (last good "
                f"checkpoint: {good}). The same command would stop here again: choose a lower "
                "learning rate, or look for unusual images in the data."
            )

    def store(epoch: int, logs: Mapping[str, Any] | None) -> None:
        check(epoch, logs)  # now with what the callbacks have measured
        values = {quantity: float(value) for quantity, value in (logs or {}).items()}
        rows.append({"epoch": epoch + 1, "step": (epoch + 1) * per_epoch, **values})
        state["seconds"] = status.seconds()
        _store(model, checkpoint, state)
        after_epoch()

    def progress(batch: int, logs: Mapping[str, Any] | None) -> None:
        status.progress(len(rows) * per_epoch + batch + 1, logs or {})

    if len(rows) < epochs:
        gc.collect()  # graphs of former training runs, 100 MB each, hold each other in cycles
        callback = keras.callbacks.LambdaCallback
        model.fit(
            make_dataset(len(rows) * per_epoch),
            epochs=epochs,
            initial_epoch=len(rows),
            steps_per_epoch=per_epoch,
            verbose=0,
            shuffle=False,  # the batches are drawn at random already
            # Checked first, so that no other callback stores what is broken.
            callbacks=[
                callback(on_epoch_end=check),
                *callbacks,
                callback(on_epoch_end=store, on_train_batch_end=progress),
            ],
            **fit_kwargs,
        )
    if checkpoint.exists():
        checkpoint.replace(final)
    history = pd.DataFrame(rows)
    with replacing(folder / f"{name}.history.csv") as temporary:
        temporary.write_bytes(history.to_csv(index=False).encode())
    last = {quantity: value for quantity, value in rows[-1].items() if quantity != "epoch"}
    status.show(f"{last.pop('step')} steps in {show_duration(state['seconds'])}{_listed(last)}")
    keras.utils.set_random_seed(int(sha256([seed, name])[:8], 16))
    return history


# Checkpoints


def _variables(model: keras.Model) -> list[Any]:
    """All that training changes: weights, random states, and the states of the optimisers."""
    optimizers = {  # of the model and of the models in it, by attribute
        name: value
        for part in (*model.layers, model)
        for name, value in vars(part).items()
        if isinstance(value, keras.optimizers.Optimizer) and value.built
    }
    states = [variable for value in optimizers.values() for variable in value.variables]
    return [*model.variables, *states]


def _not_finite(model: keras.Model, logs: Mapping[str, Any]) -> str | None:
    """The first quantity that is NaN or infinite."""
    for name, value in logs.items():
        # A pooled Dice without any foreground is undefined.
        if not name.endswith("dice") and not np.isfinite(value):
            return f"{name} is {value}"
    # The last update of an epoch may break weights that no loss has seen yet.
    for variable in _variables(model):
        if not np.isfinite(variable.numpy()).all():
            return f"{variable.path} is not finite"
    return None


def _store(model: keras.Model, path: Path, state: Mapping[str, Any]) -> None:
    """Store all variables and the state, as JSON, in one file."""
    arrays = {str(number): variable.numpy() for number, variable in enumerate(_variables(model))}
    with replacing(path) as temporary:
        np.savez(temporary, state=json.dumps({**state, "arrays": len(arrays)}), **arrays)


def _restore(model: keras.Model, path: Path, key: str) -> dict[str, Any] | None:
    """Load what :func:`_store` stored; None if there is nothing, or it has another key."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file) as stored:
            state: dict[str, Any] = json.loads(str(stored["state"]))
            arrays = [stored[str(number)] for number in range(state.pop("arrays"))]
    # What zipfile and NumPy say of a damaged file.
    except (zipfile.BadZipFile, ValueError, LookupError, EOFError, RuntimeError) as error:
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        warnings.warn(
            f"{path} is damaged ({error}); it was renamed to {aside.name}, and what it held is "
            "computed anew.",
            RuntimeWarning,
            stacklevel=3,
        )
        return None
    if state["key"] != key:
        return None
    if len(arrays) > len(_variables(model)):  # Keras builds an optimiser at its first step
        model.optimizer.build(model.trainable_variables)
    for variable, array in zip(_variables(model), arrays, strict=True):
        variable.assign(array)
    return state


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write beside `path`, whose place it takes when it is complete, or never."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


# Progress


def _listed(values: Mapping[str, Any]) -> str:
    """For instance ``, loss 0.5, dice 0.7``."""
    return "".join(f", {quantity} {float(value):.4g}" for quantity, value in values.items())


class _Status:
    """One line that is updated in place; a notebook keeps only its last state."""

    def __init__(self, name: str, steps: int, seconds: float) -> None:
        self.name, self.steps = name, steps
        self.begun, self.shown = time.monotonic() - seconds, 0.0
        self.handle: Any = None

    def seconds(self) -> float:
        """Time spent, that before interruptions included."""
        return time.monotonic() - self.begun

    def progress(self, step: int, logs: Mapping[str, Any]) -> None:
        """Show the step and the time left, once a second."""
        if time.monotonic() - self.shown > 1:
            self.shown, spent = time.monotonic(), self.seconds()
            left = show_duration(spent / step * (self.steps - step))
            times = f"{show_duration(spent)}, about {left} left"
            self.show(f"step {step} of {self.steps}{_listed(logs)} ({times})")

    def show(self, text: str) -> None:
        """Show or update the line."""
        if get_ipython() is None:
            return
        shown = {"text/plain": f"{self.name}: {text}"}
        if self.handle is None:
            self.handle = display(shown, raw=True, display_id=True)
        else:
            self.handle.update(shown, raw=True)
