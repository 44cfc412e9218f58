"""Training that can be interrupted: it resumes exactly, after the last finished epoch."""

import json
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import pandas as pd
import tensorflow as tf
from IPython import get_ipython
from IPython.display import display

from synthseg.parameters import ParameterError, sha256, show_duration, write_text


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
    """Train a model by its ``fit()``, so that an interrupted training resumes exactly.

    After each epoch the weights, the state of the optimisers and of the layers' random numbers are
    stored. When the same training is started again, it goes on after the last finished epoch, and a
    complete one is loaded instead of repeated. At the end the random seeds are set anew from `seed`
    and `name`, so that what follows does not depend on whether the training was interrupted.

    Parameters
    ----------
    model : keras.Model
        Built and compiled; one with optimisers of its own has built them.
    make_dataset : callable
        Takes the number of steps already done, and returns the endless dataset of batches from
        there on.
    folder : Path
        Gets ``<name>.weights.h5`` and ``<name>.history.csv``, and meanwhile ``resume/``.
    key : str
        Only files of a training with the same key, name, steps, epochs and weights are resumed.
    seed : int
        Seed of what follows the training.
    name : str
        Names the files; unique in the folder.
    steps : int
        Number of training steps; rounded down to equally long epochs.
    epochs : int
        Number of parts into which the training is divided, each with one row of history; at most
        `steps`.
    after_epoch : callable
        Called when an epoch has been stored.
    callbacks : iterable of keras.callbacks.Callback
        A callback that is to be resumed too keeps its own files. What it adds to ``logs`` in
        ``on_epoch_end`` appears in the history.
    **fit_kwargs
        Further arguments of ``fit()``, for instance ``validation_data``.

    Returns
    -------
    pandas.DataFrame
        One row an epoch: ``epoch`` (from 1), ``step`` (steps done), and the logged values.

    Raises
    ------
    ParameterError
        If `steps` or `epochs` is less than 1.
    """
    if steps < 1 or epochs < 1:
        raise ParameterError(f"{name} has {steps} steps in {epochs} epochs: at least 1 each.")
    epochs = min(epochs, steps)
    per_epoch = steps // epochs
    total = epochs * per_epoch
    key = sha256([key, name, steps, epochs, [list(weight.shape) for weight in model.weights]])
    final = folder / f"{name}.weights.h5"
    backup = folder / "resume" / f"{name}-{key[:8]}.weights.h5"
    state = _restore(model, final, key) or _restore(model, backup, key)
    state = state or {"key": key, "history": [], "seconds": 0.0, "complete": False}
    rows, line = state["history"], _StatusLine()
    begun, shown = time.monotonic() - state["seconds"], 0.0

    def show_progress(batch: int, logs: Mapping[str, Any] | None) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown > 1:
            shown, step = now, len(rows) * per_epoch + batch + 1
            left = show_duration((now - begun) / step * (total - step))
            times = f"{show_duration(now - begun)}, about {left} left"
            line.show(f"{name}: step {step} of {total}{_listed(logs or {})} ({times})")

    def store_epoch(epoch: int, logs: Mapping[str, Any] | None) -> None:
        values = {quantity: float(value) for quantity, value in (logs or {}).items()}
        rows.append({"epoch": epoch + 1, "step": (epoch + 1) * per_epoch, **values})
        state["seconds"] = time.monotonic() - begun
        _backup(model, backup, state)
        after_epoch()

    if not state["complete"]:
        if len(rows) < epochs:
            store = keras.callbacks.LambdaCallback(
                on_epoch_end=store_epoch, on_train_batch_end=show_progress
            )
            model.fit(
                make_dataset(len(rows) * per_epoch),
                epochs=epochs,
                initial_epoch=len(rows),
                steps_per_epoch=per_epoch,
                verbose=0,
                shuffle=False,  # the batches are drawn at random already
                callbacks=[*callbacks, store],
                **fit_kwargs,
            )
        state["complete"] = True
        _backup(model, final, state)
    history = pd.DataFrame(rows)
    write_text(folder / f"{name}.history.csv", history.to_csv(index=False))
    backup.unlink(missing_ok=True)
    last = {quantity: value for quantity, value in rows[-1].items() if quantity != "epoch"}
    done = f"{last.pop('step')} steps in {show_duration(state['seconds'])}"
    line.show(f"{name}: {done}{_listed(last)}")
    keras.utils.set_random_seed(int(sha256([seed, name])[:8], 16))
    return history


def _seed_states(model: keras.Model) -> list[Any]:
    """States of the layers' random number generators, which ``save_weights`` leaves out."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def _backup(model: keras.Model, path: Path, state: Mapping[str, Any]) -> None:
    """Store a training in one file, so that it is never seen half-written.

    ``save_weights`` stores the optimisers of the model, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    model.save_weights(temporary)
    built = model.optimizer is not None and model.optimizer.built
    with h5py.File(temporary, "a") as file:
        group = file.create_group("synthseg")
        group["state"] = json.dumps({**state, "optimizer_built": built})
        for number, variable in enumerate(_seed_states(model)):
            group[f"seed_{number}"] = variable.numpy()
    temporary.replace(path)


def _restore(model: keras.Model, path: Path, key: str) -> dict[str, Any] | None:
    """Load what :func:`_backup` stored, unless there is nothing or it belongs to another fit."""
    if not path.is_file():
        return None
    with h5py.File(path, "r") as file:
        group = file["synthseg"]
        state: dict[str, Any] = json.loads(group["state"][()])
        if state["key"] != key:
            return None
        for number, variable in enumerate(_seed_states(model)):
            variable.assign(group[f"seed_{number}"][()])
    if state.pop("optimizer_built") and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)  # else its state would not be loaded
    with warnings.catch_warnings():  # Keras would go on with a fresh optimiser
        warnings.filterwarnings("error", message="Skipping variable loading")
        model.load_weights(path)
    return state


def _listed(values: Mapping[str, Any]) -> str:
    """For instance ``, loss 0.5, dice 0.7``."""
    return "".join(f", {quantity} {float(value):.4g}" for quantity, value in values.items())


class _StatusLine:
    """One line that is updated in place; a notebook keeps only its last state."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        if get_ipython() is None:
            return
        if self._handle is None:
            self._handle = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self._handle.update({"text/plain": text}, raw=True)
