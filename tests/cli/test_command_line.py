"""A bug of ours keeps its traceback and exits with 1, whichever way a training is started; a UserError is one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import TINY

import maskrcnn_train.__main__ as command
from maskrcnn_train.cli.main import run_command
from maskrcnn_train.settings.rules import check_train_rules
from maskrcnn_train.settings.schema import TrainConfig

# runs a command with a bug in the ROI heads; in a sweep over seeds the first job meets a mistake of the person instead
RUNNER = """
import runpy, sys, torch
from maskrcnn_train.model.roi_heads import ROIHeads
from maskrcnn_train.settings.errors import UserError
def broken(self, features, proposals, targets):
    if "seed=0,1" in sys.argv and torch.initial_seed() == 0:
        raise UserError("the person's mistake")
    return list(zip([1], [1, 2], strict=True))
ROIHeads.losses = broken
module, sys.argv = sys.argv[1], sys.argv[1:]
runpy.run_module(module, run_name="__main__")
"""


@pytest.mark.parametrize(
    ("module", "arguments", "run"),
    [
        ("maskrcnn_train", [], "."),
        pytest.param("maskrcnn_train", ["-m", "seed=0,1"], "1", marks=pytest.mark.slow),
        ("maskrcnn_train.tune", ["trials=2", "roi_head.num_fcs=1,2"], "0"),
    ],
)
def test_a_bug_keeps_its_traceback(module: str, arguments: list[str], run: str, shapes: str, tmp_path: Path) -> None:
    (tmp_path / "runner.py").write_text(RUNNER)
    settings = [*TINY, shapes, "trainer.max_steps=1", f"output_dir={tmp_path / 'runs'}"]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "runner.py"), module, *arguments, *settings],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.rstrip().endswith("ValueError: zip() argument 2 is longer than argument 1")
    assert "in broken\n    return list(zip([1], [1, 2], strict=True))" in done.stderr
    assert "ERROR Traceback" in (tmp_path / "runs" / run / "train.log").read_text()


@pytest.mark.parametrize("before", ["", "import signal; del signal.SIGPIPE; "])  # as on Windows
def test_a_reader_that_left_ends_a_command_quietly(before: str) -> None:
    script = f"{before}from maskrcnn_train.check import main; main()"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", script, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_letters_that_an_output_lacks_are_spelled(tmp_path: Path) -> None:
    script = (
        "import maskrcnn_train.cli.main as cli; cli._dispatch = lambda command: print('caf\xe9 \u2500\u2500 \u7a97'); "
        "cli.run_command('train', None, None, None, 'help')"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}  # of a pipe on Windows
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, env=environment)
    assert (done.stdout.strip(), done.stderr) == (b"caf\xe9 -- \\u7a97", b"")


@pytest.mark.slow
def test_a_user_error_in_a_sweep_is_one_line_and_ends_no_other_job(shapes: str, tmp_path: Path) -> None:
    settings = [*TINY, shapes, "trainer.max_steps=2", f"output_dir={tmp_path / 'runs'}", "schedule.warmup_steps=0"]
    done = subprocess.run(
        [sys.executable, "-m", "maskrcnn_train", "-m", *settings, "optimizer.lr=1e30,1e-3"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "step 1 cannot be taken" in line
    assert "Traceback" not in done.stderr
    assert (tmp_path / "runs/1/metrics.json").exists()


def test_warnings_of_a_sweep_come_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    idle = ["schedule=cosine", "schedule.milestones=[0.5]", "seed=0", "seed=1,2", "mask_head=none"]
    monkeypatch.setattr(sys, "argv", ["train", "-m", *idle, "mask_head.norm=batch", f"output_dir={tmp_path}"])
    jobs: list[TrainConfig] = []
    run_command("train", TrainConfig, check_train_rules, jobs.append, "help")
    assert [job.seed for job in jobs] == [1, 2]
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "warning: seed is given 2 times; the last counts: seed=1,2",
        "warning: schedule.milestones has no effect with schedule=cosine",
        "warning: mask_head.norm has no effect with mask_head=none",
    ]


@pytest.mark.parametrize("words", ["predict checkpoint=a.pt images=b", "train -m seed=0,1"])
def test_only_a_single_training_has_several_processes(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("sys.argv", words.split())
    with pytest.raises(SystemExit, match="2"):
        run_command(words.split()[0], TrainConfig, check_train_rules, pytest.fail, "help")
    assert capsys.readouterr().err.startswith("error: torchrun is for a single training; everything else runs in one")


WRONG_PATHS = {  # a command line and what it says
    "__main__ data=coco data.root=gone": "gone does not exist; set data.root",
    "__main__ weights=file weights.path=gone.pt": "weights.path=gone.pt does not exist",
    "__main__ resume=gone": "resume=gone names no run",
    "__main__ replay=gone.pt": "gone.pt does not exist; set replay",
    "evaluate checkpoint=gone.pt": "gone.pt does not exist; set checkpoint",
    "evaluate predictions=gone.json annotations=.": "gone.json does not exist; set predictions",
    "evaluate compare=[.,gone]": "gone does not exist; set compare",
    "predict checkpoint=. images=gone": "gone does not exist; set images",
    "export checkpoint=gone.pt format=onnx": "gone.pt does not exist; set checkpoint",
    "analyze checkpoint=gone.pt": "gone.pt does not exist; set checkpoint",
    "report run=gone": "gone does not exist; set run",
}


def test_a_wrong_path_is_told_without_importing_torch(tmp_path: Path) -> None:
    code = """
