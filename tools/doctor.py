#!/usr/bin/env python
"""Look at the environment: what is there, what is missing, and the command that mends it."""

from __future__ import annotations

import argparse
import sys

from mmrs.checks.installation import look_around

EXAMPLES = """\
examples:
  python tools/doctor.py

exit code: 0 if mmrs can work, 1 if something that it needs is missing
"""


def main(argv: list[str] | None = None) -> int:
    argparse.ArgumentParser(
        description='Say which versions of what mmrs needs are there, and which devices; for what is missing or does '
        'not work, print the command that mends it.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(argv)
    works = True
    for found in look_around():
        mark = '' if not found.remedy else '! ' if found.needed else '- '
        print(f'{mark:2}{found.name:34}{found.state}')
        if found.remedy:
            print(f'{"":36}{found.remedy}')
        works = works and not (found.remedy and found.needed)
    print('all that is needed is there' if works else '! is needed; - would be nice to have')
    return 0 if works else 1


if __name__ == '__main__':
    sys.exit(main())
