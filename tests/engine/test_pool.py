"""What earlier requests held drafts for later ones of the same pool, within bounds."""

from dataclasses import replace
from itertools import chain

from nimble_coder.contract.request import Request
from nimble_coder.engine.corpus import Corpus
from nimble_coder.engine.generate import generate
from nimble_coder.engine.pool import TEXTS, Pools
from nimble_coder.engine.suffix import SuffixDrafter
from tests.conftest import EMBEDDED
from tests.engine.conftest import LoadEngine

SEEN = [5, 6, 7, 8, 9, 10, 11, 12]


def test_a_text_of_the_pool_continues_what_the_request_s_own_does_not_know() -> None:
    drafter = SuffixDrafter([1, 5, 6, 7], 4, [Corpus(SEEN)])
    tree = drafter.draft(7)
    assert (tree.tokens, tree.source) == ([7, 8, 9, 10, 11], "pool")


def test_the_request_s_own_text_comes_first_where_both_match_alike() -> None:
    drafter = SuffixDrafter([5, 6, 7, 1, 2, 5, 6, 7], 1, [Corpus(SEEN)])
    tree = drafter.draft(7)
    assert (tree.tokens, tree.source) == ([7, 1], "text")


def test_of_two_places_that_match_long_the_one_that_matches_longest_drafts() -> None:
    """The docstring of two functions alike, and an earlier answer in the very function that is asked for."""
    here, docstring = [*range(300, 310)], [*range(100, 120)]
    drafter = SuffixDrafter([*docstring, 1, *here, *docstring], 1, [Corpus([*here, *docstring, 2])])
    tree = drafter.draft(docstring[-1])
    assert (tree.tokens, tree.source) == ([docstring[-1], 2], "pool")


def test_a_pool_that_keeps_misleading_is_trusted_less() -> None:
    parts = [[1000 + i, 2000 + i, 3000 + i, 4000 + i] for i in range(20)]
    drafter = SuffixDrafter([1], 4, [Corpus(list(chain.from_iterable(parts)))])
    likelihoods = []
    for part in parts:
        drafter.commit(part[:3])
        tree = drafter.draft(part[2])
        likelihoods.append(tree.likelihoods[1])
        assert tree.tokens[1] == part[3]
        drafter.update(tree, [99] * len(tree), [99])
    assert likelihoods[-1] < likelihoods[0] / 2


def test_the_oldest_texts_are_forgotten_when_there_are_too_many_tokens() -> None:
    pools = Pools(most_tokens=20)
    texts = [Corpus([name] * 8) for name in range(3)]
    pools.add("a", texts[0])
    pools.add("b", texts[1])
    pools.add("a", texts[2])
    assert (pools.texts("a"), pools.texts("b"), pools.tokens) == ([texts[2], texts[0]], [], 16)
    pools.add("c", Corpus([1] * 21))
    assert (pools.texts("c"), pools.tokens) == ([], 16)


def test_a_pool_has_no_more_texts_than_a_step_can_look_into() -> None:
    pools = Pools(most_tokens=10_000)
    for _ in range(TEXTS + 5):
        pools.add("a", Corpus(SEEN))
    assert (len(pools.texts("a")), pools.tokens) == (TEXTS, TEXTS * len(SEEN))


def test_requests_draft_from_their_own_pool_alone_and_the_output_stays(
    load_engine: LoadEngine, free_rows: None
) -> None:
    engine = load_engine(EMBEDDED, precision="fp32")
    request = Request([300 + i * i % 41 for i in range(30)], 40, draft_pool="mine")
    outputs, counts = [], []
    for pool in ("mine", "mine", "another's", ""):
        outputs.append(generate(engine, [replace(request, draft_pool=pool)])[0].token_ids)
        counts.append(engine.statistics().drafting["pool"].accepted)
    assert outputs == [outputs[0]] * 4
    assert counts[0] == 0
    assert counts[1] >= 20
    assert counts[2] == counts[3] == counts[1]
