"""What the converters' command lines have in common."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmrs.geo.statistics import default_workers
from mmrs.preparation.converters.clips import EDGES
from mmrs.preparation.converters.isprs import SPLITS, Archive, Conversion
from mmrs.preparation.converters.splits import SPLIT_NAME, RandomSplits, SplitLists, Splits
from mmrs.utils.arguments import add_overwrite
from mmrs.utils.errors import require


def converter_parser(description: str, examples: str, edge: str | None = None) -> argparse.ArgumentParser:
    """A parser with the options of every converter.

    Args:
        description: What the tool does.
        examples: Commands to show at the end of the help.
        edge: Default of `--edge` for a tool that cuts clips out of masks in colours, `published` where the data set
            has one; None for other tools.
    """
    parser = argparse.ArgumentParser(
        description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('path', type=Path, metavar='PATH', help='folder of the original files')
    parser.add_argument('-o', '--out', type=Path, required=True, help='folder for the converted data set')
    if edge is not None:
        parser.add_argument('--stride', type=int, metavar='N', help='pixels from one clip to the next')
        parser.add_argument(
            '--edge',
            choices=EDGES,
            default=edge if edge in EDGES else None,
            help=f'a rest too small for a clip: drop it, or shift a last clip back over it (default: {edge})',
        )
        parser.add_argument(
            '--tolerance',
            type=int,
            default=0,
            metavar='N',
            help='map colours up to N away in each channel to the nearest class',
        )
    parser.add_argument(
        '--workers', type=int, default=default_workers(), metavar='N', help='number of processes (default: %(default)s)'
    )
    parser.add_argument('--dry-run', action='store_true', help='only count; write nothing')
    add_overwrite(parser, 'replace what an earlier conversion left in the folder')
    return parser


def published_parser(description: str, examples: str, clip_size: int | None = None) -> argparse.ArgumentParser:
    """A parser for a published data set; with `clip_size`, for one of large images that become clips of that size."""
    parser = converter_parser(description, examples, None if clip_size is None else 'published')
    if clip_size is not None:
        parser.add_argument(
            '--clip-size', type=int, default=clip_size, metavar='N', help='side of a clip (default: %(default)s)'
        )
    parser.add_argument('--allow-missing', action='store_true', help='convert what is there')
    return parser


def add_split_lists(parser: argparse.ArgumentParser) -> None:
    """Adds the option for published lists of clips."""
    parser.add_argument(
        '--split-list',
        nargs='+',
        action='extend',
        metavar='NAME=FILE',
        help='splits as text files list them, one name of a clip a line: train=train.txt val=val.txt',
    )


def add_random_splits(parser: argparse.ArgumentParser) -> None:
    """Adds the options for splits by image."""
    parser.add_argument(
        '--val-share', type=float, default=0.3, metavar='X', help='share of images for val (default: %(default)s)'
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the choice of images (default: %(default)s)')
    add_split_lists(parser)


def random_splits(args: argparse.Namespace) -> Splits:
    """What the options of `add_random_splits` ask for."""
    return split_lists(args) if args.split_list else RandomSplits(args.val_share, args.seed)


def split_lists(args: argparse.Namespace) -> SplitLists:
    """What the option of `add_split_lists` asks for; raises ConfigError for arguments that are not `NAME=FILE`."""
    files = split_arguments('--split-list', 'NAME=FILE', args.split_list)
    return SplitLists({name: Path(file) for name, file in files.items()}, args.allow_missing)


def split_arguments(option: str, form: str, arguments: Sequence[str]) -> dict[str, str]:
    """The parts of `NAME=VALUE` arguments; raises ConfigError for others, and where a name is given twice."""
    parts: dict[str, str] = {}
    for argument in arguments:
        name, _, text = argument.partition('=')
        valid = SPLIT_NAME.fullmatch(name) and text and name not in parts
        require(bool(valid), option, argument, f'{form}, each name once, such as train or val,')
        parts[name] = text
    return parts


def clip_options(args: argparse.Namespace) -> dict:
    """The arguments of `TileConversion` among the options of `published_parser`."""
    names = ('clip_size', 'stride', 'edge', 'tolerance', 'allow_missing')
    return {name: getattr(args, name) for name in names}


def convert_isprs(
    argv: Sequence[str] | None, archive: Archive, description: str, examples: str, bands: tuple[str, ...] = ('irrg',)
) -> None:
    """The command line for one of the ISPRS data sets."""
    parser = published_parser(description, examples, archive.clip_size)
    parser.add_argument('--bands', choices=bands, default=bands[0], help='which images to take (default: %(default)s)')
    parser.add_argument(
        '--labels',
        choices=('eroded', 'full'),
        help='boundaries between objects ignored, or not (default: eroded, if there)',
    )
    parser.add_argument(
        '--split',
        choices=SPLITS,
        default=SPLITS[0],
        help="tiles and clips of ST-DASegNet's paper, or of MMSegmentation's own converter (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    options = dict(bands=args.bands, labels=args.labels, split=args.split, **clip_options(args))
    Conversion(archive, args.path, args.out, **options).run(args.workers, args.dry_run, args.overwrite)
