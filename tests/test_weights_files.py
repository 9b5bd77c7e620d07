"""Files of weights: read to the bit, written as the original wrote them, refused when spoilt."""

import json
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from gem_jax.weights.files import INDEX, SINGLE, Shards, WeightsError, open_file, open_folder
from gem_jax.weights.stream import start_file, start_folder

GOLDENS = Path(__file__).parent / "goldens"
LLAMA = GOLDENS / "gem_llama_tiny"
PICKLED_INDEX = "pytorch_model.bin.index.json"
ECG = "model.ecg_tower.ecg_tower."


def same(left: np.ndarray, right: np.ndarray) -> bool:
    alike = (left.shape, left.dtype) == (right.shape, right.dtype)
    return alike and left.tobytes() == right.tobytes()


def plan_of(shards: Shards) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (entry.shape, entry.dtype) for name, entry in shards.entries.items()}


# Torch's files, put together by hand: no torch is needed to read them, nor to spoil them.


def push(value) -> bytes:
    """Returns the pickle that leaves `value` on the stack."""
    return pickle.dumps(value, 2)[2:-1]


def ask(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def tensor(
    key="0", kind="Float", length=6, first=0, shape=(2, 3), strides=(3, 1), also=b""
) -> bytes:
    """Returns the pickle of one tensor as torch.save writes it."""
    storage = push("storage") + ask("torch", f"{kind}Storage") + push(key) + push("cpu")
    hooks = ask("collections", "OrderedDict") + b")R"
    return (
        ask("torch._utils", "_rebuild_tensor_v2")
        + (b"((" + storage + push(length) + b"tQ" + push(first))
        + (push(shape) + push(strides) + push(False) + hooks + also + b"tR")
    )


def mapping(**values: bytes) -> bytes:
    return b"}" + b"".join(push(name) + value + b"s" for name, value in values.items())


def save_torch(
    path: Path,
    described: bytes,
    storages: dict[str, np.ndarray] | None = None,
    order: bytes = b"little",
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    storages = {"0": np.arange(6, dtype=np.float32)} if storages is None else storages
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("any/data.pkl", b"\x80\x02" + described + b".")
        archive.writestr("any/byteorder", order)
        for key, values in storages.items():
            archive.writestr(f"any/data/{key}", values.tobytes())
    return path


# Every layout, to the bit.


def test_the_encoders_pickle_holds_what_the_whole_models_shards_hold():
    pickled = open_file(LLAMA / "ecg_tower" / "cpt_wfep_epoch_20.pt")
    shards = open_folder(LLAMA)
    compared = [name for name in pickled.entries if name.startswith("module.ecg.")]
    assert len(compared) == 44
    for name in compared:
        official = ECG + name.removeprefix("module.ecg.")
        assert same(pickled.read(name), shards.read(official)), name
    assert not same(pickled.read(compared[0]), pickled.read(compared[1]))


def test_a_pickled_folder_holds_what_its_safetensors_hold(tmp_path):
    shutil.copyfile(GOLDENS / "clip_full" / "pytorch_model.bin", tmp_path / "pytorch_model.bin")
    pickled, plain = open_folder(tmp_path), open_folder(GOLDENS / "clip_full")
    expected = load_file(GOLDENS / "clip_full" / SINGLE)
    assert pickled.entries.keys() == plain.entries.keys() == expected.keys()
    for name, values in expected.items():
        assert same(pickled.read(name), values)
        assert same(plain.read(name), values)


def test_safetensors_come_first_where_both_are_there(tmp_path):
    save_torch(tmp_path / "pytorch_model.bin", mapping(a=tensor()))
    assert open_folder(tmp_path).entries["a"].file.name == "pytorch_model.bin"
    save_file({"a": np.ones(2, np.float32)}, tmp_path / SINGLE)
    assert open_folder(tmp_path).entries["a"].file.name == SINGLE


def test_pickled_shards_are_read_by_their_index(tmp_path):
    save_torch(tmp_path / "one.bin", mapping(a=tensor()))
    save_torch(tmp_path / "two.bin", mapping(b=tensor(first=3, shape=(3,), strides=(1,))))
    index = {"weight_map": {"a": "one.bin", "b": "two.bin"}}
    (tmp_path / PICKLED_INDEX).write_text(json.dumps(index))
    shards = open_folder(tmp_path)
    np.testing.assert_array_equal(shards.read("a"), [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(shards.read("b"), [3, 4, 5])


KINDS = [
    ("Float", np.float32),
    ("Half", np.float16),
    ("BFloat16", ml_dtypes.bfloat16),
    ("Long", np.int64),
    ("Int", np.int32),
    ("Bool", np.bool_),
]


@pytest.mark.parametrize(("kind", "dtype"), KINDS)
def test_each_kind_of_storage_keeps_its_bits(kind, dtype, tmp_path):
    values = np.array([0, 1, 2, 3, 4, 5]).astype(dtype)
    path = save_torch(tmp_path / "a.pt", mapping(a=tensor(kind=kind)), {"0": values})
    assert same(open_file(path).read("a"), values.reshape(2, 3))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_views_of_a_storage_are_read_as_numpy_sees_them(data, tmp_path):
    base = np.arange(120, dtype=np.float32).reshape(4, 5, 6)
    ends = [(data.draw(st.integers(0, n - 1)), data.draw(st.integers(1, 3))) for n in base.shape]
    view = base[tuple(slice(start, None, step) for start, step in ends)]
    view = view.transpose(data.draw(st.permutations(range(3))))
    first = (view.__array_interface__["data"][0] - base.__array_interface__["data"][0]) // 4
    strides = tuple(step // 4 for step in view.strides)
    described = tensor(length=120, first=first, shape=view.shape, strides=strides)
    path = save_torch(tmp_path / "a.pt", mapping(a=described), {"0": base})
    assert same(open_file(path).read("a"), np.ascontiguousarray(view))


def test_scalars_parameters_and_shared_storages_are_read(tmp_path):
    parameter = ask("torch._utils", "_rebuild_parameter") + b"(" + tensor() + push(True)
    described = mapping(
        scalar=tensor(first=5, shape=(), strides=()),
        parameter=parameter + push({}) + b"tR",
        none=tensor(first=6, shape=(0, 3), strides=(3, 1)),
    )
    shards = open_file(save_torch(tmp_path / "a.bin", described))
    assert shards.read("scalar") == np.float32(5)
    assert shards.read("scalar").shape == ()
    assert shards.read("parameter").shape == (2, 3)
    assert shards.read("none").shape == (0, 3)


# VmHWM, not ru_maxrss: a child inherits its parent's ru_maxrss.
GROWTH = """
import re, sys
from pathlib import Path
from gem_jax.weights.files import open_file
def peak_kib():
    return int(re.search("VmHWM:[^0-9]*([0-9]+)", Path("/proc/self/status").read_text())[1])
shards = open_file(Path(sys.argv[1]))
shards.read("0").sum()
before = peak_kib()
kept = [shards.read(name) for name in shards.entries if sys.argv[2] == "kept"]
for name in shards.entries:
    shards.read(name).sum()
print(peak_kib() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_reading_tensor_by_tensor_holds_one_at_a_time(tmp_path):
    path = tmp_path / SINGLE
    start_file(path, {str(number): ((4 * 2**20,), "float32") for number in range(16)})
    growth_kib = {}
    for how in ("dropped", "kept"):
        command = [sys.executable, "-c", GROWTH, str(path), how]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        growth_kib[how] = int(done.stdout)
    assert growth_kib["dropped"] < 48 * 1024 < 200 * 1024 < growth_kib["kept"]


# Nothing in a pickle is executed.


def evil(module: str, name: str) -> dict[str, bytes]:
    argument = push("touch executed")
    called = ask(module, name) + b"(" + argument + b"tR"
    return {
        "called": mapping(a=called),
        "nested in a reduce": mapping(a=tensor(also=called)),
        "beside tensors": mapping(state_dict=mapping(a=tensor()), epoch=called),
        "by STACK_GLOBAL": push(module) + push(name) + b"\x93(" + argument + b"tR",
        "by INST": b"(" + argument + f"i{module}\n{name}\n".encode(),
        "by OBJ": b"(" + ask(module, name) + argument + b"o",
        "by NEWOBJ": ask(module, name) + b"(" + argument + b"t\x81",
    }


@pytest.mark.parametrize("how", evil("os", "system"))
@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("builtins", "eval"), ("torch.storage", "_load_from_bytes")],
)
def test_a_malicious_pickle_is_refused_by_name(module, name, how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save_torch(tmp_path / "pytorch_model.bin", evil(module, name)[how])
    # The control: the unguarded unpickler does what the file says.
    if (module, how) == ("os", "called"):
        pickle.loads(b"\x80\x02" + evil(module, name)[how] + b".")
        (tmp_path / "executed").unlink()
    with pytest.raises(WeightsError, match=rf"asks for '{module}\.{name}'.*nothing was executed"):
        open_folder(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_stream_cannot_change_a_tensor_after_it_was_checked(tmp_path):
    for state in ({"shape": (9,)}, (None, {"shape": (9,)}), (None, {"first": 9})):
        hostile = tensor() + push(state) + b"b"
        with pytest.raises(WeightsError, match="broken: AttributeError"):
            open_file(save_torch(tmp_path / "a.pt", mapping(a=hostile)))
    # What it does to the stand-ins lasts no longer than the file.
    rebuild = ask("torch._utils", "_rebuild_tensor_v2") + push({"shape": (9,)}) + b"b0"
    shards = open_file(save_torch(tmp_path / "a.pt", rebuild + mapping(a=tensor())))
    assert shards.read("a").shape == (2, 3)


def test_an_ordered_dict_whose_methods_were_replaced_gives_its_own_items(tmp_path):
    ordered = ask("collections", "OrderedDict")
    described = ordered + b")R" + push("a") + tensor() + b"s" + push({"items": 1, "get": 2}) + b"b"
    assert list(open_file(save_torch(tmp_path / "a.pt", described)).entries) == ["a"]


# Spoilt torch files.

SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "a storage too short": (lambda p: save_torch(p, mapping(a=tensor(length=9))), "24 bytes"),
    "a view too long": (lambda p: save_torch(p, mapping(a=tensor(first=1))), "does not fit"),
    "strides too long": (lambda p: save_torch(p, mapping(a=tensor(strides=(4, 1)))), "not fit"),
    "elements repeated": (
        lambda p: save_torch(p, mapping(a=tensor(shape=(10**12, 3), strides=(0, 1)))),
        "does not fit",
    ),
    "negative strides": (
        lambda p: save_torch(p, mapping(a=tensor(first=5, strides=(-3, -1)))),
        "is negative",
    ),
    "negative offset": (lambda p: save_torch(p, mapping(a=tensor(first=-1))), "is negative"),
    "axes without strides": (lambda p: save_torch(p, mapping(a=tensor(strides=(1,)))), "no known"),
    "a missing storage": (lambda p: save_torch(p, mapping(a=tensor(key="7"))), "7 is missing"),
    "compression": (
        lambda p: save_torch(p, mapping(a=tensor()), compression=zipfile.ZIP_DEFLATED),
        "is compressed",
    ),
    "another byte order": (lambda p: save_torch(p, mapping(a=tensor()), order=b"big"), "order"),
    "an object": (lambda p: save_torch(p, mapping(a=push(20))), "'a' is a int, expected a tensor"),
    "a list": (lambda p: save_torch(p, push([1])), "got a list"),
    "float64": (
        lambda p: save_torch(p, mapping(a=tensor(kind="Double")), {"0": np.zeros(6)}),
        "a has dtype float64",
    ),
    "an end too early": (lambda p: save_torch(p, b"}("), "broken: "),
    "no pickle": (lambda p: zipfile.ZipFile(p, "w").close(), "expected a file of torch.save"),
    "a legacy pickle": (lambda p: p.write_bytes(pickle.dumps(5, 2)), "legacy pickle"),
    "no file of torch's": (lambda p: p.write_bytes(b"weights"), "no zip"),
    "nothing": (lambda p: p.write_bytes(b""), "no zip"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_torch_file_is_refused_in_one_line(case, tmp_path):
    make, said = SPOILT[case]
    make(tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=said) as caught:
        open_folder(tmp_path)
    assert "\n" not in str(caught.value)
    save_torch(tmp_path / "pytorch_model.bin", mapping(a=tensor()))
    open_folder(tmp_path)  # The control.


def test_a_truncated_or_displaced_torch_file_is_refused(tmp_path):
    path = save_torch(tmp_path / "a.pt", mapping(a=tensor()))
    whole = path.read_bytes()
    for length in (len(whole) - 30, len(whole) // 2, 10):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"a\.pt cannot be read"):
            open_file(path)
    path.write_bytes(whole.replace(b"PK\x03\x04", b"PK\x05\x05"))
    with pytest.raises(WeightsError, match=r"a\.pt cannot be read"):
        open_file(path)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4))
@pytest.mark.parametrize("whole_file", [True, False])
def test_a_spoilt_byte_is_refused_or_changes_values_alone(whole_file, changes, tmp_path):
    described = mapping(state_dict=mapping(a=tensor(), b=tensor(first=3, shape=(3,), strides=(1,))))
    raw = bytearray(described)
    if whole_file:
        raw = bytearray(save_torch(tmp_path / "whole.pt", described).read_bytes())
    for place, byte in changes:
        raw[place % len(raw)] = byte
    path = tmp_path / "a.pt"
    path.write_bytes(raw)
    if not whole_file:
        save_torch(path, bytes(raw))
    try:
        shards = open_file(path)
    except WeightsError as error:
        assert "a.pt" in str(error) or "has dtype" in str(error)
        return
    for name in shards.entries:
        assert shards.read(name).size <= 12


# Spoilt safetensors and indices.


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two shards and their index, which a test may spoil."""
    writer = start_folder(tmp_path, {"a": ((2,), "float32"), "b": ((3,), "float32")}, 12)
    writer.write("a", np.zeros(2, np.float32))
    writer.write("b", np.ones(3, np.float32))
    assert writer.finish() == 20
    open_folder(tmp_path)  # The control of every test below.
    return tmp_path


def rename(folder: Path, **files: str) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] |= files
    (folder / INDEX).write_text(json.dumps(index))


FIRST, SECOND = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))


def test_a_missing_shard_is_refused(folder):
    (folder / SECOND).unlink()
    with pytest.raises(WeightsError, match=rf"{SECOND} cannot be read"):
        open_folder(folder)


def test_a_truncated_shard_is_refused(folder):
    whole = (folder / SECOND).read_bytes()
    for length in (len(whole) - 1, 20, 4, 0):
        (folder / SECOND).write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=rf"{SECOND} cannot be read"):
            open_folder(folder)


@pytest.mark.parametrize("file", ["../other.safetensors", "/tmp/other.safetensors", "..", ""])
def test_an_index_that_leaves_the_folder_is_refused(file, folder):
    rename(folder, a=file)
    with pytest.raises(WeightsError, match="expected a file of this folder"):
        open_folder(folder)


def test_an_index_that_names_what_is_not_there_is_refused(folder):
    rename(folder, c=FIRST)
    with pytest.raises(WeightsError, match=rf"c: the index says {FIRST}, found in none"):
        open_folder(folder)
    rename(folder, c=FIRST, a=SECOND)
    with pytest.raises(WeightsError, match=rf"a: the index says {SECOND}, found in {FIRST}"):
        open_folder(folder)


def test_a_tensor_that_the_index_does_not_name_is_refused(folder):
    save_file({"a": np.zeros(2, "f4"), "c": np.zeros(2, "f4")}, folder / FIRST)
    with pytest.raises(WeightsError, match=r"c: the index says nothing, found in"):
        open_folder(folder)


def test_a_tensor_in_two_files_is_refused(folder):
    save_file({"a": np.zeros(2, "f4"), "b": np.zeros(3, "f4")}, folder / FIRST)
    with pytest.raises(WeightsError, match="b is in two files"):
        open_folder(folder)


def test_a_name_twice_in_one_header_is_refused(tmp_path):
    one = '"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    for header, said in ((f"{{{one}}}", None), (f"{{{one},{one}}}", "cannot be read")):
        raw = struct.pack("<Q", len(header)) + header.encode() + bytes(4)
        (tmp_path / SINGLE).write_bytes(raw)
        if said is None:
            open_folder(tmp_path)
        else:
            with pytest.raises(WeightsError, match=said):
                open_folder(tmp_path)


@pytest.mark.parametrize(
    ("dtype", "said"), [(ml_dtypes.float8_e4m3fn, "F8_E4M3"), (np.float64, "F64")]
)
def test_dtypes_that_no_weights_have_are_refused_by_name(dtype, said, tmp_path):
    save_file({"a": np.zeros(2, dtype)}, tmp_path / SINGLE)
    with pytest.raises(WeightsError, match=rf"a has dtype {said}, expected one of float32"):
        open_folder(tmp_path)


def test_an_index_without_names_and_a_folder_without_weights_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"got no weights, expected one of model\.safetensors"):
        open_folder(tmp_path)
    for text in ("[]", "{}", '{"weight_map": {"a": 1}}', "no JSON", "[" * 100000):
        (tmp_path / INDEX).write_text(text)
        with pytest.raises(WeightsError, match=INDEX):
            open_folder(tmp_path)


