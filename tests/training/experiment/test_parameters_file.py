"""What ``parameters.json`` records beside all that was chosen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
from small_training import logs, small_trainer


def test_how_the_data_were_made_is_recorded_and_never_compared(tiny_hdf5: Path, tmp_path: Path) -> None:
    copy, config = tmp_path / "copy.hdf5", {"input": {"type": "volume", "standardization": "all"}}
    shutil.copy(tiny_hdf5, copy)
    with h5py.File(copy, "r+") as handle:
        handle.attrs["groups_config"] = json.dumps(config)
    small_trainer(copy, tmp_path, max_epochs=1).train_and_validate()
    path = tmp_path / "exp" / "parameters.json"
    recorded = json.loads(path.read_text())
    assert recorded["groups_config"] == config
    # As an older dwiml has left it; what it is trained with goes on, and is recorded.
    del recorded["groups_config"]
    path.write_text(json.dumps(recorded))
    small_trainer(copy, tmp_path, max_epochs=2, resume="must").train_and_validate()
    assert json.loads(path.read_text())["groups_config"] == config
    assert len(logs(tmp_path / "exp")) == 2
