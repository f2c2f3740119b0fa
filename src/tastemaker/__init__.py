"""tastemaker: post-training of flow-matching image models towards what people want."""

__version__ = "0.1.0"
