"""What the commands do, a module each: from settings to work that is under way, and what is left of it on the disk."""
