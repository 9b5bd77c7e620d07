"""What users of the original and of its neighbours met, made again: each ends as it should.

A test's docstring says what was met, and where. Reports that belong to one module alone are tested
beside it (tokens, rows, preprocess, generate, torch_parity).
"""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tokenizers
from PIL import Image
from safetensors.numpy import save_file

import tiny
from gem_jax import checkpoint, cli
from gem_jax.answers import Model, Question, answer, prompt, prompt_length, prompts
from gem_jax.config import ConfigError
from gem_jax.generate import generate
from gem_jax.inputs import Exhibit, Medium, medium_of, room_for
from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.models.gem import Batch, Gem, GemConfig, abstract_params
from gem_jax.models.llm import LlmConfig
from gem_jax.preprocess import image_tiles, read_page
from gem_jax.sampling import GREEDY, Sampling
from gem_jax.start import initial_params
from gem_jax.templates import IMAGE, TokenError
from gem_jax.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from gem_jax.train import run
from gem_jax.train_rows import train_row
from gem_jax.weights.files import SINGLE, open_folder
from gem_jax.weights.read import read_gem
from gem_jax.weights.write import write_gem
from synthetic import ecg
from test_weights_files import mapping, push, save_torch, tensor

GOLDENS = Path(__file__).parent / "goldens"
LLAMA = GOLDENS / "gem_llama_tiny"
QWEN = GOLDENS / "gem_qwen_tiny"
ANYRES = GOLDENS / "gem_anyres_tiny"
KINDS = {"float32": "Float", "float16": "Half", "bfloat16": "BFloat16"}


def copied(source: Path, dest: Path) -> Path:
    return Path(shutil.copytree(source, dest, copy_function=shutil.copyfile))


