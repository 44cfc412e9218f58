"""Kinds of one's own data as people have them: each is read, or told what to do."""

import io
import struct
import tracemalloc
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import skimage.io
import tifffile
from PIL import Image
from scipy import ndimage
from test_volumes import example, write_pair, write_slices, write_tiff

from synthseg.stacks import locate, phantom
from synthseg.volumes import IGNORED, DataError, check, load


@pytest.fixture(scope="module")
def block():
    """A simulated volume of 24 slices, 20 nm apart: image and mask of 0 and 255."""
    image, mask = phantom.make(0, (24, 192, 256))
    return image, mask * np.uint8(255)


def kinds(found, *severities):
    """What was found, as "severity what" without the files."""
    return [f"{it.severity} {it.sentence}" for it in found if it.severity in severities]


def serious(folder, nm=5.0):
    found, dataset = check(str(folder), nm)
    return kinds(found, "error", "warning"), dataset


# --- Layouts and names ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("image", "mask"),
        ("Images", "MASKS"),
        ("raw", "labels"),
        ("img", "GroundTruth"),
        ("x", "y"),
        ("cortex_raw", "cortex_gt"),
        ("em", "mitochondria"),
        ("em", "axons"),
        ("stack 7", "annotations"),
    ],
)
def test_folders_by_the_words_in_their_names(tmp_path, images, masks):
    image, mask = example()
    write_slices(tmp_path / images, image)
    write_slices(tmp_path / masks, mask)
    found, dataset = check(str(tmp_path), 5)
    np.testing.assert_array_equal(dataset.train.image, image[: len(dataset.train)])
    np.testing.assert_array_equal(dataset.test.mask, mask[-len(dataset.test) :])
    guessed = "axons" in masks or "stack" in images
    assert ("is taken for the" in str(kinds(found, "note"))) == guessed


def test_the_name_of_the_structure(tmp_path, block):
    image, mask = block
    write_tiff(tmp_path / "first.tif", image)
    write_tiff(tmp_path / "second Nuclei.tif", 255 - mask)
    found, dataset = check(f"{tmp_path}:structure=nuclei", 5)
    (warning,) = (it for it in found if it.severity == "warning")
    assert warning.remedy == "exchange 0 and 255, unless the nuclei fill so much"
    assert ", nuclei, 5 nm per pixel" in dataset.provenance


@pytest.mark.parametrize(
    "names",
    [
        ("image.ome.tif", "mask.ome.tif"),
        ("IMAGE.TIFF", "LABEL.TIF"),
        ("volume.tif", "nuclei.tif"),
        ("train-volume.tif", "train-labels.tif"),
    ],
)
def test_multi_page_files_by_the_words_in_their_names(tmp_path, names):
    for name, stack in zip(names, example(), strict=True):
        axes = {"axes": "ZYX"} if ".ome" in name else None
        tifffile.imwrite(tmp_path / name, stack, photometric="minisblack", metadata=axes)
    assert len(load(str(tmp_path), 5).test) == 4


@pytest.mark.parametrize("layout", ["{part}/{kind}", "{kind}/{part}", "{part}_{kind}"])
def test_parts_for_training_validation_and_test(tmp_path, layout):
    pairs = {part: example(seed=seed) for seed, part in enumerate(("train", "val", "test"))}
    for part, pair in pairs.items():
        for kind, stack in zip(("images", "masks"), pair, strict=True):
            write_slices(tmp_path / layout.format(part=part, kind=kind), stack)
    dataset = load(str(tmp_path), 5)
    for name, part in (("train", "train"), ("validation", "val"), ("test", "test")):
        np.testing.assert_array_equal(getattr(dataset, name).image, pairs[part][0])


