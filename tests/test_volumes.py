"""Volumes: what is read, what is refused (and in which words), how it is split."""

import doctest
import json
import shutil
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import skimage.io
import tifffile

from synthseg import volumes
from synthseg.volumes import DataError, Dataset, Volume, load, split_by_z

SHAPE = (20, 12, 16)


def example(shape=SHAPE, seed=0):
    """A noisy image and a mask with foreground in each slice."""
    random = np.random.default_rng(seed)
    image = random.integers(1, 255, shape, dtype=np.uint8)
    mask = np.zeros(shape, np.uint8)
    mask[:, 3:7, 4:9] = 1
    return image, mask


def write_tiff(path, stack, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, stack, photometric="minisblack", **options)


def write_slices(folder, stack, suffix=".png"):
    """Write slices named without leading zeros, so that only natural order is right."""
    folder.mkdir(parents=True)
    for number, page in enumerate(stack):
        file = folder / f"slice{number}{suffix}"
        if suffix == ".png":
            skimage.io.imsave(file, page, check_contrast=False)
        else:
            tifffile.imwrite(file, page)


def write_pair(folder, image, mask):
    write_tiff(folder / "image.tif", image)
    write_tiff(folder / "mask.tif", mask)
    return str(folder)


def rejoined(dataset: Dataset) -> np.ndarray:
    return np.concatenate([dataset.train.image, dataset.validation.image, dataset.test.image])


# --- Volume and Dataset -----------------------------------------------------------------------


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(volumes) == (0, 5)


def test_fingerprint_changes_with_image_mask_shape_and_pixel_size():
    image, mask = example()
    other_image, other_mask = image.copy(), mask.copy()
    other_image[-1, -1, -1] ^= 1
    other_mask[-1, -1, -1] ^= 1
    flat = (1, 1, image.size)
    variants = [
        Volume.create(image, mask, 5, "a"),
        Volume.create(other_image, mask, 5, "a"),
        Volume.create(image, other_mask, 5, "a"),
        Volume.create(image.reshape(flat), mask.reshape(flat), 5, "a"),
        Volume.create(image, mask, 4, "a"),
    ]
    assert len({volume.fingerprint for volume in variants}) == len(variants)
    renamed = Volume.create(image, mask.astype(bool), 5.0, "b")
    assert renamed.fingerprint == variants[0].fingerprint
    assert len(renamed.fingerprint) == 16


def test_a_volume_is_read_only():
    image, mask = example()
    volume = Volume.create(image, mask, 5, "em")
    with pytest.raises(ValueError, match="read-only"):
        volume.image[0, 0, 0] = 1
    image[0, 0, 0] = 1  # the caller's own array is left writeable


def test_slices_count_as_python_does_and_say_so_in_the_name():
    volume = Volume.create(*example(), 5, "em")
    assert (len(volume), volume.shape) == (20, SHAPE)
    part = volume.slices(3, -2)
    assert (part.name, part.stack, part.first, len(part)) == ("em[3:18]", "em", 3, 15)
    np.testing.assert_array_equal(part.image, volume.image[3:18])
    # The part of a part still says where it lies in the whole stack.
    inner = part.slices(2, 6)
    assert (inner.name, inner.stack, inner.first) == ("em[5:9]", "em", 5)
    np.testing.assert_array_equal(inner.image, volume.image[5:9])
    with pytest.raises(DataError, match="em has 20 slices, none of them in 20:30"):
        volume.slices(20, 30)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": np.zeros(SHAPE, np.float32)}, r"em must be uint8 \(z, y, x\), but is float32"),
        ({"image": np.zeros(SHAPE[1:], np.uint8)}, r"but is uint8 \(12, 16\)"),
        ({"mask": np.zeros((20, 12, 15), bool)}, "Image and mask of em differ in shape"),
        ({"mask": np.full(SHAPE, 255, np.uint8)}, "mask of em must be bool, or uint8 of 0 and 1"),
        ({"nm_per_pixel": 0}, "nm_per_pixel=0 of em must be a number above 0"),
        ({"nm_per_pixel": np.nan}, "nm_per_pixel=nan"),
    ],
)
def test_create_refuses(changed, message):
    image, mask = example()
    arguments = {"image": image, "mask": mask, "nm_per_pixel": 5, "name": "em"} | changed
    with pytest.raises(DataError, match=message):
        Volume.create(**arguments)


