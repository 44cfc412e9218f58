"""Diagrams of the networks. All sizes in them are read from the Keras models."""

from dataclasses import fields
from typing import Any

import keras
from keras import layers

from diagrams.canvas import AMBER, BLUE, GREEN, INK, MUTED, PINK, RED, Canvas
from synthseg import gan, parameters, segmenter


def published(chapter: int, kind: type) -> Any:
    """Settings of the published book: defaults of the chapter, under its profile."""
    values = parameters.plan([chapter], "cpu")[chapter]
    return kind(**{field.name: values[field.name] for field in fields(kind)})


def counted(model: keras.Model) -> str:
    """Parameters of a model, in thousands or millions."""
    count = model.count_params()
    return f"{count / 1e6:.1f} million" if count >= 1e6 else f"{count / 1e3:.0f} thousand"


def halvings(model: keras.Model) -> list[layers.Layer]:
    """Convolutions of stride 2, in order."""
    found = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]
    return [layer for layer in found if layer.strides[0] == 2]


def dropouts(model: keras.Model) -> set[int]:
    """Sides of the pictures at which a model drops values."""
    found = [layer for layer in model.layers if isinstance(layer, layers.Dropout)]
    return {layer.output.shape[1] for layer in found}


def unet() -> Canvas:
    """The generator: a row for each size, down at the left, up at the right."""
    settings = published(2, gan.GANSettings)
    model = gan.build_generator(settings)
    down = [layer.output.shape for layer in halvings(model)]
    joins = [layer for layer in model.layers if isinstance(layer, layers.Concatenate)]
    parts = {
        join.output.shape[1]: [tensor.shape[-1] for tensor in join.input] for join in joins
    }  # channels from below and from across, by size
    dropped = dropouts(model)
    c = Canvas(
        "The generator: a U-Net that halves the mask down to one pixel and enlarges it again", 452
    )
    row, top = 44, 64
    left, right, wide = 84, 256, 92

    def level(k: int) -> float:
        return top + row * k

    c.text(left + wide / 2, 20, "mask y, noise ε", bold=True)
    c.text(right + wide / 2 - 6, 20, "image G(y, ε)", bold=True)
    size = model.input_shape[1]
    below, source = parts[size]
    c.note(40, level(0) + 20, f"{size} × {size}")
    c.box(left, level(0), wide, 30, f"{model.input_shape[-1]} channels", AMBER)
    c.box(right, level(0), wide, 30, f"{below} + {source}  →  1", GREEN)
    c.arrow((left + wide / 2, 26), (left + wide / 2, level(0) - 2))
    c.arrow((right + wide / 2, level(0) - 2), (right + wide / 2, 26))
    c.arrow((left + wide, level(0) + 15), (right - 3, level(0) + 15), colour=AMBER)
    c.text((left + wide + right) / 2, level(0) + 9, "mask, noise", size=12, colour=RED)
    for k, (_, side, _, channels) in enumerate(down, start=1):
        y = level(k)
        c.note(40, y + 20, f"{side} × {side}")
        c.arrow((left + wide / 2, y - row + 30), (left + wide / 2, y - 2), colour=BLUE)
        c.box(left, y, wide, 30, str(channels), BLUE)
        if side in parts:
            up, across = parts[side]
            words = f"{up} + {across}"
            c.box(right, y, wide, 30, words, PINK if side in dropped else GREEN)
            c.arrow((left + wide, y + 15), (right - 3, y + 15), colour=MUTED)
            c.arrow((right + wide / 2, y - 2), (right + wide / 2, y - row + 33), colour=GREEN)
        else:
            end = right + wide / 2
            c.line([(left + wide, y + 15), (end, y + 15)], GREEN)
            c.arrow((end, y + 15), (end, y - row + 33), colour=GREEN)
    y = level(len(down)) + 52
    c.text(10, y, "blue: convolution, halves the side", size=12, anchor="start", colour=BLUE)
    legend = f"green: {settings.decoder} convolution, doubles it"
    c.text(390, y, legend, size=12, anchor="end", colour="#00775a")
    c.text(
        200, y + 17, "numbers: channels (from below + from across)   pink: with dropout", size=12
    )
    assert y + 17 < c.height
    return c


def patchgan() -> Canvas:
    """The receptive field of the discriminator, layer by layer."""
    settings = published(2, gan.GANSettings)
    model = gan.build_discriminator(settings)
    chain = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]
    height = 112 + 46 * len(chain)
    c = Canvas("What one value of the discriminator's map sees, layer by layer", height)
    scale, left = 196 / settings.size, 192
    middle = left + 98
    c.text(middle, 18, "seen in the image", bold=True)
    c.text(88, 18, "convolution, its map", bold=True)
    c.box(left, 28, settings.size * scale, 24, f"image: {settings.size} px", INK, strength=0.05)
    c.note(88, 45, "mask and image: 2 channels")
    fields_so_far = []
    for k, layer in enumerate(chain):
        upto = keras.Model(model.inputs, layer.output)
        field = gan.field_of_view(upto)
        fields_so_far.append(field)
        y = 66 + 46 * k
        side, channels = layer.output.shape[2], layer.output.shape[3]
        kernel, stride = layer.kernel_size[0], layer.strides[0]
        c.text(12, y + 14, f"{k + 1}   {kernel} × {kernel}, stride {stride}", anchor="start")
        c.note(32, y + 30, f"{side} × {side} × {channels}", anchor="start")
        wide = field * scale
        c.box(middle - wide / 2, y, wide, 26, "", BLUE, strength=0.35)
        place = middle if wide > 60 else middle + wide / 2 + 28
        c.text(place, y + 18, f"{field} px", bold=True)
    outputs = chain[-1].output.shape[1]
    y = 66 + 46 * len(chain) + 16
    c.text(
        200,
        y,
        f"{outputs} × {outputs} verdicts, each about {fields_so_far[-1]} × "
        f"{fields_so_far[-1]} pixels",
        bold=True,
    )
    c.note(200, y + 18, f"{counted(model)} parameters")
    return c


