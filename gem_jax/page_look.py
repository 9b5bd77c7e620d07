"""How a page looks on another paper, printed and photographed by others: its text stays true."""

import numpy as np
from PIL import Image

from gem_jax.preprocess import on_white

# Of full brightness, by channel: paper yellows more than it blues.
SHADE = ((0.85, 1.0), (0.82, 1.0), (0.75, 1.0))
GAMMA = (0.75, 1.35)


def another_look(page: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Returns the page in another shade and contrast; where its lines lie does not change."""
    gamma = np.exp(rng.uniform(*np.log(GAMMA)))
    level = np.linspace(0.0, 1.0, 256) ** gamma
    tables = [np.rint(255 * level * rng.uniform(*shade)) for shade in SHADE]
    return on_white(page).point(np.concatenate(tables).astype(int).tolist())
