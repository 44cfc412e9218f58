"""What the book's interactive pages show: networks and images of a run, for the browser.

    python workflow/export.py [PROFILE]    # of the latest run of a profile, into book/

``synthseg book`` does the same for the book of one's own run. The pages are in
``book/_extra/live/``; what they show is in its folder ``run/``, written here from one run of
chapter 2 and one of chapter 3: the networks (``networks.js``), their masks, numbers and images
(``run.js``, ``*.png``), and the cards of the two runs with their metrics.
"""

import base64
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers
from PIL import Image
from scipy.ndimage import gaussian_filter

from synthseg import gan, keys, masks, sampling
from synthseg.command import publishing
from synthseg.command.predict import SEGMENTER
from synthseg.parameters import without_paths
from synthseg.project import CHAPTERS, RunError, project_root, show_path, write_json, write_text

PAGES = Path("_extra", "live", "run")
"""Where a book keeps what its interactive pages show."""

MASKS, SHOWN, CROPS = 16, 5, 20
"""Masks of each kind to paint on; masks while the GAN learns; crops of each kind to tell apart."""


# Networks ---------------------------------------------------------------------------------------


def browser_network(model: keras.Model) -> dict[str, Any]:
    """A functional model of stock layers as ``book/_extra/live/network.js`` computes it.

    Returns
    -------
    dict
        ``steps``, each with its operation and the numbers of the steps that it takes its input
        from, the inputs of the model first; and ``kernels``, those of all convolutions after each
        other in base64: int16, little-endian, to be multiplied by the ``scale`` of the step.

    Raises
    ------
    RunError
        If the browser's program does not know one of the layers.
    """
    steps: list[dict[str, Any]] = [{"operation": "input", "from": []} for _ in model.inputs]
    numbers = {id(tensor): number for number, tensor in enumerate(model.inputs)}
    packed = bytearray()
    for layer in (item for item in model.layers if not isinstance(item, layers.InputLayer)):
        taken = [numbers[id(tensor)] for tensor in keras.tree.flatten(layer.input)]
        for step in _steps(layer):
            if (kernel := step.pop("kernel", None)) is not None:
                step["scale"] = float(np.abs(kernel).max()) / 32767 or 1.0
                packed += np.rint(kernel / step["scale"]).astype("<i2").tobytes()
            steps.append({**step, "from": taken})
            taken = [len(steps) - 1]
        numbers[id(layer.output)] = len(steps) - 1
    return {"steps": steps, "kernels": base64.b64encode(packed).decode()}


def _steps(layer: keras.layers.Layer) -> list[dict[str, Any]]:
    """The steps that a layer consists of, in the browser's terms."""
    match layer:
        case layers.Conv2D():
            return [_convolution(layer, np.asarray(layer.kernel), layer.strides[0])]
        case layers.Conv2DTranspose():
            # The same as a convolution of the input with zeros between its pixels.
            kernel = np.asarray(layer.kernel)[::-1, ::-1].transpose(0, 1, 3, 2)
            side, stride = layer.kernel_size[0], layer.strides[0]
            before = side - 1 - (side - stride) // 2
            stretched = {"operation": "stretch", "size": stride}
            return [stretched, {**_convolution(layer, kernel, 1), "before": [before, before]}]
        case layers.GroupNormalization() if layer.groups == layer.gamma.shape[0]:
            known = {"gamma": _numbers(layer.gamma), "beta": _numbers(layer.beta)}
            return [{"operation": "normalise", "epsilon": layer.epsilon, **known}]
        case layers.BatchNormalization():
            scale = np.asarray(layer.gamma) / np.sqrt(layer.moving_variance + layer.epsilon)
            shift = np.asarray(layer.beta) - scale * layer.moving_mean
            return [{"operation": "affine", "scale": _numbers(scale), "shift": _numbers(shift)}]
        case layers.LeakyReLU():
            return [{"operation": "leaky", "slope": float(layer.negative_slope)}]
        case layers.ReLU():
            return [{"operation": "leaky", "slope": 0.0}]
        case layers.UpSampling2D() if layer.interpolation == "nearest":
            return [{"operation": "repeat", "size": layer.size[0]}]
        case layers.AveragePooling2D():
            return [{"operation": "average", "size": layer.pool_size[0]}]
        case layers.Activation() if layer.activation is keras.activations.tanh:
            return [{"operation": "tanh"}]
        case layers.Concatenate():
            return [{"operation": "concatenate"}]
        case layers.Dropout():
            return [{"operation": "same"}]
    raise RunError(f"The pages cannot compute the layer {layer.name} ({type(layer).__name__}).")


def _convolution(layer: layers.Layer, kernel: np.ndarray, stride: int) -> dict[str, Any]:
    side, _, channels, filters = kernel.shape
    sizes = {"side": side, "channels": channels, "filters": filters, "stride": stride}
    return {"operation": "convolve", **sizes, "bias": _numbers(layer.bias), "kernel": kernel}


