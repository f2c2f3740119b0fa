"""The miniature's tokenizer and processor: a real byte-level Qwen tokenizer in which every word of the world is one token.

Capital letters are never merged, so a sign's text is read letter by letter; any other text still works, byte by byte.
"""

from __future__ import annotations

import json
import string

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer, Qwen2VLImageProcessorPil, Qwen3VLProcessor
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from tastemaker.miniature.builder.parts import SIDE
from tastemaker.models.processor_shim import allow_processors_without_torchvision

SPECIALS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
CHAT_TEMPLATE = (
    "{%- for m in messages %}<|im_start|>{{ m.role }}{{ '\n' }}{%- if m.content is string %}{{ m.content }}{%- else %}"
    "{%- for c in m.content %}{%- if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif c.type == 'text' %}{{ c.text }}{%- endif %}{%- endfor %}{%- endif %}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PIPELINE_WORDS = ["system", "user", "assistant", "Comprehend", "and", "analyze", "the", "provided", "prompt", "image"]
"""Words of the pipeline's own templates, whose spelling is fixed by diffusers."""


def build_tokenizer(words: tuple[str, ...]) -> Qwen2Tokenizer:
    """One token for each word, with and without a space before it; numbers are counted up by bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    every = [w for w in (*words, *PIPELINE_WORDS) if w.isalpha() and len(w) > 1]
    corpus = [form for word in every for form in (word, f" {word}")] * 4
    trainer = trainers.BpeTrainer(
        vocab_size=100_000, min_frequency=2, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(corpus, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    built = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIALS,
    )
    built.chat_template = CHAT_TEMPLATE
    _check(built, every)
    return built


def _check(tokenizer: Qwen2Tokenizer, words: list[str]) -> None:
    broken = [word for word in words for form in (word, f" {word}") if len(tokenizer(form).input_ids) != 1]
    if broken:
        raise RuntimeError(f"these words are not one token each: {broken[:10]}")
    letters = tokenizer(f' "{string.ascii_uppercase}"').input_ids
    if len(letters) != 29:  # the space, two quotes, 26 letters
        raise RuntimeError(f"capital letters were merged: {tokenizer.convert_ids_to_tokens(letters)}")


def build_processor(tokenizer: Qwen2Tokenizer) -> Qwen3VLProcessor:
    allow_processors_without_torchvision()
    pictures = Qwen2VLImageProcessorPil(
        patch_size=16,
        size={"shortest_edge": 32 * 32, "longest_edge": 4 * SIDE * SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return Qwen3VLProcessor(image_processor=pictures, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE)


def special_ids(tokenizer: Qwen2Tokenizer) -> dict[str, int]:
    """The ids a Qwen3-VL config needs."""
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()}
