"""Figures of a run: speed-ups as bars, throughput by load, tokens per step, acceptance. Each as SVG and PNG.

Needs Matplotlib (`pip install 'nimble-coder[plot]'`).
"""

from pathlib import Path
from typing import Any

from nimble_coder.bench.load.results import Results

FORMATS = ("svg", "png")


def plot(results: Results, directory: Path) -> list[Path]:
    """Writes what the results have figures of, and returns the files. Raises `RuntimeError` without Matplotlib."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an extra

        mpl.use("agg")
        from matplotlib import pyplot  # noqa: PLC0415
    except ImportError:
        raise RuntimeError("figures need Matplotlib: pip install 'nimble-coder[plot]'") from None
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    figures = {"tokens-per-step": _tokens_per_step}
    if drafting(results):
        figures["acceptance"] = _acceptance
    if len(results.levels) > 1:
        figures["throughput"] = _throughput
    if results.compared:
        figures["speed-up"] = _speed_up
    for name, draw in figures.items():
        figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
        draw(axes, results)
        axes.spines[["top", "right"]].set_visible(False)
        for kind in FORMATS:
            written.append(directory / f"{name}.{kind}")
            # Neither the date nor random ids: the same results are the same file.
            with mpl.rc_context({"svg.hashsalt": name}):
                figure.savefig(written[-1], dpi=150, metadata={"Date": None} if kind == "svg" else None)
        pyplot.close(figure)
    return written


def drafting(results: Results) -> list[str]:
    """The draftings that drafted anything."""
    level = results.levels[0]
    return [
        name
        for name in results.draftings
        if any(results.summary(scenario, level, name).acceptance is not None for scenario in results.scenarios)
    ]


def _acceptance(axes: Any, results: Results) -> None:
    level = results.levels[0]
    values = {
        name: [100 * (results.summary(scenario, level, name).acceptance or 0) for scenario in results.scenarios]
        for name in drafting(results)
    }
    _bars(axes, results.scenarios, values, "{:.0f}")
    axes.set(ylabel=f"accepted drafts in per cent, {results.level_name} {level}", ylim=(0, 100))


def _throughput(axes: Any, results: Results) -> None:
    for scenario in results.scenarios:
        for drafting in results.draftings:
            rates = [results.summary(scenario, level, drafting).tokens_per_second for level in results.levels]
            axes.plot(results.levels, rates, marker="o", label=f"{scenario}, {drafting}")
    axes.set(xlabel=results.level_name, ylabel="tokens per second, all streams", xticks=results.levels, ylim=(0, None))
    axes.legend(frameon=False)


def _tokens_per_step(axes: Any, results: Results) -> None:
    level = results.levels[0]
    values = {d: [results.summary(s, level, d).tokens_per_step for s in results.scenarios] for d in results.draftings}
    _bars(axes, results.scenarios, values, "{:.2f}")
    axes.set(ylabel=f"tokens per step, {results.level_name} {level}")


def _speed_up(axes: Any, results: Results) -> None:
    values = {
        f"{results.level_name} {level}": [results.stream_ratio(s, level).median for s in results.scenarios]
        for level in results.levels
    }
    _bars(axes, results.scenarios, values, "{:.2f}x")
    before, after = results.draftings
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(ylabel=f"tokens per second of a stream, {after} over {before}")


def _bars(axes: Any, groups: list[str], values: dict[str, list[float]], form: str) -> None:
    """A group of bars for each of `groups`, a bar in it for each of `values`."""
    width = 0.8 / len(values)
    for index, (name, heights) in enumerate(values.items()):
        places = [group + (index - (len(values) - 1) / 2) * width for group in range(len(groups))]
        axes.bar_label(axes.bar(places, heights, width * 0.9, label=name), fmt=form)
    axes.set_xticks(range(len(groups)), groups)
    axes.legend(frameon=False)