def _numbers(values: Any, digits: int = 8) -> list[float]:
    """Numbers for a JSON file, flat and rounded."""
    return [float(f"{value:.{digits}g}") for value in np.ravel(values)]


# Images -----------------------------------------------------------------------------------------


def _bits(some_masks: np.ndarray) -> list[str]:
    """Masks (n, size, size, 1) in base64, a bit a pixel, the first one the highest of its byte."""
    return [base64.b64encode(np.packbits(mask > 0)).decode() for mask in some_masks]


def _percent(probabilities: np.ndarray) -> dict[str, Any]:
    """Maps (n, side, side, 1) of probabilities in base64, a byte a value, in percent."""
    values = np.rint(100 * probabilities).astype("u1").tobytes()
    return {"side": probabilities.shape[1], "values": base64.b64encode(values).decode()}


def _save_sheet(path: Path, rows: Sequence[np.ndarray]) -> None:
    """Write rows of images (n, size, size, 1) in [-1, 1] as one PNG without loss."""
    grey = [np.clip(np.rint((row[..., 0] + 1) * 127.5), 0, 255).astype("u1") for row in rows]
    Image.fromarray(np.vstack([np.hstack(row) for row in grey])).save(path, optimize=True)


def _draw(generator: keras.Model, some_masks: np.ndarray, seed: int) -> np.ndarray:
    """What :func:`gan.generate` gives; for few images its preparation would take the most time."""
    seeds = tf.constant([seed, 0], tf.int64)
    inputs = gan.generator_input(generator, tf.constant(some_masks), seeds)
    return np.asarray(generator(inputs, training=False))