def test_a_part_without_mitochondria_is_refused():
    image, mask = example()
    full = Volume.create(image, mask, 5, "em")
    empty = Volume.create(image, 0 * mask, 5, "blank")
    with pytest.raises(DataError, match="The validation part, blank, holds no mitochondria"):
        Dataset(full, empty, full, "em", "")
    assert Dataset(full, full, full, "a", "").fingerprint == (
        Dataset(full, full, full, "b", "").fingerprint
    )


# --- The split --------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [3, 5, 8, 20, 40, 165, 1000])
def test_split_leaves_a_gap_and_shares_no_slice(depth):
    stack = np.arange(depth)[:, None, None] % 251 * np.ones((1, 2, 2))
    volume = Volume.create(stack.astype(np.uint8), stack > -1, 5, "em")
    train, validation = split_by_z(volume)
    gap = depth - len(train) - len(validation)
    assert gap == min(20, max(1, depth // 8))
    np.testing.assert_array_equal(train.image, volume.image[: len(train)])
    np.testing.assert_array_equal(validation.image, volume.image[len(train) + gap :])


def test_split_with_chosen_sizes():
    volume = Volume.create(*example(), 5, "em")
    train, validation = split_by_z(volume, validation=4, gap=6)
    assert (train.name, validation.name) == ("em[0:10]", "em[16:20]")


@pytest.mark.parametrize("sizes", [{"validation": 19}, {"validation": 0}, {"gap": 0}, {"gap": 18}])
def test_split_refuses_empty_parts_and_touching_parts(sizes):
    with pytest.raises(DataError, match="em has 20 slices, too few"):
        split_by_z(Volume.create(*example(), 5, "em"), **sizes)


# --- One's own data ---------------------------------------------------------------------------


def test_one_pair_is_split_into_three_parts_with_gaps(tmp_path):
    image, mask = example((40, 12, 16))
    dataset = load(write_pair(tmp_path / "block", image, mask), nm_per_pixel=4)
    assert dataset.train.name == "block[0:20]"
    assert dataset.validation.name == "block[23:28]"
    assert dataset.test.name == "block[33:40]"
    slices = [*range(20), *range(23, 28), *range(33, 40)]
    np.testing.assert_array_equal(rejoined(dataset), image[slices])
    assert dataset.train.nm_per_pixel == 4
    assert "block, 4 nm per pixel, one volume, split by z" in dataset.provenance


def test_train_and_test_folders(tmp_path):
    image, mask = example()
    write_pair(tmp_path / "train", image, mask)
    write_slices(tmp_path / "test" / "images", image[::-1])
    write_slices(tmp_path / "test" / "masks", mask[::-1])
    dataset = load(str(tmp_path), nm_per_pixel=8)
    np.testing.assert_array_equal(dataset.test.image, image[::-1])
    assert (len(dataset.train), len(dataset.validation)) == (14, 4)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff"])
def test_a_pair_of_folders_in_natural_order(tmp_path, suffix):
    image, mask = example()
    write_slices(tmp_path / "em", image, suffix)
    write_slices(tmp_path / "labels", mask, suffix)
    (tmp_path / "em" / "notes.txt").write_text("not a slice")
    (tmp_path / "em" / f"._slice0{suffix}").write_bytes(b"what macOS leaves behind")
    dataset = load(f"{tmp_path / 'em'}, {tmp_path / 'labels'}", nm_per_pixel=5)
    np.testing.assert_array_equal(dataset.train.image, image[: len(dataset.train)])
    np.testing.assert_array_equal(dataset.test.image, image[-len(dataset.test) :])
    assert dataset.name == "em"


@pytest.mark.parametrize(
    "encode",
    [
        lambda mask: mask,
        lambda mask: mask * 255,
        lambda mask: mask.astype(bool),
        lambda mask: (mask * np.arange(1, 21)[:, None, None] * 1000).astype(np.uint16),
        lambda mask: mask.astype(np.float32),
        lambda mask: mask.astype(np.int16) * 300 - 1,
    ],
    ids=["0/1", "0/255", "bool", "instances", "float", "background -1"],
)
def test_mask_encodings(tmp_path, encode):
    image, mask = example()
    dataset = load(write_pair(tmp_path, image, encode(mask)), nm_per_pixel=5)
    np.testing.assert_array_equal(dataset.train.mask, mask[: len(dataset.train)])
    assert dataset.train.mask.dtype == np.uint8


@pytest.mark.parametrize(
    "encode",
    [
        lambda image: image.astype(np.uint16) * 200 + 7,
        lambda image: image.astype(np.int16) - 1000,
        lambda image: image / 1e6,
    ],
    ids=["uint16", "int16", "float"],
)
def test_other_depths_are_scaled_to_8_bit_over_the_volume(tmp_path, encode):
    ramp = np.linspace(1, 255, np.prod(SHAPE)).astype(np.uint8).reshape(SHAPE)
    dataset = load(write_pair(tmp_path, encode(ramp), example()[1]), nm_per_pixel=5)
    result = rejoined(dataset).astype(int)
    assert (result.min(), result.max()) == (0, 255)
    depth = len(dataset.train)
    np.testing.assert_allclose(result[:depth], ramp[:depth], atol=2)


def test_one_hot_pixel_does_not_set_the_contrast(tmp_path):
    image = example()[0].astype(np.float32)
    image[0, 0, 0] = 1e6
    dataset = load(write_pair(tmp_path, image, example()[1]), nm_per_pixel=5)
    assert dataset.train.image[0, 0, 0] == 255
    assert dataset.train.image.std() > 60


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_rgb_that_is_grey_with_or_without_opacity(tmp_path, channels):
    image, mask = example()
    colours = np.repeat(image[..., None], channels, axis=-1)
    if channels != 3:
        colours[..., -1] = 255
    write_slices(tmp_path / "images", colours)
    write_slices(tmp_path / "masks", mask)
    dataset = load(str(tmp_path), nm_per_pixel=5)
    np.testing.assert_array_equal(dataset.train.image, image[: len(dataset.train)])


def test_rgb_tiff_that_is_grey(tmp_path):
    image, mask = example()
    write_pair(tmp_path, image, mask)
    tifffile.imwrite(tmp_path / "image.tif", np.stack([image] * 3, axis=-1), photometric="rgb")
    dataset = load(str(tmp_path), nm_per_pixel=5)
    np.testing.assert_array_equal(dataset.train.image, image[: len(dataset.train)])


# Each case spoils one thing in a folder of good slices; the message must name file and remedy.


def spoil_mask_size(folder):
    skimage.io.imsave(folder / "masks" / "slice2.png", np.ones((5, 5), np.uint8), check_contrast=0)


def spoil_image_type(folder):
    page = np.full(SHAPE[1:], 9, np.uint16)
    skimage.io.imsave(folder / "images" / "slice3.png", page, check_contrast=0)


def spoil_colour(folder):
    page = np.zeros((*SHAPE[1:], 3), np.uint8)
    page[..., 0] = 200
    skimage.io.imsave(folder / "images" / "slice4.png", page, check_contrast=0)


def spoil_name(folder):
    (folder / "masks" / "slice5.png").rename(folder / "masks" / "slice5b.png")


def spoil_count(folder):
    (folder / "masks" / "slice19.png").unlink()


def spoil_bytes(folder):
    (folder / "images" / "slice6.png").write_bytes(b"no picture")


def spoil_pages(folder):
    (folder / "images" / "slice7.png").unlink()
    write_tiff(folder / "images" / "slice7.tif", example()[0])


def spoil_all_images(folder):
    for file in (folder / "images").iterdir():
        file.unlink()


def spoil_layout(folder):
    (folder / "masks").rename(folder / "labels")


def spoil_choice(folder):
    write_tiff(folder / "image.tif", example()[0])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_mask_size, r"masks/slice2.png is uint8 \(5, 5\).* export all slices alike"),
        (spoil_image_type, r"images/slice3.png is uint16.* first slice is uint8 .* alike"),
        (spoil_colour, r"images/slice4.png is in colour; convert it to grey"),
        (spoil_name, r"images/slice5.png meets .*masks/slice5b.png; each image needs a mask file"),
        (spoil_count, r"images/slice19.png meets no mask; each image needs a mask file"),
        (spoil_bytes, r"images/slice6.png cannot be read .* export it again"),
        (spoil_pages, r"images/slice7.tif holds 20 pages.* give the multi-page file itself"),
        (spoil_all_images, r"images holds no PNG or TIFF files; export the slices as"),
        (spoil_layout, r"holds no masks; it must hold exactly one of masks/ .* and mask.tif"),
        (spoil_choice, r"holds images and image.tif; it must hold exactly one of"),
    ],
)
def test_spoiled_folders_are_named(tmp_path, spoil, message):
    image, mask = example()
    write_slices(tmp_path / "images", image)
    write_slices(tmp_path / "masks", mask)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        load(str(tmp_path), nm_per_pixel=5)


