"""From checkpoint files to packed memory: every row in its place, however files, chunks and layouts cut it."""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from aphrodite.errors import CheckpointError, ModelError
from aphrodite.platform.layout import PLAIN, Packed, Piece, WeightLayout
from aphrodite.program.parameters import Parameter, ParameterList
from aphrodite.types.progress import NoProgress
from aphrodite.weights import load as loading
from aphrodite.weights.load import load_weights
from aphrodite.weights.safetensors import SafetensorsSource
from aphrodite.weights.source import DummySource, TensorInfo, check_names
from tests.unit.program.parts import cpu

TILE = 16
TRANSPOSED = WeightLayout("transposed", lambda n, k: (k, n), lambda rows, start, whole: Piece(1, start, rows.t()))


def _tiles(rows: torch.Tensor, start: int, whole: tuple[int, int]) -> Piece:
    """[N, K] as [N / 16, K, 16], the last tile filled up with zeros."""
    assert start % TILE == 0 and (len(rows) % TILE == 0 or start + len(rows) == whole[0])
    missing = -len(rows) % TILE
    padded = torch.cat((rows, rows.new_zeros(missing, rows.shape[1])))
    return Piece(0, start // TILE, padded.view(-1, TILE, rows.shape[1]).transpose(1, 2).contiguous())


TILED = WeightLayout("tiled", lambda n, k: (-(-n // TILE), k, TILE), _tiles, rows=TILE)
UNPACK = {
    "plain": lambda data, n: data,
    "transposed": lambda data, n: data.t(),
    "tiled": lambda data, n: data.transpose(1, 2).reshape(-1, data.shape[1])[:n],
}


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = {"q": (40, 24), "k": (8, 24), "v": (9, 24), "o": (24, 40), "norm": (24,), "bq": (40,), "bk": (8,)}
    return {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}


def parameters(dtype: str = "f32") -> dict[str, Parameter]:
    """Three matrices whose borders are at no multiple of 16, one alone, a vector and a stacked vector."""
    params = ParameterList(dtype)
    params.add("qkv", [("q", (40, 24)), ("k", (8, 24)), ("v", (9, 24))])
    params.add("out", [("o", (24, 40))])
    params.add("norm", [("norm", (24,))])
    params.add("bias", [("bq", (40,)), ("bk", (8,))])
    return params.parameters


def expected(given: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    stacked = {
        "qkv": torch.cat([given[name] for name in ("q", "k", "v")]),
        "out": given["o"],
        "norm": given["norm"],
        "bias": torch.cat([given[name] for name in ("bq", "bk")]),
    }
    return {name: x.to(dtype) for name, x in stacked.items()}


class Total:
    """A Progress that adds up."""

    def __init__(self) -> None:
        self.total, self.done, self.finished = 0, 0, 0

    def start(self, label: str, total: int, unit: str) -> None:
        self.total = total

    def advance(self, amount: int) -> None:
        self.done += amount

    def finish(self) -> None:
        self.finished += 1


def loaded(
    source: Any, layout: WeightLayout = PLAIN, dtype: str = "f32", progress: Any = None
) -> dict[str, torch.Tensor]:
    """Every parameter as [N, K] or [N], unpacked."""
    wanted = parameters(dtype)
    platform = cpu()
    storage = load_weights(
        wanted.values(),
        source,
        layouts=dict.fromkeys(("qkv", "out"), layout),
        platform=platform,
        stream=platform.device.stream(),
        progress=progress or NoProgress(),
    )
    source.close()
    found = {}
    for name, memory in storage.items():
        if isinstance(memory, Packed):
            n, k = memory.shape
            assert tuple(memory.data.shape) == layout.shape(n, k) and memory.dtype == dtype
            found[name] = UNPACK[layout.name](memory.data, n)
        else:
            found[name] = memory
    return found


def one_file(folder: Path, given: Mapping[str, torch.Tensor]) -> SafetensorsSource:
    save_file(dict(given), folder / "model.safetensors", metadata={"format": "pt"})
    return SafetensorsSource(folder)


def shards(folder: Path, given: Mapping[str, torch.Tensor]) -> SafetensorsSource:
    names = sorted(given)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, mine in files.items():
        save_file({name: given[name] for name in mine}, folder / file)
    index = {"weight_map": {name: file for file, mine in files.items() for name in mine}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return SafetensorsSource(folder)


@pytest.mark.parametrize("form", [one_file, shards])
@pytest.mark.parametrize("layout", [PLAIN, TRANSPOSED, TILED], ids=lambda layout: layout.name)
@pytest.mark.parametrize("chunk_bytes", [1, 24 * 4 * 5, 16 << 20])
def test_every_row_is_where_its_layout_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Any, layout: WeightLayout, chunk_bytes: int
) -> None:
    monkeypatch.setattr(loading, "_CHUNK_BYTES", chunk_bytes)
    given, progress = tensors(), Total()
    source = form(tmp_path, given)
    found = loaded(source, layout, progress=progress)
    for name, value in expected(given, torch.float32).items():
        assert torch.equal(found[name], value), name
    assert progress.done == progress.total == sum(x.numel() * 4 for x in given.values()) and progress.finished == 1


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_stored_types_are_converted_once(tmp_path: Path, dtype: str, stored: torch.dtype) -> None:
    given = {name: x.to(stored) for name, x in tensors(1).items()}
    kind = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[dtype]
    found = loaded(one_file(tmp_path, given), TILED, dtype)
    for name, value in expected(given, kind).items():
        assert found[name].dtype == kind and torch.equal(found[name], value), name


# ---- stacks ---------------------------------------------------------------------------------------------------------

EXPERTS, ROWS, INNER = 3, 20, 12
SINGLE = [(f"{part}.{number}", (ROWS, INNER)) for number in range(EXPERTS) for part in ("gate", "up")]
FUSED = [("gate_up", (EXPERTS, 2 * ROWS, INNER))]


def stack() -> Parameter:
    """The gates and ups of three experts as one stack, of a checkpoint that has each alone or all in one tensor."""
    params = ParameterList("f32")
    params.add("experts", SINGLE, others=[FUSED], stack=EXPERTS)
    return params.parameters["experts"]


def expert_tensors(fused: bool) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(7)
    each = {name: torch.randn(shape, generator=g) for name, shape in SINGLE}
    return {"gate_up": torch.cat(list(each.values())).view(FUSED[0][1])} if fused else each


@pytest.mark.parametrize("fused", [False, True], ids=["single", "fused"])
@pytest.mark.parametrize("layout", [PLAIN, TRANSPOSED, TILED], ids=lambda layout: layout.name)
@pytest.mark.parametrize("chunk_bytes", [1, INNER * 4 * 7, 16 << 20])
def test_every_matrix_of_a_stack_is_where_its_layout_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fused: bool, layout: WeightLayout, chunk_bytes: int
) -> None:
    monkeypatch.setattr(loading, "_CHUNK_BYTES", chunk_bytes)
    given, progress, platform = expert_tensors(fused), Total(), cpu()
    source = one_file(tmp_path, given)
    parameter = stack().as_in(source.infos())
    check_names([parameter], source.infos(), (), "here")
    assert parameter.ref.shape == (EXPERTS, 2 * ROWS, INNER)
    storage = load_weights(
        [parameter],
        source,
        layouts={"experts": layout},
        platform=platform,
        stream=platform.device.stream(),
        progress=progress,
    )
    source.close()
    memory = storage["experts"]
    assert memory.shape == (EXPERTS, 2 * ROWS, INNER)
    assert tuple(memory.data.shape) == layout.storage(memory.shape) == (EXPERTS, *layout.shape(2 * ROWS, INNER))
    found = torch.stack([UNPACK[layout.name](memory.data[index], 2 * ROWS) for index in range(EXPERTS)])
    assert torch.equal(found, expert_tensors(fused=True)["gate_up"])
    assert progress.done == progress.total == found.numel() * 4


def test_what_a_layout_makes_of_a_whole_matrix_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_CHUNK_BYTES", 64)
    seen: list[Any] = []

    def finish(storage: torch.Tensor) -> tuple[str, torch.Tensor]:
        seen.append(weakref.ref(storage))
        return "made", storage.sum(0)

    layout = WeightLayout("finished", lambda n, k: (n, k), finish=finish)
    given, platform = {**tensors(), **expert_tensors(fused=False)}, cpu()
    source = one_file(tmp_path, given)
    wanted = [parameters()["qkv"], stack().as_in(source.infos())]
    storage = load_weights(
        wanted,
        source,
        layouts=dict.fromkeys(("qkv", "experts"), layout),
        platform=platform,
        stream=platform.device.stream(),
        progress=NoProgress(),
    )
    source.close()
    kind, total = storage["qkv"].data
    assert kind == "made" and torch.equal(total, expected(given, torch.float32)["qkv"].sum(0))
    fused = expert_tensors(fused=True)["gate_up"]
    assert len(storage["experts"].data) == EXPERTS and storage["experts"].shape == (EXPERTS, 2 * ROWS, INNER)
    for made, matrix in zip(storage["experts"].data, fused, strict=True):
        assert made[0] == "made" and torch.equal(made[1], matrix.sum(0))
    assert len(seen) == 1 + EXPERTS and all(ref() is None for ref in seen), "the storage is let go of"


def test_a_parameter_is_filled_from_the_form_that_a_checkpoint_has() -> None:
    whole = {name for name, _ in SINGLE}
    assert [source.tensor for source in stack().as_in({"gate_up"}).sources] == ["gate_up"]
    assert {source.tensor for source in stack().as_in(whole).sources} == whole
    assert {source.tensor for source in stack().as_in(whole - {"up.1"}).sources} == whole, "nearest to it"
    assert {source.tensor for source in stack().as_in(set()).sources} == whole, "its own"


def test_a_table_that_is_no_weight_of_a_product_is_loaded_as_it_is(tmp_path: Path) -> None:
    params, platform = ParameterList("f32"), cpu()
    params.add("norms", [("norms", (4, 8))])
    given = {"norms": torch.randn(4, 8)}
    source = one_file(tmp_path, given)
    storage = load_weights(
        params.parameters.values(),
        source,
        layouts={},
        platform=platform,
        stream=platform.device.stream(),
        progress=NoProgress(),
    )
    source.close()
    assert torch.equal(storage["norms"], given["norms"])


# ---- files ----------------------------------------------------------------------------------------------------------


def test_rows_of_a_file_are_read_alone_and_in_any_order(tmp_path: Path) -> None:
    given = tensors(3)
    source = shards(tmp_path, given)
    infos = source.infos()
    assert set(infos) == set(given) and infos["q"].shape == (40, 24) and infos["q"].dtype == "f32"
    for name, start, stop in (("v", 3, 9), ("q", 0, 1), ("norm", 5, 7), ("q", 39, 40), ("bk", 0, 8), ("q", 4, 4)):
        assert torch.equal(source.rows(name, start, stop), given[name][start:stop])
    source.close()
    assert torch.equal(source.rows("k", 0, 8), given["k"]), "closing lets go of the file, not of the checkpoint"
    source.close()


def test_broken_checkpoints_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no \*\.safetensors file"):
        SafetensorsSource(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin cannot be read"):
        SafetensorsSource(tmp_path)
    one_file(tmp_path, tensors())
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for broken in (whole[:-100], whole[:50], b"", b"\xff" * 200, whole + b"more"):
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            SafetensorsSource(tmp_path)
    save_file({"q": torch.zeros(4, dtype=torch.int8)}, path)
    with pytest.raises(CheckpointError, match="tensor 'q' is I8"):
        SafetensorsSource(tmp_path)


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ("{", "is not an index"),
        ("[]", "is not an index"),
        ('{"weight_map": {"q": "../model.safetensors"}}', "no safetensors file beside it"),
        ('{"weight_map": {"q": "/etc/passwd"}}', "no safetensors file beside it"),
        ('{"weight_map": {"q": 3}}', "no safetensors file beside it"),
        ('{"weight_map": {"q": "gone.safetensors"}}', "gone.safetensors, which does not exist"),
    ],
)
def test_an_index_names_files_of_its_own_folder(tmp_path: Path, index: str, reason: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=reason.replace(".", r"\.")):
        SafetensorsSource(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    for file in ("a.safetensors", "b.safetensors"):
        save_file({"q": torch.zeros(2)}, tmp_path / file)
    with pytest.raises(CheckpointError, match=r"tensor 'q' is also in .*a\.safetensors"):
        SafetensorsSource(tmp_path)


def test_a_file_that_shrinks_after_it_was_checked_is_truncated(tmp_path: Path) -> None:
    source = one_file(tmp_path, tensors())
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(1200)
    last = list(source.infos())[-1]
    with pytest.raises(CheckpointError, match="truncated"):
        source.rows(last, 0, source.infos()[last].shape[0])
    source.close()


def test_missing_extra_and_misshapen_tensors_are_named() -> None:
    wanted = list(parameters().values())
    infos = {name: TensorInfo(name, tuple(x.shape), "f32", "here") for name, x in tensors().items()}
    check_names(wanted, infos, (), "here")
    check_names(wanted, infos | {"x.inv_freq": infos["norm"]}, ("*.inv_freq",), "here")
    with pytest.raises(CheckpointError, match="tensor 'k' is missing") as caught:
        check_names(wanted, {n: i for n, i in infos.items() if n != "k"}, (), "here")
    assert caught.value.subject == "k"
    with pytest.raises(CheckpointError, match="'extra' is not part of the network"):
        check_names(wanted, infos | {"extra": infos["q"]}, (), "here")
    with pytest.raises(CheckpointError, match=r"'v' has shape \[9, 23\], config\.json asks for \[9, 24\]"):
        check_names(wanted, infos | {"v": TensorInfo("v", (9, 23), "f32", "here")}, (), "here")
    with pytest.raises(CheckpointError, match=r"'bk', 'bq', 'k' and 4 more are missing"):
        check_names(wanted, {}, (), "here")


# ---- dummy weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**31, 2**63 - 1])
def test_dummy_weights_are_the_same_however_they_are_chunked(seed: int) -> None:
    source = DummySource(parameters().values(), "f32", seed)
    whole = source.rows("q", 0, 40)
    parts = [DummySource(parameters().values(), "f32", seed).rows("q", a, b) for a, b in ((0, 1), (1, 17), (17, 40))]
    assert torch.equal(torch.cat(parts), whole) and whole.shape == (40, 24)
    assert not torch.equal(whole[0], whole[1]) and not torch.equal(whole[:8], source.rows("k", 0, 8))
    assert not torch.equal(whole, DummySource(parameters().values(), "f32", seed ^ 1).rows("q", 0, 40))
    assert abs(whole.std().item() * 24**0.5 - 1) < 0.15, "of a size that keeps activations in range"
    assert torch.equal(source.rows("norm", 2, 5), torch.ones(3))


def test_dummy_weights_load_like_any_others() -> None:
    source = DummySource(parameters().values(), "bf16", 3)
    found = loaded(source, TILED, "bf16")
    assert torch.equal(found["qkv"][40:48], source.rows("k", 0, 8)) and np.isfinite(found["out"].float().numpy()).all()
