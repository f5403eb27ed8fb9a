"""All parts of a data set with one set of classes, for commands that pass labels on and do not train."""

from maskrcnn_train.data.formats.indexing import open_labels
from maskrcnn_train.data.splits.choosing import check_choice
from maskrcnn_train.data.splits.classes import build_class_map, match_categories
from maskrcnn_train.data.splits.layouts import found_notes, locate_all
from maskrcnn_train.data.splits.splitting import Split, cut_by_fractions, leave_out_missing, whole_split
from maskrcnn_train.settings.schema import DataConfig
from maskrcnn_train.structures.classes import ClassMap


def read_parts(data: DataConfig, *, with_images: bool) -> tuple[dict[str, Split], ClassMap, list[str]]:
    """The parts that are there, their classes, and notes. Raises UserError for the first fault.

    with_images: whether their files have to be there, as in a training.
    Classes are those of the first part; classes that only others have get ids above.
    """
    sources = locate_all(data, needs_val=False)
    for source in sources.values() if with_images else ():
        source.require_images()
    indices = {name: open_labels(source.files) for name, source in sources.items()}
    check_choice(indices["train"], data)
    classes, notes = build_class_map(indices["train"], data)
    notes = found_notes(data, sources, indices) + notes
    parts = {}
    for name, index in indices.items():
        for category in match_categories(classes, index, data)[1]:
            if category.name not in classes.names:
                number = category.id if category.id not in classes.ids else max(classes.ids) + 1
                classes = ClassMap([*classes.names, category.name], [*classes.ids, number])
        labels, _ = match_categories(classes, index, data)
        parts[name] = whole_split(name, index, labels, sources[name].images)
    parts = cut_by_fractions(parts, len(classes.names), data.split)
    for part in parts.values() if with_images else ():
        leave_out_missing(part, data)
    return parts, classes, notes
