"""The words around a conversation's turns, as the original's templates put them.

A template gives a conversation as parts in order; the answers with what stops them are marked. The
system sentences are what the weights were trained with: they are data.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gem_jax.config import ConfigError

IMAGE = "<image>"
IM_START, IM_END = "<|im_start|>", "<|im_end|>"


class TokenError(ValueError):
    """A conversation that cannot become a row: too long, without an answer, wrong placeholders."""


class Turn(NamedTuple):
    """A question and its answer.

    The answer is None where a conversation ends in a question, the question where it begins with
    an answer: the original takes both, most of its templates pass over the second.
    """

    question: str | None
    answer: str | None


class Part(NamedTuple):
    """A stretch of the conversation; `learn`: loss is taken on it."""

    text: str
    learn: bool = False


@dataclass(frozen=True)
class Template:
    """How a conversation is written, cut into tokens and learnt."""

    system: str
    parts: "Callable[[str, Sequence[Turn], bool], list[Part]]"
    """(system, turns, answer_open) → the parts; `answer_open` ends at the assistant's cue."""
    needs: tuple[str, ...] = ()
    """Special tokens without which the tokenizer is not the template's."""
    bos: bool = False
    """Begins with the begin token whatever the tokenizer's settings say."""
    image_first: bool = True
    """Moves `<image>` to the front of its turn, as the original's preprocessing."""
    encoded: Literal["whole", "parts"] = "whole"
    """Cut into tokens as one text, or part by part."""
    labels: Literal["marked", "lengths"] = "marked"
    """Learns what is marked; or what the original's v0 takes for it (`tokens.by_lengths`)."""
    also: tuple[str, ...] = ()
    """Tokens that are learnt wherever they stand."""


def template(name: str) -> Template:
    """Returns the template `name`; ConfigError lists the known ones."""
    if name not in TEMPLATES:
        raise ConfigError(f"model.template: got {name!r}, expected one of {sorted(TEMPLATES)}")
    return TEMPLATES[name]


def _vicuna(system: str, turns: Sequence[Turn], answer_open: bool) -> list[Part]:
    parts = [Part(f"{system} " if system else "")]
    for question, answer in _from_question(turns):
        cue = "" if answer is None else "ASSISTANT:"
        parts += [Part(f"USER: {question} {cue}"), Part(f" {answer}</s>", True)]
    return _ended(parts, turns, answer_open)


def _llama_2(system: str, turns: Sequence[Turn], answer_open: bool) -> list[Part]:
    return _instructed(f"<<SYS>>\n{system}\n<</SYS>>\n\n", "<s>", turns, answer_open)


def _mistral(system: str, turns: Sequence[Turn], answer_open: bool) -> list[Part]:
    return _instructed(system, "", turns, answer_open)


def _instructed(system: str, begin: str, turns: Sequence[Turn], answer_open: bool) -> list[Part]:
    parts, before = [], f"[INST] {system}"
    for question, answer in _from_question(turns):
        parts += [Part(f"{before}{question} [/INST]"), Part(f" {answer} </s>", True)]
        before = f"{begin}[INST] "
    return _ended(parts, turns, answer_open)


def _mpt(system: str, turns: Sequence[Turn], answer_open: bool) -> list[Part]:
    parts = [Part(f"{IM_START}system\n{system}{IM_END}")]
    for question, answer in _from_question(turns):
        cue = "" if answer is None else f"{IM_START}assistant\n"
        parts.append(Part(f"{IM_START}user\n{question}{IM_END}{cue}"))
        parts.append(Part(f"{answer}{IM_END}", True))
    return _ended(parts, turns, answer_open)


def _plain(system: str, turns: Sequence[Turn], answer_open: bool) -> list[Part]:
    """Returns the placeholder and the caption: the alignment stage reads no question."""
    if len(turns) != 1 or turns[0].question is None or turns[0].answer is None:
        raise TokenError(f"conversation: got {turns!r}, expected one question and answer in plain")
    question, answer = turns[0].question, turns[0].answer
    if answer_open:
        return [Part(f"{question}\n")]
    return [Part(IMAGE * question.count(IMAGE)), Part(f"{answer}\n", True)]


def _v0(system: str, turns: Sequence[Turn], answer_open: bool) -> list[Part]:
    """Returns the parts: trained with `### ` before a speaker, asked without the space."""
    said = [
        (speaker, text)
        for turn in turns
        for speaker, text in zip(("Human", "Assistant"), turn, strict=True)
        if text is not None
    ]
    if answer_open:
        asked = "".join(f"{speaker}: {text}###" for speaker, text in said[:-1])
        return [Part(f"{system}###{asked}Assistant:")]
    parts = [Part(f"### {speaker}: {text}\n", speaker == "Assistant") for speaker, text in said]
    return [Part(f"{system}\n\n"), *parts, Part("### ", True)]


def _qwen(system: str, turns: Sequence[Turn], answer_open: bool) -> list[Part]:
    """Returns a part a message; asked, the original cuts at `<image>` and adds a line end to it."""
    parts = [Part(f"{IM_START}system\n{system}{IM_END}\n")]
    for question, answer in _from_question(turns):
        if answer_open:
            pieces = question.replace(IMAGE, f"\0{IMAGE}\n\0").split("\0")
            parts += map(Part, [f"{IM_START}user\n", *pieces, f"{IM_END}\n"])
        else:
            parts.append(Part(f"{IM_START}user\n{question}{IM_END}\n"))
        parts.append(Part(f"{IM_START}assistant\n{answer}{IM_END}\n", True))
    parts = _ended(parts, turns, answer_open)
    return [*parts, Part(f"{IM_START}assistant\n")] if answer_open else parts


def _from_question(turns: Sequence[Turn]) -> list[tuple[str, str | None]]:
    """Returns the turns that have a question."""
    return [(turn.question, turn.answer) for turn in turns if turn.question is not None]


def _ended(parts: list[Part], turns: Sequence[Turn], answer_open: bool) -> list[Part]:
    """Returns the parts without the last answer where it is open or there is none."""
    return parts[:-1] if answer_open or turns[-1].answer is None else parts


_POLITE = (
    "A chat between a curious {0} and an artificial intelligence assistant. The assistant "
    "gives helpful, detailed, and polite answers to the {0}'s questions."
)
_SEES = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
_HONEST = (
    "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and "
    "honest answers."
)

TEMPLATES = {
    "vicuna_v1": Template(_POLITE.format("user"), _vicuna, ("</s>",)),
    "llava_v1": Template(_POLITE.format("human"), _vicuna, ("</s>",)),
    # vicuna_v1 without a system sentence: a small model's row has no room for it.
    "bare": Template("", _vicuna, ("<s>", "</s>"), bos=True, image_first=False),
    "plain": Template("", _plain),
    "v0": Template(_POLITE.format("human"), _v0, labels="lengths"),
    "llava_llama_2": Template(_SEES, _llama_2, ("<s>", "</s>")),
    "mistral_instruct": Template("", _mistral, ("</s>",)),
    "mpt": Template(_HONEST, _mpt, (IM_START, IM_END)),
    "qwen_2": Template(
        "You are a helpful assistant.",
        _qwen,
        (IM_START, IM_END),
        encoded="parts",
        also=(IM_START, IM_END, "\n"),
    ),
}
