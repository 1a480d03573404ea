"""The command `nimble-coder`: errors are shown once and without a traceback, from the first moment on."""

import io
import os
import sys
from contextlib import suppress

from build_engine.exit_codes import ExitCode
from nimble_coder.processes.stopping import stop_signals


def main() -> None:
    """The entry point; Ctrl-C and SIGTERM end with the shell's usual code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may know fewer letters than a model writes
        sys.stdout.reconfigure(errors="replace")
    try:
        with stop_signals():  # before the imports, which take most of a second
            from nimble_coder.commands.application import run

            run(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except ModuleNotFoundError as error:  # installed without an extra
        end(f"{error}: this command needs pip install 'nimble-coder[serve]'; `complete` alone does without")
    except OSError as error:  # a command tells its own: this one is of the output, in a file on a full disk, say
        with suppress(OSError, ValueError):  # what is left of it would be tried again at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        end(f"the output cannot be written: {error.strerror or error}")


def end(problem: str) -> None:
    """Ends the process with one line."""
    from nimble_coder.commands.terminal import tell

    tell(problem)
    sys.exit(ExitCode.OTHER)


if __name__ == "__main__":
    main()
