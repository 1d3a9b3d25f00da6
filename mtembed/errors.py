"""The tree of errors.  Every message is one sentence with its subject and the next step; ``cli.py`` alone prints them.

MtembedError            exit 1
  UsageError            exit 2   bad option, named input missing, nothing matches
  SettingsError                  the folder was made with other settings
  LockedError                    other processes work in the folder
  WeightsError                   weights cannot be had or do not fit
  OutputError                    the output folder cannot be written, or what is in it cannot be read
  TooManyFailures                --max-failures reached
  WorkerError                    workers cannot be started or keep dying
  CellError                      one cell fails, the run goes on; carries the stage
    DecodeError                  a blob that is not a readable GeoTIFF
  ShardError                     one shard cannot be opened, the run goes on
    StorageError                 what lies behind an address cannot be read
  PartError                      no part can be made of one shard, the run goes on
    PartTaken                    another process makes the part
"""

from __future__ import annotations


class MtembedError(Exception):
    """Base of all errors that users are told about in one sentence."""

    exit_code = 1


class UsageError(MtembedError):
    """A bad option, a missing input, or nothing that matches."""

    exit_code = 2


class SettingsError(MtembedError):
    """The output folder was made with other settings."""


class LockedError(MtembedError):
    """Other processes work in the output folder."""


class WeightsError(MtembedError):
    """Weights cannot be had, or their keys do not fit the network."""


class OutputError(MtembedError):
    """The output folder cannot be written, or what is in it cannot be read."""


class TooManyFailures(MtembedError):
    """More cells failed than ``--max-failures`` allows."""


class WorkerError(MtembedError):
    """Worker processes cannot be started or keep dying."""


class CellError(MtembedError):
    """One cell cannot be embedded; ``stage`` names where (``read``, ``decode``, ``embed``, ``write``)."""

    def __init__(self, message: str, stage: str = "decode") -> None:
        super().__init__(message)
        self.stage = stage


class DecodeError(CellError):
    """A blob that is not a GeoTIFF we can read within the bounds of its slot."""


class ShardError(MtembedError):
    """One shard cannot be opened."""


class StorageError(ShardError):
    """What lies behind an address cannot be read.  The message never holds a credential."""


class PartError(MtembedError):
    """No part can be made of one shard, or a part that was made is damaged."""


class PartTaken(PartError):
    """Another process has taken a part over, because this one was silent for too long."""