def test_parts_that_are_missing(tmp_path):
    write_pair(tmp_path / "train", *example())
    problems, dataset = serious(tmp_path)
    assert not problems
    assert dataset.test.stack == dataset.train.stack, "one block is split"
    write_pair(tmp_path / "val", *example(seed=1))
    problems, dataset = serious(tmp_path)
    assert "validation part is used for it" in problems[0]
    np.testing.assert_array_equal(dataset.test.image, example(seed=1)[0])


def test_what_does_not_fit_is_told_with_what_is_there(tmp_path):
    for name in ("left", "right", "third"):
        write_slices(tmp_path / name, example()[0])
    with pytest.raises(DataError, match=r"holds left/, right/, third/: .*left,.*right"):
        load(str(tmp_path), 5)


@pytest.mark.parametrize(
    ("image", "mask"),
    [("img_{:03d}", "mask_{:03d}"), ("{:03d}", "{:03d}_mask"), ("s{:d}", "s{:03d}")],
)
def test_slices_are_paired_by_numbers_where_names_differ(tmp_path, image, mask):
    pixels, marked = example()
    marked[:, 0, :] = np.arange(20)[:, None] > np.arange(16)  # each mask is another
    for kind, stack, name in (("images", pixels, image), ("masks", marked, mask)):
        (tmp_path / kind).mkdir()
        for number, page in enumerate(stack):
            file = tmp_path / kind / f"{name.format(number)}.png"
            skimage.io.imsave(file, page, check_contrast=False)
    found, dataset = check(str(tmp_path), 5)
    np.testing.assert_array_equal(dataset.test.image, pixels[-4:])
    np.testing.assert_array_equal(dataset.test.mask, marked[-4:])
    assert "paired with the images by numbers: " in str(kinds(found, "note"))


def test_a_name_may_hold_commas(tmp_path, monkeypatch):
    write_pair(tmp_path / "wild type, 3 months", *example())
    monkeypatch.chdir(tmp_path)
    assert load("wild type, 3 months", 5).name == "wild type, 3 months"
    pair = "wild type, 3 months/image.tif,wild type, 3 months/mask.tif"
    assert load(pair, 5).fingerprint == load("wild type, 3 months", 5).fingerprint
    absolute = locate("wild type, 3 months:mask=1", tmp_path)
    assert absolute == f"{tmp_path}/wild type, 3 months:mask=1"
    assert load(absolute, 5).name == "wild type, 3 months"
    assert locate(pair, tmp_path, tmp_path.parent).startswith(f"{tmp_path.name}/wild type, 3 mo")
    assert locate("phantom", tmp_path) == "phantom"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("image.npy", "tifffile.imwrite('image.tif', numpy.load('image.npy'))"),
        ("em.mrc", "mrcfile.read('em.mrc')"),
        ("scan.nii.gz", "tifffile.imwrite('scan.tif', nibabel.load('scan.nii.gz')"),
        ("em.h5", "h5py.File('em.h5')"),
        ("em.zarr", "zarr.open('em.zarr')"),
    ],
)
def test_other_formats_are_named_with_the_line_that_converts_them(tmp_path, name, line):
    (tmp_path / name).touch()
    for data in (tmp_path, f"{tmp_path / name},{tmp_path / name}"):
        with pytest.raises(DataError) as error:
            load(str(data), 5)
        assert line in str(error.value)


def test_other_formats_in_folders_and_beside_what_can_be_read(tmp_path):
    image, mask = example()
    for kind in ("images", "masks"):
        (tmp_path / "arrays" / kind).mkdir(parents=True)
        for number in (10, 9, 2):
            (tmp_path / "arrays" / kind / f"{number}.npy").touch()
        (tmp_path / "zarr" / f"{kind}.zarr" / "0").mkdir(parents=True)
    found, _ = check(str(tmp_path / "arrays"), 5)
    assert (
        kinds(found, "error", "warning", "note")
        == ["error 3 files (2.npy, 9.npy, 10.npy) are of a format that is not read (.npy)"] * 2
    )
    found, _ = check(str(tmp_path / "zarr"), 5)
    assert len(found) == 1
    write_pair(tmp_path / "beside", image, mask)
    (tmp_path / "beside" / "original.mrc").touch()
    problems, dataset = serious(tmp_path / "beside")
    assert problems == ["warning original.mrc is not used"]
    assert dataset


