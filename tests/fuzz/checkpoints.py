"""Crafted checkpoints and weights: a good one, changed a little, each a function of its number.

What a stranger can write has a right digest: it comes as far as a file can. Damage has a wrong one.

Run as a program, it resumes, loads, evaluates and tracks with some of them, and prints what came of them:
``checkpoints.py FIRST LAST``.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import os
import pickle
import shutil
import signal
import sys
import tempfile
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzzing import Outcome, run_watched
from small_training import same_weights, small_trainer
from tests_support import write_hdf5

from dwiml import Learn2TrackModel
from dwiml.cli.main import main
from dwiml.files.tensors import write_tensors

Rng = np.random.Generator


class RunsCode:
    """Leaves a mark when it is unpickled."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.marker,))


class Allocates:
    """Asks for 4 GB when it is unpickled, by a function that torch allows."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (bytearray, (4 * 10**9,))


def laughs() -> list[Any]:
    """Return a list that is small in a file and has 10**9 items when it is iterated over."""
    items: list[Any] = ["lol"]
    for _ in range(9):
        items = [items] * 10
    return items


def cycle() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


def deep() -> Any:
    value: Any = 1
    for _ in range(200):
        value = [value]
    return value


# What may stand anywhere in the place of what belongs there.
VALUES: tuple[Callable[[Rng], Any], ...] = (
    lambda rng: None,
    lambda rng: True,
    lambda rng: -1,
    lambda rng: 0,
    lambda rng: int(rng.choice([2**31, 2**62, 2**63, -(2**70)], shuffle=False)) if rng.random() < 0.5 else 10**140,
    lambda rng: float(rng.choice([0.5, -1.5, 1e308, 1e-320])),
    lambda rng: float(rng.choice([math.nan, math.inf, -math.inf])),
    lambda rng: str(rng.choice(["", "text", "../../outside", "a\nb", "\0", "x" * 3000])),
    lambda rng: [],
    lambda rng: {},
    lambda rng: [1, 2, 3],
    lambda rng: {1: 2, (3, "a"): None},
    lambda rng: OrderedDict(a=torch.ones(2)),
    lambda rng: (1.0, "a"),
    lambda rng: torch.zeros(int(rng.integers(0, 5))),
    lambda rng: torch.tensor(float(rng.choice([1, math.nan]))),
    lambda rng: torch.zeros(2, 3, dtype=torch.complex64),
    lambda rng: torch.zeros(5, dtype=torch.uint8),
    lambda rng: torch.zeros(1).expand(10 ** int(rng.integers(5, 13))),
    lambda rng: torch.zeros(1, 1).expand(10**6, 10**6),
    lambda rng: torch.zeros(3, device="meta"),
    lambda rng: torch.eye(3).to_sparse(),
    lambda rng: laughs(),
    lambda rng: cycle(),
    lambda rng: deep(),
    lambda rng: {1, 2},
    lambda rng: np.zeros(3),
    lambda rng: bytearray(3),
    lambda rng: Allocates(),
    lambda rng: RunsCode("outside"),
    lambda rng: "x" * 10**7,
    lambda rng: list(range(10**5)),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where values lie in a state, outer ones first."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, each in value.items():
            yield from places(each, (*path, key))
    elif isinstance(value, (list, tuple)):
        for number, each in enumerate(value[:4]):
            yield from places(each, (*path, number))


def copied(value: Any) -> Any:
    """Copy containers; tuples become lists, so that a value in them can be changed."""
    if isinstance(value, dict):
        return type(value)((key, copied(each)) for key, each in value.items())
    return [copied(each) for each in value] if isinstance(value, (list, tuple)) else value


def holder_of(state: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        state = state[key]
    return state


def a_place(state: Any, rng: Rng) -> tuple[Any, ...]:
    """Return a place: first the part of the state, so that large parts are not all of it."""
    part = list(state)[rng.integers(len(state))]
    inside = list(places(state[part], (part,)))
    return inside[rng.integers(len(inside))]


def replace(state: Any, rng: Rng) -> None:
    path = a_place(state, rng)
    holder_of(state, path)[path[-1]] = VALUES[rng.integers(len(VALUES))](rng)


def remove(state: Any, rng: Rng) -> None:
    path = a_place(state, rng)
    del holder_of(state, path)[path[-1]]


def rename(state: Any, rng: Rng) -> None:
    path = a_place(state, rng)
    holder = holder_of(state, path)
    key = [7, "other", None, 1.5, ("a",), "0"][rng.integers(6)]
    if isinstance(holder, dict):
        holder[key] = holder.pop(path[-1])
    else:
        holder.append(holder[0])


def add(state: Any, rng: Rng) -> None:
    path = a_place(state, rng)
    holder = holder_of(state, path)
    value = VALUES[rng.integers(len(VALUES))](rng)
    if isinstance(holder, dict):
        holder[["more", 9, "lr", "../x"][rng.integers(4)]] = value
    else:
        holder.append(value)


def reshape(state: Any, rng: Rng) -> None:
    """Change a tensor: its shape, dtype, or some of its values."""
    tensors = [path for path in places(state) if isinstance(holder_of(state, path)[path[-1]], torch.Tensor)]
    path = tensors[rng.integers(len(tensors))]
    tensor = holder_of(state, path)[path[-1]]
    spoilt = tensor.clone()
    if spoilt.numel() and spoilt.is_floating_point():
        spoilt.view(-1)[int(rng.integers(spoilt.numel()))] = float(rng.choice([math.nan, math.inf, -1e30, 1e38]))
    changed = (
        tensor[..., None],
        tensor.reshape(-1),
        torch.cat([tensor.reshape(-1), tensor.reshape(-1)]),
        tensor.reshape(-1)[:-1],
        tensor.double() if tensor.dtype != torch.float64 else tensor.float(),
        tensor.to(torch.int64),
        tensor.half(),
        torch.nn.Parameter(tensor.float()),
        spoilt,
        tensor.reshape(-1)[:1].expand(10**9),
    )
    holder_of(state, path)[path[-1]] = changed[rng.integers(len(changed))]


def number(state: Any, rng: Rng) -> None:
    """Change a number to another one."""
    numbers = [path for path in places(state) if type(holder_of(state, path)[path[-1]]) in (int, float)]
    path = numbers[rng.integers(len(numbers))]
    value = holder_of(state, path)[path[-1]]
    changed = (value + 1, -value - 1, value * 10**9, float(value) + 0.5, 10**9, math.nan, math.inf)
    holder_of(state, path)[path[-1]] = changed[rng.integers(len(changed))]


CRAFTS = (replace, replace, replace, remove, rename, add, reshape, reshape, number, number)


def signed(state: Any, kind: str) -> bytes:
    stream = io.BytesIO()
    write_tensors(state, stream, kind=kind)
    return stream.getvalue()


def members(good: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(files: dict[str, bytes], *, method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return with_digest(stream.getvalue())


def with_digest(archive: bytes) -> bytes:
    """Give an archive without a comment the digest that dwiml would."""
    import hashlib

    digest = hashlib.sha256(archive).hexdigest().encode()
    return archive[:-2] + (88).to_bytes(2, "little") + b"dwiml checkpoint sha256:" + digest


def expands(good: bytes, rng: Rng) -> bytes:
    """Return an archive of 0.4 MB whose members unpack to 4 GB: many names of one compressed member."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members(good).items():
            archive.writestr(name, content)
        archive.writestr("archive/data/big", bytes(10**8))
        big = archive.filelist[-1]
        for each in range(40):
            copy_of_big = copy.copy(big)
            copy_of_big.filename = f"archive/data/big{each}"
            archive.filelist.append(copy_of_big)
        archive._didModify = True
    return with_digest(stream.getvalue())


