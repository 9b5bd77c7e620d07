"""The architectures of language models, and what their official configs have of their own."""

from dataclasses import dataclass, field
from typing import Any

from gem_jax.weights.keys import words

NO_BIAS = {"attention_bias": (False,), "mlp_bias": (False,)}
NO_WINDOW = {"sliding_window": (None,)}
# The window that transformers gives a Mistral whose config names none (null: no window).
MISTRAL_WINDOW = 4096
# The transformers release that the original is pinned to.
TRANSFORMERS_VERSION = "4.37.2"
# The original takes the conversation template from the folder's name or an option; a model that
# has another than its architecture's says so by this key of ours, which transformers carries along.
TEMPLATE_KEY = "conversation_template"


@dataclass(frozen=True)
class Family:
    """An architecture in the official words."""

    llm: str
    """Official name of the language model alone."""
    llava: str
    """Official name of LLaVA and GEM around it."""
    llava_type: str
    """Its `model_type`."""
    template: str
    """Conversation template of LLaVA, and of the language model alone."""
    gem_template: str
    """Conversation template of GEM."""
    written: dict[str, Any] = field(default_factory=dict)
    """Keys of its own that its config.json always has."""
    fixed: dict[str, tuple] = field(default_factory=dict)
    read: frozenset[str] = frozenset()
    inert: frozenset[str] = frozenset()
    bos: int | None = 1
    eos: int | None = 2
    num_kv_heads: int | None = None
    """Where the config has none; None: as many as heads."""


FAMILIES = {
    "llama": Family(
        "LlamaForCausalLM",
        "LlavaLlamaForCausalLM",
        "llava_llama",
        template="vicuna_v1",
        gem_template="llava_v1",
        written={"attention_bias": False, "pretraining_tp": 1},
        fixed=NO_BIAS | NO_WINDOW,
    ),
    "mistral": Family(
        "MistralForCausalLM",
        "LlavaMistralForCausalLM",
        "llava_mistral",
        template="mistral_instruct",
        gem_template="llava_v1",
        fixed=NO_BIAS,
        read=frozenset({"sliding_window"}),
        num_kv_heads=8,
    ),
    # Qwen2 attends to a window only where `use_sliding_window` says so.
    "qwen2": Family(
        "Qwen2ForCausalLM",
        "LlavaQwenForCausalLM",
        "llava_qwen",
        template="qwen_2",
        gem_template="qwen_2",
        written={"use_sliding_window": False},
        fixed={"use_mrope": (False,), "use_sliding_window": (False,)},
        inert=words("max_window_layers sliding_window"),
        bos=None,
        eos=None,
        num_kv_heads=32,
    ),
}
ALONE = {own.llm: name for name, own in FAMILIES.items()}
LLAVA = {own.llava: name for name, own in FAMILIES.items()}
