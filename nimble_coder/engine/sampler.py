"""Chooses one token from logits as a request's sampling parameters say."""

import random
from collections import Counter, defaultdict
from collections.abc import Collection

import numpy as np

from nimble_coder.contract.bounds import BIAS
from nimble_coder.contract.request import Sampling
from nimble_coder.contract.response import Ranked
from nimble_coder.engine.form import Form
from nimble_coder.engine.likely import FEW, Floats, Likely, Ranking, log_softmax, most_likely


class Sampler:
    """The state of one request: its random generator and which tokens occurred."""

    def __init__(
        self, sampling: Sampling, prompt: list[int], ends: Collection[int], seed: int, form: Form | None = None
    ) -> None:
        """`ends` are what `min_tokens` forbids; `form` is at its beginning."""
        self._form = form
        self._sampling = sampling
        self._ends = np.array(sorted(ends), np.int64)
        self._generator = random.Random(seed)
        self._chance = self._generator.random()
        """In [0, 1), of the next token. Each takes one, whatever the cuts leave: so drafted tokens are drawn as plain
        decoding does."""
        self._seen = set(prompt)
        self._output: list[int] = []
        self.top_log_probs: list[Ranked] = []
        """One list for each chosen token, where asked for."""
        self.prompt_log_probs: list[tuple[float, Ranked]] = []
        """Of the prompt's tokens but the first, as far as they have been scored."""
        self._counts: Counter[int] = Counter()
        self._never = np.array(sorted({word[0] for word in sampling.bad_words if len(word) == 1}), np.int64)
        self._never_behind: defaultdict[int, list[tuple[int, ...]]] = defaultdict(list)
        """Bad words of several tokens by the last but one: a step looks at those alone that may be completed."""
        for word in sampling.bad_words:
            if len(word) > 1:
                self._never_behind[word[-2]].append(word)
        self._biased = np.array([token for token, _ in sampling.logit_bias], np.int64)
        biases = [-np.inf if bias <= BIAS.least else bias for _, bias in sampling.logit_bias]
        self._biases = np.array(biases, np.float32)

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

    def choose_likely(self, likely: Likely) -> int | None:
        """The next token, where the most likely ones at `temperature` say which it is."""
        token = self._pick(likely)
        if token is not None:
            self._note(token)
        return token

    def choose(self, logits: Floats) -> tuple[int, float]:
        """The next token and its log probability, from logits `[vocab_size]`."""
        adjusted = self._forbid(self._penalise(logits.copy()))
        if self._form:
            token = self._draw_held(self._form, logits, adjusted)
            self._form.accept(token)
        else:
            token = self._draw(adjusted)
        self._note(token)
        if not self._sampling.log_probs:
            return token, 0.0
        log_probs = log_softmax(logits)
        if self._sampling.top_log_probs:
            self.top_log_probs.append(self._rank(log_probs))
        return token, float(log_probs[token])

    def _note(self, token: int) -> None:
        self._seen.add(token)
        self._output.append(token)
        self._counts[token] += 1
        self._chance = self._generator.random()

    def score(self, logits: Floats, following: list[int]) -> None:
        """Takes note of how likely the prompt's tokens were, from the logits `[tokens, vocab_size]` before them."""
        for row, token in zip(logits, following, strict=True):
            log_probs = log_softmax(row)
            self.prompt_log_probs.append((float(log_probs[token]), self._rank(log_probs)))

    def _rank(self, log_probs: Floats) -> Ranked:
        count = self._sampling.top_log_probs
        if not count:
            return []
        tokens = most_likely(log_probs, count)[:count]
        return list(zip(tokens.tolist(), log_probs[tokens].tolist(), strict=True))

    def _penalise(self, logits: Floats) -> Floats:
        sampling = self._sampling
        if sampling.repetition_penalty != 1.0:
            seen = np.fromiter(self._seen, np.int64)
            values = logits[seen]
            penalty = np.float32(sampling.repetition_penalty)
            logits[seen] = np.where(values > 0, values / penalty, values * penalty)
        if self._counts and (sampling.presence_penalty or sampling.frequency_penalty):
            tokens, times = np.array(list(self._counts)), np.array(list(self._counts.values()), np.float32)
            logits[tokens] -= sampling.presence_penalty + sampling.frequency_penalty * times
        logits[self._biased] += self._biases
        return logits

    def _forbid(self, logits: Floats) -> Floats:
        if len(self._output) < self._sampling.min_tokens:
            logits[self._ends] = -np.inf
        logits[self._never] = -np.inf
        words = self._never_behind.get(self._output[-1], ()) if self._output else ()
        logits[[last for *beginning, last in words if self._output[-len(beginning) :] == beginning]] = -np.inf
        return logits

    def _draw_held(self, form: Form, raw: Floats, adjusted: Floats) -> int:
        """The next token among those that the form allows. Where the other rules leave none of them, they give way: the
        form is a promise."""
        if self._sampling.is_greedy:
            best = int(adjusted.argmax())
            if adjusted[best] > -np.inf and form.allows(best):
                return best
        held = form.hold(adjusted)
        return self._draw(held if held.max() > -np.inf else form.hold(raw))

    def _draw(self, logits: Floats) -> int:
        if self._sampling.is_greedy:
            return int(logits.argmax())
        token = self._pick(Likely.of(logits, self._sampling.temperature, FEW))
        return self._pick_of_all(Ranking(logits, self._sampling.temperature)) if token is None else token

    def _pick(self, likely: Likely) -> int | None:
        """The token that the chance falls on among those that the cuts leave, the most likely first.

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
        point = self._chance * sums[last] if is_cut else self._chance
        place = int(np.searchsorted(sums, point, side="right"))
        if place > last and not is_cut:
            return None
        return int(likely.tokens[min(place, last)])

    def _pick_of_all(self, ranking: Ranking) -> int:
        """What `_pick` picks where it is given all tokens."""
        sampling = self._sampling
        mass = ranking.of_first(sampling.top_k) if sampling.top_k else ranking.mass
        cut = min(mass, ranking.reaching(sampling.top_p * mass)) if sampling.top_p < 1 else mass
        if sampling.min_p:
            cut = min(cut, ranking.of_least(sampling.min_p))
        return ranking.token_at(self._chance * cut)
