"""One's own data: what is accepted and how it is understood, and everything that is refused."""

import string
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.io
import tifffile
from scipy import ndimage
from test_volumes import SHAPE, example, write_pair, write_slices, write_tiff
from typer.testing import CliRunner

from synthseg.command import cli
from synthseg.stacks import decode, phantom
from synthseg.stacks.check import check_image, check_mask, read_mask
from synthseg.stacks.compare import check_pair
from synthseg.stacks.findings import Stack, gather
from synthseg.volumes import DataError, Dataset, Finding, check, load


def rejoined(dataset: Dataset) -> np.ndarray:
    return np.concatenate([dataset.train.image, dataset.validation.image, dataset.test.image])


def save(file, page):
    skimage.io.imsave(file, page, check_contrast=False)


def errors(source):
    return [finding for finding in check(str(source), 5)[0] if finding.severity == "error"]


@pytest.fixture(scope="module")
def block():
    """A small simulated volume: continuous in z, images and masks on each other."""
    image, mask = phantom.make(0, (12, 192, 256))
    return SimpleNamespace(image=image, mask=mask)


# --- What is accepted -------------------------------------------------------------------------


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
    other, _ = example(seed=1)
    write_slices(tmp_path / "test" / "images", other)
    write_slices(tmp_path / "test" / "masks", mask)
    dataset = load(str(tmp_path), nm_per_pixel=8)
    np.testing.assert_array_equal(dataset.test.image, other)
    assert (len(dataset.train), len(dataset.validation)) == (14, 4)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff"])
def test_a_pair_of_folders_in_natural_order(tmp_path, suffix):
    image, mask = example()
    write_slices(tmp_path / "em", image, suffix)
    write_slices(tmp_path / "labels", mask, suffix)
    (tmp_path / "em" / "Thumbs.db").write_bytes(b"what Windows leaves behind")
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
    ],
    ids=["0/1", "0/255", "bool", "instances", "float"],
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


def test_how_files_were_understood_is_in_the_provenance(tmp_path):
    image, mask = example()
    objects = mask * np.arange(1, 21, dtype=np.uint8)[:, None, None]
    objects[3] = 0
    write_pair(tmp_path, image.astype(np.uint16) * 100, objects)
    found, dataset = check(str(tmp_path), 5)
    assert {finding.severity for finding in found} == {"note"}
    for fact in (
        "image.tif is uint16 from 100 to 25400 and was scaled to 8 bit, with 100 and below as 0",
        "mask.tif holds 19 values above 0 (1, 2, 3, 5, …), taken as numbers of single objects",
        "mask.tif: slice 3 marks nothing; check that there are no objects",
    ):
        assert fact in dataset.provenance
    assert load(str(tmp_path), 5).provenance == dataset.provenance


def test_names_with_spaces_and_letters_of_any_alphabet(tmp_path):
    image, mask = example()
    folder = tmp_path / "Gewebe, Mäuse [3] ミトコンドリア"
    for kind, stack, accent in (("images", image, "e\u0301"), ("masks", mask, "\u00e9")):
        (folder / kind).mkdir(parents=True)
        for number, page in enumerate(stack):  # the same name, composed in two ways
            save(folder / kind / f"coupe numérot{accent}e {number}.png", page)
    dataset = load(str(folder), 5)
    assert dataset.name == folder.name
    np.testing.assert_array_equal(dataset.train.image, image[: len(dataset.train)])
    (folder / "masks" / "coupe numérot\u00e9e 7.png").write_bytes(b"")
    assert call(folder).exit_code == 2
    assert "Mäuse [3] ミトコンドリア" in call(folder).output


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """Where pictures go."""
    monkeypatch.setenv("SYNTHSEG_ROOT", str(tmp_path))


def call(folder, *more):
    command = ["data", "check", str(folder), "--nm-per-pixel", "5", *more]
    result = CliRunner().invoke(cli.app, command, env={"COLUMNS": "400", "NO_COLOR": "1"})
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result


# --- What is refused: each case spoils one thing in a folder of good slices --------------------


def png_that_claims(side):
    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    return decode.PNG_HEAD + b"".join(chunk(*part) for part in parts)


def replace(name, content):
    """Put other pixels, or other bytes, in the place of a slice."""

    def spoil(folder):
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            save(folder / name, content)

    return spoil


def cut_short(folder):
    file = folder / "images" / "slice8.png"
    file.write_bytes(file.read_bytes()[:-60])


