"""The tree of draft tokens of a step, and its verification: whatever drafted them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

SURE = 1.0


@dataclass(frozen=True)
class Extra:
    """Drafts that join a tree all together or not at all, once the rest of it has been cut."""

    source: str
    rows: int
    """At most: those that the tree holds already take none."""
    tokens: float
    """How many more the step is thought to commit."""
    add: Callable[["TokenTree"], None]


class TokenTree:
    """The input of one decoding step: the newest token at the root and draft tokens below it.

    Node i is the i-th token of the step and of its KV entries; a parent always comes before its children. No two
    children of a node hold the same token, so equal beginnings of draft sequences are computed once.
    """

    def __init__(self, root: int, source: str = "lookahead") -> None:
        """`source` says where its drafts come from, for the metrics."""
        self.source = source
        self.tokens = [root]
        self.depths = [0]
        self.visible = [1]
        """Per node, a bit set of the nodes it attends to: its ancestors and itself."""
        self.likelihoods = [1.0]
        """Per node, how likely its drafter thinks that it is accepted, never more than its parent; `SURE` where it
        does not think and the node must not be left out."""
        self.extra: Extra | None = None
        self.extra_from: int | None = None
        """The first node of the extra drafts, where they have joined."""
        self._children: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def child(self, node: int, token: int) -> int | None:
        """The child of `node` that holds `token`."""
        return self._children.get((node, token))

    def edges(self) -> Iterator[tuple[int, int]]:
        """Each node but the root behind its parent."""
        return ((parent, node) for (parent, _), node in self._children.items())

    def add(self, node: int, token: int, likelihood: float = SURE) -> int:
        """The child of `node` that holds `token`, made where there is none."""
        index = self._children.get((node, token))
        if index is None:
            index = self._children[node, token] = len(self.tokens)
            self.tokens.append(token)
            self.depths.append(self.depths[node] + 1)
            self.visible.append(self.visible[node] | 1 << index)
            # Shares that are rounded may add up to more than one, and a cut between the two would lose the parent.
            self.likelihoods.append(min(likelihood, self.likelihoods[node]))
        return index

    def keep(self, nodes: Sequence[int]) -> "TokenTree":
        """A tree of some of the nodes: the root and, of each other one, its parent are among them; in order."""
        tree = TokenTree(self.tokens[0], self.source)
        tree.extra = self.extra
        parents = {node: parent for parent, node in self.edges()}
        new = {0: 0}
        for node in nodes[1:]:
            new[node] = tree.add(new[parents[node]], self.tokens[node], self.likelihoods[node])
        return tree

    def widen(self) -> None:
        """Lets the extra drafts join; what was thought of the others stays."""
        if self.extra:
            self.extra_from, thought = len(self), self.likelihoods[:]
            self.extra.add(self)
            self.likelihoods[: len(thought)] = thought

    def extras_among(self, nodes: Sequence[int]) -> int:
        """How many of the nodes are extra drafts."""
        first = self.extra_from
        return 0 if first is None else sum(node >= first for node in nodes)

    def path(self, tokens: Sequence[int]) -> list[int]:
        """The nodes below the root that hold these tokens, as far as there are some."""
        nodes, node = list[int](), 0
        for token in tokens:
            child = self.child(node, token)
            if child is None:
                break
            node = child
            nodes.append(node)
        return nodes

    def add_path(self, node: int, tokens: Sequence[int]) -> int:
        """Adds a chain of tokens below `node` and returns its last node."""
        children, held, depths, visible = self._children, self.tokens, self.depths, self.visible
        likelihoods = self.likelihoods
        for token in tokens:  # `add`, spelled out: a hundred calls a step are felt beside a GPU's
            index = children.get((node, token))
            if index is not None:
                likelihoods[index] = SURE
            else:
                index = children[node, token] = len(held)
                held.append(token)
                depths.append(depths[node] + 1)
                visible.append(visible[node] | 1 << index)
                likelihoods.append(SURE)
            node = index
        return node


def verify(tree: TokenTree, outputs: Sequence[int], longest_path: int) -> tuple[list[int], list[int]]:
    """Walks from the root along the model's own greedy choices for as long as the tree holds them.

    Returns the tokens to commit (1 to `longest_path` + 1) and the nodes of the path behind the root whose KV entries
    stay valid, one fewer. Greedy decoding would have committed exactly these tokens, one a step.
    """
    tokens, path, node = [outputs[0]], list[int](), 0
    while len(path) < longest_path and (child := tree.child(node, tokens[-1])) is not None:
        node = child
        path.append(node)
        tokens.append(outputs[node])
    return tokens, path
