"""What a map depends on, kept with the map."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmrs.geo.rasters import open_raster
from mmrs.utils.records import flatten

#: Tag of the map files that holds the fingerprint, as JSON.
FINGERPRINT_TAG = 'MMRS_SETTINGS'


def read_fingerprint(path: Path) -> dict[str, Any]:
    """The fingerprint of a finished map; empty where it has none.

    Raises:
        OSError: The file cannot be read.
    """
    with open_raster(path, quiet=True) as raster:
        found = json.loads(raster.tags().get(FINGERPRINT_TAG, '{}'))
    return found if isinstance(found, dict) else {}


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What differs between two fingerprints, one of which was read from JSON."""
    old, new = (flatten(json.loads(json.dumps(settings), parse_constant=str)) for settings in (found, wanted))
    return [
        f'{key} was {old.get(key)!r}, now {new.get(key)!r}'
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
