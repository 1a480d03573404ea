"""Chooses one token from logits as a request's sampling parameters say."""

from collections import Counter, defaultdict
from collections.abc import Collection

import numpy as np
import torch

from nimble_coder.contract.bounds import BIAS
from nimble_coder.contract.request import Sampling
from nimble_coder.contract.response import Ranked
from nimble_coder.engine.form import Form
from nimble_coder.engine.likely import FEW, Likely


class Sampler:
    """The state of one request: its random generator and which tokens occurred."""

    def __init__(
        self, sampling: Sampling, prompt: list[int], ends: Collection[int], seed: int, form: Form | None = None
    ) -> None:
        """`ends` are what `min_tokens` forbids; `form` is at its beginning."""
        self._form = form
        self._sampling = sampling
        self._ends = torch.tensor(sorted(ends), dtype=torch.long)
        self._generator = torch.Generator().manual_seed(seed % 2**63)
        self._seen = set(prompt)
        self._output: list[int] = []
        self.top_log_probs: list[Ranked] = []
        """One list for each chosen token, where asked for."""
        self.prompt_log_probs: list[tuple[float, Ranked]] = []
        """Of the prompt's tokens but the first, as far as they have been scored."""
        self._counts: Counter[int] = Counter()
        self._never = torch.tensor(sorted({word[0] for word in sampling.bad_words if len(word) == 1}), dtype=torch.long)
        self._never_behind: defaultdict[int, list[tuple[int, ...]]] = defaultdict(list)
        """Bad words of several tokens by the last but one: a step looks at those alone that may be completed."""
        for word in sampling.bad_words:
            if len(word) > 1:
                self._never_behind[word[-2]].append(word)
        self._biased = torch.tensor([token for token, _ in sampling.logit_bias], dtype=torch.long)
        biases = [-torch.inf if bias <= BIAS.least else bias for _, bias in sampling.logit_bias]
        self._biases = torch.tensor(biases, dtype=torch.float32)

    @property
    def is_over(self) -> bool:
        """Whether nothing can be chosen any more, since the output's form has ended."""
        return self._form is not None and self._form.is_over

    @property
    def chosen(self) -> int:
        """How many tokens have been."""
        return len(self._output)

    @property
    def temperature(self) -> float | None:
        """What the model's own logits are divided by before a token is drawn.

        None if nothing is drawn, or the request changes or asks for more.
        """
        sampling = self._sampling
        penalises = sampling.repetition_penalty != 1.0 or sampling.presence_penalty or sampling.frequency_penalty
        forbids = sampling.bad_words or len(self._output) < sampling.min_tokens or self._form
        if sampling.is_greedy or sampling.log_probs or penalises or forbids or sampling.logit_bias:
            return None
        return sampling.temperature

    def choose(self, logits: torch.Tensor, likely: Likely | None = None) -> tuple[int, float]:
        """The next token and its log probability, from logits `[vocab_size]`, whose most likely tokens at
        `temperature` may be known."""
        chance = 0.0 if self._sampling.is_greedy else self._chance()
        token = self._pick(likely, chance) if likely is not None else None
        if token is not None:
            self._note(token)
            return token, 0.0
        # A form's mask is made on the CPU; everything else stays where the logits are, which is what moves slowest.
        raw = logits.float().cpu() if self._form else logits.float()
        adjusted = self._forbid(self._penalise(raw.clone()))
        if self._form:
            token = self._draw_held(self._form, raw, adjusted, chance)
            self._form.accept(token)
        else:
            token = self._draw(adjusted, chance)
        self._note(token)
        if not self._sampling.log_probs:
            return token, 0.0
        log_probs = torch.log_softmax(raw, -1)
        if self._sampling.top_log_probs:
            self.top_log_probs.append(self._rank(log_probs))
        return token, float(log_probs[token])

    def _note(self, token: int) -> None:
        self._seen.add(token)
        self._output.append(token)
        self._counts[token] += 1

    def score(self, logits: torch.Tensor, following: list[int]) -> None:
        """Takes note of how likely the prompt's tokens were, from the logits `[tokens, vocab_size]` before them."""
        for row, token in zip(torch.log_softmax(logits.float(), -1).cpu(), following, strict=True):
            self.prompt_log_probs.append((float(row[token]), self._rank(row)))

    def _rank(self, log_probs: torch.Tensor) -> Ranked:
        values, tokens = log_probs.topk(min(self._sampling.top_log_probs, len(log_probs)))
        return list(zip(tokens.tolist(), values.tolist(), strict=True))

    def _penalise(self, logits: torch.Tensor) -> torch.Tensor:
        sampling = self._sampling
        if sampling.repetition_penalty != 1.0:
            seen = torch.tensor(sorted(self._seen), device=logits.device)
            values = logits[seen]
            penalty = sampling.repetition_penalty
            logits[seen] = torch.where(values > 0, values / penalty, values * penalty)
        if self._counts and (sampling.presence_penalty or sampling.frequency_penalty):
            tokens = torch.tensor(list(self._counts), device=logits.device)
            times = torch.tensor([float(n) for n in self._counts.values()], device=logits.device)
            logits[tokens] -= sampling.presence_penalty + sampling.frequency_penalty * times
        if len(self._biased):
            logits[self._biased.to(logits.device)] += self._biases.to(logits.device)
        return logits

    def _forbid(self, logits: torch.Tensor) -> torch.Tensor:
        if len(self._output) < self._sampling.min_tokens:
            logits[self._ends.to(logits.device)] = -torch.inf
        if len(self._never):
            logits[self._never.to(logits.device)] = -torch.inf
        words = self._never_behind.get(self._output[-1], ()) if self._output else ()
        lasts = [last for *beginning, last in words if self._output[-len(beginning) :] == beginning]
        if lasts:
            logits[torch.tensor(lasts, device=logits.device)] = -torch.inf
        return logits

    def _draw_held(self, form: Form, raw: torch.Tensor, adjusted: torch.Tensor, chance: float) -> int:
        """The next token among those that the form allows. Where the other rules leave none of them, they give way: the
        form is a promise."""
        if self._sampling.is_greedy:
            best = int(adjusted.argmax())
            if adjusted[best] > -torch.inf and form.allows(best):
                return best
        held = form.hold(adjusted)
        return self._draw(held if held.max() > -torch.inf else form.hold(raw), chance)

    def _chance(self) -> float:
        """In [0, 1). A token takes one, whatever the cuts leave: so drafted tokens are drawn as plain decoding does."""
        return float(torch.rand((), dtype=torch.float64, generator=self._generator))

    def _draw(self, logits: torch.Tensor, chance: float) -> int:
        if self._sampling.is_greedy:
            return int(logits.argmax())
        for few in (FEW, len(logits)):
            token = self._pick(Likely.of(logits, self._sampling.temperature, few), chance)
            if token is not None:
                return token
        raise AssertionError("all tokens leave no doubt")

    def _pick(self, likely: Likely, chance: float) -> int | None:
        """The token that `chance` falls on among those that the cuts leave, the most likely first.

        None if tokens beyond `likely` may take part.
        """
        sampling = self._sampling
        if not likely.logits[0] > -np.inf:  # also where it is no number
            raise ValueError("no token is left to choose from")
        count = len(likely.tokens)
        if sampling.top_k and not likely.is_all and sampling.top_k > count:
            return None
        if sampling.top_k:
            count = min(sampling.top_k, count)
            exponentials = np.exp(likely.logits[:count] - likely.logits[0], dtype=np.float64)
            probabilities = exponentials / exponentials.sum()
        else:
            probabilities = np.exp(likely.logits - likely.total, dtype=np.float64)
        sums = probabilities.cumsum()
        kept = (sums - probabilities < sampling.top_p) & (probabilities >= sampling.min_p * probabilities[0])
        kept[0] = True  # a top_p that rounds to 0 would leave nothing
        is_cut = likely.is_all or sampling.top_k > 0 or not kept[-1] or sums[-1] >= sampling.top_p
        if not is_cut and (sampling.top_p < 1 or sampling.min_p):
            return None
        last = int(kept.nonzero()[0][-1])
        point = chance * sums[last] if is_cut else chance
        place = int(np.searchsorted(sums, point, side="right"))
        if place > last and not is_cut:
            return None
        return int(likely.tokens[min(place, last)])
