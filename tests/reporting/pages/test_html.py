import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from scenes import analysis, full_run, scene

from maskrcnn_train.evaluation.coco.metrics import IOU_THRESHOLDS
from maskrcnn_train.reporting.pages.gallery import build_gallery
from maskrcnn_train.reporting.pages.html import write_report
from maskrcnn_train.reporting.pages.scores import class_rows
from maskrcnn_train.reporting.pages.searches import write_trials
from maskrcnn_train.reporting.pages.sweep import write_sweep_report
from maskrcnn_train.reporting.runs import read_run
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.tuning.records import TrialRecord

KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100")


def write_run(folder, ap=0.5, overrides=("backbone.name=resnet18",)):
    folder.mkdir(parents=True)
    metrics = {f"{kind}/{key}": ap for kind in ("bbox", "segm") for key in KEYS}
    metrics |= {"segm/APl": -1.0, "segm/AP/<b>door</b>": 0.25, "bbox/AP/<b>door</b>": -1.0}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "overrides.yaml").write_text(json.dumps(list(overrides)))


def fill_run(folder):
    lines = [{"step": s, "loss/total": 3 - s / 100, "lr": 0.01, "images_per_second": 5} for s in range(10, 110, 10)]
    lines += [{"step": 50, "segm/AP": 0.3}, {"step": 100, "segm/AP": 0.4}, {"step": 110, "loss/total": None}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.yaml").write_text("seed: 0\n")
    (folder / "classes.json").write_text(json.dumps({"names": ["<b>door</b>"], "ids": [3]}))
    (folder / "environment.json").write_text(json.dumps({"command": "python -m maskrcnn_train seed=0"}))
    (folder / "pictures").mkdir()
    Image.new("RGB", (3000, 900), "teal").save(folder / "pictures" / "00001.jpg")


class Tags(HTMLParser):
    """Every tag with its attributes; fails on tags that are closed in another order."""

    VOID = frozenset({"meta", "wbr", "img", "line", "br", "input"})

    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def of(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def parse(path):
    tags = Tags()
    tags.feed(path.read_text())
    assert not tags.open
    return tags


def test_a_report_holds_everything_of_the_run_and_needs_nothing_else(tmp_path):
    run = tmp_path / "run"
    write_run(run)
    fill_run(run)
    page = write_report(run)
    text, tags = page.read_text(), parse(page)
    assert page == run / "report.html"
    assert not [a for t, a in tags.found if t in ("link", "script") and ("href" in a or "src" in a)]
    images = [image for image in tags.of("img") if "src" in image]
    assert images[0]["src"].startswith("data:image/jpeg;base64,")
    assert (images[0]["width"], images[0]["height"]) == ("1400", "420")
    assert all("alt" in image for image in tags.of("img"))
    assert all(svg.get("aria-label") or svg["aria-hidden"] for svg in tags.of("svg"))
    assert {"Loss", "Learning rate", "AP, x 100"} <= {part.split("<")[0] for part in text.split("<h3>")}
    for shown in ("backbone.name=resnet18", "python -m maskrcnn_train seed=0", "seed: 0", "50.0", "25.0"):
        assert shown in text
    assert "&lt;b&gt;door&lt;/b&gt;" in text
    assert "<b>door" not in text


@pytest.mark.parametrize(
    ("ious", "sizes", "said"),
    [
        (None, None, None),
        (
            IOU_THRESHOLDS,
            [32, 96],
            "AP is the mean over IoU .50 to .95; s, m, l are objects below 32², up to 96², above",
        ),
        ([0.5, 0.75], [16, 48.5], "over IoU 0.5, 0.75; s, m, l are objects below 16², up to 48.5², above 48.5² square"),
        ([0.75], [16, 48], "AP is that at IoU 0.75; s, m, l"),
    ],
)
def test_a_report_says_with_the_runs_own_limits_what_its_scores_are(tmp_path, ious, sizes, said):
    write_run(tmp_path / "run")
    if ious is not None:
        metrics = json.loads((tmp_path / "run/metrics.json").read_text())
        taken = {key: value for key, value in metrics.items() if key[-2:] != "50" or 0.5 in ious}
        (tmp_path / "run/metrics.json").write_text(json.dumps(taken))
        section = {"iou_thresholds": list(ious), "size_limits": sizes}
        (tmp_path / "run/config.yaml").write_text(json.dumps({"evaluation": section}))
    text = write_report(tmp_path / "run").read_text()
    assert (" AP is " in text) == (said is not None)
    assert said is None or said in text
    assert ('<th scope="col">AP50</th>' in text) == (ious is None or 0.5 in ious)


def test_limits_that_were_edited_are_one_line(tmp_path):
    write_run(tmp_path / "run")
    section = {"iou_thresholds": [0.5], "size_limits": [32]}
    (tmp_path / "run/config.yaml").write_text(json.dumps({"evaluation": section}))
    with pytest.raises(UserError, match="evaluation, size_limits is not two numbers"):
        write_report(tmp_path / "run")


def test_a_report_leaves_out_what_the_run_lacks(tmp_path):
    write_run(tmp_path / "run")
    text = write_report(tmp_path / "run").read_text()
    assert "COCO metrics" in text
    assert not any(word in text for word in ('<h2 id="curves"', '<h2 id="pictures"', "<script", "Environment"))


def test_a_report_shows_the_diagnostics_the_data_and_the_pictures(tmp_path):
    page = full_run(tmp_path / "run")
    text, tags = page.read_text(), parse(page)
    ids = {attributes["id"] for _, attributes in tags.found if "id" in attributes}
    links = {link["href"][1:] for link in tags.of("a")}
    assert links == {"data", "metrics", "classes", "pictures", "study", "analysis"}
    assert links <= ids
    images = tags.of("img")
    assert len(images) == 3  # once each, for both sides
    assert all(image["loading"] == "lazy" and image["alt"] for image in images)
    paths = [path for path in tags.of("path") if "data-k" in path]
    assert {path["data-k"] for path in paths} == {"right", "background", "localisation", "missed", "classification"}
    cells = [cell for cell in tags.of("td") if "taken for" in cell.get("title", "")]
    assert sum(int(cell["title"].rsplit(" ", 1)[1]) for cell in cells) == 2 * (5 + 2)  # objects and false alarms, twice
    assert "win&lt;dow&gt;" in text
    assert "win<dow>" not in text


def test_a_class_that_is_never_right_has_no_best_threshold(tmp_path):
    full_run(tmp_path / "run")
    path = tmp_path / "run/study/study.json"
    study = json.loads(path.read_text())
    study["segm"]["confidence"][0] |= {"best_threshold": 0.87, "best_f1": 0.0}
    path.write_text(json.dumps(study))
    rows = {row["name"]: row["texts"] for row in class_rows(read_run(tmp_path / "run"))[1]}
    never = study["segm"]["confidence"].pop(0)["class_name"]
    assert rows[never][2:4] == ["-", "0.0"]
    assert {rows[each["class_name"]][2] for each in study["segm"]["confidence"]} != {"-"}


@pytest.mark.parametrize("content", ["{", "[" * 100_000])
def test_a_file_of_a_run_that_is_not_json_is_named(tmp_path, content):
    write_run(tmp_path / "run")
    (tmp_path / "run/data.json").write_text(content)
    with pytest.raises(UserError, match=r"data\.json is not JSON"):
        write_report(tmp_path / "run")


def test_a_page_of_hundreds_of_classes_shows_the_confusion_of_the_most_frequent(tmp_path):
    full_run(tmp_path / "run")
    file = tmp_path / "run/study/study.json"
    study = json.loads(file.read_text())
    for found in study.values():
        found["class_names"] = [f"class {number}" for number in range(300)]
        found["confusion"] = (np.diag(np.arange(301)) + 1).tolist()
    file.write_text(json.dumps(study))
    page = write_report(tmp_path / "run")
    cells = [cell["title"] for cell in parse(page).of("td") if "taken for" in cell.get("title", "")]
    assert len(cells) == 2 * 26 * 26
    assert "class 299 taken for class 299: 300" in cells
    assert "276 others taken for class 299: 276" in cells
    assert "segm_confusion.csv has all" in page.read_text()


def test_an_analysis_inside_the_run_is_found_and_another_can_be_given(tmp_path):
    write_run(tmp_path / "run")
    assert 'id="analysis"' not in write_report(tmp_path / "run").read_text()
    analysis(tmp_path / "elsewhere")
    assert 'id="analysis"' in write_report(tmp_path / "run", analysis=tmp_path / "elsewhere").read_text()
    with pytest.raises(ValueError, match="holds no analysis"):
        write_report(tmp_path / "run", analysis=tmp_path)
    analysis(tmp_path / "run" / "analysis")
    text = write_report(tmp_path / "run").read_text()
    assert "<code>rpn.nms.post_test=50</code>" in text


def test_the_worst_and_the_best_pictures_are_chosen(tmp_path):
    gallery = build_gallery(scene(tmp_path), worst=1, best=1, size=80)
    assert [(card.name, card.rank) for card in gallery.cards] == [("2.png", 1), ("1.png", 2)]
    assert [(card.width, card.height) for card in gallery.cards] == [(80, 60)] * 2
    assert gallery.cards[0].counts == [("classification", 1), ("localisation", 1), ("background", 1), ("missed", 1)]


def test_the_best_pictures_are_of_images_with_objects(tmp_path):
    found = scene(tmp_path)
    for number in (5, 6):  # empty, and nothing found: as good as can be
        found.ground_truth["images"].append({"id": number, "height": 120, "width": 160, "file_name": f"{number}.png"})
        found.paths[number] = found.paths[4]
    gallery = build_gallery(found, worst=1, best=3, size=80)
    assert [card.name for card in gallery.cards] == ["2.png", "1.png"]


def test_the_step_of_the_scores_and_of_an_analysis_is_named(tmp_path):
    run = tmp_path / "run"
    write_run(run)
    lines = [
        {"step": 50, "segm/AP": 0.5, "bbox/AP": 0.5},
        {"step": 99, "segm/AP": 0.6},
        {"step": 120, "loss/total": 1.0},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    analysis(run / "analysis")
    file = run / "analysis" / "analysis.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"checkpoint": "best.pt", "step": 99}))
    text = write_report(run).read_text()
    assert "On the validation split, of step 50, times 100." in text
    assert "with best.pt, step 99 (the scores above are of step 50)." in text


def test_an_unreadable_picture_is_named(tmp_path):
    found = scene(tmp_path)
    found.paths[4].write_text("no picture")
    gallery = build_gallery(found, worst=3, best=0, size=80)
    assert len(gallery.cards) == 2
    assert "4.png" in gallery.unreadable[0]


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        write_report(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        write_report(tmp_path / "nowhere")


def test_a_sweep_is_sorted_and_links_to_its_jobs(tmp_path):
    for job, (ap, budget) in enumerate([(0.2, 500), (0.4, 1000), (0.3, 2000)]):
        write_run(tmp_path / str(job), ap, ("seed=1", f"rpn.nms.post_train={budget}"))
    (tmp_path / "10").mkdir()
    (tmp_path / "10" / "overrides.yaml").write_text('["seed=1"]')
    write_report(tmp_path / "1")
    tags = parse(write_sweep_report(tmp_path))
    assert [link["href"] for link in tags.of("a")] == ["sweep.csv", "1/report.html"]
    rows = list(csv.reader((tmp_path / "sweep.csv").read_text().splitlines()))
    assert (tmp_path / "report.html").read_text().count('<td class="text"><code>-</code></td>') == 1  # of job 10
    assert rows[0][:3] == ["job", "rpn.nms.post_train", "segm/AP"]
    assert [row[:3] for row in rows[1:]] == [
        ["1", "1000", "0.4"],
        ["2", "2000", "0.3"],
        ["0", "500", "0.2"],
        ["10", "", ""],
    ]


@pytest.mark.parametrize(("metric", "order"), [("bbox/AP50", ["1", "0"]), ("val_loss/total", ["0", "1"])])
def test_the_page_of_a_search_goes_by_its_metric_and_says_what_mattered(tmp_path, metric, order):
    for job, score in enumerate([0.2, 0.4]):
        write_run(tmp_path / str(job), 0.5, (f"optimizer.lr={job + 1}",))
        file = tmp_path / str(job) / "metrics.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {metric: score}))
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "overrides.yaml").write_text('["optimizer.lr=9"]')
    shown = [TrialRecord(job, "complete", 0.2 + 0.2 * job, [f"optimizer.lr={job + 1}"], 1.0, "") for job in range(2)]
    shown += [
        TrialRecord(2, "pruned", 0.1, ["optimizer.lr=9"], 1.0, ""),
        TrialRecord(3, "failed", None, [], 0.1, "hot"),
    ]
    write_trials(tmp_path, shown, {"seed": 0.25, "optimizer.lr": 0.75}, metrics=[metric])
    page = write_sweep_report(tmp_path).read_text()
    assert re.findall(r'<tr><th scope="row">(?:<a[^>]*>)?(\d)', page) == [*order, "2", "3"]
    assert "2 complete, 1 pruned, 1 failed" in page
    assert page.index("optimizer.<wbr>lr</code></th><td") < page.index("seed</code></th><td")
    assert "hot" in page
    assert "worse than the others" in page
    assert list(csv.reader((tmp_path / "sweep.csv").read_text().splitlines()))[1][0] == order[0]


def test_a_trial_whose_loss_is_not_a_number_comes_last(tmp_path):
    records = []
    for job, loss in enumerate([float("nan"), 0.3, 0.2, 0.4]):
        settings = [f"optimizer.lr={job + 1}", f"trainer.epochs={job + 1}"]
        write_run(tmp_path / str(job), 0.5, settings)
        file = tmp_path / str(job) / "metrics.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"val_loss/total": loss}))
        records.append(TrialRecord(job, "complete" if job else "failed", loss if job else None, settings, 1.0, ""))
    write_trials(tmp_path, records, {}, metrics=["val_loss/total"])
    write_sweep_report(tmp_path)
    rows = csv.reader((tmp_path / "sweep.csv").read_text().splitlines()[1:])
    assert [row[0] for row in rows] == ["2", "1", "3", "0"]


def test_the_page_of_a_search_that_learnt_nothing_says_so(tmp_path):
    for score, expected in ((0.0, True), (0.1, False)):
        write_run(tmp_path / f"{score}" / "0", score)
        write_trials(tmp_path / f"{score}", [TrialRecord(0, "complete", score, [], 1.0, "")], {}, metrics=["segm/AP"])
        assert ("Nothing was learnt: segm/AP is 0" in write_sweep_report(tmp_path / f"{score}").read_text()) == expected


def test_both_axes_of_a_search_by_two_scores_are_times_100(tmp_path):
    metrics = ["segm/AP", "bbox/AP"]
    records = []
    for job, scores in enumerate([(0.25, 0.5), (0.5, 0.375)]):
        write_run(tmp_path / str(job), scores[0])
        scores = dict(zip(metrics, scores, strict=True))
        records.append(TrialRecord(job, "complete", scores["segm/AP"], [], 1.0, "", scores, front=True))
    write_trials(tmp_path, records, {}, metrics=metrics)
    page = write_sweep_report(tmp_path).read_text()
    assert "by bbox/AP, x 100; Pareto front: from 50 at 37.5 to 25 at 50" in page


def test_a_folder_without_jobs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no jobs"):
        write_sweep_report(tmp_path)