NOT_FINITE = np.ones(SHAPE, np.float32)
NOT_FINITE[11, 0, 0] = np.nan
HARDLY_ANY = np.ones(SHAPE, np.uint16)
HARDLY_ANY[0, 0, :2] = 0, 2


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (example()[1], None, r"image.tif holds no more than two grey values .* mask second"),
        (example()[1] > 0, None, r"image.tif holds no more than two grey values"),
        (NOT_FINITE, None, r"image.tif, slice 11, holds NaN or infinite values; replace them"),
        (HARDLY_ANY, None, r"image.tif is 1 almost everywhere; check"),
        (example((20, 12, 15))[0], None, r"image.tif is \(20, 12, 15\) .*mask.tif is \(20, 12, 16"),
        (example()[0][:1], example()[1][:1], r"image.tif holds a single slice; a volume needs"),
        (None, np.zeros(SHAPE, np.uint8), r"mask.tif marks no pixel .* masks are 0 for background"),
        (None, np.ones(SHAPE, np.uint8), r"mask.tif marks every pixel .* masks are 0 for backgro"),
        (None, np.full(SHAPE, 0.3), r"mask.tif holds fractions; turn probabilities into 0 and 1"),
        (example()[0][:4], example()[1][:4], r"has 2 slices, too few .* give more slices"),
    ],
)
def test_unusable_stacks_are_named(tmp_path, image, mask, message):
    good_image, good_mask = example()
    image = good_image if image is None else image
    mask = good_mask if mask is None else mask
    with pytest.raises(DataError, match=message):
        load(write_pair(tmp_path, image, mask), nm_per_pixel=5)


