"""Every RGB value of the world.

Named colours are at least 60 apart (Euclidean RGB, 0-255) within each group a prompt may choose from, so that
thresholds separate them after a lossy decoder. `*_INK` is the outline colour used by line drawings wherever the
fill is too pale to be seen on white paper.
"""

RGB = tuple[int, int, int]

COLOUR_RGB: dict[str, RGB] = {
    "red": (222, 40, 42),
    "orange": (246, 136, 20),
    "yellow": (250, 214, 40),
    "green": (40, 160, 72),
    "cyan": (40, 200, 212),
    "blue": (40, 78, 216),
    "purple": (132, 50, 182),
    "pink": (250, 128, 190),
}

PAPER: RGB = (255, 255, 255)
BACKDROPS: tuple[RGB, ...] = ((248, 248, 248), (226, 229, 234), (250, 240, 220))
DARK: RGB = (34, 30, 40)

SKIN_RGB: dict[str, RGB] = {"light": (252, 220, 192), "tan": (212, 158, 112), "dark": (142, 92, 62)}
SKIN_INK: dict[str, RGB] = {"light": (244, 182, 150), "tan": (206, 138, 78), "dark": (130, 80, 50)}
HAIR_RGB: dict[str, RGB] = {
    "black": (36, 32, 42),
    "brown": (96, 54, 22),
    "blonde": (244, 206, 92),
    "red": (200, 76, 28),
    "grey": (168, 170, 178),
}
MOUTH: RGB = (204, 48, 70)
LENS: RGB = (228, 242, 252)
NECK_SHADE = 0.84  # the neck is darker than the face, so that the chin (and the face height) can be measured

SKY_RGB: dict[str, RGB] = {"day": (146, 210, 252), "sunset": (246, 134, 88), "night": (30, 36, 84)}
GROUND_RGB: dict[str, RGB] = {
    "grass": (116, 190, 84),
    "sand": (236, 206, 140),
    "snow": (242, 247, 252),
    "water": (34, 104, 186),
}
GROUND_INK: dict[str, RGB] = {**GROUND_RGB, "sand": (222, 176, 92), "snow": (176, 200, 224)}
WAVE: RGB = (140, 196, 240)
SUN: RGB = (255, 228, 70)
MOON: RGB = (248, 242, 206)
MOON_INK: RGB = (206, 192, 120)
CLOUD: RGB = (238, 241, 247)
CLOUD_INK: RGB = (150, 156, 172)
RAIN_RGB: dict[str, RGB] = {"day": (44, 92, 196), "sunset": (60, 80, 170), "night": (150, 190, 245)}
SNOWFLAKE: RGB = (255, 255, 255)
SNOWFLAKE_INK: RGB = (160, 196, 232)
TRUNK: RGB = (112, 70, 40)
CROWN: RGB = (28, 112, 58)
MOUNTAIN: RGB = (132, 126, 150)

BOARD_RGB: dict[str, RGB] = {"pale": (250, 246, 232), "dark": (44, 46, 58)}
BOARD_RIM: RGB = (150, 110, 72)

SEPIA_DARK: RGB = (48, 26, 10)
SEPIA_PALE: RGB = (252, 236, 204)
