"""All analyses of a model from one pass over a split."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch

from maskrcnn_train.analysis.budgets import BudgetTracer, Result, Setting, combinations, time_settings
from maskrcnn_train.analysis.funnel import Funnel, FunnelTracer
from maskrcnn_train.analysis.pareto import Outcome, outcomes, winners
from maskrcnn_train.analysis.proposal_report import AnchorShares, ProposalRecall, ProposalReporter
from maskrcnn_train.analysis.trace import ObjectsOfImages, Trace, trace_batches
from maskrcnn_train.evaluation.coco.ground_truth import of_images
from maskrcnn_train.evaluation.coco.metrics import score_coco
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.settings.command_schema import AnalyzeConfig
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.batch import ImageBatch, Target
from maskrcnn_train.structures.classes import ClassMap
from maskrcnn_train.structures.detections import Detections
from maskrcnn_train.structures.pasting import MaskPasting

Loader = Iterable[tuple[ImageBatch, list[Target]]]


@dataclass
class Analysis:
    """Results of all analyses; None for those that were not asked for.

    setting: that the model is used with. recalls, shares: of proposals and anchors. outcomes: of the settings, the
    trained one first; winners: `best` and `fast` among them, empty where there is no AP to choose by; timed:
    milliseconds of an image, measured whole, of the trained one and the winners.
    """

    kind: str
    num_images: int
    setting: Setting
    trained_iou: tuple[float, float]
    funnel: Funnel | None = None
    recalls: list[ProposalRecall] | None = None
    shares: list[AnchorShares] | None = None
    outcomes: list[Outcome] | None = None
    winners: dict[str, Outcome] | None = None
    timed: dict[str, float] | None = None


@dataclass
class Analyst:
    """Runs the model once over a split and hands every batch to what was asked for.

    trained: the settings that the model is used with. autocast: makes the context in which it computes.
    """

    model: MaskRCNN
    trained: TrainConfig
    config: AnalyzeConfig
    classes: ClassMap
    ground_truth: dict[str, Any]
    autocast: Callable[[], AbstractContextManager[Any]]
    pasting: MaskPasting

    def __post_init__(self) -> None:
        self.kind = self.trained.kinds[-1]
        limits = self.trained.evaluation.size_limits
        self.objects = ObjectsOfImages(self.ground_truth, self.classes, size_limits=limits)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def analyze(self, loader: Loader, on_batch: Callable[[int], None]) -> Analysis:
        """on_batch is told the number of images done."""
        what = self.config.what
        funnel = FunnelTracer(self.model, self.objects, iou=self.config.funnel.iou) if "funnel" in what else None
        reporter = self._reporter() if "proposals" in what else None
        budgets = self._budget_tracer() if "budgets" in what else None
        results: list[Result] = []
        seen: list[int] = []
        for trace in trace_batches(self.model, loader, self.device, self.autocast):
            if funnel:
                results += self._results(trace, funnel.add(trace))
            if reporter:
                reporter.add(trace)
            if budgets:
                budgets.add(trace)
            seen += trace.image_ids
            on_batch(len(seen))
        truth = of_images(self.ground_truth, set(seen))  # images that could not be read are left out, as in evaluate
        iou = self.trained.rpn.iou
        analysis = Analysis(self.kind, len(seen), Setting.of(self.trained), (iou.upper, iou.lower))
        if funnel:
            analysis.funnel = funnel.finish(self.ground_truth, results, kind=self.kind)
        if reporter:
            names = self.classes.name_of_id
            classes = [names[each["category_id"]] for each in self.ground_truth["annotations"]]
            analysis.recalls = reporter.recalls({"size": self.objects.sizes, "class": classes})
            analysis.shares = reporter.anchor_shares()
        if budgets:
            self._add_budgets(analysis, budgets, truth, loader)
        return analysis

    def _results(self, trace: Trace, batch: list[Detections]) -> list[Result]:
        """COCO results of a batch."""
        results: list[Result] = []
        batch = self.model.roi_heads.add_masks(trace.features, batch)
        for image_id, found, original in zip(trace.image_ids, batch, trace.inputs.original_sizes, strict=True):
            found = replace(found.resized(original).cpu(), classes=self.classes, pasting=self.pasting)
            results += found.to_coco(image_id)
        return results

    def _reporter(self) -> ProposalReporter:
        section, iou = self.config.proposals, self.trained.rpn.iou
        pairs = [(upper, lower) for upper in section.upper for lower in section.lower]
        thresholds = dict.fromkeys([(iou.upper, iou.lower), *pairs])
        return ProposalReporter(self.model, self.objects, counts=section.counts, thresholds=list(thresholds))

    def _budget_tracer(self) -> BudgetTracer:
        section, trained = self.config.budgets, Setting.of(self.trained)
        names = [name for name in vars(trained) if name != "mask_threshold" or self.kind == "segm"]
        options = {name: getattr(section, name) for name in names}
        settings = combinations(trained, options, most=section.most, seed=self.config.seed)
        return BudgetTracer(self.model, settings, classes=self.classes, pasting=self.pasting)

    def _add_budgets(self, analysis: Analysis, tracer: BudgetTracer, truth: dict[str, Any], loader: Loader) -> None:
        found = outcomes(tracer, truth, self.average_precision, seed=self.config.seed)
        analysis.outcomes, analysis.winners = found, winners(found, self.config.budgets.tolerance)
        if not analysis.winners:
            return
        settings = {"trained": found[0].setting} | {name: each.setting for name, each in analysis.winners.items()}
        num_images = self.config.budgets.timed_images
        analysis.timed = time_settings(self.model, settings, loader, num_images, self.device, self.autocast)

    def average_precision(self, results: list[Result], ground_truth: dict[str, Any]) -> float:
        """AP of the masks, or of the boxes of a model without masks."""
        result = score_coco(ground_truth, results, self.trained.evaluation, kinds=[self.kind])
        return result.metrics[f"{self.kind}/AP"]
