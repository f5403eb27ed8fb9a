"""The model as one traceable graph, from an image of any size to its detections.

The stages are those of `model/`, for one image. Sizes are tensors: a trace would keep Python numbers of its example.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.onnx.operators import shape_as_tensor

from maskrcnn_train.exporting.pasting import MaskPaster
from maskrcnn_train.exporting.resizing import F64, DeepResize, PillowResize, resized_size
from maskrcnn_train.model.inputs import DIVISOR
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.outputs import select_detections
from maskrcnn_train.model.pyramid import Pyramid
from maskrcnn_train.structures.detections import Detections
from maskrcnn_train.structures.pasting import MaskPasting


class TraceableDetector(nn.Module):
    """image uint8 [H, W, 3], R G B, upright -> boxes [N, 4], labels [N], scores [N] and, with a mask head, masks.

    boxes: float32, x1 y1 x2 y2, image pixels; labels: int64, 1..K; scores: float32, highest first; masks: float32
    [N, 1, M, M], probabilities inside each box, or with `pasting` uint8 [N, H, W]. The model is on the CPU in fp32.
    A model of C channels takes [H, W, C]; with bits=16 the image is uint16.
    """

    def __init__(self, model: MaskRCNN, pasting: MaskPasting | None, *, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.model = model.to(memory_format=torch.contiguous_format)
        self.resize = PillowResize() if bits == 8 else DeepResize()
        self.paster = None if pasting is None else MaskPaster(pasting)
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        size = shape_as_tensor(image)[:2]
        network_size = resized_size(size, self.model.min_size, self.model.max_size)
        features = Pyramid(self.model.backbone(self.prepare(image, network_size)))
        found = self.detect(features, network_size.to(torch.float32))
        ratios = (size.to(F64) / network_size.to(F64)).to(torch.float32)
        image_boxes = found.boxes * torch.cat((ratios.flip(0), ratios.flip(0)))
        outputs = image_boxes, found.labels, found.scores
        if not self.model.roi_heads.has_masks:
            return outputs
        masks = self.model.roi_heads.predict_masks(features, [found.boxes], found.labels).sigmoid()
        return *outputs, masks[:, None] if self.paster is None else self.paster(masks, image_boxes, size)

    def prepare(self, image: Tensor, size: Tensor) -> Tensor:
        """Resized, normalised and padded: float32 [1, 3, H, W]."""
        pixels = self.resize(image, size).permute(2, 0, 1)[None].to(torch.float32)
        mean, std = self.model.pixel_mean, self.model.pixel_std
        padding = -size % DIVISOR
        return F.pad(pixels * (1 / ((2**self.bits - 1) * std)) - mean / std, [0, padding[1], 0, padding[0]])  # type: ignore[list-item]

    def detect(self, features: Pyramid, size: Tensor) -> Detections:
        """Detections without masks, in pixels of the network's image of `size` float32 [2] (height, width)."""
        rpn, heads = self.model.rpn, self.model.roi_heads
        image_size = cast(tuple[int, int], size)  # used for clipping only, which takes a tensor too
        padded_size = features[0].shape[2] * 4, features[0].shape[3] * 4
        (proposals,) = rpn.propose(rpn.predict(features, padded_size), [image_size])
        logits, deltas = heads.predict_boxes(features, [proposals.boxes])
        return select_detections(logits.softmax(-1), deltas, proposals.boxes, image_size, heads.rules)