def rename_all_masks(folder):
    for letter, file in zip(
        string.ascii_letters, sorted((folder / "masks").iterdir()), strict=False
    ):
        file.rename(file.with_name(f"{letter}.png"))


def shrink_all_masks(folder):
    for file in (folder / "masks").iterdir():
        save(file, example((1, 12, 15))[1][0])


def put_pages_in_one_file(folder):
    (folder / "images" / "slice7.png").unlink()
    write_tiff(folder / "images" / "slice7.tif", example()[0])


def add_a_second_file_of_a_name(folder):
    for kind, stack in zip(("images", "masks"), example(), strict=True):
        write_tiff(folder / kind / "slice1.tif", stack[1])


def remove_all_images(folder):
    for file in (folder / "images").iterdir():
        file.unlink()


COLOUR = example()[0][4][..., None] * np.array([1, 0, 0], np.uint8)
SMALL = replace("masks/slice2.png", np.ones((5, 5), np.uint8))
COLOURED = replace("images/slice4.png", COLOUR)
TEXT = replace("images/slice6.png", b"no picture")
NOTES = replace("images/notes.txt", b"slice 7 is torn")

SPOILED = [
    (SMALL, r"masks: slice2.png is mask of 5 x 5 px, but 19 of 20 slices .* export all slices"),
    (shrink_all_masks, r"images holds 20 slices of 12 x 16 px, but .*masks holds 20 .* 12 x 15"),
    (
        replace("images/slice0.png", np.full(SHAPE[1:], 9, np.uint16)),
        r"images: slice0.png is uint16 .* 19 of 20 .*uint8 .* export all slices alike",
    ),
    (COLOURED, r"images: slice4.png is in colour; convert it to grey"),
    (
        lambda folder: (folder / "masks" / "slice19.png").unlink(),
        r"images: slice19.png has no mask; add the mask, or move this elsewhere",
    ),
    (rename_all_masks, r"masks holds no file whose name or number is that of an image"),
    (add_a_second_file_of_a_name, r"images: slice1.(png|tif) has no mask"),
    (TEXT, r"images: slice6.png cannot be read as a picture: it is a text file; export it again"),
    (replace("masks/slice6.png", b""), r"masks: slice6.png cannot be read as a picture: it is emp"),
    (
        replace("images/slice6.png", b"\xff\xd8\xff\xe0" + bytes(100)),
        r"images: slice6.png cannot be read .*damaged; export it again",
    ),
    (cut_short, r"images: slice8.png cannot be read .*cut short or damaged.*; export it again"),
    (put_pages_in_one_file, r"images: slice7.tif holds 20 pages.* give the multi-page file alone"),
    (remove_all_images, r"images holds no PNG, JPEG or TIFF files; export the slices as"),
    (
        lambda folder: write_tiff(folder / "image.tif", example()[0]),
        r"holds image.tif, images/, masks/: which are image and mask is not plain; name the two",
    ),
    (
        replace("masks/slice9.png", 1 - example()[1][9]),
        r"masks: slice9.png is inverted compared with slices beside; exchange",
    ),
    (
        replace("images/slice3.png", png_that_claims(100_000)),
        r"images: slice3.png claims 9.3 GiB of pixels, more than the 4 GiB .*; cut",
    ),
    (
        replace("images/slice3.png", png_that_claims(20_000)),
        r"images: slice3.png claims 400,000,000 bytes .*damaged; export it",
    ),
]


@pytest.fixture
def folder(tmp_path):
    """A folder of good slices."""
    image, mask = example()
    write_slices(tmp_path / "images", image)
    write_slices(tmp_path / "masks", mask)
    return tmp_path


@pytest.mark.parametrize(("spoil", "message"), SPOILED)
def test_spoiled_folders_are_named(folder, spoil, message):
    spoil(folder)
    with pytest.raises(DataError, match=message):
        load(str(folder), nm_per_pixel=5)


def test_all_problems_are_listed_at_once(folder):
    for spoil in (SMALL, COLOURED, TEXT, NOTES, cut_short):
        spoil(folder)
    named = {name for finding in errors(folder) for name in finding.slices}
    assert named == {f"slice{number}.png" for number in (2, 4, 6, 8)}
    with pytest.raises(DataError, match=r"And 3 more: `synthseg data check` lists all"):
        load(str(folder), nm_per_pixel=5)
    result = call(folder)
    assert result.exit_code == 2
    assert "cannot be used" in result.output
    assert all(name in result.output for name in (*named, "notes.txt"))


