"""The one training loop, what it carries from step to step, and how a run is started from its settings."""
