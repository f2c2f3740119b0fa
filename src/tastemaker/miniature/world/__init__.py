"""The miniature world: 64x64 pictures drawn from typed descriptions, so that every fact in a prompt is checkable."""