def weights(folder: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a folder, by name."""
    shards = open_folder(folder)
    return {name: shards.read(name) for name in shards.entries}


def replace(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes these tensors as the only ones of a folder."""
    for file in [*folder.glob("model*"), *folder.glob("pytorch_model*")]:
        file.unlink()
    save_file(tensors, folder / SINGLE)


def pickled(file: Path, tensors: dict[str, np.ndarray], **also: bytes) -> None:
    """Writes tensors as torch.save does."""
    described = {}
    for key, (name, values) in enumerate(tensors.items()):
        strides = tuple(step // values.itemsize for step in values.strides)
        sizes = {"length": values.size, "shape": values.shape, "strides": strides}
        described[name] = tensor(key=str(key), kind=KINDS[values.dtype.name], **sizes)
    storages = {str(key): values for key, values in enumerate(tensors.values())}
    save_torch(file, mapping(**described, **also), storages)


def same(left: dict, right: dict) -> bool:
    left, right = jax.tree.leaves_with_path(left), jax.tree.leaves_with_path(right)
    return len(left) == len(right) and all(
        a == b and x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for (a, x), (b, y) in zip(left, right, strict=True)
    )


def refused(capsys, *args) -> str:
    """Returns the line that a command is refused with."""
    assert cli.main([str(one) for one in args]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


# Weights: torch's files.


def test_pickled_shards_with_an_index_are_the_model(tmp_path):
    """Checkpoints of pytorch_model-*.bin and an index alone, without safetensors, are official."""
    folder, tensors = copied(QWEN, tmp_path / "shards"), weights(QWEN)
    (folder / "pytorch_model.bin").unlink()
    names = sorted(tensors)
    index = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        pickled(folder / file, {name: tensors[name] for name in part})
        index |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    config, params = read_gem(folder)
    expected = read_gem(QWEN)
    assert config == expected[0] and same(params, expected[1])
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(ValueError, match=r"pytorch_model-00002-of-00002\.bin cannot be read"):
        read_gem(folder)


@pytest.mark.parametrize(
    ("value", "said"),
    [(b"cdatetime\ndate\n(K\x01K\x01K\x01tR", "asks for 'datetime.date'"), (push([1]), "list")],
    ids=["a class of another library", "a list"],
)
def test_a_pickle_of_more_than_tensors_is_refused(value, said, tmp_path, capsys):
    """diffusers#14811: loading a .bin ran what was pickled in it."""
    folder, tensors = copied(QWEN, tmp_path / "pickled"), weights(QWEN)
    pickled(folder / "pytorch_model.bin", tensors, trainer=value)
    line = refused(capsys, "import", folder, tmp_path / "dest")
    assert "pytorch_model.bin" in line and said in line
    assert not (tmp_path / "dest").exists()


# Weights: dtypes.


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_its_bits_both_ways(dtype, tmp_path):
    """safetensors#598, transformers#12626: bfloat16 went through float32, or came as nothing."""
    folder = copied(LLAMA, tmp_path / "half")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": dtype}))
    before = {name: values.astype(dtype) for name, values in weights(LLAMA).items()}
    replace(folder, before)
    assert cli.main(["import", str(folder), str(tmp_path / "ckpt")]) == 0
    assert cli.main(["export", str(tmp_path / "ckpt"), str(tmp_path / "back")]) == 0
    after = weights(tmp_path / "back")
    towers = {name for name in before if "vision_tower" in name}  # these come from their own file
    assert after.keys() == before.keys()
    for name in before.keys() - towers:
        assert after[name].dtype.name == dtype
        assert after[name].tobytes() == before[name].tobytes(), name
    assert json.loads((tmp_path / "back" / "config.json").read_text())["torch_dtype"] == dtype


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_a_dtype_that_we_do_not_have_is_named(dtype, tmp_path, capsys):
    """safetensors#382: an unknown dtype was told as a key that is missing."""
    folder = copied(LLAMA, tmp_path / "eighth")
    head = weights(LLAMA)["lm_head.weight"].astype(getattr(ml_dtypes, dtype))
    replace(folder, weights(LLAMA) | {"lm_head.weight": head})
    said = refused(capsys, "import", folder, tmp_path / "dest")
    assert f"lm_head.weight has dtype {dtype.upper().replace('FLOAT', 'F').removesuffix('FN')}" in (
        said
    )
    assert "expected one of float32, float16, bfloat16" in said


# Weights: the embedding table and the tokenizer.

ROWS = 32
ALONE = GemConfig(
    ecg=None,
    vision=None,
    llm=LlmConfig(ROWS, 16, 1, 2, 2, 8, 24, 10_000.0, 1e-5),
    ecg_projector="identity",
    mm_projector="identity",
    bos_token_id=1,
    eos_token_ids=(2,),
    pad_token_id=None,
    image_mode="ori",
    max_length=40,
)


def words(folder: Path, count: int, added: int = 0) -> Path:
    """Writes a tokenizer of `count` words, then as many added tokens."""
    named = ["<unk>", "<s>", "</s>", *(f"word{number}" for number in range(count - 3))]
    vocabulary = {token: number for number, token in enumerate(named)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens([*named[:3], *(f"<added{number}>" for number in range(added))])
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_tokenizer(folder).num_tokens == count + added
    return folder


@pytest.fixture(scope="module")
def table() -> dict:
    """Parameters of a language model whose last two rows, of no token, are the likeliest."""
    params = tiny.drawn(abstract_params(ALONE))
    head = params["llm"]["lm_head"]["kernel"]
    params["llm"]["lm_head"]["kernel"] = head.at[:, 30:].set(20 * head[:, :2])
    return params


def of_text(batch: Batch) -> Batch:
    """Returns the rows without padding and media, of the tokenizer's 30 tokens."""
    text = dataclasses.replace(
        batch,
        tokens=batch.tokens % 30,
        media_index=np.full_like(batch.media_index, -1),
        segments=np.ones_like(batch.segments),
        ecg=None,
        image=None,
    )
    return jax.tree.map(jnp.asarray, text)


@pytest.mark.parametrize("added", [0, 1])
def test_a_table_longer_than_the_tokenizer_stays_as_long(added, table, tmp_path):
    """Qwen#553; unsloth-zoo#923: resizing to the tokenizer's length cut trained rows off."""
    folder = words(tmp_path / "words", 30, added)
    write_gem(tmp_path / "theirs", ALONE, jax.device_get(table), folder)
    assert cli.main(["import", str(tmp_path / "theirs"), str(tmp_path / "ckpt")]) == 0
    assert cli.main(["export", str(tmp_path / "ckpt"), str(tmp_path / "back")]) == 0
    assert json.loads((tmp_path / "back" / "config.json").read_text())["vocab_size"] == ROWS
    before, after = weights(tmp_path / "theirs"), weights(tmp_path / "back")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert after[name].shape[0] == ROWS
        assert after[name].tobytes() == before[name].tobytes()
    assert len(load_tokenizer(tmp_path / "back").vocabulary) == 30 + added


@pytest.mark.parametrize("rows", [30, 35])
def test_a_table_is_neither_cut_nor_lengthened_unasked(rows, table):
    """transformers#20043: rows appeared with whatever an initialiser gave, and none said so."""
    other = dataclasses.replace(ALONE, llm=dataclasses.replace(ALONE.llm, vocab_size=rows))
    recipe = tiny.changed(
        tiny.instruct(), train={"init_parts": (), "trainable": ("llm",)}, data={"length": 20}
    )
    with pytest.raises(ConfigError) as caught:
        initial_params(dataclasses.replace(recipe, model=other), table)
    said = str(caught.value)
    assert f"llm/embed_tokens/embedding has (32, 16) instead of ({rows}, 16)" in said
    assert f"llm/lm_head/kernel has (16, 32) instead of (16, {rows})" in said


def test_more_tokens_than_rows_are_refused_before_training(tmp_path):
    """transformers#25732: five tokens added to 30, a table of 32: the last ids had no row."""
    five = {"tokenizer": str(words(tmp_path / "words", 30, 5))}
    recipe = tiny.changed(tiny.instruct(), data=five)
    narrow = dataclasses.replace(
        tiny.MODEL, llm=dataclasses.replace(tiny.MODEL.llm, vocab_size=ROWS)
    )
    with pytest.raises(ConfigError, match="vocab_size: got 32, expected at least the 35 pieces"):
        run(dataclasses.replace(recipe, model=narrow), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_token_without_a_row_is_refused_when_asked(table):
    """transformers#25732: five tokens added to 30, a table of 32: the last ids had no row."""
    asked = of_text(tiny.batch(length=tiny.MEDIA + 11))
    with pytest.raises(ConfigError, match="got token 34, expected one of the model's 32 rows"):
        tokens = asked.tokens.at[1, 3].set(34)
        long = dataclasses.replace(asked, tokens=tokens)
        generate(ALONE, table, long, max_new_tokens=1, num_tokens=35)


def test_rows_of_no_token_are_never_said(table):
    """Qwen#553: ids beyond the tokenizer came out of generation, and could not be decoded."""
    asked = of_text(tiny.batch(length=tiny.MEDIA + 11))

    def said(num_tokens: int, sampling: Sampling = GREEDY) -> set[int]:
        options = {"num_tokens": num_tokens, "sampling": sampling, "eos_token_ids": ()}
        answers = generate(ALONE, table, asked, max_new_tokens=12, **options)
        return {token for answer in answers for token in answer.tokens}

    assert max(said(30)) < 30 and max(said(30, Sampling(temperature=3.0))) < 30
    assert max(said(ROWS)) >= 30  # the control


# Weights: what is not in the files.


def without(names: dict[str, np.ndarray], *dropped: str) -> dict[str, np.ndarray]:
    return {name: values for name, values in names.items() if name not in dropped}


MM = "model.mm_projector"
PROJECTOR = [f"{MM}.{number}.{kind}" for number in (0, 2) for kind in ("weight", "bias")]
LINEAR = {f"{MM}.weight": np.ones((64, 64), "f4"), f"{MM}.bias": np.ones(64, "f4")}
ABSENT = {
    "half a layer": (
        *(LLAMA, lambda w: without(w, PROJECTOR[3])),
        [f"1 tensor is missing: {PROJECTOR[3]}"],
    ),
    "one layer instead of two": (
        *(LLAMA, lambda w: without(w, *PROJECTOR) | LINEAR),
        [f"4 tensors are missing: {', '.join(PROJECTOR)}", f"2 unknown tensors: {MM}.bias, {MM}.w"],
    ),
    "no newline": (
        *(ANYRES, lambda w: without(w, "model.image_newline")),
        ["1 tensor is missing: model.image_newline"],
    ),
    "one that is not used": (
        *(LLAMA, lambda w: w | {f"{MM}.4.weight": np.ones((64, 64), "f4")}),
        [f"1 unknown tensor: {MM}.4.weight"],
    ),
}


@pytest.mark.parametrize("case", ABSENT)
def test_a_projector_that_is_not_there_is_no_random_one(case, tmp_path, capsys):
    """LLaVA#577, #673, #808, #1345, PULSE#1: fluent answers that had nothing to do with the image.

    The projector's names were others, and the model was left with a random one.
    """
    source, change, messages = ABSENT[case]
    folder = copied(source, tmp_path / "spoilt")
    replace(folder, change(weights(source)))
    said = refused(capsys, "import", folder, tmp_path / "dest")
    assert all(message in said for message in messages), said
    assert not list(tmp_path.glob("dest*"))


# Weights: whose they are.


def test_the_config_decides_and_not_the_folders_name(tmp_path):
    """LLaVA#474, #730: "llava", "lora" or "qwen" in the folder's name chose another loader."""
    for source, names in ((LLAMA, ("foo", "llava-lora-qwen")), (QWEN, ("gem-mpt-llama-lora",))):
        expected = read_gem(source)
        for name in names:
            found = read_gem(copied(source, tmp_path / name))
            assert found[0] == expected[0] and same(found[1], expected[1])


# Tokens in the model.


@pytest.fixture(scope="module")
def logits():
    """(parameters, batch) → logits of the tiny GEM."""
    compiled = jax.jit(lambda params, batch: Gem(tiny.MODEL).apply({"params": params}, batch))
    return lambda params, batch: np.asarray(compiled(params, jax.tree.map(jnp.asarray, batch)))


def with_unknown(value: float) -> dict:
    """The tiny GEM, with every number of the row of <unk> set to `value`."""
    params = tiny.params()
    embedding = params["llm"]["embed_tokens"]["embedding"].at[0].set(value)
    return {**params, "llm": {**params["llm"], "embed_tokens": {"embedding": embedding}}}


def test_an_embedding_of_zeros_is_text_and_no_place_for_an_image(logits):
    """transformers#30473: rows that were 0 in float16 were taken for places of the image."""
    batch = tiny.batch(length=48)
    tokens, media = batch.tokens.copy(), batch.media_index.copy()
    place = tiny.MEDIA + 4
    tokens[:, [0, place]] = 0
    asked = dataclasses.replace(batch, tokens=tokens)
    zero, nearly = (logits(with_unknown(value), asked) for value in (0.0, 1e-12))
    assert np.abs(zero - nearly).max() < 1e-4
    media[:, place] = 0  # the control: a feature there is seen
    shown = logits(with_unknown(0.0), dataclasses.replace(asked, media_index=media))
    assert np.abs(shown - zero)[:, place + 1].max() > 0.01


def test_token_0_of_a_text_is_seen_whatever_pads(logits):
    """The original takes every 0 for padding; of Qwen it is the exclamation mark."""
    batch = tiny.batch(length=48)
    places = [tiny.MEDIA + 3, tiny.MEDIA + 6]
    tokens = batch.tokens.copy()
    tokens[:, places] = 0
    asked = dataclasses.replace(batch, tokens=tokens)
    real = batch.segments > 0
    expected = logits(tiny.params(), asked)
    filled = dataclasses.replace(asked, tokens=np.where(real, tokens, 7))
    np.testing.assert_allclose(logits(tiny.params(), filled)[real], expected[real], atol=1e-5)
    by_id = dataclasses.replace(asked, segments=(real & (tokens != 0)).astype(np.int32))
    later = real & (np.arange(48) > places[0] + 1) & (tokens != 0)
    assert np.abs(logits(tiny.params(), by_id) - expected)[later].max() > 0.01  # the control


LONG = 4096


@pytest.fixture(scope="module")
def official() -> tuple[GemConfig, Tokenizer, Medium]:
    """GEM at its own sizes, without weights, a tokenizer whose digits are tokens, and an ECG."""
    config = dataclasses.replace(
        tiny.MODEL,
        ecg=EcgConfig.coca_vit_b_32(),
        vision=ClipConfig.vit_l_14_336(),
        max_length=LONG,
    )
    medium = medium_of(config, Exhibit(ecg()[0]))
    return config, train_tokenizer(["1 2"], 300), medium


def test_a_text_that_leaves_ten_places_for_677_features_is_refused_in_training(official):
    """LLaVA-NeXT#316: training cut rows, through the middle of an image, and nothing said so."""
    model, tokenizer, medium = official
    recipe = tiny.instruct()
    longer = dataclasses.replace(recipe.data, length=LONG)
    recipe = dataclasses.replace(recipe, model=model, data=longer)

    def row(digits: int):
        turns = [(f"{IMAGE}\n" + "1" * digits, "2")]
        return train_row(recipe, tokenizer, turns, [medium], "rec/7")

    around = row(0).length - 677
    with pytest.raises(TokenError) as caught:
        row(LONG - 10 - around)
    said = f"rec/7: got {LONG - 10 + 677} tokens, 677 of them features, expected at most {LONG}"
    assert said in str(caught.value)
    full = row(LONG - 677 - around)
    assert full.length == LONG and full.loss_mask.sum() == row(0).loss_mask.sum() > 0
    assert full.media_index[full.media_index >= 0].tolist() == list(range(677))


def test_a_question_that_leaves_ten_places_for_677_features_is_refused_when_asked(official):
    """LLaVA-NeXT#316: inference did not cut where training did; here one rule serves both."""
    config, tokenizer, _ = official
    model, shown = Model(config, {}, tokenizer), (Exhibit(ecg()[0]),)
    around = len(prompt(model, Question("", shown)).ids) - 1
    long = Question("1" * (LONG - 10 - around), shown, "rec/7")
    with pytest.raises(TokenError) as caught:
        next(answer(model, [long], max_new_tokens=1))
    said = f"rec/7: got {LONG - 10 + 677} tokens, 677 of them features, expected at most"
    assert f"{said} {LONG - 1}" in str(caught.value)
    asked = prompt(model, Question("1" * (LONG - 1 - 677 - around), shown))
    length = prompt_length(config, [asked])
    batch = prompts(config, [asked], [shown], room_for(config, 1), length)
    assert batch.segments.sum() == LONG - 1
    assert batch.media_index[batch.media_index >= 0].tolist() == list(range(677))


# Pages.


def test_a_page_on_disk_is_the_same_in_every_kind_of_pixels(tmp_path):
    """sglang#96, MMMU#17: grey pages broke the padding, palettes came out in other colours."""
    gray = np.full((400, 1001), 255, np.uint8)
    gray[50:60, 20:900] = np.arange(880) // 4
    page = Image.fromarray(gray)
    ink = Image.fromarray(np.where(gray == 255, 0, 255).astype(np.uint8))
    clear = Image.merge("LA", [page, ink])
    palette = page.copy().convert("P")
    palette.info["transparency"] = 255
    kinds = {
        "L": (page, "png"),
        "LA": (clear, "png"),
        "RGBA": (clear.convert("RGBA"), "png"),
        "P": (palette, "png"),
        "I;16": (Image.fromarray(gray.astype(np.uint16) * 257), "png"),
        "CMYK": (page.convert("RGB").convert("CMYK"), "tiff"),
        "RGB": (page.convert("RGB"), "png"),
    }
    vision = ClipConfig(1001, 91, 16, 1, 2, 32)
    config = dataclasses.replace(tiny.MODEL, vision=vision, max_length=500)
    tiles = {}
    for kind, (image, suffix) in kinds.items():
        path = tmp_path / f"page.{suffix}"
        image.save(path)
        assert read_page(path).mode == kind
        tiles[kind] = image_tiles(read_page(path), config)
    for kind, made in tiles.items():
        np.testing.assert_array_equal(made, tiles["RGB"], kind)
    ours = tiles["RGB"][0, :, 500, 0]
    at = np.flatnonzero(ours > ours.max() - 0.01)
    assert (at[0], 1000 - at[-1]) == (300, 301)  # transformers#37819: the odd line was lost
    other = image_tiles(page.convert("RGB").rotate(180), config)
    assert np.abs(other - tiles["RGB"]).max() > 1  # the control


# Generation.


def test_the_end_tokens_of_generation_config_count(tmp_path):
    """vllm#4180, text-generation-webui#5885: of several end tokens all but one were ignored."""
    folder = copied(LLAMA, tmp_path / "ends")
    values = json.loads((folder / "generation_config.json").read_text())
    values["eos_token_id"] = [2, 7]
    (folder / "generation_config.json").write_text(json.dumps(values))
    assert cli.main(["import", str(folder), str(tmp_path / "ckpt")]) == 0
    config = checkpoint.read_model_config(checkpoint.locate(tmp_path / "ckpt"))
    assert config.eos_token_ids == (2, 7)
    assert cli.main(["export", str(tmp_path / "ckpt"), str(tmp_path / "back")]) == 0
    written = json.loads((tmp_path / "back" / "generation_config.json").read_text())
    assert written["eos_token_id"] == [2, 7]
    assert json.loads((tmp_path / "back" / "config.json").read_text())["eos_token_id"] == 2
