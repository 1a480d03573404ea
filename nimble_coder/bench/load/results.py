"""All of a run's samples by what was asked, and how they are told: as a table and as JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

from nimble_coder.bench.load.summary import Summary, ratio, summarise
from nimble_coder.bench.load.target import Sample
from nimble_coder.bench.ratio import Ratio

Level = int | float


@dataclass
class Results:
    """Of scenarios x levels of load x draftings, each in one or several rounds."""

    scenarios: list[str]
    levels: list[Level]
    """How many at once, or how many a second."""
    draftings: list[str]
    """Their names; where two are compared, the second is over the first."""
    is_open: bool = False
    """Whether the levels are rates."""
    compared: bool = False
    goes: dict[tuple[str, Level, str], list[list[Sample]]] = field(default_factory=dict)

    def add(self, scenario: str, level: Level, drafting: str, samples: list[Sample]) -> None:
        """The samples of a round."""
        self.goes.setdefault((scenario, level, drafting), []).append(samples)

    @property
    def level_name(self) -> str:
        return "requests a second" if self.is_open else "requests at once"

    @property
    def samples(self) -> list[Sample]:
        return [sample for goes in self.goes.values() for go in goes for sample in go]

    def summary(self, scenario: str, level: Level, drafting: str) -> Summary:
        """Over all rounds."""
        return summarise(self.goes[scenario, level, drafting])

    def ratio(self, scenario: str, level: Level) -> Ratio:
        """Tokens per second of all streams, prompts included, the second drafting over the first."""
        before, after = (self.goes[scenario, level, drafting] for drafting in self.draftings)
        return ratio(lambda found: found.tokens_per_second, before, after)

    def stream_ratio(self, scenario: str, level: Level) -> Ratio:
        """The same of one stream's tokens per second, from its first token on."""
        before, after = (self.goes[scenario, level, drafting] for drafting in self.draftings)
        return ratio(lambda found: found.stream_tokens_per_second, before, after)

    def to_json(self) -> list[dict[str, Any]]:
        """A row for each scenario, level and drafting."""
        found = []
        for (scenario, level, drafting), goes in self.goes.items():
            row: dict[str, Any] = {
                "scenario": scenario,
                "rate" if self.is_open else "concurrency": level,
                "drafting": drafting,
                "rounds": len(goes),
                **asdict(summarise(goes)),
                "lookahead": sorted({sample.lookahead for go in goes for sample in go if sample.lookahead}),
            }
            if self.compared and drafting == self.draftings[1]:
                row["ratio"] = asdict(self.ratio(scenario, level))
                row["stream_ratio"] = asdict(self.stream_ratio(scenario, level))
            found.append(row)
        return found

    def table(self, title: str) -> Table:
        """The same for people; times are in milliseconds."""
        table = Table(title=title)
        names = ("prompt", "answer", "tokens/s", "a stream", "TTFT p50/p90", "ITL p50/p90", "a step", "accepted")
        for name in ("scenario", "/s" if self.is_open else "at once", "drafting"):
            table.add_column(name)
        for name in names:
            table.add_column(name, justify="right")
        if self.compared:
            for name in ("all over", "a stream over"):
                table.add_column(f"{name} {self.draftings[0]}", justify="right")
        for (scenario, level, drafting), goes in self.goes.items():
            found = summarise(goes)
            row = [scenario, str(level), drafting, f"{found.prompt_tokens:.0f}"]
            row += [f"{found.tokens / max(1, found.requests - found.errors):.0f}", f"{found.tokens_per_second:.1f}"]
            row += [f"{found.stream_tokens_per_second:.1f}", _pair(found.ttft_ms), _pair(found.itl_ms)]
            row += [f"{found.tokens_per_step:.2f}", "-" if found.acceptance is None else f"{found.acceptance:.0%}"]
            if self.compared:
                is_second = drafting == self.draftings[1]
                ratios = self.ratio(scenario, level), self.stream_ratio(scenario, level)
                row += map(str, ratios) if is_second else ("", "")
            table.add_row(*row)
        return table


def _pair(percentiles: dict[str, float]) -> str:
    return f"{percentiles['p50']:.0f}/{percentiles['p90']:.0f}" if percentiles else "-"