def test_a_truncated_tiff_is_named(tmp_path):
    folder = write_pair(tmp_path, *example())
    whole = (tmp_path / "mask.tif").read_bytes()
    for length in (3, 100, len(whole) // 2):
        (tmp_path / "mask.tif").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"mask.tif"):
            load(folder, nm_per_pixel=5)


def test_a_tiff_with_channels_is_named(tmp_path):
    image, mask = example()
    write_pair(tmp_path, image, mask)
    both = np.stack([image, image], axis=1)
    tifffile.imwrite(tmp_path / "image.tif", both, imagej=True, metadata={"axes": "ZCYX"})
    with pytest.raises(DataError, match=r"image.tif has the axes ZCYX.* export one channel"):
        load(str(tmp_path), nm_per_pixel=5)


def test_the_pixel_size_of_own_data_must_be_given(tmp_path):
    folder = write_pair(tmp_path, *example())
    with pytest.raises(DataError, match=r"pixel of .* is not known; .*--set nm_per_pixel="):
        load(folder)
    with pytest.raises(DataError, match="nm_per_pixel=-1"):
        load(folder, nm_per_pixel=-1)


def test_half_a_train_test_folder_is_named(tmp_path):
    write_pair(tmp_path / "train", *example())
    with pytest.raises(DataError, match="holds train/ alone; add the other"):
        load(str(tmp_path), nm_per_pixel=5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nowhere", "There is no file or folder nowhere. Data can be:\nphantom"),
        ("image.tif,nowhere.tif", "There is no file or folder nowhere.tif"),
        ("a,b,c", "There is no file or folder a,b,c"),
        ("image.tif", "image.tif is one file, but a mask is needed too: --data IMAGE,MASK"),
    ],
)
def test_wrong_names_of_data(tmp_path, monkeypatch, data, message):
    monkeypatch.chdir(tmp_path)
    write_tiff(Path("image.tif"), example()[0])
    with pytest.raises(DataError, match=message):
        load(data, nm_per_pixel=5)


# --- EPFL: tiny files in its place ------------------------------------------------------------


