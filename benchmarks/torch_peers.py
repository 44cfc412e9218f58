"""The same networks and training steps in PyTorch; lives in a worker without TensorFlow.

Keras pads a strided 3 x 3 convolution below and to the right only, PyTorch on all sides. Both are
the same network with everything mirrored up and down and left and right, so the generator here
sees mirrored masks and keeps mirrored kernels (`copy_weights`). That costs nothing, where padding
by hand, as Keras does it, would.
"""

import itertools
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks import examples

torch._dynamo.config.recompile_limit = 100  # one process compiles for many layouts and batch sizes

EPSILON = 1e-3  # of Keras' normalisation layers


class Activation(nn.Module):
    def __init__(self, dropout: float, leak: float) -> None:
        super().__init__()
        self.dropout, self.leak = dropout, leak

    def forward(self, tensor: Tensor) -> Tensor:
        tensor = functional.dropout(tensor, self.dropout, self.training)
        return functional.leaky_relu(tensor, self.leak)


class DownBlock(nn.Module):
    def __init__(self, inputs: int, channels: int, pool: bool, activation: nn.Module) -> None:
        super().__init__()
        self.pool, self.activation = pool, activation
        self.first = nn.Conv2d(inputs, channels, 3, padding=1)
        self.second = nn.Sequential(
            nn.Conv2d(inputs + channels, channels, 1), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.third = nn.Sequential(
            nn.Conv2d(inputs + 2 * channels, channels, 1),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.norm = nn.BatchNorm2d(channels, eps=EPSILON)

    def forward(self, tensor: Tensor) -> Tensor:
        if self.pool:
            tensor = functional.avg_pool2d(tensor, 2)
        first = torch.cat([tensor, self.activation(self.first(tensor))], 1)
        second = torch.cat([first, self.activation(self.second(first))], 1)
        return self.norm(self.activation(self.third(second)))


class UpBlock(nn.Module):
    def __init__(self, channels: int, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation
        self.first = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.second = nn.Sequential(
            nn.Conv2d(3 * channels, channels, 1), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, tensor: Tensor, skip: Tensor) -> Tensor:
        joined = torch.cat([functional.interpolate(tensor, scale_factor=2.0), skip], 1)
        first = self.activation(self.first(joined))
        return self.activation(self.second(torch.cat([joined, first], 1)))


class RITnet(nn.Module):
    """RITnet, variant ``half``."""

    def __init__(self, channels: int = 32, dropout: float = 0.2, leak: float = 0.3) -> None:
        super().__init__()
        activation = Activation(dropout, leak)
        self.down = nn.ModuleList(
            DownBlock(channels if level else 1, channels, True, activation) for level in range(5)
        )
        self.up = nn.ModuleList(UpBlock(channels, activation) for _ in range(4))
        self.logits = nn.Conv2d(channels, 1, 1)

    def forward(self, tensor: Tensor) -> Tensor:
        skips = []
        for block in self.down:
            tensor = block(tensor)
            skips.append(tensor)
        for block, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            tensor = block(tensor, skip)
        return self.logits(functional.interpolate(tensor, scale_factor=2.0))


def up_layers(inputs: int, outputs: int, decoder: str) -> list[nn.Module]:
    if decoder == "transposed":
        return [nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)]
    return [nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1)]


class Generator(nn.Module):
    """U-Net of pix2pix with a noise channel and instance normalisation."""

    def __init__(self, width: int = 32, decoder: str = "resize", size: int = 128) -> None:
        super().__init__()
        depth = size.bit_length() - 1
        filters = [width * min(2**level, 8) for level in range(depth)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, (inputs, outputs) in enumerate(itertools.pairwise([2, *filters])):
            parts: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)]
            if 0 < level < depth - 1:  # the bottleneck is a single pixel
                parts.append(nn.InstanceNorm2d(outputs, eps=EPSILON, affine=True))
            self.down.append(nn.Sequential(*parts, nn.LeakyReLU(0.2)))
        inputs = filters[-1]
        for level in reversed(range(depth - 1)):
            parts = up_layers(inputs, filters[level], decoder)
            parts.append(nn.InstanceNorm2d(filters[level], eps=EPSILON, affine=True))
            if level >= depth - 4:
                parts.append(nn.Dropout(0.5))
            self.up.append(nn.Sequential(*parts, nn.ReLU()))
            inputs = 2 * filters[level]
        self.last = nn.Sequential(*up_layers(inputs, width // 2, decoder), nn.LeakyReLU(0.2))
        self.image = nn.Conv2d(width // 2 + 2, 1, 3, padding=1)

    def forward(self, source: Tensor) -> Tensor:
        tensor, skips = source, []
        for block in self.down:
            tensor = block(tensor)
            skips.append(tensor)
        for block, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            tensor = torch.cat([block(tensor), skip], 1)
        return torch.tanh(self.image(torch.cat([self.last(tensor), source], 1)))


PAD = nn.ZeroPad2d((1, 2, 1, 2))  # of an even kernel, as Keras does it


class Discriminator(nn.Module):
    """PatchGAN with a receptive field of 70 px."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        filters = [width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        for level, (inputs, outputs) in enumerate(itertools.pairwise([2, *filters])):
            if level < 3:
                layers.append(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1))
            else:
                layers += [PAD, nn.Conv2d(inputs, outputs, 4)]
            if level > 0:
                layers.append(nn.InstanceNorm2d(outputs, eps=EPSILON, affine=True))
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers, PAD, nn.Conv2d(filters[-1], 1, 4))

    def forward(self, mask: Tensor, image: Tensor) -> Tensor:
        return self.layers(torch.cat([mask, image], 1))


def copy_weights(weights: Iterable[np.ndarray], module: nn.Module) -> None:
    """Take over the weights of the same network in Keras, as ``get_weights`` gives them."""
    remaining = iter(weights)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
                kernel = next(remaining).transpose(3, 2, 0, 1)
                if isinstance(module, Generator):
                    kernel = kernel[:, :, ::-1, ::-1]
                part.weight.copy_(torch.from_numpy(kernel.copy()))
                part.bias.copy_(torch.from_numpy(next(remaining)))
            elif isinstance(part, nn.BatchNorm2d | nn.InstanceNorm2d):
                names = ("weight", "bias", "running_mean", "running_var")
                for value in (getattr(part, name) for name in names):
                    if value is not None:
                        value.copy_(torch.from_numpy(next(remaining)))
    if next(remaining, None) is not None:
        raise ValueError("The Keras network has more weights than its PyTorch peer.")


# Training steps ----------------------------------------------------------------------------------


def _tensors(batch: int, channels_last: bool, seed: int = 0) -> tuple[Tensor, Tensor]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images, masks = (
        torch.from_numpy(array.transpose(0, 3, 1, 2).copy()).contiguous(memory_format=layout)
        for array in examples.pair(batch, seed=seed)
    )
    return images, masks


class SegmenterTraining:
    """A segmenter with its optimiser and running Dice."""

    def __init__(self, channels_last: bool, compiled: bool) -> None:
        self.network = RITnet()
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.forward = torch.compile(self.loss, dynamic=False) if compiled else self.loss
        self.optimizer = torch.optim.Adam(self.network.parameters(), 2e-3, eps=1e-7, fused=True)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 10**6)
        self.hits, self.sizes = torch.zeros(()), torch.zeros(())

    def loss(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(images)
        loss = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
        return loss.mean((1, 2, 3)), logits

    def count(self, logits: Tensor, masks: Tensor) -> None:
        positive = (logits.detach() > 0).float()
        self.hits += (positive * masks).sum()
        self.sizes += positive.sum() + masks.sum()

    def update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()

    def step(self, images: Tensor, masks: Tensor) -> float:
        losses, logits = self.forward(images, masks)
        loss = losses.mean()
        self.update(loss)
        self.count(logits, masks)
        return loss.item()


class GANTraining:
    """Generator, its moving average, and discriminator.

    One fake serves both networks, and both gradients are taken at the same weights, as in the
    module; compiled, two passes of the discriminator over the fake are faster than keeping the
    graph of one.
    """

    def __init__(self, width: int, decoder: str, channels_last: bool, compiled: bool) -> None:
        self.generator = Generator(width, decoder)
        self.discriminator = Discriminator(width)
        if channels_last:
            self.generator.to(memory_format=torch.channels_last)
            self.discriminator.to(memory_format=torch.channels_last)
        self.average = AveragedModel(self.generator, multi_avg_fn=get_ema_multi_avg_fn(0.995))
        self.average.eval()
        self.generate, self.judge = self.generator, self.discriminator
        if compiled:
            self.generate = torch.compile(self.generator, dynamic=False)
            self.judge = torch.compile(self.discriminator, dynamic=False)
        self.compiled = compiled
        adam = {"lr": 2e-4, "betas": (0.5, 0.999), "eps": 1e-7, "fused": True}
        self.g_optimizer = torch.optim.Adam(self.generator.parameters(), **adam)
        self.d_optimizer = torch.optim.Adam(self.discriminator.parameters(), **adam)

    def step(self, images: Tensor, masks: Tensor) -> float:
        fake = self.generate(torch.cat([masks, torch.randn_like(masks)], 1))
        on_real = self.judge(masks, images)
        on_fake = self.judge(masks, fake.detach() if self.compiled else fake)
        d_loss = 0.5 * ((on_real - 1).square().mean() + on_fake.square().mean())
        d_variables = list(self.discriminator.parameters())
        d_gradients = torch.autograd.grad(d_loss, d_variables, retain_graph=not self.compiled)
        if self.compiled:
            self.discriminator.requires_grad_(False)
            on_fake = self.judge(masks, fake)
            self.discriminator.requires_grad_(True)
        l1 = (images - fake).abs().mean()
        g_loss = (on_fake - 1).square().mean() + 10.0 * l1
        g_variables = list(self.generator.parameters())
        g_gradients = torch.autograd.grad(g_loss, g_variables)
        for variable, gradient in zip(
            [*d_variables, *g_variables], [*d_gradients, *g_gradients], strict=True
        ):
            variable.grad = gradient
        self.d_optimizer.step()
        self.g_optimizer.step()
        self.average.update_parameters(self.generator)
        return d_loss.item() + g_loss.item() + l1.item()


def segmenter_step(batch: int, channels_last: bool, compiled: bool) -> Callable[[], float]:
    training, data = SegmenterTraining(channels_last, compiled), _tensors(batch, channels_last)
    return lambda: training.step(*data)


def gan_step(
    batch: int, width: int, decoder: str, channels_last: bool, compiled: bool
) -> Callable[[], float]:
    training = GANTraining(width, decoder, channels_last, compiled)
    data = _tensors(batch, channels_last)
    return lambda: training.step(*data)