# --- Files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["lzw", "zstd", "packbits", "lzma", "jpeg2000"])
def test_compressed_files(tmp_path, compression):
    image, mask = example()
    for kind, stack in (("images", image), ("masks", mask)):
        (tmp_path / kind).mkdir()
        for number, page in enumerate(stack):
            how = (
                {}
                if compression == "jpeg2000" and kind == "masks"
                else {"compression": compression}
            )
            how |= (
                {"compressionargs": {"reversible": True}}
                if compression == "jpeg2000" and how
                else {}
            )
            tifffile.imwrite(tmp_path / kind / f"{number}.tif", page, **how)
    np.testing.assert_array_equal(load(str(tmp_path), 5).test.image, image[-4:])


def test_stacks_with_one_directory_thumbnails_and_pyramids(tmp_path):
    image, mask = example((20, 64, 64))
    write_pair(tmp_path, image, mask)
    file, expected = tmp_path / "image.tif", load(str(tmp_path), 5).fingerprint
    how = {"photometric": "minisblack"}
    tifffile.imwrite(file, image, imagej=True, truncate=True, metadata={"axes": "ZYX"}, **how)
    assert load(str(tmp_path), 5).fingerprint == expected
    with tifffile.TiffWriter(file) as writer:
        writer.write(image[0, ::4, ::4], metadata=None, **how)
        writer.write(image, metadata=None, **how)
    problems, dataset = serious(tmp_path)
    assert problems == ["warning also holds pictures of other sizes (1), which are not used"]
    assert dataset.fingerprint == expected
    with tifffile.TiffWriter(file, ome=True) as writer:
        writer.write(image, subifds=1, metadata={"axes": "ZYX"}, **how)
        writer.write(image[:, ::2, ::2], subfiletype=1, **how)
    assert load(str(tmp_path), 5).fingerprint == expected


def test_pages_saved_in_several_ways_keep_their_order(tmp_path):
    image, mask = example()
    write_pair(tmp_path, image, mask)
    with tifffile.TiffWriter(tmp_path / "image.tif") as writer:
        for number, page in enumerate(image):
            compression = "zlib" if number % 3 else None
            writer.write(page, photometric="minisblack", compression=compression, metadata=None)
    np.testing.assert_array_equal(load(str(tmp_path), 5).test.image, image[-4:])


def test_damaged_metadata_with_sound_pixels_are_a_warning(tmp_path):
    write_pair(tmp_path, *example())
    file = tmp_path / "image.tif"
    with tifffile.TiffFile(file) as tiff:
        place = tiff.pages.first.tags["Software"].offset
    data = bytearray(file.read_bytes())
    data[place + 2 : place + 4] = b"\xee\xee"  # a type that does not exist
    file.write_bytes(data)
    problems, dataset = serious(tmp_path)
    assert problems == ["warning has damaged metadata, but sound pixels"]
    np.testing.assert_array_equal(dataset.test.image, example()[0][-4:])


def test_a_png_with_a_damaged_comment(tmp_path):
    write_slices(tmp_path / "images", example()[0])
    write_slices(tmp_path / "masks", example()[1])
    file = tmp_path / "images" / "slice3.png"
    data, text = file.read_bytes(), b"tEXt" + b"Comment\0torn"
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text) ^ 1)
    file.write_bytes(data[:33] + chunk + data[33:])
    problems, dataset = serious(tmp_path)
    assert problems == ["warning slice3.png has damaged metadata, but sound pixels"]
    np.testing.assert_array_equal(dataset.train.image, example()[0][:10])


