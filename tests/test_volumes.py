"""Volumes: what they hold, how they are split, and the EPFL files."""

import doctest
import shutil

import numpy as np
import pytest
import skimage.io
import tifffile

from synthseg import volumes
from synthseg.stacks import epfl
from synthseg.volumes import DataError, Dataset, Volume, check, load, split_by_z

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


# --- Volume and Dataset -----------------------------------------------------------------------


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(volumes) == (0, 7)


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
    ("part", "box", "name"),
    [
        ("", np.s_[:], "em"),
        ("2:9", np.s_[2:9], "em[2:9]"),
        ("2:9,1:12,0:7", np.s_[2:9, 1:12, 0:7], "em[2:9][1:12,0:7]"),
        (" 0:20, 0:12, 15:16", np.s_[:, :, 15:], "em[0:20][0:12,15:16]"),
    ],
)
def test_cut(part, box, name):
    volume = Volume.create(*example(), 5, "em")
    chosen = volume.cut(part)
    np.testing.assert_array_equal(chosen.image, volume.image[box])
    np.testing.assert_array_equal(chosen.mask, volume.mask[box])
    assert (chosen.name, chosen.stack, chosen.nm_per_pixel) == (name, "em", 5)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("0:21", "part='0:21': 0:21 along z must lie within 0:20, the size of em"),
        ("3:3", "3:3 along z must lie within 0:20, the size of em, and hold at least one"),
        ("0:5,0:12,9:17", "9:17 along x must lie within 0:16"),
        ("0:5,0:12", "part='0:5,0:12' must be z0:z1 or z0:z1,y0:y1,x0:x1, or empty"),
        ("-5:9", "must be z0:z1"),
        ("all", "must be z0:z1"),
        ("5", "must be z0:z1"),
    ],
)
def test_cut_refuses(part, message):
    with pytest.raises(DataError, match=message):
        Volume.create(*example(), 5, "em").cut(part)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": np.zeros(SHAPE, np.float32)}, r"em must be uint8 \(z, y, x\), but is float32"),
        ({"image": np.zeros(SHAPE[1:], np.uint8)}, r"but is uint8 \(12, 16\)"),
        ({"mask": np.zeros((20, 12, 15), bool)}, "Image and mask of em differ in shape"),
        (
            {"mask": np.full(SHAPE, 255, np.uint8)},
            "mask of em must be bool, or uint8 of 0, 1",
        ),
        ({"nm_per_pixel": 0}, "nm_per_pixel=0 of em must be a number above 0"),
        ({"nm_per_pixel": np.nan}, "nm_per_pixel=nan"),
    ],
)
def test_create_refuses(changed, message):
    image, mask = example()
    arguments = {"image": image, "mask": mask, "nm_per_pixel": 5, "name": "em"} | changed
    with pytest.raises(DataError, match=message):
        Volume.create(**arguments)


def test_a_part_without_objects_is_refused():
    image, mask = example()
    full = Volume.create(image, mask, 5, "em")
    empty = Volume.create(image, 0 * mask, 5, "blank")
    with pytest.raises(DataError, match="The validation part, blank, holds no object"):
        Dataset(full, empty, full, "em", "", 5)
    assert Dataset(full, full, full, "a", "", 5).fingerprint == (
        Dataset(full, full, full, "b", "", 5).fingerprint
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
        first_masks[f"{half}_groundtruth.tif"] = epfl.digest(mask[0] * 255)
    monkeypatch.setattr(epfl, "SHAPE", SHAPE)
    monkeypatch.setattr(epfl, "FIRST_MASK", first_masks)
    monkeypatch.setattr(epfl, "BYTES", (folder / "training.tif").stat().st_size)
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
    first_image = epfl.digest(example()[0][0])
    monkeypatch.setattr(epfl, "RECOVERED_FIRST_IMAGE", first_image)
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


# --- EPFL: the real thing ---------------------------------------------------------------------


def test_real_epfl(epfl_folder):
    found, dataset = check(str(epfl_folder))
    assert found == []
    if "recovered" in dataset.provenance:
        assert dataset.fingerprint == "3802de52483c56b2", "the published results were made of these"
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
        epfl._read_file(tmp_path / "testing_groundtruth.tif")
    with pytest.raises(DataError, match=r"2 files .training.tif, .*are uint8 \(33, 768, 1024\)"):
        load(str(tmp_path))
