"""Training that can be interrupted: it resumes exactly, after the last finished epoch."""

import contextlib
import gc
import hashlib
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from IPython import get_ipython
from IPython.display import display

from synthseg.parameters import (
    Diverged,
    ParameterError,
    make_lasting,
    sha256,
    show_duration,
    show_path,
    storing,
    write_text,
)


def reproducible(seed: int) -> None:
    """Set the random seeds of Python, NumPy and Keras, and make CPUs compute the same each time.

    Where operations run side by side, two trainings of the joint trainer differed in their last
    digits, and in the end in their scores. So they did, in one of three processes, where TensorFlow
    rewrote the graph, which it does in an order that varies. Without that, steps take 1 to 2 %
    longer. On GPUs, where it would cost much more, the graph is rewritten.

    Parameters
    ----------
    seed : int
        The seed.
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
    """Train a model by its ``fit()``, so that an interrupted training resumes exactly.

    After each epoch the weights, the state of the optimisers and of the layers' random numbers are
    stored. When the same training is started again, it goes on after the last finished epoch, and a
    complete one is loaded instead of repeated. At the end the random seeds are set anew from `seed`
    and `name`, so that what follows does not depend on whether the training was interrupted.

    A stored epoch that cannot be read, or whose numbers are not those that were stored, is renamed
    to ``*.damaged`` with a warning, and the training begins anew.

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
    Diverged
        If a logged value (but a Dice, which may be undefined), a weight or an optimiser's state is
        NaN or infinite. Nothing of such a state is stored.
    StorageError
        If an epoch cannot be stored; the one before is kept.
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

    def check_logs(step: int, logs: Mapping[str, Any] | None) -> None:
        for quantity, value in (logs or {}).items():
            # A pooled Dice without any foreground is undefined.
            if not quantity.endswith("dice") and not math.isfinite(value):
                raise _diverged(model, f"{name}, step {step} of {total}", quantity, value, good())

    def good() -> str:
        if not rows:
            return "no epoch was stored before"
        return f"the last good checkpoint is {show_path(backup)} (step {rows[-1]['step']})"

    def check_epoch(epoch: int, logs: Mapping[str, Any] | None) -> None:
        step = (epoch + 1) * per_epoch
        check_logs(step, logs)
        # The last update of an epoch may break weights that no loss has seen yet.
        for variable in _variables(model):
            value = variable.numpy()
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                where = f"{name}, step {step} of {total}"
                raise _diverged(model, where, variable.path, "not finite", good())

    def show_progress(batch: int, logs: Mapping[str, Any] | None) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown > 1:
            shown, step = now, len(rows) * per_epoch + batch + 1
            left = show_duration((now - begun) / step * (total - step))
            times = f"{show_duration(now - begun)}, about {left} left"
            line.show(f"{name}: step {step} of {total}{_listed(logs or {})} ({times})")

    def store_epoch(epoch: int, logs: Mapping[str, Any] | None) -> None:
        check_logs((epoch + 1) * per_epoch, logs)  # now with what the callbacks have measured
        values = {quantity: float(value) for quantity, value in (logs or {}).items()}
        rows.append({"epoch": epoch + 1, "step": (epoch + 1) * per_epoch, **values})
        state["seconds"] = time.monotonic() - begun
        _backup(model, backup, state)
        after_epoch()

    if not state["complete"]:
        gc.collect()  # graphs of former trainings, some 100 MB each, hold each other in cycles
        if len(rows) < epochs:
            # The first callback, so that no other stores what is broken.
            check = keras.callbacks.LambdaCallback(
                on_epoch_end=check_epoch,
                on_train_batch_end=lambda batch, logs: check_logs(
                    len(rows) * per_epoch + batch + 1, logs
                ),
            )
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
                callbacks=[check, *callbacks, store],
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


def _optimizers(model: keras.Model) -> dict[str, keras.optimizers.Optimizer]:
    """The built optimisers of a model and of the models in it, by attribute."""
    found = {
        name: value
        for part in (*model.layers, model)
        for name, value in vars(part).items()
        if isinstance(value, keras.optimizers.Optimizer)
    }
    return {name: value for name, value in found.items() if value.built}