def test_other_files_are_a_warning(folder):
    NOTES(folder)
    (folder / "images" / "again").mkdir()
    with pytest.warns(UserWarning, match=r"2 files \(again, notes.txt\) are not used"):
        load(str(folder), 5)


NOT_FINITE = np.ones(SHAPE, np.float32)
NOT_FINITE[11:14, 0, 0] = np.nan
NOT_FINITE[16, 0, 0] = np.inf
HARDLY_ANY = np.ones(SHAPE, np.uint16)
HARDLY_ANY[0, 0, :2] = 0, 2
SOFT = np.stack(
    [ndimage.gaussian_filter(255.0 * page, 1).astype(np.uint8) for page in example()[1]]
)


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (example()[1], None, r"image.tif holds no more than two grey values .* mask second"),
        (example()[1] > 0, None, r"image.tif holds no more than two grey values"),
        (NOT_FINITE, None, r"image.tif holds NaN or infinite values; replace them"),
        (HARDLY_ANY, None, r"image.tif is 1 almost everywhere; check"),
        (example((20, 12, 15))[0], None, r"image.tif holds 20 .* 12 x 15 .*mask.tif .* 12 x 16"),
        (example((19, 12, 16))[0], None, r"image.tif holds 19 slices .*mask.tif holds 20 slices"),
        (None, np.zeros(SHAPE, np.uint8), r"mask.tif marks no pixel .* masks are 0 for background"),
        (None, np.ones(SHAPE, np.uint8), r"mask.tif marks every pixel .* masks are 0 for backgro"),
        (None, np.full(SHAPE, 0.3), r"mask.tif holds fractions; .* probabilities, say which count"),
        (
            None,
            SOFT,
            r"mask.tif has soft edges: \d+ values up to \d+, .* say which values count",
        ),
        (example()[0][:5], example()[1][:5], r"holds 5 slices, but at least 6 are needed"),
    ],
)
def test_unusable_stacks_are_named(tmp_path, image, mask, message):
    good_image, good_mask = example()
    image = good_image if image is None else image
    mask = good_mask if mask is None else mask
    with pytest.raises(DataError, match=message):
        load(write_pair(tmp_path, image, mask), nm_per_pixel=5)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"contiguous": False}], ids=str)
def test_a_truncated_tiff_is_named(tmp_path, options):
    folder = write_pair(tmp_path, *example())
    with tifffile.TiffWriter(tmp_path / "mask.tif") as writer:
        for page in example()[1]:
            writer.write(page, photometric="minisblack", **options)
    whole = (tmp_path / "mask.tif").read_bytes()
    for length in (0, 3, 8, 100, len(whole) // 2, len(whole) - 100):
        (tmp_path / "mask.tif").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"mask.tif (cannot be|is damaged|holds no pict|lacks)"):
            load(folder, nm_per_pixel=5)


def test_a_tiff_with_channels_is_named(tmp_path):
    image, mask = example()
    write_pair(tmp_path, image, mask)
    both = np.stack([image, image], axis=1)
    tifffile.imwrite(tmp_path / "image.tif", both, imagej=True, metadata={"axes": "ZCYX"})
    with pytest.raises(DataError, match=r"image.tif has the axes ZCYX.* export one channel"):
        load(str(tmp_path), nm_per_pixel=5)


