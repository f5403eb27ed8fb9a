"""What a setting costs at test time, for a person who wonders why it takes so long."""

from maskrcnn_train.settings.schema import TrainConfig

HEAVY = 20.0  # GFLOP an image from which it is worth a word


def box_head_gflops(config: TrainConfig, proposals: int) -> float:
    """Multiplications and additions of the ROI box head for the proposals of one image, in 1e9."""
    head, side = config.roi_head, config.pooler.resolution
    channels, pixels, flops = config.backbone.fpn_channels, side * side, 0
    for _ in range(head.num_convs):
        flops += 2 * 9 * channels * head.conv_dim * pixels
        channels = head.conv_dim
    width = channels * pixels
    for _ in range(head.num_fcs):
        flops += 2 * width * head.fc_dim
        width = head.fc_dim
    return proposals * flops / 1e9


def slow_box_head(config: TrainConfig) -> str:
    """A sentence about a box head that dominates the time of an image, else nothing."""
    proposals, head = config.rpn.nms.post_test, config.roi_head
    gflops = box_head_gflops(config, proposals)
    if gflops < HEAVY:
        return ""
    return (
        f"up to {proposals} proposals an image (rpn.nms.post_test) pass {head.num_convs} convs and {head.num_fcs} FCs: "
        f"{gflops:.0f} GFLOP whatever the image's size; faster are a lower rpn.nms.post_test, or a training with "
        "roi_head=fc2"
    )