def _variables(model: keras.Model) -> list[Any]:
    """All that a training changes: weights, random states, and the states of the optimisers."""
    states = [value.variables for value in _optimizers(model).values()]
    return [*model.variables, *(variable for state in states for variable in state)]


def _digest(model: keras.Model) -> str:
    """Sha256 over all that a training changes."""
    digest = hashlib.sha256()
    for variable in _variables(model):
        digest.update(variable.numpy().tobytes())
    return digest.hexdigest()


def _diverged(model: keras.Model, where: str, quantity: str, value: Any, good: str) -> Diverged:
    rates = ", ".join(
        f"{name} {float(optimizer.learning_rate):.3g}"
        for name, optimizer in _optimizers(model).items()
        if int(optimizer.iterations)
    )
    return Diverged(
        f"The training diverged ({where}): {quantity} is {value} at the learning rates "
        f"{rates or 'unknown'}; {good}, and nothing later is stored. The same command would stop "
        "here again: choose a lower learning rate, or look for unusual images in the data."
    )


def _backup(model: keras.Model, path: Path, state: Mapping[str, Any]) -> None:
    """Store a training in one file, so that it is never seen half-written.

    ``save_weights`` stores the optimisers of the model, too.
    """
    temporary = path.with_name(f".{path.name}")
    built = model.optimizer is not None and model.optimizer.built
    stored = {**state, "optimizer_built": built, "digest": _digest(model)}
    with storing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # HDF5 crashes the process when a write fails, so whether there is room is tried before:
            # by the numbers' own size, and 8 KiB for the name and place of each.
            variables = _variables(model)
            room = sum(variable.numpy().nbytes + 8192 for variable in variables)
            with temporary.open("wb") as file:
                file.write(bytes(room))
                file.flush()
                os.fsync(file.fileno())
            model.save_weights(temporary)
            with h5py.File(temporary, "a") as stored_file:
                group = stored_file.create_group("synthseg")
                group["state"] = json.dumps(stored)
                for number, variable in enumerate(_seed_states(model)):
                    group[f"seed_{number}"] = variable.numpy()
            make_lasting(temporary, path)
        except (OSError, RuntimeError):  # HDF5 raises either
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def _restore(model: keras.Model, path: Path, key: str) -> dict[str, Any] | None:
    """Load what :func:`_backup` stored, unless there is nothing or it belongs to another fit."""
    if not path.is_file():
        return None
    before: list[tuple[Any, np.ndarray]] = []
    try:
        with h5py.File(path, "r") as file:
            group = file["synthseg"]
            state: dict[str, Any] = json.loads(group["state"][()])
            if state["key"] != key:
                return None
            if state.pop("optimizer_built") and not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)  # else its state is not loaded
            before = [(variable, variable.numpy()) for variable in _variables(model)]
            for number, variable in enumerate(_seed_states(model)):
                variable.assign(group[f"seed_{number}"][()])
        with warnings.catch_warnings():  # Keras would go on with a fresh optimiser
            warnings.filterwarnings("error", message="Skipping variable loading")
            model.load_weights(path)
        if state.pop("digest", None) not in (None, _digest(model)):
            raise ValueError("the numbers in it are not those that were stored")
    except PermissionError:
        raise
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, UserWarning) as error:
        # A damaged file, which HDF5 and Keras report in many ways.
        for variable, value in before:
            variable.assign(value)
        aside = path.with_name(f"{path.name}.damaged")
        count = 1
        while aside.exists():
            count += 1
            aside = path.with_name(f"{path.name}.damaged-{count}")
        with storing(aside):
            path.rename(aside)
        reason = str(error).partition("\n")[0]
        warnings.warn(
            f"{show_path(path)} is damaged ({reason}); it was renamed to {aside.name}, and what "
            "it held is computed anew.",
            RuntimeWarning,
            stacklevel=3,
        )
        return None
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
