from tests.small_files import *  # noqa: F403 (fixtures)
