"""The miniature judge: a small Qwen3-VL for all four dimensions, trained on simulated ratings, opened like any other judge."""
