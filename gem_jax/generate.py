"""Answers from the model: one prefill of the prompts, then a token a step under `lax.while_loop`.

Prompts are padded on the right to one length; new tokens are written behind the padding, which the
mask hides, so rows of different lengths share a batch and none changes another's answer. Axes:
B batch, T prompt tokens, S cache slots, M new tokens, V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt32

from gem_jax.config import ConfigError
from gem_jax.models.gem import Batch, Gem, GemConfig
from gem_jax.models.llm import Cache, apart
from gem_jax.sampling import GREEDY, Sampling, choose
from gem_jax.stops import Decode, cut, settled, within

# Steps between two looks of the host, where it looks for stop strings or hands out text.
STEPS = 8
# What is written for a row that has ended.
NOTHING = -1


class PromptError(ConfigError):
    """Prompts that the model cannot go on from, or a wish that cannot be met."""


@dataclass(frozen=True)
class Answer:
    """One row's new tokens, without the prompt, the end token and the stop string."""

    tokens: tuple[int, ...]
    reason: str
    """Why it ended: `eos`, `stop` or `length`."""
    text: str | None = None
    """The text up to the stop string, which may begin inside a token; None without `decode`."""
    end_token: int | None = None
    """The end token of reason `eos`."""


@dataclass(frozen=True)
class Plan:
    """What the programs are compiled for."""

    config: GemConfig
    max_new_tokens: int
    num_tokens: int
    eos_token_ids: tuple[int, ...]
    sampling: Sampling


@dataclass(frozen=True)
class Listener:
    """Who reads along: what ends an answer's text, and who is told of it."""

    stop: Sequence[str]
    decode: Decode | None
    on_text: Callable[[int, str], None] | None

    @property
    def follows(self) -> bool:
        """Whether the host has to look at answers while they grow."""
        return bool(self.stop) or self.on_text is not None


@struct.dataclass
class Rows:
    """What stays: tokens in each prompt, the most that it may be answered with, its seed."""

    lengths: Int[Any, "B"]
    limits: Int[Any, "B"]
    seeds: UInt32[Any, "B"]


@struct.dataclass
class State:
    """What a step changes: the cache, tokens so far (`NOTHING` behind a row's end), who is done."""

    cache: Cache
    count: Int[Array, ""]
    new: Int[Array, "B M"]
    done: Bool[Array, "B"]


def generate(
    config: GemConfig,
    params: dict,
    batch: Batch,
    *,
    max_new_tokens: int,
    num_tokens: int,
    sampling: Sampling = GREEDY,
    seeds: Sequence[int] | None = None,
    eos_token_ids: Sequence[int] | None = None,
    stop: Sequence[str] = (),
    decode: Decode | None = None,
    on_text: Callable[[int, str], None] | None = None,
) -> list[Answer]:
    """Returns the answers to the prompts of `batch`.

    A row ends at an end token, at a stop string, after `max_new_tokens`, or where prompt and answer
    fill `config.max_length`, whichever comes first.

    Args:
        config: The model.
        params: All of its parameters.
        batch: Prompts that end at the assistant's cue; targets and loss mask are not read.
        max_new_tokens: Where an answer without an end is cut.
        num_tokens: The tokenizer's size: rows of the embedding table beyond it are never chosen.
        sampling: How tokens are drawn; greedy unless told.
        seeds: Each row's seed; without it, every row has `sampling.seed`.
        eos_token_ids: End tokens instead of the config's.
        stop: Texts that end an answer.
        decode: Tokens → text; stop strings and `on_text` need it.
        on_text: Called with (row, further text) as the answers grow.

    Raises:
        PromptError: The prompts leave no room for an answer, or are not padded on the right.
    """
    ends = tuple(config.eos_token_ids if eos_token_ids is None else eos_token_ids)
    listener = Listener(stop, decode, on_text)
    _check(max_new_tokens, listener)
    rows = _rows(config, batch, max_new_tokens, sampling, seeds)
    # The seed is an argument of the programs: a new one compiles nothing.
    unseeded = Sampling(sampling.temperature, sampling.top_p, sampling.top_k)
    # No answer is longer than the model, however much is wished for.
    plan = Plan(config, min(max_new_tokens, config.max_length), num_tokens, ends, unseeded)
    return _followed(plan, params, rows, _prefill(plan, params, batch, rows), listener)


def _check(max_new_tokens: int, listener: Listener) -> None:
    stop = listener.stop
    if max_new_tokens < 1:
        raise PromptError(f"max_new_tokens: got {max_new_tokens}, expected 1 or more")
    if isinstance(stop, str) or "" in stop:
        raise PromptError(f"stop: got {stop!r}, expected a list of texts, none of them empty")
    if listener.follows and listener.decode is None:
        raise PromptError("decode: got none, expected tokens → text for stop strings and on_text")


def _followed(
    plan: Plan, params: dict, rows: Rows, state: State, listener: Listener
) -> list[Answer]:
    """Returns the answers once all have ended; the host looks at them on the way if it must."""
    most = int(rows.limits.max())
    told = [0] * len(rows.lengths)
    while True:
        answers = [_answer(row, plan.eos_token_ids, listener) for row in np.asarray(state.new)]
        done = np.asarray(state.done) | [answer.reason == "stop" for answer in answers]
        if listener.on_text is not None:
            _tell(answers, done, told, listener.stop, listener.on_text)
        if done.all():
            return answers
        until = int(state.count) + STEPS if listener.follows else most
        ended = dataclasses.replace(state, done=jnp.asarray(done))
        state = _decode(plan, params, rows, ended, until)


