"""Faces with any ArcFace-style network in an ONNX file: aligned faces (N, 3, S, S) in, embeddings (N, D) out.

Alignment is that of ArcFace (arXiv 1801.07698): a similarity transform that brings eyes and nose to fixed places of a 112x112
picture. The mouth, which ArcFace uses as well, is left out: the five points of our detector do not have it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.spatial.distance import cdist

from tastemaker.errors import UserMistake
from tastemaker.rewards.extras import require
from tastemaker.rewards.faces_dlib import DlibFaces
from tastemaker.rewards.identity import Face, FaceDetector, Floats
from tastemaker.rewards.reward import fingerprint_of

TEMPLATE = np.array([(38.2946, 51.6963), (73.5318, 51.5014), (55.91, 78.86)])
"""Middle of the left eye, of the right eye, and base of the nose, x and y in a picture of 112x112.

The eyes are ArcFace's. Of the nose it takes the tip; the base is put where dlib's mean face has it relative to the eyes.
"""


class ArcFaceEmbedder:
    """A `FaceEmbedder`: similarity is the cosine, cut off at 0. Strangers lie near 0; which value means one person depends on
    the file.

    `mean` is subtracted and `std` divided by, in units of 0 to 255; (0, 1) suits a file that does so itself. Colours come as
    RGB unless `bgr`. Runs on the CPU with `threads` threads.
    """

    def __init__(
        self,
        path: Path | str,
        detector: FaceDetector | None = None,
        *,
        mean: float = 127.5,
        std: float = 127.5,
        bgr: bool = False,
        threads: int = 1,
    ) -> None:
        runtime = require("onnxruntime", extra="identity-onnx", purpose="face identity with an ONNX file")
        if not Path(path).is_file():
            raise UserMistake(f"{path}: no such file; give the path of an ArcFace-style network in ONNX format")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes derive from Exception, one for each kind of damage
            raise UserMistake(f"{path}: cannot be loaded as ONNX ({str(error).splitlines()[0]}); export it again") from None
        self._path, self._size = Path(path), _side(path, self._session)
        self._mean, self._std, self._bgr = mean, std, bgr
        self._detector = detector or DlibFaces(extra="identity-onnx")

    @property
    def fingerprint(self) -> str:
        return fingerprint_of([self._path, self._mean, self._std, self._bgr, self._detector.fingerprint])

    def embed(self, picture: Image.Image) -> Floats:
        """(faces, D), each row of length 1."""
        faces = [self._run(align(picture, face, self._size)) for face in self._detector.find(picture)]
        if not faces:
            return np.empty((0, 0))
        return np.stack(faces) / np.linalg.norm(faces, axis=1, keepdims=True)

    def similarity(self, left: Floats, right: Floats) -> Floats:
        return np.clip(1 - cdist(left, right, "cosine"), 0, 1)

    def _run(self, face: Image.Image) -> Floats:
        pixels = np.asarray(face, dtype=np.float32)[..., :: -1 if self._bgr else 1]
        batch = ((pixels - self._mean) / self._std).transpose(2, 0, 1)[None].astype(np.float32)
        name = self._session.get_inputs()[0].name
        return np.asarray(self._session.run(None, {name: batch})[0], dtype=np.float64)[0]


def align(picture: Image.Image, face: Face, size: int = 112) -> Image.Image:
    """The face as (size, size), turned and scaled so that eyes and nose lie nearest to `TEMPLATE` (least squares)."""
    points = np.array([face.points[2:4].mean(0), face.points[0:2].mean(0), face.points[4]])
    # As complex numbers a similarity transform without reflection is z -> a z + b. Pixel centres lie at one half, as in Pillow.
    here, there = (points + 0.5) @ (1, 1j), (TEMPLATE + 0.5) * (size / 112) @ (1, 1j)
    a, b = np.linalg.lstsq(np.stack([here, np.ones(3)], axis=1), there, rcond=None)[0]
    if (shrink := int(1 / abs(a))) > 1:  # transform() looks at 4x4 pixels only and would alias
        picture, a = picture.reduce(shrink), a * shrink
    back, shift = 1 / a, -b / a
    matrix = (back.real, -back.imag, shift.real, back.imag, back.real, shift.imag)
    return picture.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)


def _side(path: Path | str, session: Any) -> int:
    """S of a network whose input is (N, 3, S, S) and whose output is (N, D). Raises UserMistake for any other."""
    inputs, outputs = ([list(value.shape) for value in ends] for ends in (session.get_inputs(), session.get_outputs()))
    height, width = inputs[0][2:] if len(inputs[0]) == 4 else (None, None)
    height, width = (side if isinstance(side, int) else 112 for side in (height, width))
    batched = all(not isinstance(shape[0], int) or shape[0] == 1 for shape in (inputs[0], outputs[0]) if shape)
    if len(inputs) != 1 or len(inputs[0]) != 4 or inputs[0][1] != 3 or height != width or len(outputs[0]) != 2 or not batched:
        raise UserMistake(
            f"{path}: takes {inputs} and gives {outputs}; an ArcFace-style network takes one (1 or N, 3, S, S) "
            "and gives (1 or N, D); export it like that"
        )
    return height