def compressed(good: bytes, rng: Rng) -> bytes:
    return zipped(members(good), method=(zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)[rng.integers(3)])


def short_storage(good: bytes, rng: Rng) -> bytes:
    """Return an archive one storage of which is shorter than its tensor: reading on would leave the memory."""
    files = members(good)
    names = [name for name in files if "/data/" in name]
    name = names[rng.integers(len(names))]
    return zipped({**files, name: files[name][: rng.integers(len(files[name]) + 1)]})


def extra_member(good: bytes, rng: Rng) -> bytes:
    more = ["archive/constants.pkl", "archive/code/a.py", "other/data.pkl", "../../outside", "archive/data/0 "]
    return zipped({**members(good), more[rng.integers(len(more))]: b"hello"})


def lost_member(good: bytes, rng: Rng) -> bytes:
    files = members(good)
    del files[list(files)[rng.integers(len(files))]]
    return zipped(files)


def spoilt_pickle(good: bytes, rng: Rng) -> bytes:
    files = members(good)
    name = next(name for name in files if name.endswith("data.pkl"))
    content = bytearray(files[name])
    for _ in range(rng.integers(1, 4)):
        content[rng.integers(len(content))] = rng.integers(256)
    return zipped({**files, name: bytes(content)})


def other_pickle(good: bytes, rng: Rng) -> bytes:
    files = members(good)
    name = next(name for name in files if name.endswith("data.pkl"))
    pickles = (
        b"\x80\x02r\xff\xff\xff\x7f.",
        b"\x80\x05\x96\xff\xff\xff\xff\x01\x00\x00\x00.",
        b"(" * 10**5 + b".",
        b"\x80\x02}" + b"]" * 10**5 + b".",
        pickle.dumps(laughs(), protocol=5),
        b"",
        b"\x80\x02ccollections\nOrderedDict\n}X\x05\x00\x00\x00itemsK\x01sb.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__K\x01s\x86b.",
    )
    return zipped({**files, name: pickles[rng.integers(len(pickles))]})


