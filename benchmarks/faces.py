"""`python -m benchmarks.faces FOLDER`: how far dlib's distances tell people apart, the numbers of docs/scorers.md.

Nine people on photographs of three packages: an astronaut (scikit-image), six people in one picture (insightface), two
politicians (FOLDER is `tests/test_images` of the source package of face_recognition). The single portraits are edited, too.

    pip install -e '.[identity]' scikit-image && pip install --no-deps insightface
    pip download --no-deps --no-binary :all: face_recognition==1.3.0 && tar xf face_recognition-1.3.0.tar.gz
    python -m benchmarks.faces face_recognition-1.3.0/tests/test_images
"""

from __future__ import annotations

import argparse
import importlib.util
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from scipy.spatial.distance import cdist

from tastemaker.evaluation.statistics import proportion
from tastemaker.rewards.faces_dlib import SAME_PERSON, DlibEmbedder


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def cropped(picture: Image.Image) -> Image.Image:
    """Without a tenth on the left, on the right and below."""
    return picture.crop((picture.width // 10, 0, picture.width * 9 // 10, picture.height * 9 // 10))


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "Gaussian blur, radius 2": lambda picture: picture.filter(ImageFilter.GaussianBlur(2)),
    "JPEG, quality 10": lambda picture: jpeg(picture, 10),
    "JPEG, quality 90": lambda picture: jpeg(picture, 90),
    "crop of 10% at three sides": cropped,
    "turned by 10°": lambda picture: picture.rotate(10, Image.Resampling.BICUBIC),
    "turned by 15°": lambda picture: picture.rotate(15, Image.Resampling.BICUBIC),
}


def of_package(package: str, name: str) -> Image.Image:
    """A photograph of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / name if spec and spec.origin else None
    if path is None or not path.is_file():
        raise SystemExit(f"error: the photograph {name} ships in the package {package}, which is not installed; see --help")
    return Image.open(path).convert("RGB")


def nearest(left: np.ndarray, right: np.ndarray) -> float:
    """The smallest distance between two pictures' faces; inf where one has none."""
    return float(cdist(left, right).min(initial=np.inf)) if len(left) and len(right) else np.inf


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faces", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="holds obama.jpg, obama2.jpg, obama3.jpg and biden.jpg")
    folder = parser.parse_args(arguments).folder
    if not (folder / "biden.jpg").is_file():
        parser.error(f"{folder} holds no biden.jpg; see above for where it comes from")
    embedder = DlibEmbedder()
    same_again = [Image.open(folder / f"{name}.jpg").convert("RGB") for name in ("obama", "obama2", "obama3")]
    portraits = [of_package("skimage", "data/astronaut.png"), same_again[0], Image.open(folder / "biden.jpg").convert("RGB")]
    faces = [embedder.embed(portrait) for portrait in portraits]
    people = np.concatenate([*faces, embedder.embed(of_package("insightface", "data/images/t1.jpg"))])
    edited = {
        name: [nearest(face, embedder.embed(edit(picture))) for face, picture in zip(faces, portraits, strict=True)]
        for name, edit in EDITS.items()
    }
    again = [embedder.embed(picture) for picture in same_again]
    rows = {
        "one person, edited": ([distance for row in edited.values() for distance in row], max),
        "one person, other photograph": ([nearest(again[a], again[b]) for a, b in ((0, 1), (0, 2), (1, 2))], max),
        "different people": (list(cdist(people, people)[np.triu_indices(len(people), 1)]), min),
    }
    print(f"{len(people)} people\n\n| pairs | n | distance: median | extreme | similarity: extreme |\n|---|---|---|---|---|")
    for name, (distances, extreme) in rows.items():
        most = extreme(distances)
        print(f"| {name} | {len(distances)} | {np.median(distances):.2f} | {most:.2f} | {max(0, 1 - most / 1.2):.2f} |")
    print("\nshare on the wrong side of a similarity of 0.5, with 95% Wilson interval")
    for name, (distances, extreme) in rows.items():
        wrong = proportion([(distance > SAME_PERSON) == (extreme is max) for distance in distances])
        print(f"{name}: {wrong.value:.0%} of {wrong.n} ({wrong.low:.0%} to {wrong.high:.0%})")
    print(f"\n| edit | distance, largest of {len(portraits)} people |\n|---|---|")
    for name, distances in edited.items():
        print(f"| {name} | {max(distances):.2f} |")


if __name__ == "__main__":
    main()