def _rows(
    config: GemConfig,
    batch: Batch,
    max_new_tokens: int,
    sampling: Sampling,
    seeds: Sequence[int] | None,
) -> Rows:
    real = np.asarray(batch.segments) > 0
    lengths = real.sum(axis=1, dtype=np.int32)
    room = config.max_length - lengths
    if (real != (np.arange(real.shape[1]) < lengths[:, None])).any() or lengths.min() < 1:
        raise PromptError("prompts: got a gap or none, expected tokens, then padding on the right")
    if (largest := np.asarray(batch.tokens).max()) >= config.llm.vocab_size:
        raise PromptError(
            f"prompts: got token {largest}, expected one of the model's {config.llm.vocab_size} "
            "rows; its tokenizer is another's, or was lengthened without it"
        )
    if room.min() < 1:
        raise PromptError(
            f"prompts: got one of {lengths.max()} tokens, expected fewer than the model's length "
            f"({config.max_length}); shorten it"
        )
    own = [sampling.seed] * len(lengths) if seeds is None else seeds
    return Rows(lengths, np.minimum(room, max_new_tokens), np.asarray(own, np.uint32))


def _answer(row: Int[np.ndarray, "M"], ends: Sequence[int], listener: Listener) -> Answer:
    """Returns the answer that a row is, or would be if it ended now."""
    tokens = tuple(row[row != NOTHING].tolist())
    end = tokens[-1] if tokens[-1] in ends else None
    tokens = tokens if end is None else tokens[:-1]
    reason = "length" if end is None else "eos"
    if listener.decode is None:
        return Answer(tokens, reason, end_token=end)
    text, stopped = cut(listener.decode(list(tokens)), listener.stop)
    if stopped:
        return Answer(within(tokens, listener.decode, text), "stop", text)
    return Answer(tokens, reason, text, end)


def _tell(
    answers: Sequence[Answer],
    done: Bool[np.ndarray, "B"],
    told: list[int],
    stop: Sequence[str],
    on_text: Callable[[int, str], None],
) -> None:
    """Hands out what is new and certain, and counts it in `told`."""
    for row, answer in enumerate(answers):
        text = answer.text or ""
        certain = text if done[row] else settled(text, stop)
        if len(certain) > told[row]:
            on_text(row, certain[told[row] :])
            told[row] = len(certain)


@functools.partial(jax.jit, static_argnums=0)
def _prefill(plan: Plan, params: dict, batch: Batch, rows: Rows) -> State:
    """Returns the state with the first token of every answer."""
    count, prompt = batch.tokens.shape
    # The last token of an answer is never read.
    slots = prompt + plan.max_new_tokens - 1
    prefilled: Any = Gem(plan.config).apply(
        {"params": params}, batch, rows.lengths - 1, slots, method="prefill"
    )
    logits, cache = prefilled
    new = jnp.full((count, plan.max_new_tokens), NOTHING, jnp.int32)
    start = State(cache, jnp.int32(0), new, jnp.zeros(count, bool))
    return _written(plan, rows, start, cache, logits)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def _decode(plan: Plan, params: dict, rows: Rows, state: State, until: Int[Array, ""]) -> State:
    """Returns the state when `until` tokens are there, or all rows are done."""
    stacked = params["llm"]["layers"]
    # XLA's CPU backend copies what it takes from a stack: once here, not for every token. Other
    # backends read it where it lies, and a copy would cost the memory of a second model.
    copied = apart(stacked) if jax.default_backend() == "cpu" else None

    def going_on(state: State) -> Bool[Array, ""]:
        return (state.count < until) & ~state.done.all()

    def step(state: State) -> State:
        at = state.count - 1
        slots = state.cache[0]["k"].shape[2]
        prompt = slots - (plan.max_new_tokens - 1)
        token = jnp.maximum(state.new[:, at], 0)
        mask = _readable(rows.lengths, prompt, slots, at, plan.config.llm.sliding_window)
        decoded: Any = Gem(plan.config).apply(
            {"params": params},
            token,
            rows.lengths + at,
            mask,
            copied or apart(stacked),
            state.cache,
            prompt + at,
            method="decode",
        )
        logits, cache = decoded
        return _written(plan, rows, state, cache, logits)

    return jax.lax.while_loop(going_on, step, state)


def _readable(
    lengths: Int[Array, "B"], prompt: int, slots: int, at: Int[Array, ""], window: int | None
) -> Bool[Array, "B S"]:
    """Returns the cache slots that new token `at` sees: prompt and answer, not the padding."""
    slot = jnp.arange(slots)
    lengths = lengths[:, None]
    seen = (slot < lengths) | ((slot >= prompt) & (slot <= prompt + at))
    if window is None:
        return seen
    positions = jnp.where(slot < prompt, slot, lengths + slot - prompt)
    return seen & (positions > lengths + at - window)


def _written(
    plan: Plan, rows: Rows, state: State, cache: Cache, logits: Float[Array, "B V"]
) -> State:
    """Returns the state with the next token of every row that goes on."""
    known = jnp.arange(logits.shape[-1]) < plan.num_tokens
    positions = rows.lengths + state.count
    token = choose(jnp.where(known, logits, -jnp.inf), plan.sampling, rows.seeds, positions)
    token = jnp.where(state.done, NOTHING, token)
    count = state.count + 1
    ended = jnp.isin(token, jnp.array(plan.eos_token_ids, jnp.int32)) | (count >= rows.limits)
    return State(cache, count, state.new.at[:, count - 1].set(token), state.done | ended)
