"""What the converters' command lines have in common."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from mmrs.datasets.converters.clips import EDGES
from mmrs.datasets.converters.isprs import Archive, Conversion
from mmrs.datasets.converters.running import default_workers


def converter_parser(description: str, examples: str, edge: str) -> argparse.ArgumentParser:
    """A parser with the options of every converter."""
    parser = argparse.ArgumentParser(
        description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('path', type=Path, metavar='PATH', help='folder of the original files')
    parser.add_argument('-o', '--out', type=Path, required=True, help='folder for the converted data set')
    parser.add_argument('--stride', type=int, metavar='N', help='pixels from one clip to the next')
    parser.add_argument(
        '--edge',
        choices=EDGES,
        default=edge,
        help='a rest too small for a clip: drop it, or shift a last clip back over it (default: %(default)s)',
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
    parser.add_argument('--force', action='store_true', help='replace what an earlier conversion left in the folder')
    return parser


def isprs_main(archive: Archive, description: str, examples: str, bands: tuple[str, ...] = ('irrg',)) -> int:
    """The command line for one of the ISPRS data sets; returns the exit code."""
    parser = converter_parser(description, examples, edge='drop')
    parser.add_argument('--clip-size', type=int, default=512, metavar='N', help='side of a clip (default: %(default)s)')
    parser.add_argument('--bands', choices=bands, default=bands[0], help='which images to take (default: %(default)s)')
    parser.add_argument(
        '--labels',
        choices=('eroded', 'full'),
        help='boundaries between objects ignored, or not (default: eroded, if there)',
    )
    parser.add_argument('--allow-missing', action='store_true', help='convert the tiles that are there')
    args = parser.parse_args()

    def convert() -> None:
        Conversion(
            archive,
            args.path,
            args.out,
            bands=args.bands,
            labels=args.labels,
            clip_size=args.clip_size,
            stride=args.stride,
            edge=args.edge,
            tolerance=args.tolerance,
            allow_missing=args.allow_missing,
        ).run(args.workers, args.dry_run, args.force)

    return exit_code(convert)


def exit_code(convert: Callable[[], object]) -> int:
    """Runs a conversion and says what stopped it: 0 for success, 1 for bad input, 130 for Ctrl-C."""
    try:
        convert()
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('Stopped. The same command continues from here.', file=sys.stderr)
        return 130
    return 0