@pytest.mark.parametrize(
    ("side", "message"),
    [(30_000, "claims 16.8 GiB of pixels, more than the 4 GiB"), (9_000, "its header is damaged")],
)
def test_a_tiff_that_claims_a_gigantic_picture_is_not_read(tmp_path, side, message):
    write_pair(tmp_path, *example())
    data = bytearray((tmp_path / "image.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "image.tif") as tiff:
        tags = [page.tags[name] for page in tiff.pages for name in ("ImageWidth", "ImageLength")]
    for tag in tags:
        data[tag.valueoffset : tag.valueoffset + 2] = struct.pack("<H", side)
    (tmp_path / "image.tif").write_bytes(data)
    with pytest.raises(DataError, match=f"image.tif .*{message}"):
        load(str(tmp_path), nm_per_pixel=5)


def test_coloured_and_inverted_tiff_palettes(tmp_path):
    image, mask = example()
    write_pair(tmp_path, image, mask)
    table = np.zeros((3, 256), np.uint16)
    table[0] = np.arange(256) * 256
    tifffile.imwrite(tmp_path / "image.tif", image, photometric="palette", colormap=table)
    assert "image.tif has a table of colours; convert" in str(errors(tmp_path)[0])
    tifffile.imwrite(tmp_path / "image.tif", image, photometric="miniswhite")
    found, dataset = check(str(tmp_path), 5)
    assert [finding.severity for finding in found] == ["warning", "note"]
    assert "says that 0 is white" in dataset.provenance


def test_missing_numbers_are_a_warning(tmp_path):
    image, mask = example()
    for kind, stack in (("images", image), ("masks", mask)):
        write_slices(tmp_path / kind, stack)
        (tmp_path / kind / "slice7.png").unlink()
    found, dataset = check(str(tmp_path), 5)
    assert [str(finding) for finding in found if finding.severity == "warning"] == [
        f"{tmp_path}/images: slice8.png follows a gap in the numbers; add what is missing, image "
        "and mask, or use a part without a gap."
    ]
    assert dataset


def test_the_pixel_size_of_own_data_must_be_given(tmp_path):
    folder = write_pair(tmp_path, *example())
    with pytest.raises(DataError, match=r"without the size of its pixels; .*--nm-per-pixel 5"):
        load(folder)
    with pytest.raises(DataError, match="nm_per_pixel=-1"):
        load(folder, nm_per_pixel=-1)
    with pytest.warns(UserWarning, match=r"pixels of 0.005 nm, .* unusual; give nanometres"):
        load(folder, nm_per_pixel=0.005)


def test_training_slices_among_the_test_slices(tmp_path):
    image, mask = example()
    write_pair(tmp_path / "train", image, mask)
    write_pair(tmp_path / "test", image, mask)
    with pytest.raises(DataError, match=r"test/image.tif: 20 slices .* are a training image, too"):
        load(str(tmp_path), nm_per_pixel=5)
    other = example(seed=1)[0]
    other[4] = image[2]
    write_pair(tmp_path / "test", other, mask)
    (only,) = errors(tmp_path)
    assert only.slices == (4,)
    assert only.what == f"is a training image, too ({tmp_path}/train/image.tif)"


def test_images_beside_train_and_test_are_not_used_silently(tmp_path):
    write_pair(tmp_path / "train", *example())
    write_pair(tmp_path / "test", *example(seed=1))
    write_pair(tmp_path, *example(seed=2))
    with pytest.warns(UserWarning, match=r"2 files \(image.tif, mask.tif\) are not used"):
        load(str(tmp_path), nm_per_pixel=5)


def test_a_window_larger_than_the_slice(tmp_path):
    folder = write_pair(tmp_path, *example())
    assert call(folder, "--crop", "12").exit_code == 0
    result = call(folder, "--crop", "13")
    assert result.exit_code == 2
    assert "has slices of 12 x 16 px, smaller than the window of crop=13" in result.output
    assert "→ give --set crop=12 or less" in result.output


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nowhere", "nowhere does not exist; check the name; data can be phantom, epfl"),
        ("image.tif,nowhere.tif", "nowhere.tif does not exist"),
        ("a,b,c", "a,b,c does not exist"),
        ("image.tif", "image.tif is one file, but a mask is needed too; name both: IMAGE,MASK"),
    ],
)
def test_wrong_names_of_data(tmp_path, monkeypatch, data, message):
    monkeypatch.chdir(tmp_path)
    write_tiff(Path("image.tif"), example()[0])
    with pytest.raises(DataError, match=message):
        load(data, nm_per_pixel=5)
    assert call(data).exit_code == 2


# --- What only a comparison shows -------------------------------------------------------------


def test_nothing_is_found_in_a_good_stack(block):
    image, mask = Stack.of(block.image, "em"), Stack.of(block.mask, "em")
    assert not [*check_image(image), *check_mask(mask), *check_pair(image, mask)]


@pytest.mark.parametrize(
    ("order", "named"),
    [
        ([0, 1, 2, 4, 3, 5, 6, 7, 8, 9, 10, 11], {3, 4}),
        ([0, 1, 3, 4, 5, 6, 7, 2, 8, 9, 10, 11], {7}),
        (sorted(range(12), key=str), range(12)),
    ],
    ids=["two exchanged", "one moved", "in order of letters"],
)
def test_slices_out_of_order_are_a_warning(block, order, named):
    (finding,) = check_image(Stack.of(block.image[order], "em"))
    assert finding.severity == "warning"
    assert "looks more like slices elsewhere" in finding.what
    assert set(finding.slices) & set(named)
    assert not list(check_image(Stack.of(block.image[::-1], "em"))), "upside down is in order, too"


