"""From the words of settings to the things they name: models, prompts, rewards."""
