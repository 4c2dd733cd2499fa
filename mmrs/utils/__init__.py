from mmrs.utils.errors import CheckpointError, ConfigError, DataError, OutputError, UserError

__all__ = ['CheckpointError', 'ConfigError', 'DataError', 'OutputError', 'UserError']
