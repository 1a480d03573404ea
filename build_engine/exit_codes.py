"""What each exit code of `nimble-coder` means: the one table, for both stages. docs/operations.md repeats it."""

from enum import IntEnum


class ExitCode(IntEnum):
    """An error class names its own as `exit_code`; each member says what was wrong."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> "ExitCode":
        """An integer that knows what it stands for."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    STOPPED = 0, "done; of `serve`: told to stop, and everything that ran has finished"
    OTHER = 1, "anything else"
    ASKED = 2, "what was asked for: a setting, an option, a profile, a model"
    MACHINE = 3, "this machine: GPU, driver, TensorRT-LLM, container, the kernel's limits"
    CHECKPOINT = 4, "the checkpoint, or getting it"
    BUILD = 5, "the engine's build"
    VERIFICATION = 6, "the verification of a new engine"
    DISK_FULL = 7, "the file system of the cache, or of a model store, is full"
    ARTIFACT = 8, "an artefact: no manifest, a damaged one, or files that do not fit it"
    READ_ONLY = 9, "the cache cannot be written"
    NO_ENGINE = 10, "there is no engine, and NIMBLE_BUILD_ON_START forbids building one"
    PORT = 11, "a port is taken"
    TLS = 12, "certificate or key"
    TRITON = 13, "tritonserver ended, or did not start"
    GATEWAY = 14, "a gateway ended"
    OUT_OF_MEMORY = 15, "out of memory: the container's limit, or the GPU's"
    NOT_READY = 16, "nothing was generated within NIMBLE_STARTUP_SECONDS"
    INTERRUPTED = 130, "told to stop before it was ready, or twice"


def exit_code_of(error: BaseException) -> int:
    """What its class names; `ExitCode.OTHER` where it names none."""
    return int(getattr(error, "exit_code", ExitCode.OTHER))
