"""From a run folder to plain diffusers files with a model card, which need no line of ours."""
