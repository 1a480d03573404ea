"""`nimble-coder prepare`: what a first start of `serve` does before it serves, as a job that ends."""

from nimble_coder.processes.log import ProcessLog
from nimble_coder.settings.loading import Loaded
from nimble_coder.supervisor.build import StartBuild
from nimble_coder.supervisor.choice import choose

NAME = "prepare"


def prepare(loaded: Loaded, log: ProcessLog, download_only: bool) -> None:
    """Leaves in the cache what `serve` with the same settings would serve, or its checkpoint alone.

    Raises what `choose` and `StartBuild.run` raise, an exception with an `exit_code` each.
    """
    device = {"engine_device": "auto"} if download_only else {}  # which asks for no GPU
    settings = loaded.settings.model_copy(update={"build_on_start": True, **device})
    choice = choose(settings)
    if choice.artifact:
        log.say(NAME, f"there already: {choice.artifact.directory} ({choice.why})")
        return
    loaded.for_profile(choice.profile)  # what cannot be served is not built
    doing = "downloading the checkpoint of" if download_only else "building"
    log.say(NAME, f"{doing} {choice.profile.name} ({choice.why}) into {settings.cache_path}")
    log.say(NAME, f"done: {StartBuild(settings, choice.profile, log, download_only).run()}")
