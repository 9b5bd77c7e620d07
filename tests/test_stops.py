"""Stop strings: cut before, held back while they may still come, whatever the tokens are."""

from hypothesis import given
from hypothesis import strategies as st

from gem_jax.stops import cut, settled, within

TEXTS = st.text("ab#", max_size=12)
STOPS = st.lists(st.text("ab#", min_size=1, max_size=4), max_size=3)


def test_the_earliest_stop_cuts():
    assert cut("one ### two USER:", ["USER:", "###"]) == ("one ", True)
    assert cut("one", ["###"]) == ("one", False)


def test_the_beginning_of_a_stop_and_half_a_character_are_held_back():
    assert settled("sinus ##", ["###"]) == "sinus "
    assert settled("sinus #x", ["###"]) == "sinus #x"
    assert settled("60 \N{REPLACEMENT CHARACTER}", []) == "60 "


@given(TEXTS, TEXTS, STOPS)
def test_no_later_text_takes_back_what_is_settled(text, further, stops):
    if not cut(text, stops)[1]:
        assert cut(text + further, stops)[0].startswith(settled(text, stops))


def test_the_tokens_of_a_cut_text_hold_none_of_the_stop():
    pieces = ["sinus", " ", "#", "##", " more"]
    tokens = within(range(5), lambda ids: "".join(pieces[i] for i in ids), "sinus ")
    assert tokens == (0, 1)
