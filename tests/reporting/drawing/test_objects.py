import itertools
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from maskrcnn_train.reporting.drawing.colors import class_color, text_color
from maskrcnn_train.reporting.drawing.objects import _eroded, _free_position, draw_objects, side_by_side
from maskrcnn_train.reporting.drawing.pictures import Objects, draw_pair, draw_validation, objects_from_coco

NAMES = ["window", "door with a name that is far too long for the picture it stands in", "shop"]


def gray(height, width):
    return np.full((height, width, 3), 128, np.uint8)


def test_the_first_thirty_class_colors_are_far_apart():
    colors = np.array([class_color(label) for label in range(1, 31)], float)
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(colors[:12], 2)]
    assert min(distances) > 40
    assert len({tuple(color) for color in colors}) == 30
    assert text_color((255, 255, 255)) == (0, 0, 0)
    assert text_color((0, 0, 0)) == (255, 255, 255)


def test_a_small_image_is_enlarged_with_its_masks_and_a_large_one_is_not():
    mask = (10, 20, np.ones((30, 40), np.uint8))
    picture = draw_objects(gray(128, 128), boxes=[[10, 20, 50, 50]], labels=[1], names=NAMES, masks=[mask])
    assert picture.size == (512, 512)
    pixels = np.asarray(picture).astype(int)
    assert abs(pixels[140, 120] - (0.6 * 128 + 0.4 * np.array(class_color(1)))).max() <= 2  # inside the mask
    assert (pixels[140, 300] == 128).all()  # outside
    assert tuple(pixels[82, 40]) == class_color(1)  # the outline: row 80..., column 40...
    assert draw_objects(gray(700, 500), boxes=[], labels=[], names=NAMES).size == (500, 700)


@pytest.mark.parametrize(
    "box", [[0, 0, 5, 5], [125, 125, 128, 128], [0, 120, 128, 128], [-9, -9, 300, 300], [5, 5, 5, 5]]
)
def test_boxes_and_texts_at_the_border_stay_inside(box):
    picture = draw_objects(gray(128, 128), boxes=[box], labels=[2], names=NAMES, scores=[0.5])
    assert picture.size == (512, 512)
    color = np.array(class_color(2))
    assert ((np.asarray(picture) == color).all(-1)).sum() > 500  # the text's ground is visible


def test_places_for_texts_are_inside_and_apart():
    size, taken = (200, 200), []
    for _ in range(4):
        x, y = _free_position([50, 100, 150, 180], 40, 12, np.array(taken).reshape(-1, 4), size)
        taken.append((x, y, x + 40, y + 12))
    assert all(x >= 0 and y >= 0 and x2 <= 200 and y2 <= 200 for x, y, x2, y2 in taken)
    for a, b in itertools.combinations(taken, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    assert _free_position([190, 0, 200, 9], 40, 12, np.zeros((0, 4)), size) == (160, 0)


def test_a_thick_outline_of_a_large_mask_takes_a_few_copies_of_it():
    mask = np.ones((1000, 800), bool)
    mask[500, 400] = False
    tracemalloc.start()
    core = _eroded(mask, 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    expected = np.zeros_like(mask)
    expected[20:-20, 20:-20] = True
    expected[480:521, 380:421] = False
    assert (core == expected).all()
    assert peak < 5 * mask.nbytes


def test_side_by_side_holds_both_pictures_and_captions():
    sheet = side_by_side(Image.new("RGB", (100, 80), "red"), Image.new("RGB", (100, 80), "blue"), ("a", "b"))
    assert sheet.getpixel((50, sheet.height - 1)) == (255, 0, 0)
    assert sheet.getpixel((sheet.width - 1, sheet.height - 1)) == (0, 0, 255)


def test_objects_come_from_polygons_and_codes_above_the_threshold():
    polygon = {"bbox": [2, 3, 4, 5], "category_id": 9, "segmentation": [[2, 3, 6, 3, 6, 8, 2, 8]], "score": 0.9}
    code = {
        "bbox": [0, 0, 1, 2],
        "category_id": 4,
        "segmentation": {"size": [10, 8], "counts": [0, 2, 78]},
        "score": 0.3,
    }
    objects = objects_from_coco([polygon, code], labels={4: 1, 9: 2}, size=(10, 8))
    assert objects.boxes == [[2, 3, 6, 8], [0, 0, 1, 2]]
    assert objects.labels == [2, 1]
    assert [(x, y, bitmap.shape, int(bitmap.sum())) for x, y, bitmap in objects.masks] == [
        (2, 3, (5, 4), 20),
        (0, 0, (2, 1), 2),
    ]
    assert objects_from_coco([polygon, code], labels={4: 1, 9: 2}, size=(10, 8), threshold=0.5).scores == [0.9]
    del code["segmentation"]
    assert objects_from_coco([polygon, code], labels={4: 1, 9: 2}, size=(10, 8)).masks is None
    assert objects_from_coco([], labels={}, size=(10, 8)) == Objects([], [], None, [])


def test_validation_pictures_are_written_beside_each_other(tmp_path):
    objects = Objects([[1, 1, 9, 9]], [1], [0.5], [(1, 1, np.ones((8, 8), np.uint8))])
    sample = (gray(60, 90), objects, Objects([], []))
    written = draw_validation(tmp_path, {"00": sample, "01": sample}, names=NAMES)
    assert [path.name for path, _ in written] == ["00.jpg", "01.jpg"]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["00.jpg", "01.jpg"]
    with Image.open(written[0][0]) as saved:
        assert saved.size == written[0][1].size == draw_pair(*sample, NAMES).size
