"""Runs: what a chapter is given, and what it leaves.

A run is one chapter with one set of parameters. :func:`start` checks them and gives a :class:`Run`,
whose files go into ``<folder>/seed-<seed>/<chapter>/``: every recorded number (``metrics.json``)
and table (``<table>.csv``), a row an epoch of each training (``<fit>.history.csv``) beside its
weights, and the run card, which says what made these numbers (``card.json``). Where ``synthseg
run`` executes a chapter, the notebook and a receipt (``done-<12 of key>.json``) join them.

Two runs with the same key have the same results on one machine. Another key is another run: the
earlier one is set aside, nothing is overwritten.
"""

import math
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from IPython import get_ipython
from IPython.display import Markdown, display
from skimage.io import imsave

from synthseg import keys, machine, notebook, training
from synthseg.parameters import Scalar, given_parameters, without_paths
from synthseg.project import (
    ParameterError,
    chapter_name,
    read_json,
    sha256,
    show_duration,
    show_path,
    write_json,
    write_text,
)
from synthseg.volumes import Dataset

__all__ = ["ParameterError", "Run", "read_json", "start"]


def start(chapter: int | str, namespace: dict[str, Any]) -> "Run":
    """Start or resume the run of a chapter: called right after its parameters cell.

    Checks the parameters, loads the data, finds the runs that the chapter builds upon, sets the
    random seeds, and shows the parameters. Until this process ends, no other can start the run.

    `chapter` is its number, or the name of a notebook in ``workflow/``; `namespace` is the
    notebook's ``globals()``, whose plain values without a leading underscore are the parameters.

    Raises
    ------
    RunError
        If a parameter is unknown, missing or of another type than its default; if the run of an
        earlier chapter does not fit; or if another process is at work on this run.
    DataError
        If the data cannot be used.
    """
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    tf.config.experimental.enable_tensor_float_32_execution(False)  # full precision on GPUs, too
    begun = time.monotonic()
    tf.get_logger().setLevel("ERROR")  # no warnings on pages, for instance of functions traced anew
    # In JupyterLab this cell may be executed again, after others have made values of their own.
    again = any(isinstance(value, Run) for value in namespace.values())
    parameters = given_parameters(chapter, namespace, strict=not again)
    namespace.update(parameters)  # now of the right types
    dataset = keys.load_data(parameters)
    inputs, used = keys.find_inputs(parameters, dataset.fingerprint, {})
    folder = keys.run_folder(chapter, parameters)
    key = keys.run_key(chapter, parameters, used, dataset.fingerprint)
    lock = keys.hold(folder)
    if kept := keys.set_aside(folder, key):
        print(f"The earlier run in this folder is kept as {show_path(kept)}")
    earlier = read_json(folder / "card.json")
    card = {
        "chapter": chapter_name(chapter),
        "profile": Path(str(parameters["folder"])).name,
        "key": key,
        "code": keys.chapter_code(chapter),
        "parameters": parameters,
        **machine.describe(),
        "data": {name: getattr(dataset, name) for name in ("name", "fingerprint", "provenance")},
        "inputs": used,
        "started": earlier.get("started", keys.now()),
        "finished": None,
        "duration_s": 0.0,
        "memory_mib": None,
        "sessions": earlier.get("sessions", 0) + 1,
    }
    dataset = keys.cut(dataset, parameters)
    begun -= earlier.get("duration_s", 0.0)
    run = Run(chapter, folder, key, parameters, dataset, inputs, lock, card, begun)
    training.reproducible(run.seed)
    run.save_card()
    rows = [(name, repr(value)) for name, value in without_paths(parameters).items()]
    shown = pd.DataFrame(rows, columns=["parameter", "value"])
    display(notebook.table(shown, caption="Parameters"))
    return run


