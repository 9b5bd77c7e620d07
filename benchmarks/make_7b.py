"""A random GEM of official shape in bfloat16, to measure import and export with: 14 GB, or tiny.

python -m benchmarks.make_7b DEST [7b|tiny]
"""

import shutil
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from gem_jax.weights.files import WeightsError, read_json, require_free, write_json
from gem_jax.weights.stream import Plan, Writer, start_folder

GOLDEN = Path(__file__).parents[1] / "tests" / "goldens" / "gem_llama_tiny"
COPIES = 3.2  # The folder, its import, its export, and some room.
SCALE = 0.02
VISION = "model.vision_tower.vision_tower."
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Size:
    """The sizes of one GEM: LLaMA, CLIP ViT and ECG encoder."""

    hidden: int
    mlp: int
    layers: int
    heads: int
    vocab: int
    vision: dict[str, int]  # by the names of CLIPVisionConfig
    ecg: dict[str, int]  # by the names of open_clip's ecg_cfg
    ecg_embed: int

    @property
    def patches(self) -> int:
        """Returns the patches of an image."""
        return (self.vision["image_size"] // self.vision["patch_size"]) ** 2


def _vision(hidden: int, mlp: int, layers: int, heads: int, image: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": image,
        "patch_size": 14,
    }


def _ecg(layers: int, width: int, head: int) -> dict[str, int]:
    sizes = {"layers": layers, "width": width, "head_width": head, "patch_size": 50}
    return {"seq_length": 5000, "lead_num": 12, **sizes}


SIZES = {
    "7b": Size(
        hidden=4096,
        mlp=11008,
        layers=32,
        heads=32,
        vocab=32000,
        vision=_vision(1024, 4096, 24, 16, 336),
        ecg=_ecg(12, 768, 64),
        ecg_embed=512,
    ),
    "tiny": Size(
        hidden=64,
        mlp=176,
        layers=3,
        heads=4,
        vocab=512,
        vision=_vision(64, 128, 3, 4, 56),
        ecg=_ecg(3, 64, 16),
        ecg_embed=48,
    ),
}


def main(dest: Path, name: str = "7b") -> None:
    """Writes the folder `dest`; WeightsError if it exists or the disk is too small."""
    size = SIZES[name]
    require_free(dest)
    whole, tower = gem_shapes(size), vision_shapes(size)
    require_disk(dest, COPIES * 2 * sum(int(np.prod(shape)) for shape in whole.values()))
    (dest / "clip_vision").mkdir(parents=True)
    (dest / "ecg_tower").mkdir()
    _write_configs(dest, size)
    total = _fill(start_folder(dest, _plan(whole))) + _fill(
        start_folder(dest / "clip_vision", _plan(tower))
    )
    print(f"{dest}: {total / 1e9:.2f} GB")


def require_disk(folder: Path, needed_bytes: float) -> None:
    """Raises WeightsError unless the disk of `folder` has `needed_bytes` free."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed_bytes:
        raise WeightsError(
            f"{there}: {free / 1e9:.1f} GB free, expected {needed_bytes / 1e9:.1f}; make room"
        )


def gem_shapes(size: Size) -> Shapes:
    """Returns the official tensors of the whole model, the image encoder's copy among them."""
    ecg = {f"model.ecg_tower.ecg_tower.{name}": shape for name, shape in ecg_shapes(size).items()}
    vision = {f"{VISION}{name}": shape for name, shape in vision_shapes(size).items()}
    return llama_shapes(size) | ecg | vision


def llama_shapes(size: Size) -> Shapes:
    """Returns the official tensors of the LLM and both projectors, in the model's order."""
    wide, mlp = size.hidden, size.mlp
    shapes: Shapes = {"model.embed_tokens.weight": (size.vocab, wide)}
    for layer in range(size.layers):
        at = f"model.layers.{layer}."
        shapes |= {f"{at}self_attn.{part}_proj.weight": (wide, wide) for part in "qkvo"}
        shapes |= {f"{at}mlp.{part}_proj.weight": (mlp, wide) for part in ("gate", "up")}
        shapes[f"{at}mlp.down_proj.weight"] = (wide, mlp)
        shapes[f"{at}input_layernorm.weight"] = (wide,)
        shapes[f"{at}post_attention_layernorm.weight"] = (wide,)
    vision = size.vision["hidden_size"]
    return shapes | {
        "model.norm.weight": (wide,),
        **_affine("model.ecg_projector", vision, size.ecg["width"]),
        **_affine("model.mm_projector.0", wide, vision),
        **_affine("model.mm_projector.2", wide, wide),
        "lm_head.weight": (size.vocab, wide),
    }


def vision_shapes(size: Size) -> Shapes:
    """Returns the official tensors of a CLIPVisionModel."""
    wide, mlp = size.vision["hidden_size"], size.vision["intermediate_size"]
    patch = size.vision["patch_size"]
    shapes: Shapes = {
        "embeddings.class_embedding": (wide,),
        "embeddings.patch_embedding.weight": (wide, 3, patch, patch),
        "embeddings.position_embedding.weight": (size.patches + 1, wide),
        **_norm("pre_layrnorm", wide),
    }
    for layer in range(size.vision["num_hidden_layers"]):
        at = f"encoder.layers.{layer}."
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _affine(f"{at}self_attn.{part}", wide, wide)
        shapes |= _norm(f"{at}layer_norm1", wide) | _norm(f"{at}layer_norm2", wide)
        shapes |= _affine(f"{at}mlp.fc1", mlp, wide) | _affine(f"{at}mlp.fc2", wide, mlp)
    shapes |= _norm("post_layernorm", wide)
    return {f"vision_model.{name}": shape for name, shape in shapes.items()}


def ecg_shapes(size: Size) -> Shapes:
    """Returns the official tensors of the ECG encoder."""
    wide, patch = size.ecg["width"], size.ecg["patch_size"]
    shapes: Shapes = {
        "class_embedding": (wide,),
        "positional_embedding": (size.ecg["seq_length"] // patch + 1, wide),
        "proj": (wide, size.ecg_embed),
        "conv1.weight": (wide, size.ecg["lead_num"], patch),
        **_norm("ln_pre", wide),
    }
    for layer in range(size.ecg["layers"]):
        at = f"transformer.resblocks.{layer}."
        shapes |= _norm(f"{at}ln_1", wide) | _norm(f"{at}ln_2", wide)
        shapes[f"{at}attn.in_proj_weight"] = (3 * wide, wide)
        shapes[f"{at}attn.in_proj_bias"] = (3 * wide,)
        shapes |= _affine(f"{at}attn.out_proj", wide, wide)
        shapes |= _affine(f"{at}mlp.c_fc", 4 * wide, wide)
        shapes |= _affine(f"{at}mlp.c_proj", wide, 4 * wide)
    return shapes | _norm("ln_post", wide)


def _affine(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _plan(shapes: Shapes) -> Plan:
    return {name: (shape, "bfloat16") for name, shape in shapes.items()}


def _fill(writer: Writer) -> int:
    for name, place in writer.places.items():
        # By name: the image encoder is the same in its own folder and in the model's.
        rng = np.random.default_rng(zlib.crc32(name.removeprefix(VISION).encode()))
        values = rng.standard_normal(place.shape, np.float32)
        values *= SCALE
        writer.write(name, values.astype(ml_dtypes.bfloat16))
    return writer.finish()


def _write_configs(dest: Path, size: Size) -> None:
    """Writes the golden's configs with these sizes, and its tokenizer."""
    for name in ("generation_config.json", "clip_vision/preprocessor_config.json"):
        shutil.copyfile(GOLDEN / name, dest / name)
    for path in [*GOLDEN.glob("tokenizer*"), GOLDEN / "special_tokens_map.json"]:
        shutil.copyfile(path, dest / path.name)
    config = read_json(GOLDEN / "config.json")
    write_json(
        dest / "config.json",
        config
        | {
            "ecg_hidden_size": size.ecg["width"],
            "hidden_size": size.hidden,
            "intermediate_size": size.mlp,
            "mm_hidden_size": size.vision["hidden_size"],
            "num_attention_heads": size.heads,
            "num_hidden_layers": size.layers,
            "num_key_value_heads": size.heads,
            "torch_dtype": "bfloat16",
            "vocab_size": size.vocab,
        },
    )
    vision = read_json(GOLDEN / "clip_vision" / "config.json")
    write_json(dest / "clip_vision" / "config.json", vision | size.vision)
    ecg = read_json(GOLDEN / "ecg_tower" / "coca_tiny.json")
    ecg |= {"embed_dim": size.ecg_embed, "ecg_cfg": ecg["ecg_cfg"] | size.ecg}
    write_json(dest / "ecg_tower" / "coca_tiny.json", ecg)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), *sys.argv[2:])
    except WeightsError as error:
        sys.exit(str(error))