def test_jpeg_images_are_read_with_a_note(tmp_path, block):
    image, mask = block
    (tmp_path / "images").mkdir()
    for number, page in enumerate(image):
        Image.fromarray(page).save(tmp_path / "images" / f"slice{number}.jpg", quality=95)
    write_slices(tmp_path / "masks", mask)
    found, dataset = check(str(tmp_path), 5)
    assert not kinds(found, "error", "warning")
    assert "24 files (slice0.jpg, slice1.jpg, slice2.jpg, …) were saved as JPEG" in str(found[0])
    close = np.abs(dataset.train.image.astype(int) - image[: len(dataset.train)])
    assert close.mean() < 3


def test_palettes_of_grey_and_of_indices(tmp_path):
    image, mask = example()
    for kind, stack, colours in (("images", image, None), ("masks", mask, [0, 0, 0, 255, 0, 0])):
        (tmp_path / kind).mkdir()
        for number, page in enumerate(stack):
            picture = Image.fromarray(page if colours else 255 - page).convert("P")
            picture.putdata((page if colours else 255 - page).ravel().tolist())
            picture.putpalette(colours or [grey for k in range(256) for grey in [255 - k] * 3])
            picture.save(tmp_path / kind / f"{number}.png")
    dataset = load(str(tmp_path), 5)
    np.testing.assert_array_equal(dataset.test.image, image[-4:])
    np.testing.assert_array_equal(dataset.test.mask, mask[-4:])


def test_one_multi_page_file_in_each_folder(tmp_path):
    image, mask = example()
    write_tiff(tmp_path / "images" / "stack.tif", image)
    write_tiff(tmp_path / "masks" / "labels.tif", mask)
    np.testing.assert_array_equal(load(str(tmp_path), 5).test.image, image[-4:])


def test_16_bit_volumes_take_less_than_three_times_their_size(tmp_path):
    image = np.random.default_rng(0).integers(1000, 5000, (60, 512, 512), dtype=np.uint16)
    mask = np.zeros(image.shape, np.uint8)
    mask[:, 2:-2:3, 3:-3] = 1
    folders = (write_pair(tmp_path / "file", image, mask), tmp_path / "slices")
    write_slices(folders[1] / "images", image, ".tif")
    write_slices(folders[1] / "masks", mask)
    load(folders[0], 5)  # what is imported and cached on first use does not count
    for folder in folders:
        tracemalloc.start()
        load(str(folder), 5)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 3 * image.nbytes


# --- Masks ------------------------------------------------------------------------------------


def put(folder, image, mask):
    """Write a pair, and return what is serious about it."""
    return serious(write_pair(folder, image, mask))


