"""What an official config says of images, in each of its spellings."""

from __future__ import annotations

import pytest

from gem_jax.image_keys import image_mode, pinpoints

CANVASES = ((336, 672), (672, 336))


@pytest.mark.parametrize(
    "given",
    [
        [[336, 672], [672, 336]],
        "[[336, 672], [672, 336]]",
        "[(336, 672), (672, 336)]",
        ((336, 672), (672, 336)),
    ],
)
def test_canvases_are_a_list_or_its_text(given):
    assert pinpoints(given) == CANVASES


@pytest.mark.parametrize("given", [None, [], "[]", ""])
def test_no_canvases_are_none(given):
    assert pinpoints(given) == ()


@pytest.mark.parametrize(
    "given", ["(1x1),...,(6x6)", [[336, 672], 3], [[336]], [[336, "672"]], [[336.5, 672]], 5]
)
def test_what_is_no_canvas_is_refused(given):
    with pytest.raises(ValueError, match=r"image_grid_pinpoints: got .* expected pairs"):
        pinpoints(given)


@pytest.mark.parametrize(
    ("given", "mode"),
    [(None, "ori"), ("square", "ori"), ("ori", "ori"), ("pad", "pad"), ("anyres", "anyres")],
)
def test_a_mode_is_the_originals(given, mode):
    assert image_mode(given) == mode
    assert image_mode("highres") == "highres", "whoever takes it refuses it"
