"""Face identity: are the people of the source pictures still themselves in the output of an edit?

    sources -> faces -> embeddings ─┐
    output  -> faces -> embeddings ─┴─> similarity of each pair -> one-to-one matching -> mean over the faces of the sources

Back ends: `faces_dlib.py` and `faces_arcface.py`. What this leaves out: which people an edit was *asked* to change or to
remove, so use it on edits that keep them; and a person who is in two sources counts twice, and is looked for twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tastemaker.data.pictures import open_picture
from tastemaker.errors import UserMistake
from tastemaker.rewards.reward import Missing, NotAsked, as_pictures, fingerprint_of
from tastemaker.types import Prompt

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Face:
    """A face that was found: five points (5, 2) as x, y in pixels of the picture, the first pixel's centre being (0, 0).

    As one looks at the picture: outer and inner corner of the right eye, the same of the left eye, base of the nose.
    """

    box: tuple[int, int, int, int]
    """left, top, right, bottom in pixels; may reach over the edge."""
    points: Floats


class FaceDetector(Protocol):
    @property
    def fingerprint(self) -> str:
        """Changes whenever other faces could be found."""
        ...

    def find(self, picture: Image.Image) -> list[Face]:
        """The faces of an RGB picture, in no particular order."""
        ...


class FaceEmbedder(Protocol):
    """A network that places a face so that pictures of one person lie close together."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever an embedding could be another (weights, detector, options)."""
        ...

    def embed(self, picture: Image.Image) -> Floats:
        """(faces, dimensions): one row for each face found in an RGB picture; (0, dimensions) or (0, 0) without any."""
        ...

    def similarity(self, left: Floats, right: Floats) -> Floats:
        """(M, D) and (N, D) to (M, N) in [0, 1]: 1 for the same picture, higher for the more alike. Its scale is its own."""
        ...


@dataclass(frozen=True)
class FaceIdentityReward:
    """A `Reward` in [0, 1]: mean similarity of the sources' faces to the faces of the output that they are matched with.

    A face of a source that has no partner in the output counts as `lost`: 0, losing it is the worst there is. With None the
    score is missing instead, which in training rewards it: the other rewards' weights are scaled up to take its place, so that
    a picture without the face is learnt from without the penalty. Faces that only the output has do not count. Where no face
    is found in the sources nothing is asked. `floor` is about what JPEG at quality 90 changes with dlib (0.04 to 0.07).
    """

    embedder: FaceEmbedder
    lost: float | None = 0.0
    name: str = "face_identity"
    floor: float = 0.05
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        if self.lost is not None and not 0 <= self.lost <= 1:
            raise UserMistake(f"{self.name}: lost is {self.lost}; a score in [0, 1], or none to call such a score missing")

    @property
    def fingerprint(self) -> str:
        return fingerprint_of([self.embedder.fingerprint, self.lost])

    def score(self, images: Tensor, prompts: Sequence[Prompt]) -> list[float | Missing]:
        """See `Reward`. Missing: no source, a broken one, or faces lost without `lost`. Not asked: no face in the sources."""
        known = {path: self._source(path) for path in {path for prompt in prompts for path in prompt.sources}}
        return [
            self._score(picture, [known[path] for path in prompt.sources])
            for picture, prompt in zip(as_pictures(images), prompts, strict=True)
        ]

    def _source(self, path: str) -> Floats | Missing:
        try:
            return self.embedder.embed(open_picture(path))
        except UserMistake as error:
            return Missing(f"source picture {error}")

    def _score(self, picture: Image.Image, sources: Sequence[Floats | Missing]) -> float | Missing:
        if not sources:
            return Missing("the prompt has no source picture whose faces could be kept")
        if broken := [source for source in sources if isinstance(source, Missing)]:
            return broken[0]
        faces = [source for source in sources if not isinstance(source, Missing) and len(source)]
        if not faces:
            return NotAsked("no face found in the source picture")
        wanted, found = np.concatenate(faces), self.embedder.embed(picture)
        num_lost = max(0, len(wanted) - len(found))
        if num_lost and self.lost is None:
            return Missing(f"{len(wanted)} face(s) found in the source but {len(found)} in the output")
        total = num_lost * (self.lost or 0.0)
        if len(found):
            similarity = self.embedder.similarity(wanted, found)
            if not np.isfinite(similarity).all():
                return Missing("the network gave an embedding with NaN or inf")
            total += matched(similarity).sum()
        return float(np.clip(total / len(wanted), 0, 1))


def matched(similarity: Floats) -> Floats:
    """(min(M, N),) entries of an (M, N) similarity, no two in a row or column, with the largest sum (Hungarian method)."""
    return similarity[linear_sum_assignment(similarity, maximize=True)]
