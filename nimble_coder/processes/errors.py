"""What can go wrong with Triton, each with the exit code of the command that it ends."""

from build_engine.exit_codes import ExitCode


class TritonError(RuntimeError):
    """Triton cannot be started or ended before it was asked to; says why and what to do."""

    exit_code = ExitCode.TRITON


class PortTakenError(TritonError):
    """Somebody else listens there."""

    exit_code = ExitCode.PORT


class HostError(TritonError):
    """The host to listen on is none of this machine."""

    exit_code = ExitCode.ASKED


class NotReadyError(TritonError):
    """Loading took too long."""

    exit_code = ExitCode.NOT_READY


class TaskLimitError(TritonError):
    """The kernel has refused a process or a thread."""

    exit_code = ExitCode.MACHINE


class OutOfMemoryError(TritonError):
    """Of the container's or of the GPU's."""

    exit_code = ExitCode.OUT_OF_MEMORY