# Writing.


def test_the_writer_writes_the_originals_files_byte_for_byte(tmp_path):
    shards = open_folder(LLAMA)
    index = json.loads((LLAMA / INDEX).read_text())
    # The original's order of tensors is not in its files; its shards are the same with the
    # largest tensor of each first.
    order = sorted(
        shards.entries, key=lambda name: (index["weight_map"][name], -shards.read(name).nbytes)
    )
    plan = {name: plan_of(shards)[name] for name in order}
    writer = start_folder(tmp_path, plan, shard_bytes=490_000)
    for name in reversed(order):
        writer.write(name, shards.read(name))
    assert writer.finish() == index["metadata"]["total_size"]
    expected = sorted(path.name for path in LLAMA.glob("model*"))
    assert sorted(path.name for path in tmp_path.iterdir()) == expected
    for file in expected:
        assert (tmp_path / file).read_bytes() == (LLAMA / file).read_bytes(), file


DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_written_in_any_order_the_library_reads(data, tmp_path):
    shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
    given_ = data.draw(
        st.dictionaries(st.text("abcé.", min_size=1), st.tuples(shapes, st.sampled_from(DTYPES)))
    )
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.normal(size=shape).astype(dtype) for name, (shape, dtype) in given_.items()
    }
    path = tmp_path / "a.safetensors"
    writer = start_file(path, {name: (t.shape, t.dtype.name) for name, t in tensors.items()})
    for name in data.draw(st.permutations(sorted(tensors))):
        writer.write(name, tensors[name])
    writer.finish()
    read = load_file(path)
    assert read.keys() == tensors.keys()
    assert all(same(read[name], tensors[name]) for name in tensors)
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    assert path.read_bytes() == (tmp_path / "theirs").read_bytes()
    assert all(same(open_file(path).read(name), tensors[name]) for name in tensors)