@pytest.fixture
def small_epfl(tmp_path, monkeypatch):
    """A folder of four small files that pass as the EPFL data."""
    folder = tmp_path / "official"
    first_masks = {}
    for seed, half in enumerate(["training", "testing"]):
        image, mask = example(seed=seed)
        mask[:, 0, seed] = 1  # the halves differ
        write_tiff(folder / f"{half}.tif", image)
        write_tiff(folder / f"{half}_groundtruth.tif", mask * 255)
        first_masks[f"{half}_groundtruth.tif"] = volumes._sha256((mask[0] * 255).tobytes())
    monkeypatch.setattr(volumes, "EPFL_SHAPE", SHAPE)
    monkeypatch.setattr(volumes, "EPFL_FIRST_MASK", first_masks)
    monkeypatch.setattr(volumes, "EPFL_BYTES", (folder / "training.tif").stat().st_size)
    monkeypatch.delenv("SYNTHSEG_DATA", raising=False)
    return folder


def test_an_epfl_folder_is_used_as_it_is(small_epfl):
    dataset = load(str(small_epfl))
    assert (dataset.name, dataset.train.nm_per_pixel) == ("epfl", 5.0)
    np.testing.assert_array_equal(dataset.test.image, example(seed=1)[0][::5])
    np.testing.assert_array_equal(dataset.train.image, example()[0][:14])
    for fact in ("Lucchi", "CVPR 2013", "local folder", "every 5th slice"):
        assert fact in dataset.provenance
    assert "mirror" not in dataset.provenance

    for name in ("testing.tif", "testing_groundtruth.tif"):  # keep the scored slices alone
        write_tiff(small_epfl / name, tifffile.imread(small_epfl / name)[::5])
    assert load(str(small_epfl)).fingerprint == dataset.fingerprint


def test_a_recovered_copy_is_declared(small_epfl, monkeypatch):
    first_image = volumes._sha256(example()[0][0].tobytes())
    monkeypatch.setattr(volumes, "EPFL_RECOVERED_FIRST_IMAGE", first_image)
    assert "recovered from a public mirror" in load(str(small_epfl)).provenance


def test_the_folder_in_the_environment(small_epfl, monkeypatch):
    monkeypatch.setenv("SYNTHSEG_DATA", str(small_epfl))
    assert load("epfl").fingerprint == load(str(small_epfl)).fingerprint


def test_a_pixel_size_that_contradicts_the_source(small_epfl):
    assert load(str(small_epfl), nm_per_pixel=5).name == "epfl"
    with pytest.raises(DataError, match="nm_per_pixel=8 was given, but a pixel of epfl is 5 nm"):
        load(str(small_epfl), nm_per_pixel=8)


@pytest.mark.parametrize(
    ("source", "target"), [("training", "testing"), ("testing", "training")], ids=str
)
def test_a_half_that_holds_the_other_is_noticed(small_epfl, source, target):
    for ending in (".tif", "_groundtruth.tif"):
        shutil.copy(small_epfl / f"{source}{ending}", small_epfl / f"{target}{ending}")
    message = f"{target}_groundtruth.tif holds the masks of {source}_groundtruth.tif: .* swapped"
    with pytest.raises(DataError, match=message):
        load(str(small_epfl))


@pytest.mark.parametrize(
    ("name", "stack", "message"),
    [
        ("training.tif", example((9, 12, 16))[0], r"training.tif is uint8 \(9, .* download it"),
        ("testing.tif", example((5, 12, 16))[0], r"testing.tif is uint8 \(5, .*20, .* or \(4, "),
        ("training.tif", np.ones(SHAPE, np.uint16), r"training.tif is uint16 .* download it"),
        ("testing_groundtruth.tif", example()[1], "testing_groundtruth.tif holds values other"),
    ],
)
def test_files_that_are_not_the_epfl_ones(small_epfl, name, stack, message):
    write_tiff(small_epfl / name, stack)
    with pytest.raises(DataError, match=message):
        load(str(small_epfl))


def test_a_missing_epfl_file_is_named(small_epfl):
    (small_epfl / "testing.tif").unlink()
    with pytest.raises(DataError, match=r"testing.tif is missing; the EPFL data are training.tif"):
        load(str(small_epfl))


# --- EPFL: the download -----------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Serves a folder, counts what was asked for, and breaks off the transfers named in `cut`."""

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=folder))
        self.asked, self.cut = Counter(), Counter()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        name = Path(self.path).name
        self.server.asked[name] += 1
        super().do_GET()

    def copyfile(self, source, outputfile):
        name = Path(self.path).name
        if self.server.cut[name]:
            self.server.cut[name] -= 1
            outputfile.write(source.read(500))  # the header promised more
        else:
            super().copyfile(source, outputfile)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(small_epfl, tmp_path, monkeypatch):
    with Server(small_epfl) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("SYNTHSEG_EPFL_URL", server.url)
        monkeypatch.setattr(volumes.pooch, "os_cache", lambda name: tmp_path / "cache" / name)
        monkeypatch.setattr(volumes, "DOWNLOAD_RETRIES", 0)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(server, tmp_path):
    return tmp_path / "cache" / "synthseg" / "epfl"


