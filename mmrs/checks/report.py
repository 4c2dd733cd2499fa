"""What a check found, and how it is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mmrs.geo.classes import Colour
from mmrs.geo.masks import NODATA_IS_CLASS
from mmrs.geo.statistics_bands import BandStatistics, wasserstein_shift

SEVERITIES = ('error', 'warning', 'info')


class Kind(NamedTuple):
    """A kind of finding: how bad it is, what it is called, and what to do."""

    severity: str
    title: str
    advice: str


KINDS = {
    'unusable_data_set': Kind('error', 'The data set cannot be built', 'Correct the configuration or the files.'),
    'missing_folder': Kind('error', 'Folder missing', 'Convert the data set, or correct data_root and data_prefix.'),
    'no_images': Kind('error', 'No images', 'Convert the data set, or correct data_prefix or img_suffix.'),
    'no_data': Kind('error', 'No image holds any data', 'Choose other images, or bands: LoadRasterImage(bands=...).'),
    'missing_image': Kind('error', 'Listed image missing', 'Restore it, or take its name from ann_file.'),
    'missing_label': Kind('error', 'Image without a label map', 'Add it, set the suffixes, or remove the image.'),
    'same_name': Kind('error', 'Files that differ by the suffix alone', 'Remove one, or set the suffix.'),
    'unreadable_image': Kind('error', 'Image cannot be read', 'Restore it, or remove it with its label map.'),
    'unreadable_label': Kind('error', 'Label map cannot be read', 'Restore it, or remove it with its image.'),
    'size_mismatch': Kind('error', 'Image and label map differ in size', 'Pair them anew; one was resized or cut.'),
    'other_place': Kind('error', 'Image and label map lie in different places', 'Pair them anew, or warp one.'),
    'label_bands': Kind('error', 'Label map with several bands', 'Convert it with dataset_converters/color_masks.py.'),
    'unknown_id': Kind('error', 'Ids that are no class', 'Add them to the classes, or to an ignored one.'),
    'unknown_colour': Kind(
        'error',
        'Colours that are no class',
        'Add them to a class, convert with --tolerance, or give the classes an id if that is what they are.',
    ),
    'label_problem': Kind('error', 'Label map does not load', 'See the message.'),
    'band_mismatch': Kind('error', 'Other number of bands', 'Choose bands that all have: LoadRasterImage(bands=...).'),
    'pair_size': Kind('error', 'Paired images differ in size', 'Pair them anew, or use GeographicPairedDataset.'),
    'preprocessor_bands': Kind('error', 'Mean and std for other bands', 'Give one value for each band that is loaded.'),
    'classes_differ': Kind('error', 'Data sets with different classes', 'Map them to the same with class_map.'),
    'train_in_evaluation': Kind('error', 'Same image in training and evaluation', 'Take it out of one of them.'),
    'dtype_mismatch': Kind('warning', 'Other data type', 'Check that the units are the same.'),
    'shifted_grid': Kind('warning', 'Image and label map are part of a pixel apart', 'Warp one to the other grid.'),
    'pair_place': Kind('warning', 'Paired images lie in different places', 'Use GeographicPairedDataset.'),
    'crs_missing': Kind('warning', 'Georeference on one side only', 'Add it, or make sure that the pair is right.'),
    'scales_differ': Kind(
        'warning',
        'Scales or offsets that differ and are not applied',
        'Apply them: LoadRasterImage(apply_scale=True).',
    ),
    'crs_beside': Kind('warning', 'CRS in a .prj beside the file, which nothing reads', 'Write it into the file.'),
    'alpha_of_many_values': Kind(
        'warning',
        'Alpha band that looks like data',
        'If it is near infrared or the like, read it by number: LoadRasterImage(bands=...).',
    ),
    'label_without_image': Kind('warning', 'Label map without an image', 'Restore the image, or remove the label map.'),
    'other_formats': Kind('warning', 'Rasters of formats that are left out', 'Convert them, or name their suffix.'),
    'empty_image': Kind('warning', 'Image without any data', 'Remove it.'),
    'constant_image': Kind('warning', 'Image with one value everywhere', 'Remove it.'),
    'ignored_label': Kind('warning', 'Label map without a labelled pixel', 'Remove the pair from training.'),
    'nodata_is_class': Kind('warning', *NODATA_IS_CLASS),
    'incomplete': Kind('warning', 'Fewer images than were published', 'Unpack the archive again, or name a list.'),
    'duplicate_image': Kind('warning', 'Same image twice', 'Remove one.'),
    'target_in_evaluation': Kind(
        'warning', 'Unlabelled training image that is evaluated too', 'Say so with the scores, or hold images out.'
    ),
    'source_in_target': Kind('warning', 'Same image in source and target', 'Take it out of one of them.'),
    'class_never_seen': Kind('warning', 'Class without a pixel', 'Remove it, merge it, or add images that have it.'),
    'other_units': Kind('warning', 'Domains in different units', 'Scale one, or give each its own mean and std.'),
    'normalisation': Kind('warning', 'Mean and std of other images', 'Take those of band_statistics.py.'),
    'unknown_classes': Kind('info', 'Labels without a table of classes', 'Name them: classes.yaml, or --classes FILE.'),
    'unpaired': Kind('info', 'Images without a counterpart', 'Look for files with another name or place.'),
    'scale_not_applied': Kind('info', 'Scale and offset that are not applied', 'Set apply_scale if they matter.'),
    'sampled': Kind('info', 'Only a part was checked', 'Leave out --sample to check all.'),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """Something that the check found.

    Attributes:
        kind: One of `KINDS`.
        where: Name of the data set, or of several.
        files: The files concerned; may be empty.
        found: The value found.
        expected: The value expected; may be empty.
    """

    kind: str
    where: str
    files: tuple[str, ...] = ()
    found: str = ''
    expected: str = ''

    @property
    def severity(self) -> str:
        """`error` (training fails, or its scores are wrong), `warning` or `info`."""
        return KINDS[self.kind].severity

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        kind = KINDS[self.kind]
        return dict(
            severity=kind.severity,
            kind=self.kind,
            where=self.where,
            files=list(self.files),
            found=self.found,
            expected=self.expected,
            advice=kind.advice,
        )


@dataclass
class Group:
    """What is compared with one another: a domain, or a data set where there is one domain only.

    Attributes:
        name: Its name.
        statistics: Of its training images, or of all where none are for training; None where none can be read.
        pixels: Labelled pixels by class, `(K,)`; all zero without labels.
        labels_of: Names of the data sets whose labels were counted.
    """

    name: str
    statistics: BandStatistics | None
    pixels: np.ndarray
    labels_of: str

    @property
    def shares(self) -> np.ndarray:
        """Share of each class among the labelled pixels, `(K,)`; NaN without labels."""
        total = self.pixels.sum()
        return self.pixels / total if total else np.full(len(self.pixels), np.nan)


@dataclass
class Report:
    """Everything that the check has to say.

    Attributes:
        summaries: What is in each data set, as text by heading.
        findings: In the order of the data sets.
        groups: Domains, or data sets of one domain.
        classes: Names of the classes that all groups share; empty if they have none, or different ones.
        palette: Their colours, perhaps empty.
        pairs: What each data set of pairs holds: its `name`, the number of `pairs` and of `unpaired` images by domain,
            for pairs by place the `area` (see `PairedArea`), and all of that as `text`.
    """

    summaries: list[dict[str, Any]]
    findings: list[Finding]
    groups: list[Group]
    classes: tuple[str, ...] = ()
    palette: Sequence[Colour] = ()
    pairs: list[dict[str, Any]] = field(default_factory=list)

    def number(self, severity: str) -> int:
        """How many findings are of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def shifts(self) -> dict[str, dict[str, Any]]:
        """How far each group is from the first one: `bands` (see `wasserstein_shift`), and `classes`.

        The shift of the classes is the total variation distance of their shares p and q, sum |p - q| / 2: the share of
        the pixels that would have to change their class.
        """
        result = {}
        for group in self.groups[1:]:
            first, shift = self.groups[0], {}
            if first.statistics and group.statistics and len(first.statistics.count) == len(group.statistics.count):
                shift['bands'] = wasserstein_shift(first.statistics, group.statistics)
            if self.classes and first.pixels.any() and group.pixels.any():
                shift['classes'] = np.abs(first.shares - group.shares).sum() / 2
            result[group.name] = shift
        return result

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(
            **{f'{severity}s' if severity != 'info' else severity: self.number(severity) for severity in SEVERITIES},
            sets=self.summaries,
            pairs=self.pairs,
            findings=[finding.as_dict() for finding in self.findings],
            domains={
                group.name: dict(
                    bands=group.statistics.as_dict() if group.statistics else None,
                    pixels=dict(zip(self.classes, group.pixels)),
                    shares=dict(zip(self.classes, group.shares)),
                    labels_of=group.labels_of,
                )
                for group in self.groups
            },
            shift_from=self.groups[0].name if self.groups else None,
            shifts=self.shifts(),
        )