def _judge(discriminator: keras.Model, some_masks: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The discriminator's map for each image: probabilities of being real, (n, side, side, 1)."""
    outputs = discriminator([some_masks, images], training=False)
    return np.asarray(gan.probability(discriminator, outputs))


def _from_little_to_much(some_masks: np.ndarray, least: float, count: int) -> np.ndarray:
    """Indices of `count` masks, evenly from the share `least` in the order of foreground on."""
    order = np.argsort(some_masks.mean(axis=(1, 2, 3)), kind="stable")
    return order[(np.linspace(least, 0.97, count) * len(order)).astype(int)]


# Pages ------------------------------------------------------------------------------------------


def write_or_say(runs: Mapping[str, Mapping[str, Any]], book: Path) -> None:
    """Write as :func:`write_pages` does; where that cannot be, let the pages say why."""
    try:
        write_pages(runs, book)
    except ValueError as reason:  # a RunError, or data without a mitochondrion to compose from
        shutil.rmtree(book / PAGES, ignore_errors=True)
        write_text(book / PAGES / "run.js", script("synthsegRun", {"missing": str(reason)}))


def write_pages(runs: Mapping[str, Mapping[str, Any]], book: Path) -> Path:
    """Replace what the interactive pages of a book show; returns its folder.

    `runs` has the cards of finished runs, with their metrics, by the name of the chapter; those of
    chapters 2 and 3 are needed.

    Crops are of the validation slices, which neither network was trained on; a generated image is
    made for the mask of a crop that is not shown beside it.

    Raises
    ------
    RunError
        If one of the runs is missing, or they see different data or pixel sizes. The folder is left
        as it was.
    """
    if missing := [chapter for chapter in (2, 3) if CHAPTERS[chapter] not in runs]:
        raise RunError(
            f"The pages show runs of chapters 2 and 3, and {missing[0]} was not executed."
        )
    cards = [runs[CHAPTERS[chapter]] for chapter in (2, 3)]
    given = [card["parameters"] for card in cards]
    gan_run, segmenter_run = (
        keys.run_folder(card["chapter"], card["parameters"]) for card in cards
    )
    if any(given[0][name] != given[1][name] for name in ("crop", "size", "resize")) or (
        cards[0]["data"]["fingerprint"] != cards[1]["data"]["fingerprint"]
    ):
        raise RunError("The runs of chapters 2 and 3 see other data or pixels: run both anew.")
    if given[0]["noise"] == "constant":
        raise RunError("The pages draw fresh noise, and noise is 'constant' in chapter 2's run.")
    dataset = keys.cut(keys.load_data(given[0]), given[0])
    size, seed = given[0]["size"], given[0]["seed"]
    cropping = sampling.CropSettings(given[0]["crop"], size, 8, given[0]["resize"], "none")
    images, real_masks = sampling.crop_arrays(dataset.validation, cropping, 128, seed)
    bank = masks.component_bank(*sampling.at_network_scale(dataset.train, cropping))
    composed = masks.compose(bank, masks.count_and_area(real_masks), size, 4 * MASKS, seed).masks
    segmenter = keras.models.load_model(segmenter_run / SEGMENTER, compile=False)
    generator, discriminator = gan.load_snapshot(gan_run / "gan")

    folder, new = book / PAGES, (book / PAGES).with_name(".run")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for card in cards:
        shown = {**card, "parameters": without_paths(card["parameters"])}
        write_json(new / f"{card['chapter']}.card.json", shown)
    chosen = _from_little_to_much(real_masks, 0.4, MASKS)
    _save_sheet(new / "paint-real.png", [images[chosen]])
    made = ("chapter", "profile", "key", "commit", "method_version", "device", "finished")
    run = {
        "made": [{name: card[name] for name in made} for card in cards],
        "data": {name: cards[0]["data"][name] for name in ("name", "fingerprint")},
        "seed": seed,
        "size": size,
        "nm": dataset.train.nm_per_pixel * given[0]["crop"] / size,
        "adversarial": given[0]["adversarial"],
        "paint": {
            "noise": generator.input_shape[-1] == 2,
            "real": _bits(real_masks[chosen]),
            "composed": _bits(composed[_from_little_to_much(composed, 0.4, MASKS)]),
        },
        "learn": _learning(gan_run, given[0], images, real_masks, new),
        "spot": _crops(generator, discriminator, images, real_masks, new, seed),
    }
    write_text(new / "run.js", script("synthsegRun", run))
    networks = {"generator": generator, "discriminator": discriminator, "segmenter": segmenter}
    saved = {name: browser_network(network) for name, network in networks.items()}
    write_text(new / "networks.js", script("synthsegSaved", saved))
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    return folder


def script(name: str, content: Any) -> str:
    """A script that gives a name to a JSON-like value: a page may load it from a folder, too."""
    return f"const {name} = {json.dumps(content)};\n"


def _learning(
    gan_run: Path,
    parameters: Mapping[str, Any],
    images: np.ndarray,
    some_masks: np.ndarray,
    folder: Path,
) -> dict[str, Any]:
    """Images of a few masks by all snapshots of a GAN, and of the original's settings beside it.

    Same masks, same noise. The maps are those of the discriminator of the same snapshot, on the
    generated images and on the real ones.
    """
    chosen = _from_little_to_much(some_masks, 0.5, SHOWN)
    shown, real = some_masks[chosen], images[chosen]
    _save_sheet(folder / "learn-real.png", [real])
    original = asdict(gan.original_settings(parameters["width"], parameters["size"]))
    settings = {"gan": {name: parameters[name] for name in original}, "gan-original": original}
    gans: dict[str, Any] = {}
    for name in (name for name in ("gan", "gan-original") if (gan_run / name).is_dir()):
        drawn, judged = [], []
        for number in gan.snapshot_numbers(gan_run / name):
            generator, discriminator = gan.load_snapshot(gan_run / name, number)
            drawn.append(_draw(generator, shown, seed=0))
            judged += [_judge(discriminator, shown, some) for some in (drawn[-1], real)]
            keras.backend.clear_session()
        _save_sheet(folder / f"learn-{name}.png", drawn)
        history = pd.read_csv(gan_run / f"{name}.history.csv")
        columns = ("step", "d_real", "d_fake", "l1")
        curves = {column: _numbers(history[column], 5) for column in columns}
        maps = _percent(np.concatenate(judged))
        gans[name] = {**curves, "maps": maps, "settings": settings[name]}
    return {"masks": _bits(shown), "gans": gans}


def _crops(
    generator: keras.Model,
    discriminator: keras.Model,
    images: np.ndarray,
    some_masks: np.ndarray,
    folder: Path,
    seed: int,
) -> dict[str, Any]:
    """Real crops and images generated for the masks of other crops, with what tells them apart."""
    chosen = _from_little_to_much(some_masks, 0.3, 2 * CROPS)
    real, source = chosen[::2], chosen[1::2]
    shown = np.concatenate([images[real], _draw(generator, some_masks[source], seed)])
    belonging = some_masks[np.concatenate([real, source])]
    _save_sheet(folder / "spot.png", np.split(shown, 2 * CROPS // 10))
    maps = _judge(discriminator, belonging, shown)
    grain = shown - gaussian_filter(shown, (0, 1, 1, 0))
    return {
        "real": CROPS,  # the first ones
        "masks": _bits(belonging),
        "probability": _numbers(maps.mean(axis=(1, 2, 3)), 4),
        "maps": _percent(maps),
        "grain": _numbers(127.5 * grain.std(axis=(1, 2, 3)), 4),
    }


def main(profile: str = "pages") -> None:
    """Put the networks of the latest run of chapters 2 and 3 behind the pages in ``book/``."""
    cards = {name: card for name, (card, _) in publishing.finished_runs(profile).items()}
    folder = write_pages(cards, project_root() / "book")
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{show_path(folder)} has {size / 1e6:.1f} MB. To see it:  synthseg book --published")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except RunError as error:
        sys.exit(str(error))