def test_1_bit_and_8_bit_masks_together(tmp_path, block):
    image, mask = block
    write_slices(tmp_path / "images", image)
    write_slices(tmp_path / "masks", mask)
    for number in range(0, 24, 5):
        Image.fromarray(mask[number] > 0).save(tmp_path / "masks" / f"slice{number}.png")
    problems, dataset = serious(tmp_path)
    assert not problems
    np.testing.assert_array_equal(dataset.train.mask, mask[: len(dataset.train)] > 0)
    save = skimage.io.imsave
    save(tmp_path / "masks" / "slice1.png", mask[1] // 255, check_contrast=False)
    assert not serious(tmp_path)[0]
    assert serious(tmp_path)[1].fingerprint == dataset.fingerprint


def test_few_grey_pixels_are_rounded_and_counted(tmp_path, block):
    image, mask = block
    grey = mask.copy()
    rim = (mask > 0) & ~ndimage.binary_erosion(mask, np.ones((1, 3, 3)))
    places = np.flatnonzero(rim)[::100]
    grey.flat[places[::2]], grey.flat[places[1::2]] = 100, 200
    problems, dataset = put(tmp_path, image, grey)
    assert problems == [
        f"warning holds {len(places)} grey pixels between 0 and 255, which were rounded"
    ]
    expected = grey[: len(dataset.train)] > 127.5
    np.testing.assert_array_equal(dataset.train.mask, expected)


@pytest.mark.parametrize("quality", [75, 90, 97])
def test_masks_that_were_once_jpeg_are_refused(tmp_path, block, quality):
    image, mask = block

    def again(page):
        content = io.BytesIO()
        Image.fromarray(page).save(content, "JPEG", quality=quality)
        return np.asarray(Image.open(content))

    problems, _ = put(tmp_path, image, np.stack([again(page) for page in mask]))
    assert len(problems) == 1
    assert problems[0].startswith("error has soft edges")
    # The remedy that is named makes them usable.
    soft = load(f"{tmp_path}:mask=128-255", 5)
    assert (soft.test.mask != (mask[-len(soft.test) :] > 0)).mean() < 0.01


@pytest.mark.parametrize("ignored", [255, -1])
def test_values_that_look_like_ignore_are_background_with_a_warning(tmp_path, block, ignored):
    image, mask = block
    ring = ndimage.binary_dilation(mask, iterations=2) & (mask == 0)
    marked = np.where(ring, ignored, mask > 0).astype(np.int16 if ignored < 0 else np.uint8)
    problems, dataset = put(tmp_path, image, marked)
    assert len(problems) == 1
    assert ("looks like 'ignore'" if ignored > 0 else "values below 0") in problems[0]
    np.testing.assert_array_equal(dataset.train.mask, mask[: len(dataset.train)] > 0)
    assert dataset.train.labels is dataset.train.mask
    objects = np.where(marked == 1, ndimage.label(mask)[0].clip(0, 90), marked)
    problems, numbered = put(
        tmp_path.with_name(f"numbered{ignored}"), image, objects.astype(marked.dtype)
    )
    assert len(problems) == 1
    assert numbered.fingerprint == dataset.fingerprint
    problems, left_out = serious(f"{tmp_path}:ignore={ignored}")
    assert not problems
    assert left_out.fingerprint != dataset.fingerprint
    part = left_out.train.cut("1:3,10:90,20:80")
    where = ring[1:3, 10:90, 20:80]
    np.testing.assert_array_equal(part.labels == IGNORED, where)
    assert not part.mask[where].any()
    if ignored > 0:
        both = load(f"{tmp_path}:mask=1-255", 5).train.mask
        np.testing.assert_array_equal(both, (marked > 0)[: len(both)])


def test_slices_that_are_ignored_are_no_gap(tmp_path, block):
    image, mask = block
    marked = np.where(np.arange(24) % 4 > 0, 2, 0)[:, None, None] + (mask > 0)
    marked = np.where(marked > 1, 2, marked).astype(np.uint8)
    write_pair(tmp_path, image, marked)
    assert not serious(f"{tmp_path}:ignore=2")[0]
    problems, _ = serious(f"{tmp_path}:ignore=7")
    assert "warning is nowhere 7, to be ignored" in problems


def test_classes_are_told_from_objects_and_can_be_chosen(tmp_path, block):
    image, mask = block
    objects, count = ndimage.label(mask)
    problems, _ = put(tmp_path / "objects", image, objects.astype(np.uint8))
    assert not problems
    classes = np.where(objects > 0, 1 + objects % 2, 0).astype(np.uint8)
    problems, _ = put(tmp_path / "classes", image, classes)
    assert count > 10
    assert "holds 2 values above 0 (1, 2), each in many places, like classes" in problems[0]
    chosen = load(f"{tmp_path / 'classes'}:mask=2", 5)
    np.testing.assert_array_equal(chosen.train.mask, classes[: len(chosen.train)] == 2)
    for wrong in (":mask=2,x", ":ignore=1-", ":nm_per_slice=thin", ":nm_per_slice=0"):
        with pytest.raises(DataError, match=rf"^{wrong} must be (in numbers|above 0)"):
            load(f"{tmp_path / 'classes'}{wrong}", 5)


def test_numbers_that_end_at_255_may_have_been_cut(tmp_path):
    image, mask = example((20, 64, 64))
    mask[:] = 0
    grid = np.arange(1, 257).reshape(16, 16).clip(0, 255).repeat(4, 0).repeat(4, 1)
    mask[:, :, :] = np.where(np.indices((64, 64)).max(axis=0) % 4 > 0, grid, 0)
    problems, _ = put(tmp_path, image, mask)
    assert "up to the highest that 8 bit hold" in " ".join(problems)
    problems, _ = put(tmp_path, image, np.where(mask < 180, 0, mask))  # as in a part of a volume
    assert "up to the highest that 8 bit hold" in " ".join(problems)


def test_signed_bytes(tmp_path, block):
    image, mask = block
    expected = load(write_pair(tmp_path / "unsigned", image, mask), 5).fingerprint
    problems, dataset = put(tmp_path / "signed", image.view(np.int8), mask.view(np.int8))
    assert problems == ["warning holds signed bytes, which were read as 0 to 255"] * 2
    assert dataset.fingerprint == expected


def test_more_than_half_foreground_is_a_warning(tmp_path, block):
    image, mask = block
    problems, dataset = put(tmp_path, image, 255 - mask)
    assert "of all pixels, as if inverted" in problems[0]
    assert dataset


def test_slices_and_quadrants_that_were_not_annotated(tmp_path, block):
    image, mask = block
    some = mask * 0
    some[::4] = mask[::4]
    problems, _ = put(tmp_path / "slices", image, some)
    assert "18 slices (1, 2, 3, …) mark nothing" in " ".join(problems)
    some = mask.copy()
    some[:7] = 0
    problems, _ = put(tmp_path / "end", image, some)
    assert "7 slices (0, 1, 2, …) mark nothing" in " ".join(problems)
    quarter = mask * 0
    quarter[:, :96, :128] = np.kron(np.eye(2, dtype=np.uint8)[::-1], np.ones((8, 8))).astype(
        np.uint8
    )[np.indices((96, 128))[0] % 16, np.indices((96, 128))[1] % 16]
    problems, _ = put(tmp_path / "quarter", image, quarter)
    assert "marks objects in the rows" in " ".join(problems)


# --- Images -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("padding", [0, 60000])
def test_padding_does_not_eat_the_contrast(tmp_path, block, dtype, padding):
    image, mask = block
    wide = image.astype(dtype) * 12 + 30000
    wide[:, :6] = padding
    problems, dataset = put(tmp_path, wide, mask)
    assert problems == [f"warning holds padding ({padding:g}), apart from all else"]
    expected, inner = image[: len(dataset.train), 6:], dataset.train.image[:, 6:]
    assert np.corrcoef(expected.ravel(), inner.ravel())[0, 1] > 0.99
    assert inner.std() > 30
    assert (dataset.train.image[:, :6] == (255 if padding else 0)).all()
    wide[:, -6:] = 60000 - padding
    problems, dataset = put(tmp_path, wide, mask)
    assert problems == ["warning holds padding (0, 60000), apart from all else"]
    assert dataset.train.image[:, 6:-6].std() > 30


def test_lost_and_repeated_slices_are_warnings(tmp_path, block):
    image, mask = (stack.copy() for stack in block)
    image[[5, 6]], mask[[5, 6]] = 0, 0
    image[6] = np.random.default_rng(0).integers(0, 3, image[6].shape)
    image[12] = image[11]
    problems, dataset = put(tmp_path, image, mask)
    assert problems == [
        "warning 2 slices (5, 6) are blank",
        "warning slice 12 is the same picture as an earlier one",
    ]
    assert dataset


def test_images_that_are_no_stack(tmp_path):
    single = [phantom.make(seed, (4, 128, 128)) for seed in range(8)]
    image, mask = (np.stack([pair[k][2] for pair in single]) for k in (0, 1))
    found, _ = check(write_pair(tmp_path / "same", image, mask), 5)
    assert "resemble each other little" in str(kinds(found, "note"))
    for kind, stack in (("images", image), ("masks", mask)):
        (tmp_path / "sizes" / kind).mkdir(parents=True)
        for number, page in enumerate(stack):
            file = tmp_path / "sizes" / kind / f"{number}.png"
            skimage.io.imsave(file, page[: 128 - number], check_contrast=False)
    problems, _ = serious(tmp_path / "sizes")
    assert "error holds 8 pictures of 8 sizes or types, and is no stack" in problems


@pytest.mark.parametrize(("count", "usable"), [(1, False), (3, False), (5, False), (6, True)])
def test_the_least_number_of_slices_is_told(tmp_path, count, usable):
    problems, dataset = put(tmp_path, *(stack[:count] for stack in example()))
    assert bool(dataset) == usable
    if not usable:
        assert any(f"error holds {count} slice" in problem for problem in problems)


def test_a_mosaic_is_split_from_left_to_right(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (2, 64, 3900), np.uint8)
    mask = (image > 200).astype(np.uint8)
    problems, dataset = put(tmp_path, image, mask)
    assert not problems
    strips = np.stack(np.split(image[:, :, :3900], 12, axis=2)).reshape(24, 64, 325)
    np.testing.assert_array_equal(dataset.train.image, strips[: len(dataset.train)])
    np.testing.assert_array_equal(dataset.test.image, strips[-len(dataset.test) :])
    parts = (dataset.train, dataset.validation, dataset.test)
    for before, after in pairwise(parts):  # no strip has neighbours in two parts
        assert after.first // 2 - (before.first + len(before) - 1) // 2 > 1


# --- Comparisons ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turn", "named"),
    [
        (lambda mask: mask[:, :, ::-1], "mirrored from left to right"),
        (lambda mask: mask[:, ::-1], "mirrored from top to bottom"),
        (lambda mask: mask[:, ::-1, ::-1], "turned by 180°"),
        (lambda mask: mask[::-1], "put in reverse order of z"),
        (lambda mask: np.roll(mask, 4, axis=0), "moved by 4 in z, to lower"),
    ],
)
def test_masks_that_fit_better_elsewhere(tmp_path, block, turn, named):
    image, mask = block
    problems, dataset = put(tmp_path, image, np.ascontiguousarray(turn(mask)))
    assert [f"warning fits the edges in the images better when it is {named}"] == problems
    assert dataset


