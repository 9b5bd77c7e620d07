"""Malformed checkpoints through the command line: one clear line each, and nothing left behind."""

import json
import pickle
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gem_jax import cli, orbax_leaves
from gem_jax.weights.files import INDEX, SINGLE, WeightsError
from test_weights_files import evil, mapping, save_torch

LLAMA = Path(__file__).parent / "goldens" / "gem_llama_tiny"
SHARD = "model-00003-of-00005.safetensors"
LAST = "model-00005-of-00005.safetensors"
NAME = "lm_head.weight"
EVIL = b"\x80\x02" + evil("os", "system")["called"] + b"."


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A copy of an official checkpoint to be spoilt, in the folder that the process works in."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(LLAMA, tmp_path / "checkpoint", copy_function=shutil.copyfile))


def index(folder: Path, **files: str) -> None:
    values = json.loads((folder / INDEX).read_text())
    values["weight_map"] |= files
    (folder / INDEX).write_text(json.dumps(values))


def change(folder: Path, **tensors: np.ndarray) -> None:
    """Puts tensors into the last shard, and into the index."""
    save_file(load_file(folder / LAST) | tensors, folder / LAST)
    index(folder, **dict.fromkeys(tensors, LAST))


def configure(folder: Path, **sizes: int) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | sizes))


def typed(dtype) -> dict[str, np.ndarray]:
    return {NAME: np.ones((512, 64), np.float32).astype(dtype)}


def truncate(file: Path, by: int) -> None:
    file.write_bytes(file.read_bytes()[:-by])


def put_pickle(folder: Path, described: bytes) -> None:
    """Leaves nothing but a pickle to read the weights from."""
    for file in folder.glob("model*"):
        file.unlink()
    save_torch(folder / "pytorch_model.bin", described)


def put_tower(folder: Path) -> None:
    (folder / "clip_vision" / SINGLE).unlink()
    save_torch(folder / "clip_vision" / "pytorch_model.bin", evil("os", "system")["called"])


SPOILT = {
    "missing shard": (
        lambda f: (f / SHARD).unlink(),
        f"{SHARD} cannot be read: there is no such file; fetch it again",
    ),
    "missing index": (lambda f: (f / INDEX).unlink(), "got no weights, expected one of"),
    "truncated shard": (lambda f: truncate(f / SHARD, 100), f"{SHARD} cannot be read"),
    "empty shard": (lambda f: (f / SHARD).write_bytes(b""), f"{SHARD} cannot be read"),
    "truncated index": (lambda f: truncate(f / INDEX, 9), f"{INDEX}: got "),
    "truncated config": (lambda f: truncate(f / "config.json", 9), "config.json: got "),
    "float16 among float32": (lambda f: change(f, **typed("f2")), f"{NAME}: got float16, expected"),
    "float64": (
        lambda f: change(f, **typed("f8")),
        f"{NAME} has dtype F64, expected one of float32, float16, bfloat16; save it again",
    ),
    "integers": (lambda f: change(f, **typed("i4")), f"{NAME}: got int32, expected"),
    "float8": (
        lambda f: change(f, **typed(ml_dtypes.float8_e5m2)),
        f"{NAME} has dtype F8_E5M2, expected one of float32",
    ),
    "extra tensor": (
        lambda f: change(f, **{"model.adapter.weight": np.ones(3, "f4")}),
        "import: checkpoint: 1 unknown tensor: model.adapter.weight",
    ),
    "index outside": (
        lambda f: index(f, **{NAME: "../other.safetensors"}),
        "got '../other.safetensors', expected a file of this folder",
    ),
    "index to the root": (
        lambda f: index(f, **{NAME: "/etc/passwd"}),
        "got '/etc/passwd', expected a file of this folder",
    ),
    "malicious pickle": (
        lambda f: put_pickle(f, evil("os", "system")["called"]),
        "asks for 'os.system'",
    ),
    "malicious beside tensors": (
        lambda f: put_pickle(f, evil("builtins", "eval")["beside tensors"]),
        "asks for 'builtins.eval'",
    ),
    "another object": (
        lambda f: put_pickle(f, mapping(a=b"cargparse\nNamespace\n)R")),
        "asks for 'argparse.Namespace'",
    ),
    "tokenizer.model": (
        lambda f: (f / "tokenizer.model").write_bytes(b"{"),
        "tokenizer.model: got",
    ),
    "tokenizer.json": (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer.json: got"),
    "no tokenizer": (lambda f: (f / "tokenizer.model").unlink(), "got no tokenizer, expected one"),
    "deep config": (lambda f: (f / "config.json").write_text("[" * 100000), "config.json: got "),
    "vocabulary without end": (
        lambda f: configure(f, vocab_size=10**12),
        "vocab_size: got 1000000000000, expected at most",
    ),
    "layers without end": (
        lambda f: configure(f, num_hidden_layers=10**9),
        "num_hidden_layers: got 1000000000, expected at most",
    ),
    "more layers than tensors": (
        lambda f: configure(f, num_hidden_layers=1000),
        "tensors are missing: model.layers.",
    ),
    "malicious image encoder": (put_tower, "asks for 'os.system'"),
}


def refused(capsys, *args) -> str:
    """Returns the one line that an import is refused with, which has left nothing behind."""
    before = sorted(Path.cwd().rglob("*"))
    assert cli.main(["import", *map(str, args)]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert sorted(Path.cwd().rglob("*")) == before  # no DEST, no DEST.partial, nothing executed
    return said.err


@pytest.mark.parametrize("case", SPOILT)
def test_a_malformed_checkpoint_is_refused_and_leaves_nothing(case, folder, capsys):
    spoil, message = SPOILT[case]
    spoil(folder)
    assert message in refused(capsys, folder.name, "dest")


def test_a_link_that_leads_nowhere_is_no_new_folder(folder, capsys):
    Path("dest").symlink_to("nowhere")
    (folder / "config.json").unlink()  # what is said of it would come later
    assert "dest: exists, expected a new folder" in refused(capsys, folder, "dest")


def test_the_folder_above_is_not_left_behind(folder, capsys, monkeypatch):
    def broken(*_):
        raise WeightsError("broken on the way")

    monkeypatch.setattr(orbax_leaves, "write", broken)
    assert "broken on the way" in refused(capsys, folder, "new/newer/dest")


def test_a_malicious_ecg_encoder_is_refused_and_not_executed(folder, capsys):
    encoder = folder / "ecg_tower" / "encoder.pt"
    save_torch(encoder, evil("os", "system")["beside tensors"])
    config = json.loads((folder / "config.json").read_text())
    del config["mm_ecg_tower"]
    (folder / "config.json").write_text(json.dumps(config))
    said = refused(capsys, folder, "dest", "--ecg-encoder", encoder)
    assert "encoder.pt" in said and "asks for 'os.system'" in said


@pytest.mark.parametrize("how", ["malicious", "truncated"])
def test_a_malformed_encoder_alone_is_refused(how, folder, capsys):
    encoder = folder / "ecg_tower" / "cpt_wfep_epoch_20.pt"
    if how == "malicious":
        save_torch(encoder, evil("os", "system")["called"])
    else:
        truncate(encoder, 500)
    assert f"{encoder.name} cannot be read" in refused(capsys, encoder, "dest")


def test_the_controls(folder, capsys):
    """The unspoilt checkpoint is imported, and the pickle does what it says when it is loaded."""
    assert cli.main(["import", str(folder), "dest"]) == 0
    assert Path("dest", "config.json").is_file() and not Path("dest.partial").exists()
    assert not Path("executed").exists()
    pickle.loads(EVIL)
    assert Path("executed").exists()