def test_download_once_and_remember_the_sha256(server, cache, small_epfl):
    dataset = load("epfl")
    assert dataset.fingerprint == load(str(small_epfl)).fingerprint
    assert f"downloaded from {server.url}/" in dataset.provenance
    recorded = json.loads((cache / "sha256.json").read_text())
    assert recorded == {
        name: volumes._sha256((small_epfl / name).read_bytes()) for name in volumes.EPFL_FILES
    }
    load("epfl")
    assert server.asked == dict.fromkeys(volumes.EPFL_FILES, 1)


def test_an_interrupted_download_keeps_finished_files_and_starts_the_partial_one_again(
    server, cache
):
    server.cut["testing.tif"] = 1
    with pytest.raises(DataError, match=r"testing.tif could not be downloaded .* --data FOLDER"):
        load("epfl")
    arrived = {file.name for file in cache.iterdir()}
    assert arrived == {"training.tif", "training_groundtruth.tif", "sha256.json"}
    load("epfl")
    assert server.asked["training.tif"] == 1
    assert server.asked["testing.tif"] == 2


def test_a_broken_transfer_is_tried_again_by_itself(server, monkeypatch):
    monkeypatch.setattr(volumes, "DOWNLOAD_RETRIES", 1)
    server.cut["training.tif"] = 1
    load("epfl")
    assert server.asked["training.tif"] == 2


def test_a_file_of_the_wrong_size_is_not_kept(server, cache, small_epfl):
    (small_epfl / "training.tif").write_bytes(b"<html>moved</html>")
    with pytest.raises(DataError, match=r"training.tif could not .*18 bytes arrived instead of"):
        load("epfl")
    assert not (cache / "training.tif").exists()


def test_a_cached_file_that_changed_is_downloaded_again(server, cache):
    before = load("epfl").fingerprint
    damaged = bytearray((cache / "training.tif").read_bytes())
    damaged[-1] ^= 1
    (cache / "training.tif").write_bytes(damaged)
    assert load("epfl").fingerprint == before
    assert server.asked["training.tif"] == 2


def test_a_server_that_lost_the_files(server, small_epfl):
    (small_epfl / "training_groundtruth.tif").unlink()
    with pytest.raises(DataError, match=r"training_groundtruth.tif could not .*404"):
        load("epfl")


def test_an_incomplete_folder_in_the_environment_is_mentioned(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNTHSEG_DATA", str(tmp_path))
    with pytest.warns(UserWarning, match="holds no training.tif, .*; using the download instead"):
        load("epfl")


# --- EPFL: the real thing ---------------------------------------------------------------------


def test_real_epfl(epfl_folder):
    dataset = load(str(epfl_folder))
    assert dataset.train.shape == (115, 768, 1024)
    assert dataset.train.name == "epfl-training[0:115]"
    assert dataset.validation.name == "epfl-training[135:165]"
    assert dataset.test.shape == (33, 768, 1024)
    # Published foreground of the training stack is 5.6 %; parts of it vary.
    assert dataset.train.mask.mean() == pytest.approx(0.0614, abs=1e-4)
    assert dataset.test.mask.mean() == pytest.approx(0.0535, abs=1e-4)
    for part in (dataset.train, dataset.validation, dataset.test):
        inside, outside = part.image[part.mask == 1].mean(), part.image[part.mask == 0].mean()
        assert outside - inside > 20, "mitochondria are darker: image and mask belong together"


def test_real_epfl_swapped_is_refused(epfl_folder, tmp_path):
    for source, target in (("training", "testing"), ("testing", "training")):
        for ending in (".tif", "_groundtruth.tif"):
            (tmp_path / f"{target}{ending}").symlink_to(epfl_folder / f"{source}{ending}")
    with pytest.raises(DataError, match=r"testing_groundtruth.tif holds the masks of training_"):
        volumes._read_epfl_stack(tmp_path / "testing_groundtruth.tif")
    with pytest.raises(DataError, match=r"training.tif is uint8 \(33, 768, 1024\)"):
        load(str(tmp_path))