def test_slices_that_resemble_those_beside_them_are_not_called_moved(tmp_path, epfl_folder):
    pages = [
        tifffile.imread(epfl_folder / f"training{kind}.tif", key=range(60, 90))[:, 100:420, 200:600]
        for kind in ("", "_groundtruth")
    ]
    image = pages[0].astype(np.float32) + 1000
    image[:, :, -40:] = 0  # a strong edge, which no mask follows
    assert [problem[:21] for problem in put(tmp_path, image, pages[1])[0]] == [
        "warning holds padding"
    ]


def test_objects_in_two_slices_or_in_one_row_alone(tmp_path, block):
    image = block[0]
    few, row = np.zeros((2, *image.shape), np.uint8)
    few[:2, 30:60, 30:60] = row[:, 31, 30:200] = 1
    problems, _ = put(tmp_path / "few", image, few)
    assert "holds no object" in problems[-1]
    assert put(tmp_path / "row", image, row)[1]


def test_a_square_mask_that_is_turned(tmp_path):
    image, mask = phantom.make(2, (16, 192, 192))
    assert not put(tmp_path / "good", image, mask)[0]
    for name, turned in {
        "with rows and columns exchanged": mask.transpose(0, 2, 1),
        "turned by 90° to the right": np.rot90(mask, 1, axes=(1, 2)),
    }.items():
        problems, _ = put(tmp_path / name, image, np.ascontiguousarray(turned))
        assert [f"warning fits the edges in the images better when it is {name}"] == problems