@dataclass
class Run:
    """The run of one chapter; made by :func:`start`.

    The training volume of its dataset is cut to the parameter ``part``; its inputs are the folders
    of the runs that the parameters ``generator`` and ``segmenter`` name.
    """

    chapter: int | str
    folder: Path
    key: str
    parameters: dict[str, Scalar]
    dataset: Dataset
    inputs: dict[str, Path]
    _lock: Any  # held as long as the run is there
    _card: dict[str, Any]
    _begun: float  # as if the run had never been interrupted
    _metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """The seed of the run, from which all others follow."""
        return int(str(self.parameters["seed"]))

    def stream(self, name: str) -> int:
        """Seed of one stream of random numbers, below 2^31, from the run's seed and a name."""
        return int(sha256([self.seed, name])[:8], 16) % 2**31

    def save_card(self) -> None:
        """Write the run card, with the time spent so far."""
        self._card["duration_s"] = round(time.monotonic() - self._begun, 1)
        self._card["memory_mib"] = machine.peak_memory()
        write_json(self.folder / "card.json", self._card)

    def fit(
        self, model: keras.Model, make_dataset: Callable[[int], tf.data.Dataset], **options: Any
    ) -> pd.DataFrame:
        """Train a model in this run by :func:`synthseg.training.fit`, which resumes exactly.

        `make_dataset` gives the batches from a step on. Options are a ``name`` that is unique in
        the chapter, ``steps``, ``epochs``, ``callbacks`` and what Keras' ``fit()`` takes.
        """
        run: dict[str, Any] = {"folder": self.folder, "key": self.key, "seed": self.seed}
        return training.fit(model, make_dataset, **run, after_epoch=self.save_card, **options)

    def record(self, **quantities: float) -> None:
        """Store numbers by name, for the results page and for ``{glue:text}`` in the chapter."""
        for name, value in quantities.items():
            # NumPy's and TensorFlow's numbers show themselves with their type.
            plain = value if isinstance(value, (bool, int, str)) else float(value)
            # JSON has no other word for what is not a finite number.
            finite = not isinstance(plain, float) or math.isfinite(plain)
            self._metrics[name] = plain if finite else None
            if get_ipython() is not None:
                from myst_nb import glue

                glue(name, plain, display=False)
        write_json(self.folder / "metrics.json", self._metrics)

    def table(
        self,
        name: str,
        frame: pd.DataFrame,
        names: Mapping[str, str] | None = None,
        digits: int = 3,
    ) -> Any:
        """Store a table as ``NAME.csv``, record its numbers, and return it for display.

        The number in a row and a column is recorded as ``NAME_ROW_COLUMN``; ROW is the value in the
        first column, or the number of the row, from 1, where two rows have the same value.
        """
        write_text(self.folder / f"{name}.csv", frame.to_csv(index=False))
        first = frame.iloc[:, 0]
        labels = first if first.is_unique else range(1, len(frame) + 1)
        numbers = {
            _slug(f"{name} {label} {column}"): value
            for label, row in zip(labels, frame.to_dict("records"), strict=True)
            for column, value in list(row.items())[1:]
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        self.record(**numbers)
        return notebook.table(frame, names, digits)

    def pictures(self, name: str, **kinds: np.ndarray) -> None:
        """Store images [-1, 1] or bool masks, (n, height, width, 1), for use elsewhere.

        They become 8-bit files ``NAME/KIND/000.png`` and so on; masks hold 0 and 255.
        """
        for kind, pixels in kinds.items():
            folder = self.folder / name / kind
            folder.mkdir(parents=True, exist_ok=True)
            bright = 255.0 * pixels if pixels.dtype == bool else 127.5 * (pixels.clip(-1, 1) + 1)
            for number, page in enumerate(np.rint(bright[..., 0]).astype(np.uint8)):
                imsave(folder / f"{number:03d}.png", page, check_contrast=False)

    def say(self, text: str) -> None:
        """Show a text in Markdown."""
        display(Markdown(text))

    def finish(self) -> None:
        """Complete the run card, write the receipt and show the card: the chapter's last cell."""
        self.record()
        self._card["finished"] = keys.now()
        self.save_card()
        card, data = self._card, self._card["data"]
        shown = {
            "data": f"{data['name']} ({data['fingerprint']})",
            "seed": str(self.seed),
            "method version": str(card["method_version"]),
            "commit": card["commit"] or "unknown",
            "duration": show_duration(card["duration_s"]),
            "memory": f"{card['memory_mib']} MiB" if card["memory_mib"] else "unknown",
            "device": card["device"],
        }
        display(notebook.table(pd.DataFrame([shown]), caption="Run card"))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
