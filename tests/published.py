"""The keys of published checkpoints' config.json and generation_config.json, at tiny sizes.

Written from what the checkpoints of these names say; only widths and depths are made small.
"""

from __future__ import annotations

from typing import Any

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 152064,
    "initializer_range": 0.02,
    "hidden_act": "silu",
    "use_cache": True,
}
LLAMA = SIZES | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
LLAMA |= {"bos_token_id": 1, "eos_token_id": 2, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
VICUNA = LLAMA | {
    "_name_or_path": "vicuna-7b-v1.5",
    "max_position_embeddings": 4096,
    "num_key_value_heads": 4,
    "pad_token_id": 0,
    "pretraining_tp": 1,
    "rope_scaling": None,
    "torch_dtype": "float16",
    "transformers_version": "4.31.0",
}
NEWER = {"attention_bias": False, "attention_dropout": 0.0, "rope_theta": 10000.0}
LLAMA_3 = LLAMA | NEWER
LLAMA_3 |= {
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "max_position_embeddings": 8192,
    "num_key_value_heads": 2,
    "pretraining_tp": 1,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.0.dev0",
}
LLAMA_3_ROPE = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
MISTRAL = SIZES | {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.34.0.dev0",
}
QWEN = SIZES | {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.1",
    "use_sliding_window": False,
}
SMOL = LLAMA | NEWER
SMOL |= {
    "bos_token_id": 1,
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "num_key_value_heads": 2,
    "pad_token_id": 2,
    "pretraining_tp": 1,
    "rope_interleaved": False,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
    "transformers_version": "4.42.3",
}


def _without(values: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: values[key] for key in values if key not in keys}


def _transformers_5(values: dict[str, Any], **rope: Any) -> dict[str, Any]:
    """Returns the keys as transformers 5 writes them."""
    kept = _without(values, "rope_theta", "rope_scaling", "torch_dtype", "transformers_version")
    theta = {"rope_theta": float(values.get("rope_theta", 10000.0)), "rope_type": "default"}
    written = {"dtype": values["torch_dtype"], "rope_parameters": theta | rope}
    return kept | written | {"transformers_version": "5.1.0"}


LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "lmsys/vicuna-7b-v1.5": VICUNA,
    "lmsys/vicuna-7b-v1.5-16k": VICUNA
    | {"max_sequence_length": 16384, "rope_scaling": {"factor": 4.0, "type": "linear"}},
    "meta-llama/Llama-2-13b-chat-hf": VICUNA
    | {"_name_or_path": "meta-llama/Llama-2-13b-chat-hf", "pretraining_tp": 2},
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": _without(VICUNA, "_name_or_path", "pad_token_id")
    | NEWER
    | {"max_position_embeddings": 2048, "num_key_value_heads": 2, "torch_dtype": "bfloat16"},
    "JackFran/llama-68m": _without(
        VICUNA, "_name_or_path", "num_key_value_heads", "pretraining_tp", "rope_scaling"
    )
    | {"bos_token_id": 0, "pad_token_id": 1, "rms_norm_eps": 1e-6, "torch_dtype": "float32"},
    "tiny-random-LlamaForCausalLM": _without(VICUNA, "num_key_value_heads", "_name_or_path")
    | {
        "attention_probs_dropout_prob": 0.1,
        "hidden_dropout_prob": 0.1,
        "is_decoder": True,
        "pad_token_id": -1,
        "type_vocab_size": 16,
        "torch_dtype": "float32",
    },
    "stories15M": _without(VICUNA, "pad_token_id") | {"torch_dtype": "float32"},
    "meta-llama/Meta-Llama-3-8B-Instruct": LLAMA_3 | {"eos_token_id": 128009},
    "meta-llama/Llama-3.1-8B-Instruct": LLAMA_3
    | {
        "eos_token_id": [128001, 128008, 128009],
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "rope_scaling": LLAMA_3_ROPE | {"factor": 8.0},
    },
    "meta-llama/Llama-3.2-1B": LLAMA_3
    | {"head_dim": 16, "mlp_bias": False, "rope_scaling": LLAMA_3_ROPE}
    | {"tie_word_embeddings": True},
    "unsloth/Llama-3.2-1B-Instruct": LLAMA_3
    | {"head_dim": 16, "pad_token_id": 128004, "rope_scaling": LLAMA_3_ROPE}
    | {"_attn_implementation_autoset": True, "unsloth_fixed": True, "unsloth_version": "2024.11"}
    | {"neftune_noise_alpha": None, "quantization_config": None},
    "HuggingFaceTB/SmolLM2-135M-Instruct": SMOL,
    "SmolLM2, written by transformers 5": _transformers_5(SMOL) | {"rope_scaling": None},
    "Llama-3.2, written by transformers 5": _transformers_5(LLAMA_3, **LLAMA_3_ROPE)
    | {"head_dim": 16, "tie_word_embeddings": True},
    "mistralai/Mistral-7B-v0.1": MISTRAL,
    "mistralai/Mistral-7B-Instruct-v0.2": MISTRAL
    | {"attention_dropout": 0.0, "rope_theta": 1000000.0, "sliding_window": None},
    "mistralai/Mistral-7B-v0.3": MISTRAL
    | {"attention_dropout": 0.0, "rope_theta": 1000000.0, "sliding_window": None, "head_dim": 16},
    "Mistral, every layer named as sliding": MISTRAL | {"layer_types": ["sliding_attention"] * 2},
    "Qwen/Qwen2-0.5B": QWEN | {"eos_token_id": 151643},
    "Qwen/Qwen2.5-0.5B-Instruct": QWEN,
    "Qwen/Qwen2.5-7B-Instruct": QWEN | {"max_window_layers": 28, "tie_word_embeddings": False},
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": QWEN
    | {"eos_token_id": 151643, "sliding_window": 4096, "tie_word_embeddings": False}
    | {"use_mrope": False},
    "Qwen2.5, written by transformers 5": _transformers_5(QWEN)
    | {"layer_types": ["full_attention"] * 2, "sliding_window": None},
}

