"""Drafting what a form forces: the text that has to come next needs no guess."""

from collections.abc import Sequence

from nimble_coder.contract.bounds import MOST_DRAFTS
from nimble_coder.engine.corpus import Corpus
from nimble_coder.engine.drafter import Drafter
from nimble_coder.engine.form import Form
from nimble_coder.engine.tree import TokenTree


class FormDrafter:
    """Implements `nimble_coder.engine.drafter.Drafter` around another drafter, which drafts where nothing is forced.

    The text is certain, its tokens are not: the model may cut it elsewhere, which verification finds as for any draft.
    """

    def __init__(self, inner: Drafter, form: Form, most_rows: int) -> None:
        """A step has room for `most_rows` rows, the tree's root among them."""
        self._inner, self._form = inner, form
        self._most_rows = most_rows
        self._is_forced = False
        """Whether the last tree held nothing but what is forced, so that the inner drafter knows nothing of it."""

    @property
    def longest_path(self) -> int:
        """See `Drafter`."""
        return max(self._inner.longest_path, min(MOST_DRAFTS, self._most_rows - 1))

    @property
    def corpus(self) -> Corpus | None:
        """See `Drafter`."""
        return self._inner.corpus

    def draft(self, newest: int, most: int) -> TokenTree:
        """See `Drafter`. A forced text goes alone where it is longer than what the inner drafter can have accepted."""
        forced = self._form.forced(self.longest_path)
        self._is_forced = len(forced) > self._inner.longest_path
        if self._is_forced:
            tree = TokenTree(newest, "form")
            tree.add_path(0, forced)
            return tree
        tree = self._inner.draft(newest, most)
        tree.add_path(0, forced[: self._most_rows - len(tree)])
        return tree

    def update(self, tree: TokenTree, outputs: Sequence[int], accepted: Sequence[int]) -> None:
        """See `Drafter`."""
        if self._is_forced:
            self._inner.commit(accepted)
        else:
            self._inner.update(tree, outputs, accepted)

    def commit(self, accepted: Sequence[int]) -> None:
        """See `Drafter`."""
        self._inner.commit(accepted)