def gan_step() -> Canvas:
    """One training step: what is computed, and where gradients go and stop."""
    c = Canvas("One training step: what is computed, and how far each gradient goes", 420)
    c.box(14, 16, 78, 32, "mask y", AMBER)
    c.box(104, 16, 78, 32, "noise ε", AMBER)
    c.box(286, 16, 100, 32, "real image x", AMBER)
    c.box(48, 84, 98, 42, "generator G", GREEN)
    c.box(48, 164, 98, 32, "fake image", INK, strength=0.05)
    c.box(196, 164, 92, 32, "L1 loss", PINK)
    c.box(40, 246, 114, 42, "D(mask, fake)", BLUE)
    c.box(272, 246, 114, 42, "D(mask, real)", BLUE)
    c.box(14, 344, 140, 46, "loss of G:\ncalled real?", GREEN)
    c.box(206, 344, 180, 46, "loss of D: fakes\n0 and reals 1?", BLUE)
    for points in (
        [(53, 48), (76, 82)],
        [(143, 48), (120, 82)],
        [(97, 126), (97, 162)],
        [(97, 196), (97, 244)],
        [(349, 48), (349, 244)],
        [(146, 180), (194, 180)],
        [(349, 180), (290, 180)],
        [(97, 288), (97, 342)],
        [(154, 276), (232, 342)],
        [(340, 288), (340, 342)],
    ):
        c.arrow(*points)
    # Gradients, dashed, each in the colour of the network that it changes.
    c.arrow((26, 342), (26, 105), (46, 105), colour=GREEN, dashed=True)
    c.arrow((242, 162), (242, 105), (148, 105), colour=PINK, dashed=True)
    c.arrow((364, 342), (364, 290), colour=BLUE, dashed=True)
    c.arrow((262, 342), (176, 262), (157, 262), colour=BLUE, dashed=True)
    c.line([(82, 222), (112, 222)], RED, width=4)
    c.text(120, 226, "D's gradient stops here", size=12, colour=RED, anchor="start")
    c.note(194, 99, "into G")
    c.text(34, 322, "passes", size=12, colour="#00775a", anchor="start")
    c.text(34, 336, "D as it is", size=12, colour="#00775a", anchor="start")
    c.note(200, 411, "dashed: gradients, in the colour of what they come from")
    return c


def dense_block() -> Canvas:
    """A block of RITnet: every convolution also sees the inputs of those before it."""
    model = segmenter.build_ritnet(published(3, segmenter.SegmenterSettings))
    places = [
        k for k, layer in enumerate(model.layers) if isinstance(layer, layers.AveragePooling2D)
    ]
    ends = [
        k for k, layer in enumerate(model.layers) if isinstance(layer, layers.BatchNormalization)
    ]
    start, end = places[-1], ends[-1]  # the last block down
    block = model.layers[start + 1 : end]
    convolutions = [layer for layer in block if isinstance(layer, layers.Conv2D)]
    wide = [layer for layer in convolutions if layer.kernel_size == (3, 3)]
    narrow = [layer for layer in convolutions if layer.kernel_size == (1, 1)]
    c = Canvas("A dense block of RITnet: what was found stays, and is seen again", 312)
    colours = [AMBER, BLUE, GREEN, PINK]
    names = ["x₀", "a", "b", "c"]
    channels = wide[0].input.shape[-1]
    c.text(80, 18, "what is seen", bold=True)
    c.text(232, 18, "convolutions", bold=True)
    c.text(352, 18, "found", bold=True)
    for row, layer in enumerate(wide):
        y = 36 + 80 * row
        for k in range(row + 1):
            c.box(12 + 44 * k, y, 44, 40, names[k], colours[k], strength=0.4)
        seen = narrow[row - 1].input.shape[-1] if row else channels
        c.note(12 + 22 * (row + 1), y + 56, f"{seen} channels")
        begin = 12 + 44 * (row + 1)
        if row:
            c.arrow((begin, y + 20), (170, y + 20))
            c.box(172, y, 50, 40, "1 × 1", INK, strength=0.05)
            c.note(197, y + 56, str(narrow[row - 1].output.shape[-1]))
            begin = 222
        c.arrow((begin, y + 20), (246, y + 20))
        c.box(248, y, 50, 40, "3 × 3", INK, strength=0.05)
        c.arrow((298, y + 20), (328, y + 20))
        c.box(330, y, 44, 40, names[row + 1], colours[row + 1], strength=0.4)
        c.note(352, y + 56, f"{layer.output.shape[-1]}")
    c.note(200, 286, "c leaves the block, normalised")
    c.note(200, 303, f"the whole network: {counted(model)} parameters")
    return c
