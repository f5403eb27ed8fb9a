import io
import json
import logging
import threading
import time
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams.backend_context import Context

from maskrcnn_train.checking.findings import Finding, findings_table
from maskrcnn_train.evaluation.coco.metrics import CocoResult
from maskrcnn_train.reporting.tensorboard import MetricWriter, read_metrics
from maskrcnn_train.reporting.terminal import tables
from maskrcnn_train.reporting.terminal.progress import Forecast, Progress, close_logging, duration, setup_logging
from maskrcnn_train.reporting.terminal.tables import class_table, metrics_table, table


@pytest.fixture(autouse=True)
def _no_handlers_left():
    yield
    close_logging()


def test_scalars_are_in_the_lines_and_in_the_events(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.scalars(1, {"loss/total": 2.5, "lr": 0.1})
        assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss/total": 2.5, "lr": 0.1}
        writer.scalars(2, {"loss/total": float("nan")})
        writer.picture(2, "val/0", Image.new("RGB", (20, 10)))
        writer.text("config", "a: 1")
    assert read_metrics(tmp_path / "metrics.jsonl")[1] == {"step": 2, "loss/total": None}
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Scalars("loss/total")[0].value == 2.5
    assert events.Images("val/0")[0].width == 20


def test_settings_are_columns_of_tensorboards_hparams_though_runs_set_different_ones(tmp_path):
    for name, overrides in (("a", ["optimizer.lr=0.1"]), ("b", ["optimizer.lr=0.2", "backbone.name=resnet18"])):
        with MetricWriter(tmp_path / name) as writer:
            writer.settings(overrides)
            writer.scalars(1, {"segm/AP": 0.25})
    events = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(events, str(tmp_path))))
    found = context.hparams_metadata(RequestContext(), "")
    experiment = context.experiment_from_metadata(RequestContext(), "", True, found, [])
    rate = next(column.domain_interval for column in experiment.hparam_infos if column.name == "optimizer.lr")
    assert (rate.min_value, rate.max_value) == (0.1, 0.2)
    assert {column.name for column in experiment.hparam_infos} == {"optimizer.lr", "backbone.name"}
    assert {column.name.tag for column in experiment.metric_infos} == {"segm/AP"}


