"""Requeueing, with a stand-in for scontrol on PATH."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from dwiml.training.cluster import slurm
from dwiml.training.cluster.slurm import requeue


@pytest.fixture(autouse=True)
def _no_slurm(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    caplog.set_level(logging.INFO, logger="dwiml")


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a stand-in to be written, on PATH, that of job 77."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    return folder / "scontrol"


def write(script: Path, *lines: str) -> None:
    script.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    script.chmod(0o755)


def the_warning(caplog: pytest.LogCaptureFixture) -> str:
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    return record.message


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({}, "77"),
        ({"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "0"}, "70_0"),
        ({"SLURM_ARRAY_JOB_ID": "70"}, "77"),
    ],
)
def test_scontrol_is_asked_once_with_the_job(
    variables: dict[str, str],
    job: str,
    scontrol: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    write(scontrol, f'echo "$@" >> "{tmp_path}/asked"')
    sentence = requeue()
    assert (tmp_path / "asked").read_text() == f"requeue {job}\n"
    assert sentence.startswith(f"Job {job} was requeued: ")
    assert [(record.levelname, record.message) for record in caplog.records] == [("INFO", sentence)]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            ["echo 'slurm_requeue error: Requested operation is' >&2", "echo 'presently disabled' >&2", "exit 1"],
            "Job 77 was not requeued: scontrol refused (slurm_requeue error: Requested operation is presently disabled)"
            "; to continue, submit the job again or run: scontrol requeue 77",
        ),
        (["exit 3"], "Job 77 was not requeued: scontrol refused (exit code 3); to continue, "),
        (["kill -TERM $$"], "Job 77: scontrol was ended by SIGTERM, as when SLURM ends a job to requeue it"),
        ([r"printf 'no \377 text' >&2", "exit 1"], "scontrol refused (no \N{REPLACEMENT CHARACTER} text)"),
    ],
)
def test_a_failure_only_warns(lines: list[str], told: str, scontrol: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(scontrol, *lines)
    assert told in requeue()
    assert told in the_warning(caplog)


def test_a_scontrol_that_cannot_be_run_only_warns(scontrol: Path, caplog: pytest.LogCaptureFixture) -> None:
    scontrol.write_bytes(b"\0not a program")
    scontrol.chmod(0o755)
    assert "Job 77 was not requeued: scontrol cannot be run (" in requeue()
    the_warning(caplog)


def test_no_answer_only_warns(
    scontrol: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(slurm, "TIMEOUT_S", 0.3)
    write(scontrol, "exec sleep 60")
    assert "Job 77 may not have been requeued: scontrol did not answer in 0.3 s" in requeue()
    the_warning(caplog)


def test_without_scontrol_or_slurm_it_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert requeue() == "Not requeued: this is not a SLURM job (SLURM_JOB_ID is not set)."
    the_warning(caplog)
    caplog.clear()
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert requeue().startswith("Job 77 was not requeued: there is no scontrol on PATH; to continue, ")
    the_warning(caplog)