def flip(good: bytes, rng: Rng) -> bytes:
    content = bytearray(good)
    content[rng.integers(len(good))] ^= 1 << rng.integers(8)
    return bytes(content)


def cut(good: bytes, rng: Rng) -> bytes:
    return good[: rng.integers(len(good))]


def cut_and_signed(good: bytes, rng: Rng) -> bytes:
    return with_digest(good[: rng.integers(100, len(good))] + bytes(2))


def legacy(good: bytes, rng: Rng) -> bytes:
    stream = io.BytesIO()
    torch.save({"model": torch.zeros(3)}, stream, _use_new_zipfile_serialization=False)
    return with_digest(stream.getvalue() + bytes(22))


def foreign(good: bytes, rng: Rng) -> bytes:
    return [b"", b"hello", b"PK\5\6" + bytes(18), bytes(5000), pickle.dumps({"a": 1})][rng.integers(5)]


ARCHIVES = (
    expands,
    compressed,
    short_storage,
    short_storage,
    extra_member,
    lost_member,
    spoilt_pickle,
    spoilt_pickle,
    other_pickle,
    flip,
    flip,
    cut,
    cut_and_signed,
    legacy,
    foreign,
)


def sparse(path: Path) -> None:
    """Make a file of 4 GB that takes no space, and ends as a checkpoint does."""
    end = path.read_bytes()[-90:]
    with path.open("r+b") as stream:
        stream.truncate(4 * 10**9)
        stream.seek(0, io.SEEK_END)
        stream.write(end)


def linked(path: Path) -> None:
    other = path.with_name("other.pt")
    path.rename(other)
    path.symlink_to(other)


def to_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


FILES = (sparse, linked, to_device, pipe, folder, circle)


class World:
    """Two experiments of small trainings: one that has ended, and one that was stopped in its second epoch."""

    def __init__(self, path: Path) -> None:
        self.path, self.data = path, path / "data.hdf5"
        write_hdf5(self.data, {"sub-a": 12, "sub-b": 6}, {"sub-d": 6})
        self.good = path / "good"
        for name in ("whole", "stopped"):
            trainer = small_trainer(self.data, self.good, name, max_epochs=2, ema_decay=0.9, clip_grad=1.0)
            if name == "stopped":
                stop_in_second_epoch(trainer)
            with contextlib.suppress(SystemExit):
                trainer.train_and_validate()
        self.end = Learn2TrackModel.load(self.good / "whole" / "best_model")

    def experiment(self, source: str = "stopped") -> Path:
        """Return the only experiment in a new folder, for a run to spoil."""
        experiments = Path(tempfile.mkdtemp(dir=self.path, prefix="run_"))
        shutil.copytree(self.good / source, experiments / "exp")
        return experiments / "exp"


def stop_in_second_epoch(trainer: Any) -> None:
    run = trainer.run_one_batch

    def run_and_stop(*batch: Any) -> Any:
        result = run(*batch)
        if trainer.position.epoch == 1 and trainer.position.phase == "training":
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    trainer.run_one_batch = run_and_stop