import contextlib, sys
from importlib import import_module
sys.modules["torch"] = None
for line in sys.argv[1:]:
    module, *overrides = line.split()
    sys.argv = [module, *overrides]
    with contextlib.suppress(SystemExit):
        import_module(f"maskrcnn_train.{module}").main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *WRONG_PATHS], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    for line, said in zip(done.stderr.splitlines(), WRONG_PATHS.values(), strict=True):
        assert line.startswith(f"error: {said}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_that_is_still_importing_without_a_traceback(
    number: signal.Signals, tmp_path: Path
) -> None:
    # this module comes first on the path, in place of one that the package imports while it starts
    (tmp_path / "difflib.py").write_text(f"import os\nos.kill(os.getpid(), {int(number)})\n")
    done = subprocess.run(
        [sys.executable, "-m", "maskrcnn_train"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (128 + number, "")


def test_a_training_without_settings_says_what_it_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[TrainConfig] = []
    monkeypatch.setattr(command, "run", started.append)
    monkeypatch.setattr(sys, "argv", ["train"])
    command.main()
    said = capsys.readouterr().err
    assert started[0].backbone.name == "resnet50"
    assert f"ResNet-50 from random weights on {started[0].data.shapes.num_train} built-in" in said
    assert f"for {started[0].trainer.epochs} epochs" in said
    assert "Ctrl-C" in said


@pytest.mark.parametrize(
    ("module", "instead"),
    [
        ("maskrcnn_train.chek", "python -m maskrcnn_train.check"),
        ("maskrcnn_train.train", "python -m maskrcnn_train"),
        ("maskrcnn_train.xyz", "python -m maskrcnn_train.analyze, .check, "),
    ],
)
def test_a_command_that_is_none_is_answered_with_the_right_one(module: str, instead: str) -> None:
    done = subprocess.run([sys.executable, "-m", module], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {module} is no command; use {instead}")


@pytest.mark.parametrize("asked", [["--cfg", "job"], ["--info"]])
def test_a_sweep_does_not_start_where_a_configuration_is_asked_for(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["maskrcnn_train", "-m", "seed=0,1", *asked])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: -m trains; --cfg and --info print one configuration: leave -m out\n"