def test_a_resumed_writer_drops_what_came_after_its_checkpoint(tmp_path):
    with MetricWriter(tmp_path) as writer:
        for step in range(1, 6):
            writer.scalars(step, {"lr": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "l')  # cut short by a crash
    with MetricWriter(tmp_path, purge_step=3) as writer:
        writer.scalars(4, {"lr": 40})
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [(line["step"], line["lr"]) for line in lines] == [(1, 1), (2, 2), (3, 3), (4, 40)]
    assert not list(tmp_path.glob("*.part"))


def test_a_writer_of_another_rank_writes_nothing(tmp_path):
    with MetricWriter(tmp_path / "run", enabled=False) as writer:
        writer.scalars(1, {"lr": 1})
        writer.picture(1, "a", Image.new("RGB", (2, 2)))
        writer.text("a", "b")
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_raised_and_not_printed_by_the_thread_that_writes_events(tmp_path, monkeypatch, capfd):
    def full(*_):
        raise OSError(28, "No space left on device")

    usual = threading.excepthook
    writer = MetricWriter(tmp_path)
    monkeypatch.setattr(writer._events.file_writer.event_writer._async_writer._writer, "write", full)
    with pytest.raises(OSError, match="No space left"):  # noqa: PT012 - it comes up a moment later
        for step in range(100):
            writer.scalars(step, {"lr": 0.1})
            time.sleep(0.01)
    with pytest.raises(OSError, match="No space left"):
        writer.close()
    assert capfd.readouterr().err == ""
    assert threading.excepthook is usual


def test_progress_logs_plain_lines_off_a_terminal_and_to_the_file(tmp_path):
    stream = io.StringIO()
    console = setup_logging(tmp_path / "train.log", console=Console(file=stream))
    with Progress("train", log_every=10, console=console) as progress:
        for step in range(1, 21):
            progress.update(step, 20, {"loss": 1.23456, "data wait": "3%"})
    logging.getLogger("maskrcnn_train").warning("careful")
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("train 10/20  loss 1.235  data wait 3%  left 0s")
    assert lines[1:] == ["train 20/20  loss 1.235  data wait 3%", "warning: careful"]
    assert (tmp_path / "train.log").read_text().count("\n") == 3


def test_progress_is_a_bar_on_a_terminal():
    stream = io.StringIO()
    console = setup_logging(console=Console(file=stream, force_terminal=True, width=100))
    with Progress("train", console=console) as progress:
        progress.update(3, 20, {"loss": 1.5, "left": "2m 05s"})
        logging.getLogger("maskrcnn_train").info("a [bracketed] line")
    shown = stream.getvalue()
    assert "3/20" in shown
    assert "loss 1.5  left 2m 05s" in shown
    assert "a [bracketed] line" in shown


@pytest.mark.parametrize(
    ("seconds_an_image", "said"),
    [(2.0, ["evaluation of 201 images: about 6m 42s in all, 2 s an image; a large head"]), (0.2, [])],
)
def test_what_takes_long_is_said_once_when_its_speed_is_known(monkeypatch, seconds_an_image, said):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console = setup_logging(console=Console(file=io.StringIO(), width=200))
    with Progress("e", log_every=999, console=console, forecast=Forecast("evaluation", "a large head")) as progress:
        for image in range(1, 60):
            progress.update(image, 201, {})
            now[0] += seconds_an_image
    assert console.file.getvalue().splitlines() == said


def test_other_ranks_are_silent_and_logging_again_replaces_the_handlers(tmp_path):
    first, second = io.StringIO(), io.StringIO()
    setup_logging(tmp_path / "a/train.log", console=Console(file=first))
    setup_logging(tmp_path / "b/train.log", console=Console(file=second), enabled=False)
    logging.getLogger("maskrcnn_train").info("hello")
    logging.getLogger("maskrcnn_train").warning("mind")
    assert (first.getvalue(), second.getvalue()) == ("", "")
    assert not (tmp_path / "b").exists()


def test_durations_read_as_people_say_them():
    assert [duration(s) for s in (0.2, 59, 200, 7500)] == ["0s", "59s", "3m 20s", "2h 05m"]


def test_a_measure_of_any_name_has_a_column(monkeypatch):
    monkeypatch.setattr(tables, "MAIN_MEASURES", ("AP", "PQ"))
    assert tables.measures_of({"bbox/PQ": 0.4, "bbox/AP/door": 0.2, "bbox/AP": 0.3, "loss/total": 1}) == ["AP", "PQ"]


def test_metrics_table_shows_percent_and_says_so():
    keys = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    metrics = {f"bbox/{key}": 0.1234 for key in keys} | {"bbox/APl": -1.0, "bbox/AP/door": 0.5}
    lines = metrics_table(metrics).splitlines()
    assert "x 100" in lines[0]
    assert lines[-1].split() == ["bbox", *["12.3"] * 5, "-", *["12.3"] * 3]
    assert next(line for line in lines if "AP75" in line).split() == [*keys[:9]]


def test_class_table_and_any_table():
    names, support = {1: "a[b]", 2: "c"}, {1: 7, 2: 0}
    metrics = {"bbox/AP/a[b]": 0.5, "bbox/AP/c": -1.0}
    result = CocoResult(metrics, {"bbox": None}, {}, names, support, [100], [0.5], (32, 96))
    lines = class_table(result).splitlines()
    assert lines[-2].split() == ["a[b]", "7", "50.0"]
    assert lines[-1].split() == ["c", "0", "-"]
    assert "x" * 300 in table("long", ["name"], [["x" * 300]])
    assert table("", ["a"], []).strip().startswith("a")


def test_a_full_disk_ends_the_log_with_one_line_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.log").symlink_to("/dev/full")
    said = io.StringIO()
    setup_logging(tmp_path / "train.log", console=Console(file=said, width=200))
    for word in ("one", "two", "three"):
        logging.getLogger("maskrcnn_train").info(word)
    close_logging()
    warning = "warning: no line more fits into train.log: [Errno 28] No space left on device"
    assert sorted(said.getvalue().splitlines()) == sorted(["one", "two", "three", warning])
    assert capsys.readouterr().err == ""


def test_tables_are_text_in_a_notebook_too(monkeypatch):
    finding = Finding("warning", "k", "what was found", "train")
    usual = table("title", ["a"], [["b"]]), findings_table([finding])
    monkeypatch.setattr("builtins.get_ipython", type("ZMQInteractiveShell", (), {}), raising=False)
    assert Console().is_jupyter
    assert (table("title", ["a"], [["b"]]), findings_table([finding])) == usual