def spoil(experiment: Path, rng: Rng) -> tuple[str, str]:
    """Spoil the experiment's checkpoint, or its best model's weights; return which, and how."""
    name, kind = (("checkpoint/latest.pt", "checkpoint"), ("best_model/model_state.pt", "weights"))[
        int(rng.random() < 0.25)
    ]
    path = experiment / name
    if rng.random() < 0.7:
        (experiment / "checkpoint" / "previous.pt").unlink(missing_ok=True)
    good, choice = path.read_bytes(), rng.random()
    if choice < 0.65:
        state = copied(torch.load(io.BytesIO(good), weights_only=True))
        done = []
        for _ in range(int(rng.integers(1, 3))):
            craft = CRAFTS[rng.integers(len(CRAFTS))]
            try:
                craft(state, rng)
            except (IndexError, KeyError, TypeError, RuntimeError, ValueError, OverflowError, AttributeError):
                continue
            done.append(craft.__name__)
        path.write_bytes(signed(state, kind))
        return name, " ".join(done)
    if choice < 0.93:
        change = ARCHIVES[rng.integers(len(ARCHIVES))]
        path.write_bytes(change(good, rng))
        return name, change.__name__
    change_file = FILES[rng.integers(len(FILES))]
    change_file(path)
    return name, change_file.__name__


def run(world: World, seed: int) -> tuple[str, Outcome, Path]:
    """Spoil an experiment and use it; return how, what came of it, and the experiment."""
    rng = np.random.default_rng(seed)
    experiment = world.experiment()
    name, how = spoil(experiment, rng)
    if name.startswith("checkpoint"):
        argv = ["resume", str(experiment), "-q"]
    else:
        argv = [
            ["evaluate", str(experiment), "--max_batches", "1"],
            ["track", str(experiment), "sub-d", str(experiment.parent / "o.trk"), "--hdf5_file", str(world.data)]
            + ["--tracking_mask", "wm_mask", "--seeding_mask", "wm_mask", "--nb_seeds", "3"],
            ["show_loss", str(experiment), "sub-d", str(experiment.parent / "loss")],
            ["resume", str(experiment), "-q"],
        ][rng.integers(4)]
    outcome = run_watched(lambda: main(argv), watched=[world.path], outputs=[experiment.parent], cwd=experiment)
    return f"{argv[0]}: {name}: {how}", outcome, experiment


def fault_of(world: World, outcome: Outcome, experiment: Path, how: str) -> str | None:
    """Return what is wrong with an outcome; None when nothing is."""
    if outcome.is_fault:
        return outcome.kind
    if (experiment / "outside").exists():
        return "code was run"
    if "weights_only" in outcome.err:
        return "advice to load unsafely"
    taken_up = how.startswith("resume: checkpoint") and outcome.kind == "read"
    if (
        taken_up
        and ("Resuming from the previous one" in outcome.err or how.endswith(": linked"))
        and not same_end(world, experiment)
    ):
        return "another end"
    return None


def same_end(world: World, experiment: Path) -> bool:
    """Tell whether an experiment ended as one that was never stopped."""
    return same_weights(world.end, Learn2TrackModel.load(experiment / "best_model"))


def run_all(run: Callable[[World, int], tuple[str, Outcome, Path]], world: World, seeds: range) -> Counter[str]:
    """Run some; return how often each outcome came. AssertionError, naming them, where one is a fault."""
    counts: Counter[str] = Counter()
    faults = []
    for seed in seeds:
        how, outcome, experiment = run(world, seed)
        fault = fault_of(world, outcome, experiment, how)
        counts[f"FAULT {fault}" if fault else outcome.kind] += 1
        if fault:
            faults.append(
                f"#{seed} {how}: {fault} ({outcome.seconds:.1f} s) {outcome.touched[:3]}\n{outcome.err[-1500:]}"
            )
            sys.stderr.write(f"{faults[-1]}\n")
        elif "-v" in sys.argv:
            last = (outcome.err.strip().splitlines() or ["-"])[-1]
            last = last[:300].replace(str(experiment.parent), "")
            sys.stderr.write(f"{seed} {how} {outcome.kind} {last}\n")
        shutil.rmtree(experiment.parent, ignore_errors=True)
    assert not faults, "\n".join(faults)
    return counts


def main_program(run: Callable[[World, int], tuple[str, Outcome, Path]]) -> None:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        counts = run_all(run, World(Path(place)), range(int(sys.argv[1]), int(sys.argv[2])))
        sys.stdout.write(f"{dict(counts)}\n")


if __name__ == "__main__":
    main_program(run)
