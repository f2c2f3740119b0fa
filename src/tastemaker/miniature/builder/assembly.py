"""The parts of the miniature as one pipeline, empty or with trained weights, and what its base learns from."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage21, QwenImage21Pipeline
from safetensors.torch import load_file
from torch import Tensor

from tastemaker.miniature.builder import base, drawings
from tastemaker.miniature.builder.parts import build_scheduler, build_text_encoder, build_transformer, build_vae
from tastemaker.miniature.builder.tokenizer import build_processor, build_tokenizer, special_ids
from tastemaker.miniature.world.wording import vocabulary
from tastemaker.models.qwen_image21 import QwenImage21Adapter, adapt


def assemble(folder: Path, weights: dict[str, Tensor] | None = None) -> QwenImage21Adapter:
    """The pipeline around the folder's VAE, with new transformer and text encoder, or with trained `weights`."""
    latents = load_file(folder / "latents.safetensors")
    decoder = build_vae(latents["mean"].tolist(), latents["std"].tolist())
    decoder.load_state_dict(load_file(folder / "decoder.safetensors"))
    adapter = empty_pipeline(decoder)
    if weights is not None:
        transformer, text = adapter.pipeline.transformer, adapter.pipeline.text_encoder.model
        for module, prefix in ((transformer, "transformer."), (text, "text.")):
            own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
            module.load_state_dict(own, strict=True)
    return adapter


def save_pipeline(pipeline: QwenImage21Pipeline, out: Path) -> None:
    """Half the bytes (bfloat16 weights), opened in float32 unless asked otherwise.

    diffusers opens a folder in float32 but transformers in the dtype that the text encoder's config names; left at bfloat16
    there, a plain `from_pretrained` would give a pipeline of two dtypes that cannot run.
    """
    pipeline.to(torch.bfloat16).save_pretrained(out)
    path = out / "text_encoder" / "config.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"bfloat16"', '"float32"'), encoding="utf-8")


def empty_pipeline(decoder: AutoencoderKLQwenImage21) -> QwenImage21Adapter:
    tokenizer = build_tokenizer(vocabulary())
    encoder = build_text_encoder(len(tokenizer), special_ids(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id)
    return adapt(
        QwenImage21Pipeline(
            scheduler=build_scheduler(),
            vae=decoder,
            text_encoder=encoder,
            processor=build_processor(tokenizer),
            transformer=build_transformer(),
        )
    )


def examples(folder: Path, pipeline: QwenImage21Pipeline) -> tuple[base.Examples, base.Examples]:
    """What the base learns from: text-to-image and edits, tokenised in the pipeline's own templates."""
    latents = load_file(folder / "latents.safetensors")
    tokenizer = pipeline.processor.tokenizer
    edit_template = pipeline.prompt_template_ti2i.replace("<|image_pad|>", "<|image_pad|>" * 4)

    def ids(template: str, texts: list[str]) -> list[list[int]]:
        return tokenizer([template.format(text) for text in texts]).input_ids

    t2i_texts, _ = drawings.load_drawings(folder / "t2i")
    edit_texts, arrays = drawings.load_drawings(folder / "edit")
    return (
        base.Examples(
            ids(pipeline.prompt_template_t2i, t2i_texts), ids(pipeline.prompt_template_t2i, [" "])[0], latents["t2i.targets"]
        ),
        base.Examples(
            ids(edit_template, edit_texts),
            ids(edit_template, [" "])[0],
            latents["edit.targets"],
            latents["edit.sources"],
            arrays["sources"],
        ),
    )
