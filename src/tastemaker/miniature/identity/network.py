"""The miniature's identity embedder: a few convolutions from a 64x64 portrait to a unit vector.

A face is a point in the space of proportions that an edit of hair, glasses, smile or clothing leaves alone; the cosine of two
vectors says how alike two faces are. Places matter (how far apart the eyes are), so nothing is pooled over the picture.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from tastemaker.errors import Corrupt, UserMistake
from tastemaker.rewards.identity import Floats
from tastemaker.rewards.reward import fingerprint_of
from tastemaker.runtime import checkpoint

SHIPPED = Path(__file__).parent / "weights" / "identity.safetensors"
DIMENSIONS = 32
_CHANNELS = (32, 48, 64, 96)
_LAST = 16  # channels of the 8 x 8 map that is read out
SIDE = 64


class IdentityNet(nn.Module):
    """0.3 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third, fourth = _CHANNELS
        self.layers = nn.Sequential(
            *_block(3, first, stride=2),
            *_block(first, second, stride=1),
            *_block(second, third, stride=2),
            *_block(third, fourth, stride=2),
            nn.Conv2d(fourth, _LAST, 1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(_LAST * (SIDE // 8) ** 2, 128),
            nn.GELU(),
            nn.Linear(128, DIMENSIONS),
        )

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """(B, DIMENSIONS) of length 1, of pictures (B, 3, 64, 64) in [0, 1]."""
        return F.normalize(self.layers(images_B3HW * 2 - 1), dim=1)


class CartoonFaces:
    """A `FaceEmbedder` of the miniature: every picture is taken for one face, so ask it about portraits alone."""

    def __init__(self, path: Path = SHIPPED) -> None:
        self._net, self.fingerprint = load(path), fingerprint_of([path])

    def embed(self, picture: Image.Image) -> Floats:
        """(1, DIMENSIONS)"""
        return embed(self._net, np.array(picture)[None]).astype(np.float64)

    def similarity(self, left: Floats, right: Floats) -> Floats:
        """The cosine, where it is positive."""
        return np.clip(left @ right.T, 0, 1)


def embed(net: IdentityNet, pictures: np.ndarray, batch: int = 256) -> np.ndarray:
    """float32 (N, DIMENSIONS) of uint8 (N, 64, 64, 3), without gradient. Raises UserMistake for another size."""
    if pictures.shape[1:] != (SIDE, SIDE, 3):
        raise UserMistake(f"pictures of shape {pictures.shape[1:]}: the miniature's embedder knows ({SIDE}, {SIDE}, 3) alone")
    with torch.no_grad():
        parts = [net(as_input(pictures[start : start + batch])) for start in range(0, len(pictures), batch)]
    return torch.cat(parts).numpy() if parts else np.zeros((0, DIMENSIONS), np.float32)


def as_input(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255


def save(net: IdentityNet, path: Path) -> None:
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, path)


def load(path: Path) -> IdentityNet:
    """Raises UserMistake where there is no such file, Corrupt for one of another network."""
    if not path.is_file():
        raise UserMistake(f"{path}: there is no identity embedder; build it with python -m tastemaker.miniature.identity")
    net = IdentityNet()
    try:
        net.load_state_dict(checkpoint.load_safetensors(path))
    except RuntimeError as error:
        raise Corrupt(f"{path}: not the weights of this network ({error})") from error
    return net.eval()


def _block(channels: int, out: int, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels, out, 3, stride, padding=1),
        nn.GroupNorm(8, out),
        nn.GELU(),
    )
