from maskrcnn_train import build_model, load_config
from maskrcnn_train.prediction.cost import box_head_gflops, slow_box_head


def test_the_operations_of_the_box_head_are_those_that_torch_counts():
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    config = load_config(["mask_head=none"])
    with torch.device("meta"):
        heads = build_model(config, 3).roi_heads
        with FlopCounterMode(display=False) as counter:
            heads.box_head(torch.zeros(10, 256, 7, 7))
    assert counter.get_total_flops() / 1e9 == box_head_gflops(config, 10)


def test_a_heavy_box_head_is_told_with_its_keys():
    assert "1000 proposals an image (rpn.nms.post_test) pass 4 convs and 2 FCs: 259 GFLOP" in slow_box_head(
        load_config()
    )
    assert slow_box_head(load_config(["roi_head=fc2", "rpn.nms.post_test=100"])) == ""
