"""What is accepted by as_plain is read again by read_tensors, and holds its own values only."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dwiml.files import tensors
from dwiml.files.archive import NotPlainError
from dwiml.files.tensors import as_plain, read_tensors, write_tensors

BASE = torch.arange(10_000.0).reshape(100, 100)
DTYPES = sorted({each for each in vars(torch).values() if isinstance(each, torch.dtype)}, key=str)


def read_again(content: Any, path: Path) -> Any:
    with path.open("wb") as stream:
        write_tensors(as_plain(content), stream, kind="checkpoint")
    return read_tensors(path, "File")[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_dtype_is_refused_or_read_again(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.empty(3, dtype=dtype)
    if dtype in tensors._DTYPES:
        tensor = torch.ones(3).to(dtype)
        assert torch.equal(read_again(tensor, tmp_path / "a"), tensor)
        return
    with pytest.raises(NotPlainError, match=f"^a tensor of {dtype}$"):
        as_plain(tensor)


@pytest.mark.parametrize(
    "tensor",
    [
        BASE[3],
        BASE[:, 4],
        BASE[::50, ::50],
        torch.zeros(1).expand(2**21),
        torch.tensor([1 + 2j]).conj(),
        torch.tensor([1 + 2j]).conj().imag,
        torch.nn.Parameter(BASE[5]),
        BASE.clone().requires_grad_()[2] * 2,
        torch.zeros(0),
    ],
    ids=["row", "column", "strides", "expanded", "conjugate", "negative", "parameter", "gradient", "empty"],
)
def test_a_view_is_saved_as_its_own_values(tensor: torch.Tensor, tmp_path: Path) -> None:
    found = read_again({"a": [tensor]}, tmp_path / "a")["a"][0]
    assert torch.equal(found, tensor)
    assert (type(found), found.requires_grad) == (type(tensor), tensor.requires_grad)
    assert found.untyped_storage().nbytes() == found.numel() * found.element_size()


def test_a_whole_tensor_is_not_copied() -> None:
    transposed = BASE.T
    assert as_plain({"a": transposed})["a"] is transposed


class Marked(torch.Tensor):
    pass


def with_attribute() -> torch.Tensor:
    tensor = torch.zeros(2)
    tensor.scale = 3  # type: ignore[attr-defined]
    return tensor


def circular() -> Any:
    state: dict[str, Any] = {}
    state["self"] = state
    return state


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (Marked(), "an object of type Marked, which is a subclass of torch.Tensor"),
        (torch.eye(2).to_sparse(), "a sparse or nested tensor"),
        (torch.zeros(2, device="meta"), "a tensor of the meta device, which has no values"),
        (with_attribute(), "a tensor with the attributes 'scale' (save its detach())"),
        ({"a": [1, {"h": collections.deque([1])}]}, "'a' -> 1 -> 'h' -> an object of type deque"),
        ({"a": collections.defaultdict(list)}, "'a' -> an object of type defaultdict"),
        ({"a": np.float32(2)}, "'a' -> an object of type float32"),
        ({np.int64(2): 1}, "2 -> an object of type int64"),
        ({"a": {"b": 2**600}}, "'a' -> 'b' -> a number of many digits"),
        (circular(), "it contains itself, or has too many levels"),
        ([0.5] * 2_000_000, "more than 16 MiB besides the tensors"),
    ],
)
def test_what_cannot_be_read_again_is_named_with_its_keys(content: Any, reason: str) -> None:
    with pytest.raises(NotPlainError) as caught:
        as_plain(content)
    assert str(caught.value) == reason


def test_the_size_is_that_of_the_file(tmp_path: Path) -> None:
    content = {"a": BASE, "same": BASE, "b": [BASE[0]], "c": "text"}
    with (tmp_path / "a").open("wb") as stream:
        write_tensors(as_plain(content, max_bytes=50_000), stream, kind="checkpoint")
    assert 40_000 < (tmp_path / "a").stat().st_size < 50_000
    with pytest.raises(NotPlainError, match="^it has 0.0 MB, more than the 0.0 MB that can be read again$"):
        as_plain(content, max_bytes=40_000)


COMPLEX = torch.tensor([1 + 2j, 3 - 1j])
NUMBERS = np.arange(4, dtype=np.float32)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (BASE, BASE.view(torch.int32)),
        (BASE.view(torch.uint8), BASE),
        (COMPLEX, torch.view_as_real(COMPLEX)),
        (torch.nn.Parameter(BASE), BASE.view(torch.int32)),
        (torch.from_numpy(NUMBERS), torch.from_numpy(NUMBERS.view(np.int16))),
    ],
    ids=["integers", "bytes", "complex", "parameter", "numpy"],
)
def test_tensors_of_two_dtypes_that_share_memory_are_saved(
    first: torch.Tensor, second: torch.Tensor, tmp_path: Path
) -> None:
    found = read_again({"a": [first], "b": (second, first)}, tmp_path / "a")
    assert torch.equal(found["a"][0], first)
    assert torch.equal(found["b"][0], second)
    assert torch.equal(found["b"][1], first)
    assert [type(each) for each in (found["a"][0], found["b"][0])] == [type(first), type(second)]


def test_tensors_in_sets_and_keys_are_saved(tmp_path: Path) -> None:
    found = read_again({"set": {BASE, BASE.view(torch.int32)}, ("key", BASE[3]): 1}, tmp_path / "a")
    assert {each.dtype for each in found["set"]} == {torch.float32, torch.int32}
    (key,) = (each for each in found if each != "set")
    assert torch.equal(key[1], BASE[3])
    # Not the tensor that it is a view of, and the sizes count.
    assert (tmp_path / "a").stat().st_size < 90_000
    with pytest.raises(NotPlainError, match="more than the 0.1 MB that can be read again"):
        as_plain({"set": {BASE.clone(), BASE.clone(), BASE.clone()}}, max_bytes=100_000)
