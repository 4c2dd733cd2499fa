"""Where the data sets come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from mmrs.datasets.loveda import LoveDADataset
from mmrs.utils.errors import require_one_of

__all__ = ['SOURCES', 'SUFFIXES', 'Archive', 'Source', 'describe', 'describe_archive', 'find_source', 'gigabytes']

#: Suffixes of the files of data sets; all others in their folders do not count.
SUFFIXES = ('.png', '.jpg', '.txt')


@dataclass(frozen=True)
class Archive:
    """A zip or tar file to download.

    Attributes:
        url: Its address.
        size: Bytes.
        md5: Checksum, in hexadecimal.
        folders: Number of files in each folder that is wanted, by its path in the archive; all of them below one top
            folder.
    """

    url: str
    size: int
    md5: str
    folders: Mapping[str, int]

    @property
    def name(self) -> str:
        """Name of the file."""
        return PurePosixPath(urlsplit(self.url).path).name

    @property
    def top(self) -> str:
        """The folder that it unpacks to."""
        return PurePosixPath(next(iter(self.folders))).parts[0]


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
        title: Its name in the literature.
        page: Address of the page to read.
        terms: Licence, or the way to get it.
        then: What to do with the files.
        archives: Files to download, by split; none where that is to be done by hand.
    """

    title: str
    page: str
    terms: str
    then: str
    archives: Mapping[str, Archive] = field(default_factory=dict)


def _loveda(split: str, size: int, md5: str) -> Archive:
    kinds = ('images_png',) if split == 'Test' else ('images_png', 'masks_png')
    scenes = {scene: len(numbers) for scene, numbers in LoveDADataset.NUMBERS.items() if scene.startswith(split)}
    return Archive(
        url=f'https://zenodo.org/records/5706578/files/{split}.zip?download=1',
        size=size,
        md5=md5,
        folders={f'{scene}/{kind}': count for scene, count in scenes.items() for kind in kinds},
    )


SOURCES = {
    'loveda': Source(
        title='LoveDA',
        page='https://zenodo.org/records/5706578',
        terms='CC BY-NC-SA 4.0, for academic purposes only',
        then='LoveDADataset reads the folders as they are',
        archives={
            'train': _loveda('Train', 4021669263, 'de2b196043ed9b4af1690b3f9a7d558f'),
            'val': _loveda('Val', 2425958254, '84cae2577468ff0b5386758bb386d31d'),
            'test': _loveda('Test', 3126023212, 'a489be0090465e01fb067795d24e6b47'),
        },
    ),
    'potsdam': Source(
        title='ISPRS Potsdam',
        page='https://www.isprs.org/resources/datasets/benchmarks/UrbanSemLab/',
        terms='from the ISPRS on request: 3_Ortho_IRRG.zip or 2_Ortho_RGB.zip, and 5_Labels_all_noBoundary.zip',
        then='python tools/dataset_converters/potsdam.py FOLDER -o data/potsdam_irrg',
    ),
    'vaihingen': Source(
        title='ISPRS Vaihingen',
        page='https://www.isprs.org/resources/datasets/benchmarks/UrbanSemLab/',
        terms='from the ISPRS on request: ISPRS_semantic_labeling_Vaihingen.zip and '
        'ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE.zip',
        then='python tools/dataset_converters/vaihingen.py FOLDER -o data/vaihingen',
    ),
    'gid': Source(
        title='GID-5 (Gaofen-2)',
        page='https://x-ytong.github.io/project/GID.html',
        terms='by the links on the page: the large-scale classification set',
        then='python tools/dataset_converters/gid.py FOLDER -o data/gid',
    ),
    'city_osm': Source(
        title='CITY-OSM',
        page='https://zenodo.org/record/1154821',
        terms='by the links on the page: paris.zip and chicago.zip',
        then='python tools/dataset_converters/city_osm.py FOLDER --city paris -o data/city_osm_paris (or chicago)',
    ),
    'landcovernet': Source(
        title='LandCoverNet',
        page='https://source.coop/radiantearth/landcovernet',
        terms='from Source Cooperative, which took over from Radiant MLHub: labels and Sentinel-2 images of Africa',
        then='python tools/dataset_converters/landcovernet.py FOLDER -o data/landcovernet',
    ),
    'voc2012': Source(
        title='PASCAL VOC 2012',
        page='http://host.robots.ox.ac.uk/pascal/VOC/voc2012/',
        terms="photographs from Flickr under their owners' terms, see the page",
        then='configs/feature_regression/voc_synthetic.py reads the folders as they are',
        archives={
            'trainval': Archive(
                url='http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar',
                size=1999639040,
                md5='6cd6e144f989b92b3379bac3b3de84fd',
                folders={
                    'VOCdevkit/VOC2012/JPEGImages': 17125,
                    'VOCdevkit/VOC2012/SegmentationClass': 2913,
                    'VOCdevkit/VOC2012/ImageSets/Segmentation': 3,
                },
            )
        },
    ),
}


def find_source(name: str) -> Source:
    """The source of a data set; raises :class:`ConfigError` for an unknown name."""
    require_one_of('the data set', name, SOURCES)
    return SOURCES[name]


def describe(name: str) -> str:
    """Where a data set comes from and what to do with it, for the screen."""
    source = find_source(name)
    lines = [source.title, f'  page:  {source.page}', f'  terms: {source.terms}']
    lines += [f'  {describe_archive(split, archive)}' for split, archive in source.archives.items()]
    if source.archives:
        lines.append(f'  get:   python tools/download_dataset.py {name} -o data/{name}')
    return '\n'.join([*lines, f'  then:  {source.then}'])


def describe_archive(split: str, archive: Archive) -> str:
    """Address, size and checksum of an archive, for the screen."""
    return f'{split}: {archive.url} ({gigabytes(archive.size)}, md5 {archive.md5})'


def gigabytes(size: float) -> str:
    """A number of bytes, for the screen."""
    return f'{size / 1e9:.1f} GB'
