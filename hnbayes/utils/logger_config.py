"""The documented module `logger_config`."""

from hnbayes.training.loggers import config_logger

__all__ = ["config_logger"]