def test_test_slices_between_training_slices(tmp_path, block):
    image, mask = block
    chosen = np.arange(24) % 5 == 2
    write_pair(tmp_path / "train", image[~chosen], mask[~chosen])
    write_pair(tmp_path / "test", image[chosen], mask[chosen])
    problems, _ = serious(tmp_path)
    assert any("lie beside training slices" in problem for problem in problems)
    write_pair(tmp_path / "train", image[:16], mask[:16])
    write_pair(tmp_path / "test", image[18:], mask[18:])
    assert not serious(tmp_path)[0]


def test_parts_of_different_grey_ranges(tmp_path, block):
    image, mask = block
    write_pair(tmp_path / "train", image[:12], mask[:12])
    write_pair(tmp_path / "test", image[14:] // 4, mask[14:])
    problems, _ = serious(tmp_path)
    assert any("has greys from" in problem for problem in problems)
    write_pair(tmp_path / "test", 255 - image[14:], mask[14:])
    problems, _ = serious(tmp_path)
    assert sum("objects and background exchanged in grey" in problem for problem in problems) == 1


def test_the_pixel_size_in_the_file(tmp_path):
    image, mask = example()
    write_pair(tmp_path, image, mask)
    how = {"photometric": "minisblack", "imagej": True, "resolution": (125, 125)}
    tifffile.imwrite(tmp_path / "image.tif", image, metadata={"axes": "ZYX", "unit": "um"}, **how)
    assert not serious(tmp_path, 8)[0]
    problems, _ = serious(tmp_path, 80)
    assert problems == ["warning says that a pixel is 8 nm wide, not 80"]
    with pytest.raises(DataError, match=r"give --nm-per-pixel 8, as image.tif says, if that is"):
        load(str(tmp_path))
    sizes = {"axes": "ZYX", "PhysicalSizeX": 8.0, "PhysicalSizeXUnit": "nm"}
    sizes |= {"PhysicalSizeZ": 0.05, "PhysicalSizeZUnit": "µm"}
    tifffile.imwrite(
        tmp_path / "image.tif", image, ome=True, metadata=sizes, photometric="minisblack"
    )
    assert len(serious(tmp_path, 5)[0]) == 1
    found, dataset = check(str(tmp_path), 8)
    assert "note has slices 50 nm apart, 6.2 times the width of a pixel" in kinds(found, "note")
    assert dataset.nm_per_slice == 50
    cubes = check(f"{tmp_path}:nm_per_slice=8", 8)[1]
    assert cubes.train.fingerprint == dataset.train.fingerprint
    assert cubes.fingerprint != dataset.fingerprint
    problems, dataset = serious(f"{tmp_path}:nm_per_slice=30", 8)
    assert problems == ["warning says that slices are 50 nm apart, not 30"]
    assert dataset.nm_per_slice == 30
    centimetres = {"resolution": (1.25e6, 1.25e6), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "image.tif", image, photometric="minisblack", **centimetres)
    assert len(serious(tmp_path, 5)[0]) == 1
    printing = {"resolution": (300, 300), "resolutionunit": "INCH"}
    tifffile.imwrite(tmp_path / "image.tif", image, photometric="minisblack", **printing)
    assert not serious(tmp_path, 5)[0]


def test_one_cause_is_one_finding_with_a_count(tmp_path):
    image, mask = example()
    write_slices(tmp_path / "images", image)
    write_slices(tmp_path / "masks", mask)
    for number in range(4, 11):
        Path(tmp_path / "images" / f"slice{number}.png").write_bytes(b"no picture")
    found, _ = check(str(tmp_path), 5)
    (error,) = (it for it in found if it.severity == "error" and "cannot" in it.what)
    assert error.sentence == (
        "7 files (slice4.png, slice5.png, slice6.png, …) cannot be read as a picture: it is a text "
        "file"
    )