def test_a_transposed_view_is_written_as_it_reads(tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(2, 3).T
    writer = start_file(tmp_path / SINGLE, {"a": ((3, 2), "float32")})
    writer.write("a", values)
    np.testing.assert_array_equal(load_file(tmp_path / SINGLE)["a"], values)


def test_a_shard_ends_before_the_tensor_that_would_overfill_it(tmp_path):
    plan = {
        name: ((length,), "float32") for name, length in zip("abcde", (1, 1, 9, 1, 2), strict=True)
    }
    start_folder(tmp_path, plan, shard_bytes=12)
    index = json.loads((tmp_path / INDEX).read_text())
    numbers = [int(file[6:11]) for file in index["weight_map"].values()]
    assert numbers == [1, 1, 2, 3, 3]
    assert index["metadata"] == {"total_size": 56}


def test_a_tensor_left_out_given_twice_or_unlike_its_plan_is_refused(tmp_path):
    writer = start_folder(tmp_path, {"a": ((2,), "float32"), "b": ((1,), "float32")})
    with pytest.raises(WeightsError, match=r"a was not written; b was not written"):
        writer.finish()
    for wrong in (np.zeros(3, np.float32), np.zeros(2, np.float16)):
        with pytest.raises(WeightsError, match=r"a: got .*, expected float32\(2,\)"):
            writer.write("a", wrong)
    writer.write("a", np.zeros(2, np.float32))
    with pytest.raises(WeightsError, match="a is given twice"):
        writer.write("a", np.zeros(2, np.float32))
    with pytest.raises(WeightsError, match="c is unplanned"):
        writer.write("c", np.zeros(2, np.float32))
    writer.write("b", np.zeros(1, np.float32))
    assert writer.finish() == 12
    with pytest.raises(WeightsError, match="a has dtype int64"):
        start_file(tmp_path / "other.safetensors", {"a": ((2,), "int64")})
    assert not (tmp_path / "other.safetensors").exists()