LLAVA_1_5 = _without(VICUNA, "num_key_value_heads") | {
    "_name_or_path": "llava-v1.5-7b",
    "architectures": ["LlavaLlamaForCausalLM"],
    "freeze_mm_mlp_adapter": False,
    "freeze_mm_vision_resampler": False,
    "image_aspect_ratio": "pad",
    "max_length": 4096,
    "mm_hidden_size": 1024,
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": None,
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "model_type": "llava",
    "tune_mm_mlp_adapter": False,
    "tune_mm_vision_resampler": False,
    "unfreeze_mm_vision_tower": False,
    "use_mm_proj": True,
}
LLAVA_1_6 = LLAVA_1_5 | NEWER
LLAVA_1_6 |= {
    "_name_or_path": "./checkpoints/vicuna-7b-v1-5",
    "image_aspect_ratio": "anyres",
    "image_crop_resolution": 224,
    "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    "image_split_resolution": 224,
    "mm_patch_merge_type": "spatial_unpad",
    "mm_projector_lr": None,
    "mm_vision_tower_lr": 2e-06,
    "tokenizer_model_max_length": 4096,
    "tokenizer_padding_side": "right",
    "torch_dtype": "bfloat16",
    "unfreeze_mm_vision_tower": True,
}
PULSE = LLAVA_1_6 | {
    "_name_or_path": "/home/somebody/checkpoints/llava-v1.6-vicuna-7b",
    "image_grid_pinpoints": "[(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]",
    "model_type": "llava_llama",
    "transformers_version": "4.37.2",
}
ECG = {
    "ecg_projector_lr": None,
    "ecg_projector_type": "linear",
    "mm_ecg_tower": "ecg_coca/cpt_wfep_epoch_20.pt",
    "open_clip_config": "coca_ViT-B-32",
}
LLAVA_MODELS: dict[str, dict[str, Any]] = {
    "liuhaotian/llava-v1.5-7b": LLAVA_1_5,
    "liuhaotian/llava-v1.5-13b": LLAVA_1_5 | {"_name_or_path": "llava-v1.5-13b"},
    "liuhaotian/llava-v1.6-vicuna-7b": LLAVA_1_6,
    "liuhaotian/llava-v1.6-mistral-7b": LLAVA_1_6
    | {
        "architectures": ["LlavaMistralForCausalLM"],
        "max_position_embeddings": 32768,
        "model_type": "llava_mistral",
        "num_key_value_heads": 2,
        "rope_theta": 1000000.0,
        "sliding_window": None,
    },
    "PULSE-ECG/PULSE-7B": PULSE,
    "LANSG/GEM": PULSE | ECG,
    "GEM of square pages": PULSE | ECG | {"image_aspect_ratio": "square"},
    "GEM of pages by default": PULSE | ECG | {"image_aspect_ratio": None},
    "LLaVA-NeXT on Qwen2": _without(LLAVA_1_6, "bos_token_id", "attention_bias")
    | {
        "architectures": ["LlavaQwenForCausalLM"],
        "eos_token_id": 151645,
        "max_window_layers": 28,
        "mm_newline_position": "grid",
        "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model",
        "model_type": "llava_qwen",
        "num_key_value_heads": 2,
        "sliding_window": 131072,
        "tokenizer_model_max_length": 32768,
        "use_pos_skipping": False,
        "use_sliding_window": False,
        "vision_tower_pretrained": None,
    },
}