@pytest.mark.parametrize("degree", [1, 2])
def test_shading_that_alternates_says_nothing_of_the_order(block, degree):
    """Every other section is brighter on the other side: each resembles the next but one."""
    slope = 100 * np.linspace(-0.7, 0.7, 256) ** degree * (-1) ** np.arange(12)[:, None, None]
    shaded = (block.image + slope).clip(0, 255).astype(np.uint8)
    assert not list(check_image(Stack.of(shaded, "em")))
    (finding,) = check_image(Stack.of(shaded[[0, 1, 3, 4, 5, 6, 7, 2, 8, 9, 10, 11]], "em"))
    assert 7 in finding.slices


def test_a_torn_slice_is_not_called_misplaced(block):
    image = block.image.copy()
    image[5] = np.random.default_rng(0).integers(0, 255, image[5].shape)
    assert not list(check_image(Stack.of(image, "em")))
    image[5] = 0
    (finding,) = check_image(Stack.of(image, "em"))
    assert (finding.severity, finding.slices) == ("warning", (5,))
    assert "is blank" in finding.what


@pytest.mark.parametrize("shift", [(0, 12), (-12, 5)])
def test_a_shifted_mask_is_a_warning_that_says_how_far(block, shift):
    moved = np.roll(block.mask, shift, axis=(1, 2))
    (finding,) = check_pair(Stack.of(block.image, "em"), Stack.of(moved, "masks"))
    assert (finding.severity, finding.file) == ("warning", "masks")
    assert ("12 px left" if shift[1] == 12 else "12 px down and 5 px left") in finding.what


def test_labels_that_touch_are_labels_and_thin_borders_are_soft_edges():
    labels = np.zeros((3, 40, 40), np.uint8)
    labels[:, 5:20, 5:20], labels[:, 20:30, 5:20], labels[:, 8:12, 30:33] = 1, 2, 7
    marked, (note,) = read_mask(Stack.of(labels, "em"))
    assert note.severity == "note"
    assert "3 values above 0 (1, 2, 7)" in note.what
    np.testing.assert_array_equal(marked, labels > 0)
    ring = ndimage.binary_dilation(labels == 1) & (labels == 0)
    soft = np.where(ring, 128, 255 * (labels == 1)).astype(np.uint8)
    _, (error,) = read_mask(Stack.of(soft, "em"))
    assert "soft edges: 3 values up to 255" in error.what


def test_the_page_shows_what_is_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels, marked = phantom.make(3, (24, 192, 256))
    for folder in (Path("my_folder"), Path("spoiled")):
        for kind, stack in (("images", pixels), ("masks", marked * 255)):
            (folder / kind).mkdir(parents=True)
            for number, page in enumerate(stack, start=1):
                save(folder / kind / f"slice_{number}.png", page)
    colours = np.stack([pixels[3], pixels[3] // 2, pixels[3]], axis=-1)
    save(folder / "images" / "slice_4.png", colours)
    file = folder / "images" / "slice_9.png"
    file.write_bytes(file.read_bytes()[:9000])
    (folder / "images" / "notes.txt").write_text("slice 9 came by mail")
    save(folder / "masks" / "slice_12.png", 255 - marked[11] * 255)
    (folder / "masks" / "slice_20.png").rename(folder / "masks" / "slice_20_final.png")

    page = (Path(cli.__file__).parents[2] / "book" / "own_images.md").read_text()
    for folder, status in (("my_folder", 0), ("spoiled", 2)):
        result = call(folder)
        assert result.exit_code == status
        for line in result.output.splitlines():
            if "fingerprint" not in line and "cannot be read" not in line:  # others' words, sums
                assert f"{line.rstrip()}\n" in page


def test_one_finding_for_several_slices():
    pages = Finding("error", "a.tif", "is bad", "mend it", (1, 2, 3, 7))
    assert str(pages) == "a.tif: 4 slices (1, 2, 3, …) are bad; mend it."
    files = Finding("error", "em", "holds NaN", "mend it", ("1.png", "2.png"))
    assert str(files) == "em: 2 files (1.png, 2.png) hold NaN; mend it."
    assert str(Finding("error", "a.tif", "is bad", "mend it", (3,))) == (
        "a.tif: slice 3 is bad; mend it."
    )
    assert str(Finding("error", "a.tif", "is bad", "mend it")) == "a.tif is bad; mend it."
    one = Finding("error", "em", "holds NaN", "mend it", ("1.png",))
    other = Finding("error", "em", "holds NaN", "mend it", ("2.png",))
    assert gather([one, other]) == [files]
