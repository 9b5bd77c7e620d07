"""What an experiment decides: frozen dataclasses, checked when they are built, to and from JSON.

A recipe is a function that returns a whole `Config`. Nothing here has a default that an experiment
should have chosen; defaults exist where there is one right answer.
"""

import dataclasses
import json
import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from gem_jax.models.gem import GemConfig

T = TypeVar("T")


class ConfigError(ValueError):
    """A recipe, an override or a config file that cannot be used."""


def _require(holds: bool, field: str, got: Any, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{field}: got {got!r}, expected {expected}")


@dataclass(frozen=True)
class SourceConfig:
    """A part of a mixture: shards, or an official instruction file with its ECGs and pages."""

    path: str
    """Folder that `gem-jax prep` wrote, or a .json list of {id, ecg, image, conversations}."""
    weight: float | None = None
    """Its share of the rows, beside the others' weights. None, then of all: every record of the
    mixture is seen equally often."""
    ecgs: str = ""
    """Folder below which an official file's `ecg` lies."""
    images: str = ""
    """Folder below which its `image` lies; empty: each page is drawn from its record."""
    allow_missing: tuple[Literal["ecg", "image"], ...] = ()
    """Keys that its rows may lack: without `ecg` a page is shown alone, without `image` the
    record's page is drawn."""
    split: str = "train"
    """Of the shards: train or test."""
    task: str = ""
    """Its name in the metrics; empty: that of its file or folder."""

    def __post_init__(self):
        positive = self.weight is None or self.weight > 0
        _require(positive, "data.mixture.weight", self.weight, "a positive number or none")


@dataclass(frozen=True)
class DataConfig:
    """Which examples a step sees, and in what words."""

    shards: str
    """Folder that `gem-jax prep` wrote; empty where `mixture` names what is read."""
    tokenizer: str
    """Folder of the tokenizer; empty: the starting checkpoint's."""
    style: Literal["full", "brief"]
    """How the answer is phrased when it is made anew from an augmented record."""
    length: int
    """Tokens in a row, the placeholders of ECG and page included."""
    batch_size: int
    """Rows in a global batch."""
    augment: bool
    """Change training records by label-true augmentation, and make their texts anew."""
    seed: int
    cut: Literal["refuse", "original"] = "refuse"
    """A row that is too long is broken; or its end is cut off wherever that falls, as in the
    original, and metrics.jsonl counts it."""
    mixture: tuple[SourceConfig, ...] = ()
    """What is read instead of `shards`."""
    held_out: tuple[SourceConfig, ...] = ()
    """What the run is evaluated on while it trains."""
    held_out_rows: int | None = None
    """So many of them, drawn once by the seed; None: all."""
    shuffle: bool = True
    """False: the order of the files."""
    reading: Literal["ours", "original"] = "ours"
    """How a signal and a page become arrays; see `gem_jax.preprocess`."""
    bucket: int = 128
    """A batch is as long as its longest row, rounded up to a multiple of this many tokens."""
    media: int = 1
    """ECGs with their pages for which a row has room."""
    workers: int = 0
    """Processes that make rows; 0: a thread. The rows are the same."""
    max_broken: int = 0
    """Records that may be skipped because they cannot be read or used."""

    def __post_init__(self):
        _require(self.length > 0, "data.length", self.length, "a positive number of tokens")
        _require(self.batch_size > 0, "data.batch_size", self.batch_size, "a positive number")
        _require(self.bucket > 0, "data.bucket", self.bucket, "a positive number of tokens")
        _require(self.media > 0, "data.media", self.media, "a positive number")
        _require(self.workers >= 0, "data.workers", self.workers, "≥ 0")
        _require(self.max_broken >= 0, "data.max_broken", self.max_broken, "≥ 0")
        _require(0 <= self.seed < 2**32, "data.seed", self.seed, "0 ≤ seed < 2³²")
        weighted = {source.weight is None for source in self.mixture}
        _require(len(weighted) < 2, "data.mixture.weight", "some", "all with a weight, or none")
        _require(not (self.shards and self.mixture), "data.shards", self.shards, "no mixture too")

    @property
    def sources(self) -> tuple[SourceConfig, ...]:
        """What is read: the mixture, or the one folder of shards."""
        return self.mixture or (SourceConfig(self.shards),)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW behind global-norm clipping; linear warm-up from 0, then cosine to `final_fraction`."""

    learning_rate: float
    warmup_steps: int
    final_fraction: float
    weight_decay: float
    clip_norm: float
    learning_rates: tuple[tuple[str, float], ...] = ()
    """(path prefix, peak rate) of sets that have their own; all others have `learning_rate`."""
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self):
        _require(self.learning_rate > 0, "optimizer.learning_rate", self.learning_rate, "> 0")
        for prefix, rate in self.learning_rates:
            _require(rate > 0, f"optimizer.learning_rates[{prefix}]", rate, "> 0")
        _require(self.clip_norm > 0, "optimizer.clip_norm", self.clip_norm, "> 0")
        _require(self.warmup_steps >= 0, "optimizer.warmup_steps", self.warmup_steps, "≥ 0")


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; one of them may be -1, "all that are left"."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        sizes = (self.data, self.fsdp, self.tensor)
        free = sizes.count(-1)
        positive = all(size > 0 or size == -1 for size in sizes)
        _require(free <= 1 and positive, "mesh", sizes, "positive sizes, at most one of them -1")


@dataclass(frozen=True)
class TrainConfig:
    """How long, from what, and which parameters move."""

    objective: Literal["pretrain", "instruct"]
    """`pretrain`: dense targets for the ECG encoder and text alone for the LLM; `instruct`: GEM."""
    steps: int
    trainable: tuple[str, ...]
    """Paths of what moves, of whole components: `llm`, `llm/lm_head`; all else is frozen."""
    init_parts: tuple[str, ...]
    """Top-level parts initialised at random because the start lacks them."""
    checkpoint_every: int
    seed: int
    accumulate: int = 1
    """Micro-batches that a batch is computed in, one after the other; one update a batch."""
    loss_weighting: Literal["token", "microbatch"] = "token"
    """Every labelled token of a batch counts the same; or every micro-batch, as in the original,
    whose micro-batch is that of one device: there `accumulate` is its devices × its own."""
    loss_chunk: int = 512
    """Tokens of each row whose logits exist at a time."""
    keep: int = 2
    """Checkpoints kept, beside the one with the best held-out loss."""
    checkpoint_minutes: float | None = None
    """Save also when so many minutes have passed since the last save."""
    eval_every: int | None = None
    """After so many steps, and after the last, evaluate on `data.held_out` and save."""
    grow_vocab: bool = False
    """Give the start's vocabulary rows up to `model.llm.vocab_size`: the mean of its own."""
    frozen_dtype: str | None = None
    """What parameters that do not move are held and saved in; None: in the model's `param_dtype`.
    Those that move, and all that is computed with, keep theirs."""

    def __post_init__(self):
        _require(
            self.frozen_dtype in (None, "bfloat16", "float16", "float32"),
            "train.frozen_dtype",
            self.frozen_dtype,
            "bfloat16, float16, float32 or none",
        )
        _require(self.steps > 0, "train.steps", self.steps, "a positive number of steps")
        _require(self.checkpoint_every > 0, "train.checkpoint_every", self.checkpoint_every, "> 0")
        _require(self.accumulate > 0, "train.accumulate", self.accumulate, "a positive number")
        _require(self.loss_chunk > 0, "train.loss_chunk", self.loss_chunk, "a positive number")
        _require(self.keep > 0, "train.keep", self.keep, "a positive number")
        for name in ("checkpoint_minutes", "eval_every"):
            value = getattr(self, name)
            _require(
                value is None or value > 0, f"train.{name}", value, "a positive number or none"
            )


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters beside frozen kernels: W + alpha / rank · A·B (arXiv 2106.09685)."""

    rank: int
    alpha: float
    targets: tuple[str, ...] = (r"llm/layers/(self_attn/[qkvo]_proj|mlp/(gate|up|down)_proj)",)
    """Patterns of dense layers' whole paths, in the LLM or a projector."""

    def __post_init__(self):
        _require(self.rank > 0, "lora.rank", self.rank, "a positive number")
        _require(self.alpha > 0, "lora.alpha", self.alpha, "> 0")
        _require(bool(self.targets), "lora.targets", self.targets, "at least one pattern")
        for target in self.targets:
            _require(_is_pattern(target), "lora.targets", target, "a regular expression")


@dataclass(frozen=True)
class Config:
    """One training run, whole."""

    model: GemConfig
    data: DataConfig
    optimizer: OptimizerConfig
    mesh: MeshConfig
    train: TrainConfig
    lora: LoraConfig | None = None
    """Adapters to train beside the parts that `train.trainable` names; the LLM is frozen."""

    def __post_init__(self):
        self._check_moving()
        evaluates = self.train.eval_every is None or bool(self.data.held_out)
        _require(evaluates, "data.held_out", self.data.held_out, "sources for train.eval_every")
        _require(
            self.data.batch_size % self.train.accumulate == 0,
            "train.accumulate",
            self.train.accumulate,
            f"a divisor of data.batch_size ({self.data.batch_size})",
        )
        _require(
            self.data.length <= self.model.max_length,
            "data.length",
            self.data.length,
            f"at most model.max_length ({self.model.max_length})",
        )
        _require(
            self.train.objective == "pretrain" or self.data.length > self.model.num_media_tokens,
            "data.length",
            self.data.length,
            f"more than the {self.model.num_media_tokens} tokens of an ECG and its page",
        )

    def _check_moving(self) -> None:
        moving = self.train.trainable
        if self.lora is None:
            _require(bool(moving), "train.trainable", moving, "at least one part")
            return
        width = self.model.llm.hidden_dim
        _require(self.lora.rank < width, "lora.rank", self.lora.rank, f"below the width {width}")
        kept = not any(part.split("/")[0] == "llm" for part in moving)
        _require(kept, "train.trainable", moving, "nothing of llm beside `lora`: it is frozen")


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def to_dict(config: Any) -> dict[str, Any]:
    """Returns the dataclass as nested dicts of JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(kind: type[T], values: Any, where: str) -> T:
    """Returns the dataclass `kind` built from nested dicts; ConfigError names a wrong field."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: got {type(values).__name__}, expected an object")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    missing = sorted(
        name
        for name, field in fields.items()
        if name not in values and field.default is dataclasses.MISSING
    )
    if unknown or missing:
        raise ConfigError(
            f"{where}: got unknown fields {unknown} and missing fields {missing}, expected "
            f"exactly {sorted(fields)}; was it written by another version?"
        )
    built = {name: _field(hints[name], value, f"{where}.{name}") for name, value in values.items()}
    try:
        return kind(**built)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _field(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where)  # type: ignore[arg-type]
    if typing.get_origin(hint) is tuple and isinstance(value, list | tuple):
        kind = typing.get_args(hint)[0]
        return tuple(_field(kind, one, f"{where}[{at}]") for at, one in enumerate(value))
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        (kind,) = [arm for arm in typing.get_args(hint) if arm is not types.NoneType]
        return _field(kind, value, where)
    return _tuples(value)


def _tuples(value: Any) -> Any:
    """Returns JSON's lists as the tuples that they were: a config can be hashed."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def model_from_dict(values: dict[str, Any]) -> GemConfig:
    """Returns the model's config from a checkpoint's `config.json` entry `model`."""
    return from_dict(GemConfig, values, "model")


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in `path`; ConfigError if it is not one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: got {error}, expected a JSON object") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: got a {type(values).__name__}, expected a JSON object")
    return values
