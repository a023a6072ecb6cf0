"""Typed errors: what went wrong, and what to type or change.

Every error that a user can cause derives from `SpatiaError` and from the built-in that fits, so both
`except SpatiaError` and `except ValueError` work. A call that raises one leaves the world as it was.
"""


class SpatiaError(Exception):
    """Base of every error that `spatia_env` raises on purpose."""


class ActionError(SpatiaError, ValueError):
    """An action, an option or a size is not of the form the environment takes."""


class PromptError(SpatiaError, ValueError):
    """A prompt or an event is not text, too long, or has characters that are not printable."""


class SeedError(SpatiaError, ValueError):
    """A seed is not a non-negative integer."""


class PoseError(SpatiaError, ValueError):
    """A pose is not a rigid transform, or intrinsics are not those of a pinhole camera."""


class ImageError(SpatiaError, ValueError):
    """A picture cannot be read, is not PNG/JPEG/WebP, or is too large."""


class VideoError(SpatiaError, OSError):
    """A film cannot be written or read."""


class CaseError(SpatiaError, ValueError):
    """A case folder (`img.jpg`, `w2c.txt`, `intrinsics.txt`, `prompt.txt`) is incomplete or malformed."""


class DatasetError(SpatiaError, ValueError):
    """A folder of posed videos is incomplete, or one of its files is malformed; file and line are named."""


class WorldFormatError(SpatiaError, ValueError):
    """A world or point-cloud file is not of a format this version reads."""


class WorldCorruptError(WorldFormatError):
    """A world file is truncated or altered: a size or a hash differs from what it declares."""


class WorldVersionError(WorldFormatError):
    """A world file was written by a newer version."""


class WorldTooLargeError(SpatiaError, ValueError):
    """A file declares more data than it holds, or than the limit allows."""


class WorldIOError(SpatiaError, OSError):
    """The operating system refused a read or a write; the file on disk is as it was."""


class WorldFullError(SpatiaError, RuntimeError):
    """The map holds `max_points` and `on_full="error"` is set."""


class EditError(SpatiaError, ValueError):
    """An edit has an impossible region or transform, or matches nothing."""


class CheckpointError(SpatiaError, ValueError):
    """A checkpoint is missing, incomplete, altered, or asks for code that is not ours."""


class ClosedEnvError(SpatiaError, RuntimeError):
    """The environment was closed; make a new one."""


class WorkerError(SpatiaError, RuntimeError):
    """Workers on Ray were lost again and again, or Ray has no room for what they return."""


class ForkError(SpatiaError, RuntimeError):
    """The process was forked from one that had used torch; start it with "spawn"."""


class ViewerError(SpatiaError, RuntimeError):
    """The playground cannot be opened, or a request of its user cannot be met."""


class DependencyError(SpatiaError, ImportError):
    """An optional package is missing; the message says what to install."""
