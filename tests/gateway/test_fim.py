"""Infill prompts have Qwen's formats, keep what is next to the cursor, and never exceed their budget."""

from hypothesis import given
from hypothesis import strategies as st

from nimble_coder.gateway.prompts.encoding import PromptEncoder
from nimble_coder.gateway.prompts.fim import ContextFile, Infill, encode_infill
from nimble_coder.text.tokenizer import TextTokenizer


def text_of(encoder: PromptEncoder, tokenizer: TextTokenizer, infill: Infill, budget: int = 10_000) -> str:
    return tokenizer.decode(encode_infill(encoder, infill, budget)[0], skip_special_tokens=False)


def test_file_level(encoder: PromptEncoder, tokenizer: TextTokenizer) -> None:
    text = text_of(encoder, tokenizer, Infill("def f(", "):\n    pass"))
    assert text == "<|fim_prefix|>def f(<|fim_suffix|>):\n    pass<|fim_middle|>"


def test_repository_level(encoder: PromptEncoder, tokenizer: TextTokenizer) -> None:
    files = [ContextFile("A = 1\n", "a.py"), ContextFile("B = 2\n", "b.py")]
    text = text_of(encoder, tokenizer, Infill("print(", ")", files, "shop", "main.py"))
    assert text == (
        "<|repo_name|>shop\n<|file_sep|>a.py\nA = 1\n<|file_sep|>b.py\nB = 2\n"
        "<|file_sep|>main.py\n<|fim_prefix|>print(<|fim_suffix|>)<|fim_middle|>"
    )


def test_control_strings_around_the_cursor_are_text(encoder: PromptEncoder) -> None:
    ids, _ = encode_infill(encoder, Infill("a<|fim_suffix|>", "<|fim_middle|><|endoftext|>b"), 1000)
    assert [ids.count(encoder.id(token)) for token in ("<|fim_suffix|>", "<|fim_middle|>", "<|endoftext|>")] == [
        1,
        1,
        0,
    ]


def test_prefix_keeps_its_end_and_suffix_its_beginning(encoder: PromptEncoder, tokenizer: TextTokenizer) -> None:
    prefix, suffix = "".join(f"p{i}\n" for i in range(500)), "".join(f"s{i}\n" for i in range(500))
    ids, truncated = encode_infill(encoder, Infill(prefix, suffix), 103)
    before, after = tokenizer.decode(ids, skip_special_tokens=False).split("<|fim_suffix|>")
    assert truncated
    assert len(ids) == 103
    assert prefix.endswith(before.removeprefix("<|fim_prefix|>"))
    assert suffix.startswith(after.removesuffix("<|fim_middle|>"))
    assert len(encoder.plain(after.removesuffix("<|fim_middle|>"))) == 25


def test_a_short_side_leaves_its_share_to_the_other(encoder: PromptEncoder) -> None:
    ids, _ = encode_infill(encoder, Infill("x", "s\n" * 500), 103)
    assert len(ids) == 103


def test_context_goes_oldest_first_and_whole(encoder: PromptEncoder, tokenizer: TextTokenizer) -> None:
    files = [ContextFile("old = 1\n" * 40, "old.py"), ContextFile("new = 1\n", "new.py")]
    ids, truncated = encode_infill(encoder, Infill("x", "y", files), 80)
    text = tokenizer.decode(ids, skip_special_tokens=False)
    assert truncated
    assert "new.py" in text
    assert "old" not in text


@given(st.text(max_size=200), st.text(max_size=200), st.lists(st.text(max_size=100), max_size=4), st.integers(60, 300))
def test_the_budget_holds(encoder: PromptEncoder, prefix: str, suffix: str, texts: list[str], budget: int) -> None:
    ids, _ = encode_infill(encoder, Infill(prefix, suffix, [ContextFile(text, "f.py") for text in texts]), budget)
    assert len(ids) <= budget
    assert ids[-1] == encoder.id("<|fim_middle|>")
