"""Faces with dlib: its frontal HOG detector and five-point landmarks, and its 128-D network, with weights from a package.

The landmarks are those of the five-point model. The 68-point model of the same package is not used: its pictures were released
for research only. The package of the weights is not imported: it wants `pkg_resources`, which setuptools no longer has.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.distance import cdist

from tastemaker.errors import UserMistake
from tastemaker.rewards.extras import package_folder, require
from tastemaker.rewards.identity import Face, FaceDetector, Floats
from tastemaker.rewards.reward import fingerprint_of

SAME_PERSON = 0.6
"""Euclidean distance under which dlib calls two faces one person (99.38% right on Labeled Faces in the Wild)."""

SMALL = 512
"""Pixels of the longer side under which a picture is enlarged."""


class DlibFaces:
    """A `FaceDetector` for faces that look at the camera, upright within about 20 degrees.

    It looks at the picture scaled to `side` pixels, whatever its size, and finds faces from 80 pixels there: from 8% of the
    longer side at the default. Twice the `side` finds faces half as big and takes four times as long. What the detector gives
    less than `confidence` is taken for something else: on the photographs that this was set on, faces had 0.46 and more.
    """

    def __init__(self, side: int = 1024, confidence: float = 0.3, *, extra: str = "identity") -> None:
        self._dlib = require("dlib", extra=extra, purpose="finding faces")
        self._detect = self._dlib.get_frontal_face_detector()
        self._weights = _weights("shape_predictor_5_face_landmarks.dat", extra)
        self._landmarks = self._dlib.shape_predictor(str(self._weights))
        self._side, self._confidence = side, confidence

    @property
    def fingerprint(self) -> str:
        return fingerprint_of([self._dlib.__version__, self._weights, self._side, self._confidence])

    def find(self, picture: Image.Image) -> list[Face]:
        scale = self._side / max(picture.size)
        size = [max(1, round(length * scale)) for length in picture.size]
        pixels = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC))
        boxes, _, _ = self._detect.run(pixels, 0, self._confidence)
        # Seen from pixel centres, so that the first pixel's is (0, 0) in both pictures.
        return [
            Face(
                (round(box.left() / scale), round(box.top() / scale), round(box.right() / scale), round(box.bottom() / scale)),
                (np.array([(point.x, point.y) for point in self._landmarks(pixels, box).parts()]) + 0.5) / scale - 0.5,
            )
            for box in boxes
        ]


class DlibEmbedder:
    """A `FaceEmbedder`: similarity is 1 at Euclidean distance 0, 0.5 at dlib's threshold of 0.6, and 0 from 1.2 on."""

    def __init__(self, detector: FaceDetector | None = None) -> None:
        self._dlib = require("dlib", extra="identity", purpose="face identity")
        self._weights = _weights("dlib_face_recognition_resnet_model_v1.dat", "identity")
        self._network = self._dlib.face_recognition_model_v1(str(self._weights))
        self._detector = detector or DlibFaces()

    @property
    def fingerprint(self) -> str:
        return fingerprint_of([self._dlib.__version__, self._weights, self._detector.fingerprint])

    def embed(self, picture: Image.Image) -> Floats:
        """(faces, 128). Each face is turned upright and cut out with a quarter of its size around it, 150x150 pixels."""
        found = self._detector.find(picture)
        # dlib's points are whole pixels, too coarse for the faces of a small picture.
        times = max(1, -(-SMALL // max(picture.size)))
        pixels = np.asarray(picture.convert("RGB").resize([times * side for side in picture.size], Image.Resampling.BICUBIC))
        faces = [self._network.compute_face_descriptor(self._chip(pixels, face, times)) for face in found]
        return np.array(faces, dtype=np.float64).reshape(-1, 128)

    def similarity(self, left: Floats, right: Floats) -> Floats:
        return np.clip(1 - cdist(left, right) / (2 * SAME_PERSON), 0, 1)

    def _chip(self, pixels: np.ndarray, face: Face, times: int) -> np.ndarray:
        points = [self._dlib.point(round(x), round(y)) for x, y in (face.points + 0.5) * times - 0.5]
        box = self._dlib.rectangle(*(times * side for side in face.box))
        shape = self._dlib.full_object_detection(box, points)
        return self._dlib.get_face_chip(pixels, shape, size=150, padding=0.25)


def _weights(name: str, extra: str) -> Path:
    path = package_folder("face_recognition_models", extra=extra, purpose="finding faces") / "models" / name
    if not path.is_file():
        raise UserMistake(f"{path}: not there; install it again: pip install --force-reinstall face-recognition-models")
    return path
