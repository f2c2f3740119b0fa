"""The kinds of stages of a recipe: what they do, read and leave, what is checked first, and what they take."""
