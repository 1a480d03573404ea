"""The tree of draft tokens of a step, and its verification: whatever drafted them."""

from collections.abc import Sequence


class TokenTree:
    """The input of one decoding step: the newest token at the root and draft tokens below it.

    Node i is the i-th token of the step and of its KV entries; a parent always comes before its children. No two
    children of a node hold the same token, so equal beginnings of draft sequences are computed once.
    """

    def __init__(self, root: int) -> None:
        self.tokens = [root]
        self.depths = [0]
        self.visible = [1]
        """Per node, a bit set of the nodes it attends to: its ancestors and itself."""
        self._children: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def child(self, node: int, token: int) -> int | None:
        """The child of `node` that holds `token`."""
        return self._children.get((node, token))

    def add(self, node: int, token: int) -> int:
        """The child of `node` that holds `token`, made where there is none."""
        index = self._children.get((node, token))
        if index is None:
            index = self._children[node, token] = len(self.tokens)
            self.tokens.append(token)
            self.depths.append(self.depths[node] + 1)
            self.visible.append(self.visible[node] | 1 << index)
        return index

    def add_path(self, node: int, tokens: Sequence[int]) -> int:
        """Adds a chain of tokens below `node` and returns its last node."""
        children, held, depths, visible = self._children, self.tokens, self.depths, self.visible
        for token in tokens:  # `add`, spelled out: a hundred calls a step are felt beside a GPU's
            index = children.get((node, token))
            if index is None:
                index = children[node, token] = len(held)
                held.append(token)
                depths.append(depths[node] + 1)
                visible.append(visible[node] | 1 << index)
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
