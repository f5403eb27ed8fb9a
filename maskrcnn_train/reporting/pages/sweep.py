"""The jobs of a sweep side by side: a table, and a page that links to each job's own."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

from matplotlib.figure import Figure

from maskrcnn_train.data.paths import relative_path
from maskrcnn_train.evaluation.coco.evaluators import ABSENT
from maskrcnn_train.evaluation.coco.metrics import KINDS
from maskrcnn_train.evaluation.diagnostics.bootstrap import Difference
from maskrcnn_train.files import write_rows, write_text
from maskrcnn_train.reporting.drawing.figures import Chart, line_figure, to_charts
from maskrcnn_train.reporting.drawing.parallel_figure import parallel_figure
from maskrcnn_train.reporting.jobs import JobRecord, read_jobs
from maskrcnn_train.reporting.pages.html import REPORT_FILE, render
from maskrcnn_train.reporting.pages.ranking import Repeated, against_best, over_seeds
from maskrcnn_train.reporting.pages.scores import points_of
from maskrcnn_train.reporting.pages.searches import read_search
from maskrcnn_train.reporting.runs import SCORES_FILE, read_scores, read_yaml
from maskrcnn_train.reporting.tensorboard import METRICS_FILE, read_metrics
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.overrides import saved_overrides
from maskrcnn_train.settings.schema import LATENCY
from maskrcnn_train.tuning.search import is_score

TABLE_FILE = "sweep.csv"
MEASURES = ("AP", "AP50", "AP75")
DIFFERENCE = {"difference": "value", "difference low": "low", "difference high": "high"}  # from the best, paired
MOST_CURVES = 6  # jobs: as many colours as can be told apart


@dataclass
class Job:
    """One job. settings: its overrides by key. metrics: flat, empty if the job didn't end. reason: why it failed.

    minutes: of its training steps. difference: of the score that the jobs are sorted by from the best job's.
    """

    name: str
    settings: dict[str, str]
    metrics: dict[str, float]
    report: str | None
    reason: str = ""
    minutes: float | None = None
    difference: Difference | None = None


@dataclass
class Sweep:
    """Jobs, best first by `score`, a metric; empty where no job has any.

    varied: keys whose values differ. shared: "key=value" common to all. columns: metrics shown. search: what searched,
    if the jobs are the trials of a search. repeated: means over seeds.
    """

    jobs: list[Job]
    score: str
    varied: list[str]
    shared: list[str]
    columns: list[str]
    search: dict[str, Any] | None
    repeated: list[Repeated]


def read_sweep(folder: Path) -> Sweep:
    """The jobs in the folders of a sweep, sorted by segm/AP or else bbox/AP; of a search by its own metric.

    Raises UserError if there is no job.
    """
    records = {folder / str(job.number): job for job in read_jobs(folder)}
    folders = {path.parent for name in ("overrides.yaml", SCORES_FILE) for path in folder.glob(f"*/{name}")}
    folders |= {path for path, job in records.items() if job.state == "failed"}
    if not folders:
        raise UserError(f"{folder} holds no jobs: no folder in it has an overrides.yaml or a metrics.json")
    # folders are numbers: 2 comes before 10
    jobs = [
        _read_job(path, records.get(path)) for path in sorted(folders, key=lambda path: (len(path.name), path.name))
    ]
    columns = [f"{kind}/{name}" for kind in reversed(KINDS) for name in MEASURES]
    search = read_search(folder)
    if search is not None and is_score(search["metric"]):
        columns.insert(0, search["metric"])
    columns = [column for column in dict.fromkeys(columns) if any(column in job.metrics for job in jobs)]
    score = search["metric"] if search is not None else columns[0] if columns else ""
    sign = -1 if is_score(score) else 1
    jobs.sort(key=lambda job: (score not in job.metrics, sign * job.metrics.get(score, 0.0)))
    keys = list(dict.fromkeys(key for job in jobs for key in job.settings))
    varied = [key for key in keys if len({job.settings.get(key) for job in jobs}) > 1]
    for job in jobs:  # a value that is the default is no override
        record = records.get(folder / job.name)
        config = read_yaml(folder / job.name / "config.yaml") or (record.settings if record else None)
        job.settings = {key: _value(config, key) for key in varied} | job.settings
    shared = [f"{key}={jobs[0].settings[key]}" for key in keys if key not in varied]
    for job in jobs[1:]:
        job.difference = against_best(folder / jobs[0].name, folder / job.name, score) if job.metrics else None
    values = {job.name: {key: job.settings[key] for key in varied} for job in jobs}
    scores = {job.name: job.metrics[score] for job in jobs if score in job.metrics}
    return Sweep(jobs, score, varied, shared, columns, search, over_seeds(values, scores) if is_score(score) else [])


def _read_job(path: Path, record: JobRecord | None) -> Job:
    overrides = saved_overrides(path) or (record.overrides if record else [])
    pairs = [override.partition("=") for override in overrides]
    report = f"{path.name}/{REPORT_FILE}" if (path / REPORT_FILE).exists() else None
    settings, reason = {key: value for key, _, value in pairs}, record.reason if record else ""
    return Job(path.name, settings, {} if reason else read_scores(path), report, reason, training_minutes(path))


def training_minutes(path: Path) -> float | None:
    """Of all training steps, from the log: each line has the mean of the steps since the one before."""
    lines = [line for line in read_metrics(path / METRICS_FILE) if "time/step" in line]
    ends = pairwise([0, *(line["step"] for line in lines)])
    seconds = sum(line["time/step"] * (step - last) for line, (last, step) in zip(lines, ends, strict=True))
    return seconds / 60 if lines else None


def _value(config: Any, key: str) -> str:
    """The value of a dotted key, as text; empty where it is not known."""
    for name in key.split("."):
        config = config.get(name) if isinstance(config, dict) else None
    return str(config).lower() if isinstance(config, bool) else "" if config is None else str(config)


def _write_table(folder: Path, sweep: Sweep) -> None:
    """A row a job, best first; the settings that vary, every metric as a fraction, and why jobs failed, if any did."""
    metrics = list(dict.fromkeys([*sweep.columns, *(key for job in sweep.jobs for key in job.metrics)]))
    with_reasons = any(job.reason for job in sweep.jobs)
    rows = [
        {"job": job.name}
        | {key: job.settings[key] for key in sweep.varied}
        | {key: job.metrics.get(key, "") for key in metrics}
        | {"minutes": "" if job.minutes is None else round(job.minutes, 2)}
        | {head: getattr(job.difference, name, "") for head, name in DIFFERENCE.items()}
        | ({"reason": job.reason} if with_reasons else {})
        for job in sweep.jobs
    ]
    write_rows(folder / TABLE_FILE, rows)


def write_sweep_report(sweep_dir: Path | str, output: Path | None = None) -> Path:
    """Write `report.html` and `sweep.csv` of a sweep's folder; returns the page's path. output: another place for it.

    Links lead from the page to the jobs' own.
    """
    folder = Path(sweep_dir)
    sweep = read_sweep(folder)
    _write_table(folder, sweep)
    path = output or folder / REPORT_FILE
    to_jobs = relative_path(folder.resolve(), path.resolve().parent)
    page = render(
        "sweep.html.j2",
        sweep=sweep,
        best={column: max(job.metrics.get(column, ABSENT) for job in sweep.jobs) for column in sweep.columns},
        differences=any(job.difference for job in sweep.jobs),
        latencies=any(LATENCY in job.metrics for job in sweep.jobs),
        charts=_job_charts(folder, sweep),
        title=folder.resolve().name,
        prefix="" if to_jobs == "." else f"{quote(Path(to_jobs).as_posix())}/",
        table_file=TABLE_FILE,
    )
    return write_text(path, page)


def is_sweep(folder: Path) -> bool:
    """Whether a folder holds the jobs of a sweep rather than a run."""
    is_run = any((folder / name).exists() for name in ("config.yaml", SCORES_FILE))
    return not is_run and any(folder.glob("*/overrides.yaml"))


def _job_charts(folder: Path, sweep: Sweep) -> list[Chart]:
    """Loss and main score over the steps, of the best jobs; settings and score of all."""
    histories = {}
    for job in sweep.jobs[:MOST_CURVES]:
        settings = ", ".join(f"{key.rsplit('.', 1)[-1]}={job.settings[key] or '-'}" for key in sweep.varied[:2])
        histories[f"{job.name}: {settings}" if settings else job.name] = read_metrics(folder / job.name / METRICS_FILE)
    series = {f"{key}, x 100": {n: points_of(h, key, 100) for n, h in histories.items()} for key in sweep.columns[:1]}
    series["Loss"] = {name: points_of(history, "loss/total") for name, history in histories.items()}
    figures = {title: line_figure(title, lines) for title, lines in series.items()}
    return to_charts("jobs", figures | {"settings": _settings_figure(sweep)})


def _settings_figure(sweep: Sweep) -> Figure | None:
    """The settings that vary beside the score that the jobs are sorted by."""
    scale, title = (100, f"{sweep.score}, x 100") if is_score(sweep.score) else (1, sweep.score)
    rows = [
        (f"job {job.name}", [job.settings[key] for key in sweep.varied], scale * job.metrics[sweep.score])
        for job in sweep.jobs
        if sweep.score in job.metrics
    ]
    return parallel_figure(sweep.varied, rows, score=title)
